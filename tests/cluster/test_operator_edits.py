"""What users do to a resource while it runs, and what the operator does then, also where it was down meanwhile."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.behaviours import fail, hang, succeed
from tests.cluster.control_plane import ControlPlane
from tests.cluster.lives import World
from tests.cluster.scenes import Scene, at, open_scene

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.status import Attempts, Phase
from videogen_operator.cluster.resources import CONFIG_MAPS, JOBS, PODS, SERVICES, Object

HOLD = "tests.videogen.dev/hold"
"""A finalizer: a pod that has it takes its time to go."""
FOUR_CLIPS = {"prompts": [{"text": "a red fox runs through fresh snow", "samples": 4}]}
SUSPENDED = "suspended; set spec.suspend to false to go on"
DOWN = ("finishes", "edited", "deleted")


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(control_plane, tmp_path_factory.mktemp("edits")) as world:
        yield world


@pytest.fixture(scope="module")
def down(world: World) -> Iterator[Scene]:
    """Runs whose operator will be down for a while."""
    with open_scene(world, "down") as scene:
        scene.place.start_operator()
        for name in DOWN:
            scene.apply(name, at(Stage.GENERATE, hang), **FOUR_CLIPS)
        yield scene


@pytest.fixture(scope="module")
def scene(world: World, down: Scene) -> Iterator[Scene]:  # noqa: ARG001 - both wait at the same time
    with open_scene(world, "edits") as scene:
        scene.place.start_operator()
        for stage in Stage:
            scene.apply(f"suspend-{stage}", at(stage, hang))
        scene.apply("fails", at(Stage.COLLECT, fail(77, "bucket videos: PutObject denied")))
        for name in ("retried", "removed", "prompt"):
            scene.apply(name, at(Stage.GENERATE, hang))
        yield scene


def pool(name: str, replicas: int = 1, **fields: Any) -> dict[str, Any]:
    return {"name": name, "replicas": replicas, "gpu": {"count": 0}, **fields}


def generating(scene: Scene, name: str, *pools: dict[str, Any]) -> tuple[Object, ...]:
    """The Jobs of a resource all of whose runners are at work and do not end."""
    scene.apply(name, at(Stage.GENERATE, hang), **FOUR_CLIPS, runners=list(pools))
    scene.wait_for_pods(name, Stage.GENERATE, sum(each["replicas"] for each in pools))
    scene.wait_for_phase(name, Phase.GENERATING)
    return scene.all_jobs(name, Stage.GENERATE)


def let_it_end(scene: Scene, name: str) -> None:
    scene.script(name, lambda _: succeed)
    assert scene.wait_for_end(name).phase == Phase.SUCCEEDED


def sizes(scene: Scene, name: str) -> dict[str, tuple[str, int, int]]:
    """Of the generate Jobs that there are, by pool: UID, completions, parallelism."""
    return {
        job["metadata"]["labels"][naming.LABEL_POOL]: (
            job["metadata"]["uid"],
            job["spec"]["completions"],
            job["spec"]["parallelism"],
        )
        for job in scene.children(JOBS, name)
        if job["metadata"]["labels"][naming.LABEL_STAGE] == Stage.GENERATE
    }


def wait_until_observed(scene: Scene, name: str) -> None:
    generation = scene.get(name)["metadata"]["generation"]
    scene.wait(name, lambda status: status.observed_generation == generation)


def test_more_and_fewer_replicas_change_the_job_that_is_there(scene: Scene) -> None:
    (job,) = generating(scene, "replicas", pool("cpu"))
    uid = job["metadata"]["uid"]

    for replicas in (3, 1):
        scene.edit("replicas", runners=[pool("cpu", replicas)])
        scene.wait_for_pods("replicas", Stage.GENERATE, replicas)
        scene.wait_until(lambda count=replicas: sizes(scene, "replicas") == {"cpu": (uid, count, count)})

    let_it_end(scene, "replicas")
    assert scene.status("replicas").attempts == Attempts(preflight=1, encode=1, generate={"cpu": 1}, collect=1)


def test_a_pool_that_is_removed_ends_and_one_that_is_added_begins_while_the_third_goes_on(scene: Scene) -> None:
    generating(scene, "pools", pool("stays"), pool("goes"))
    before = sizes(scene, "pools")

    scene.edit("pools", runners=[pool("stays"), pool("comes")])

    scene.wait_until(lambda: set(sizes(scene, "pools")) == {"stays", "comes"})
    assert sizes(scene, "pools")["stays"] == before["stays"]
    let_it_end(scene, "pools")
    assert scene.status("pools").attempts.generate == {"stays": 1, "goes": 1, "comes": 1}


def test_other_nodes_make_another_attempt_once_the_old_pods_are_gone(scene: Scene) -> None:
    generating(scene, "nodes", pool("cpu"))
    (pod,) = scene.pods("nodes", Stage.GENERATE)
    hold(scene, pod, [*pod["metadata"]["finalizers"], HOLD])

    scene.edit("nodes", runners=[pool("cpu", pod={"nodeSelector": {"zone": "a"}})])
    status = scene.wait("nodes", lambda status: "attempt 1" in (status.message or ""))

    assert status.message == "denoising: waiting for the pods of attempt 1 to end: 0 at work, 0 of 4 done"
    assert status.attempts.generate == {"cpu": 1}
    scene.script("nodes", lambda _: succeed)
    hold(scene, pod, [])
    assert scene.wait_for_end("nodes").attempts.generate == {"cpu": 2}
    selectors = [job["spec"]["template"]["spec"].get("nodeSelector") for job in scene.all_jobs("nodes", Stage.GENERATE)]
    assert selectors == [None, {"zone": "a"}]


def hold(scene: Scene, pod: Object, finalizers: list[str]) -> None:
    scene.client.patch(PODS, scene.namespace, pod["metadata"]["name"], {"metadata": {"finalizers": finalizers}})


def test_another_prompt_is_another_run_and_the_children_of_the_old_one_go(scene: Scene) -> None:
    scene.wait_for_pods("prompt", Stage.GENERATE, 1)
    before = scene.wait_for_phase("prompt", Phase.GENERATING)

    scene.edit("prompt", prompts=[{"text": "a blue fox", "samples": 2}])
    after = scene.wait("prompt", lambda status: status.run_id != before.run_id)
    scene.script("prompt", lambda _: succeed)

    assert scene.wait_for_end("prompt").phase == Phase.SUCCEEDED
    assert scene.status("prompt").run_id == after.run_id
    assert scene.status("prompt").attempts == Attempts(preflight=2, encode=2, generate={"cpu": 2}, collect=1)
    runs = {
        kind.kind: {child["metadata"]["labels"][naming.LABEL_RUN] for child in scene.children(kind, "prompt")}
        for kind in (JOBS, SERVICES, CONFIG_MAPS)
    }
    assert runs == {"Job": {after.run_id}, "Service": {after.run_id}, "ConfigMap": {after.run_id}}


@pytest.mark.parametrize(
    "edit",
    [
        {"prompts": [{**FOUR_CLIPS["prompts"][0], "name": "renamed"}]},
        {"ttlSecondsAfterFinished": 3600, "schedule": {"startDeadlineSeconds": 900, "activeDeadlineSeconds": 7200}},
    ],
    ids=["prompt-name", "deadlines"],
)
def test_an_edit_that_asks_for_nothing_else_restarts_nothing(
    scene: Scene, edit: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = f"same-{request.node.callspec.id}"
    generating(scene, name, pool("cpu"))
    pods, before = scene.pods(name, Stage.GENERATE), scene.status(name)

    scene.edit(name, **edit)
    wait_until_observed(scene, name)
    let_it_end(scene, name)

    assert [pod["metadata"]["uid"] for pod in scene.pods(name, Stage.GENERATE)] == [
        pod["metadata"]["uid"] for pod in pods
    ]
    after = scene.status(name)
    assert (after.run_id, after.attempts.generate, after.start_time) == (
        before.run_id,
        {"cpu": 1},
        before.start_time,
    )


@pytest.mark.parametrize(
    ("stage", "attempts"),
    [
        (Stage.PREFLIGHT, Attempts(preflight=2, encode=1, generate={"cpu": 1}, collect=1)),
        (Stage.ENCODE, Attempts(preflight=2, encode=2, generate={"cpu": 1}, collect=1)),
        (Stage.GENERATE, Attempts(preflight=2, encode=1, generate={"cpu": 2}, collect=1)),
        (Stage.COLLECT, Attempts(preflight=2, encode=1, generate={"cpu": 1}, collect=2)),
    ],
)
def test_a_run_is_suspended_and_resumed_in_any_stage(scene: Scene, stage: Stage, attempts: Attempts) -> None:
    name = f"suspend-{stage}"
    scene.wait_for_pods(name, stage, 1)

    scene.edit(name, suspend=True)
    status = scene.wait_for_phase(name, Phase.SUSPENDED)
    scene.wait_until(lambda: not scene.children(PODS, name))

    assert (status.message, scene.children(JOBS, name)) == (SUSPENDED, ())
    scene.script(name, lambda _: succeed)
    scene.edit(name, suspend=False)
    assert scene.wait_for_end(name).phase == Phase.SUCCEEDED
    assert scene.status(name).attempts == attempts
    assert [event for event in scene.events(name) if event[1] in ("Suspended", "Resumed")] == [
        ("Normal", "Suspended"),
        ("Normal", "Resumed"),
    ]


def test_a_run_that_has_failed_for_good_is_tried_again_when_retry_changes(scene: Scene) -> None:
    status = scene.wait_for_end("fails")
    assert (status.phase, status.message) == (Phase.FAILED, "bucket videos: PutObject denied")

    scene.script("fails", lambda _: succeed)
    scene.edit("fails", retry="1")

    status = scene.wait_for_phase("fails", Phase.SUCCEEDED)
    # What the first try made is in the store.
    assert status.attempts == Attempts(preflight=2, encode=1, generate={"cpu": 1}, collect=2)


def test_another_retry_while_a_run_is_at_work_begins_it_again(scene: Scene) -> None:
    scene.wait_for_pods("retried", Stage.GENERATE, 1)
    scene.wait_for_phase("retried", Phase.GENERATING)
    (before,) = scene.all_jobs("retried", Stage.GENERATE)

    scene.edit("retried", retry="1")
    scene.wait("retried", lambda status: status.retry == "1")
    scene.script("retried", lambda _: succeed)

    assert scene.wait_for_end("retried").phase == Phase.SUCCEEDED
    assert scene.status("retried").attempts == Attempts(preflight=2, encode=1, generate={"cpu": 2}, collect=1)
    uids = [job["metadata"]["uid"] for job in scene.children(JOBS, "retried")]
    assert before["metadata"]["uid"] not in uids


def test_what_happens_while_the_operator_is_down_is_taken_in_when_it_is_back(down: Scene) -> None:
    for name in DOWN:
        # Written down with the progress: from then on the name of the Job is never used again.
        down.wait(name, lambda status: status.created.generate == {"cpu": 1})
    down.place.kill()

    down.script("finishes", lambda _: succeed)
    down.wait_until(lambda: is_complete(down.all_jobs("finishes", Stage.GENERATE)[0]))
    down.edit("edited", runners=[pool("cpu", 2)])
    down.delete_job(down.all_jobs("deleted", Stage.GENERATE)[0])
    down.wait_until(lambda: not down.pods("deleted", Stage.GENERATE))
    down.script("deleted", lambda _: succeed)
    down.place.start_operator()

    down.wait_for_pods("edited", Stage.GENERATE, 2)
    down.script("edited", lambda _: succeed)
    ended = {name: down.wait_for_end(name) for name in DOWN}
    assert {name: (status.phase, status.attempts.generate) for name, status in ended.items()} == {
        "finishes": (Phase.SUCCEEDED, {"cpu": 1}),
        "edited": (Phase.SUCCEEDED, {"cpu": 1}),
        "deleted": (Phase.SUCCEEDED, {"cpu": 2}),
    }


def is_complete(job: Object) -> bool:
    return any(
        (condition["type"], condition["status"]) == ("Complete", "True")
        for condition in job["status"].get("conditions", ())
    )


def test_a_resource_that_is_deleted_while_it_runs_leaves_nothing_behind(scene: Scene) -> None:
    """The last test of all: the garbage collector of a new cluster hears of a new kind after half a minute."""
    scene.wait_for_pods("removed", Stage.GENERATE, 1)

    scene.delete("removed")

    scene.wait_until(
        lambda: not any(scene.children(kind, "removed") for kind in (JOBS, PODS, CONFIG_MAPS, SERVICES)),
        lambda: scene.children(PODS, "removed"),
    )
