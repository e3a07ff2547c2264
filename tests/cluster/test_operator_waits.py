"""Runs that wait on purpose: for a queue such as Kueue's, and for the encoder of a run that needs the same cards."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.behaviours import Behaviour, SimulatedPod, hang, succeed, unschedulable
from tests.cluster.control_plane import ControlPlane
from tests.cluster.lives import World
from tests.cluster.scenes import Scene, at, open_scene

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.status import Attempts, ConditionType, Phase
from videogen_operator.cluster.resources import JOBS, PODS, Object

QUEUE = "team-a"
DOING = {
    Stage.PREFLIGHT: "checking store and weights",
    Stage.ENCODE: "encoding prompts",
    Stage.GENERATE: "denoising",
    Stage.COLLECT: "verifying the clips",
}
ENCODER_WAITS = "waiting for the encoder of another resource, which holds cards that this one needs too"
RIVALS = ("fox", "owl", "hen")
"""They need the same cards."""
APART = {"elsewhere": {"zone": "b"}, "amd": {"zone": "a"}}
SHARDS = 4


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(control_plane, tmp_path_factory.mktemp("waits")) as world:
        yield world


@pytest.fixture(scope="module")
def cards(world: World) -> Iterator[Scene]:
    """Encoders of four shards, half of whose pods find no card."""
    with open_scene(world, "cards") as scene:
        for name in RIVALS:
            scene.apply(name, half_started, **sharded("nvidia.com/gpu", {"zone": "a"}))
        scene.apply("elsewhere", half_started, **sharded("nvidia.com/gpu", {"zone": "b"}))
        scene.apply("amd", half_started, **sharded("amd.com/gpu", {"zone": "a"}))
        scene.place.start_operator()
        yield scene


@pytest.fixture(scope="module")
def scene(world: World, cards: Scene) -> Iterator[Scene]:  # noqa: ARG001 - both wait at the same time
    with open_scene(world, "queues") as scene:
        scene.place.start_operator()
        scene.apply("queued", schedule={"queue": QUEUE})
        four_clips = [{"text": "a red fox runs through fresh snow", "samples": 4}]
        scene.apply("held", at(Stage.GENERATE, hang), prompts=four_clips, runners=runners(2))
        yield scene


def runners(replicas: int) -> list[dict[str, Any]]:
    return [{"name": "cpu", "replicas": replicas, "gpu": {"count": 0}}]


def sharded(resource: str, node_selector: dict[str, str]) -> dict[str, Any]:
    encoder = {"shards": SHARDS, "gpu": {"resource": resource, "count": 1}, "pod": {"nodeSelector": node_selector}}
    return {"encoder": encoder}


def half_started(pod: SimulatedPod) -> Behaviour:
    if pod.stage != Stage.ENCODE:
        return succeed
    return hang if pod.index < SHARDS // 2 else unschedulable


def suspend(scene: Scene, job: Object, value: bool) -> None:
    """As Kueue does when it evicts a Job, or admits it."""
    scene.client.patch(JOBS, scene.namespace, job["metadata"]["name"], {"spec": {"suspend": value}})


def is_suspended(scene: Scene, job: Object) -> bool:
    return bool(scene.client.get(JOBS, scene.namespace, job["metadata"]["name"])["spec"]["suspend"])


def are_pods_gone(scene: Scene, name: str) -> bool:
    """Whether those of the runners are gone, once there is somebody to end them."""
    scene.end_deleted_pods(name)
    return scene.pods(name, Stage.GENERATE) == ()


def wait_for_job(scene: Scene, name: str, stage: Stage) -> Object:
    scene.wait_until(lambda: len(scene.all_jobs(name, stage)) == 1, lambda: f"{name}: {scene.status(name)}")
    return scene.all_jobs(name, stage)[0]


def test_each_stage_of_a_queued_run_is_admitted_alone(scene: Scene) -> None:
    for number, stage in enumerate(Stage, 1):
        job = wait_for_job(scene, "queued", stage)
        message = f"{DOING[stage]}; queue {QUEUE} has not admitted job {job['metadata']['name']} yet"
        status = scene.wait("queued", lambda status, message=message: status.message == message)

        assert (job["metadata"]["labels"][naming.QUEUE_LABEL], job["spec"]["suspend"]) == (QUEUE, True)
        assert status.phase == Phase.PENDING
        assert scene.conditions("queued", ConditionType.RECONCILING) == {
            ConditionType.RECONCILING: ("True", "Queued", message)
        }
        assert scene.pods("queued", stage) == ()
        assert len(scene.all_jobs("queued")) == number
        suspend(scene, job, False)

    assert scene.wait_for_end("queued").phase == Phase.SUCCEEDED
    assert scene.status("queued").attempts == Attempts(preflight=1, encode=1, generate={"cpu": 1}, collect=1)


def test_a_job_that_is_suspended_from_outside_stays_so_until_it_is_resumed_from_outside(scene: Scene) -> None:
    scene.wait_for_pods("held", Stage.GENERATE, 2)
    scene.wait_for_phase("held", Phase.GENERATING)
    (job,) = scene.all_jobs("held", Stage.GENERATE)
    name = job["metadata"]["name"]

    suspend(scene, job, True)
    message = f"denoising; job {name} was suspended from outside; set its spec.suspend to false to go on"
    status = scene.wait("held", lambda status: status.message == message)
    assert status.phase == Phase.PENDING
    scene.wait_until(lambda: are_pods_gone(scene, "held"), lambda: scene.children(PODS, "held"))

    # What else happens meanwhile does not resume it: another number of runners, another operator.
    scene.edit("held", runners=runners(3))
    scene.wait_until(lambda: scene.client.get(JOBS, scene.namespace, name)["spec"]["parallelism"] == 3)
    scene.place.kill()
    scene.place.start_operator()
    scene.apply("owl")
    scene.wait_for_phase("owl", Phase.PREFLIGHT)
    assert is_suspended(scene, job)
    assert (scene.status("held").phase, scene.pods("held", Stage.GENERATE)) == (Phase.PENDING, ())

    suspend(scene, job, False)
    scene.wait_for_pods("held", Stage.GENERATE, 3)
    scene.script("held", lambda _: succeed)
    assert scene.wait_for_end("held").phase == Phase.SUCCEEDED
    assert scene.status("held").attempts == Attempts(preflight=1, encode=1, generate={"cpu": 1}, collect=1)


def starting(scene: Scene, *names: str) -> list[str]:
    """Those of the resources that have an encoder's Job."""
    return [name for name in names if scene.all_jobs(name, Stage.ENCODE)]


def test_one_encoder_at_a_time_waits_half_started_for_cards_of_one_kind(cards: Scene) -> None:
    for name in APART:
        wait_for_job(cards, name, Stage.ENCODE)
    cards.wait_until(
        lambda: [cards.status(name).message for name in RIVALS].count(ENCODER_WAITS) == len(RIVALS) - 1,
        lambda: [cards.status(name) for name in RIVALS],
    )
    held = [name for name in RIVALS if cards.status(name).message == ENCODER_WAITS]
    assert not starting(cards, *held)
    assert {cards.status(name).phase for name in held} == {Phase.PENDING}
    assert {cards.conditions(name, ConditionType.RECONCILING)[ConditionType.RECONCILING][1] for name in held} == {
        "EncoderWaits"
    }

    (first,) = starting(cards, *RIVALS)
    # It holds half of its cards; nobody else comes to hold the other half.
    message = "encoding prompts; 2 of 4 pods wait: no node can take a pod: too little free nvidia.com/gpu"
    cards.wait(first, lambda status: status.message == message)
    assert starting(cards, *RIVALS) == [first]

    cards.script(first, at(Stage.ENCODE, hang))
    cards.wait_until(lambda: len(starting(cards, *RIVALS)) > 1, lambda: [cards.status(name) for name in RIVALS])
    (second,) = set(starting(cards, *RIVALS)) - {first}
    cards.wait_for_pods(second, Stage.ENCODE, SHARDS)
    (third,) = set(RIVALS) - {first, second}
    assert cards.status(third).message == ENCODER_WAITS

    finishing = (first, second, *APART)
    for name in finishing:
        cards.script(name, lambda _: succeed)
    ended = {name: cards.wait_for_end(name) for name in finishing}
    assert {(status.phase, status.attempts.encode) for status in ended.values()} == {(Phase.SUCCEEDED, 1)}
