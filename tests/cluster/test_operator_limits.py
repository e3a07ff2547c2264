"""Limits of time and of number: deadlines, retries, and how long the children of a finished run stay."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.cluster.behaviours import Behaviour, SimulatedPod, crash, evict, hang, oom_killed, succeed, unschedulable
from tests.cluster.control_plane import ControlPlane
from tests.cluster.lives import SPEC, World
from tests.cluster.scenes import Scene, Script, at, open_scene

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.status import Attempts, ClipCounts, ConditionType, Phase
from videogen_operator.cluster.resources import CONFIG_MAPS, EVENTS, JOBS, PODS, SERVICES, VIDEO_GENERATIONS, Object

START_SECONDS = 4
STUCK_SECONDS = 3
KEPT_SECONDS = 3
FOUR_CLIPS = {"prompts": [{"text": "a red fox runs through fresh snow", "samples": 4}]}
TWO_RUNNERS = {"runners": [{"name": "cpu", "replicas": 2, "gpu": {"count": 0}}]}
NO_CARD = "no node can take a pod: too little free nvidia.com/gpu"
ONCE = {stage: f"late-{stage}" for stage in Stage}


@pytest.fixture(scope="module")
def scene(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with World(control_plane, tmp_path_factory.mktemp("limits")) as world, open_scene(world, "limits") as scene:
        scene.place.start_operator()
        scene.apply("kept", ttlSecondsAfterFinished=KEPT_SECONDS)
        soon = {"schedule": {"startDeadlineSeconds": START_SECONDS}}
        for stage, name in ONCE.items():
            scene.apply(name, first_attempts(stage, unschedulable), **soon)
        scene.apply("late-for-good", at(Stage.ENCODE, unschedulable), **soon, retries=1)
        scene.apply("told", at(Stage.ENCODE, unschedulable), schedule={"startDeadlineSeconds": 3600})
        scene.apply("stuck", at(Stage.PREFLIGHT, hang), schedule={"activeDeadlineSeconds": STUCK_SECONDS})
        for name, behaviour in (("crashes", crash()), ("hungry", oom_killed), ("long", hang)):
            scene.apply(name, of_runner(1, behaviour), **FOUR_CLIPS, **TWO_RUNNERS, retries=int(name == "crashes"))
        scene.apply("evicted", first_of_each(evict), retries=0)
        scene.apply("zero", ttlSecondsAfterFinished=0)
        scene.apply("down", ttlSecondsAfterFinished=3600)
        yield scene


def first_attempts(stage: Stage, behaviour: Behaviour) -> Script:
    return lambda pod: behaviour if (pod.stage, pod.attempt) == (stage, 1) else succeed


def of_runner(index: int, behaviour: Behaviour) -> Script:
    return lambda pod: behaviour if (pod.stage, pod.index) == (Stage.GENERATE, index) else succeed


def first_of_each(behaviour: Behaviour) -> Script:
    """The first pod of every stage."""
    first: dict[Stage, str] = {}

    def script(pod: SimulatedPod) -> Behaviour:
        return behaviour if first.setdefault(pod.stage, pod.uid) == pod.uid else succeed

    return script


def have_children_gone(scene: Scene, name: str) -> bool:
    return not any(scene.children(kind, name) for kind in (JOBS, PODS, SERVICES, CONFIG_MAPS))


def test_the_children_of_a_finished_run_stay_for_their_time_and_then_go(scene: Scene) -> None:
    """The first test of all: it has to look when the run ends."""
    status = scene.wait_for_end("kept")
    assert status.completion_time is not None
    assert len(scene.children(JOBS, "kept")) == len(Stage)

    scene.wait_until(lambda: len(scene.children(JOBS, "kept")) < len(Stage))
    stayed = datetime.now(UTC) - status.completion_time
    scene.wait_until(lambda: have_children_gone(scene, "kept"))

    assert stayed >= timedelta(seconds=KEPT_SECONDS)
    assert scene.status("kept") == status.model_copy(update={"plan_revision": 0})


def test_a_pod_that_cannot_start_is_told_of_while_its_deadline_is_far(scene: Scene) -> None:
    status = scene.wait("told", lambda status: NO_CARD in (status.message or ""))

    assert (status.phase, status.message) == (Phase.ENCODING, f"encoding prompts; {NO_CARD}")
    assert scene.conditions("told", ConditionType.RECONCILING) == {
        ConditionType.RECONCILING: ("True", "Unschedulable", f"encoding prompts; {NO_CARD}")
    }
    assert status.attempts.encode == 1


@pytest.mark.parametrize("stage", list(Stage))
def test_an_attempt_that_does_not_start_in_time_makes_room_for_the_next_one(scene: Scene, stage: Stage) -> None:
    name = ONCE[stage]

    status = scene.wait_for_end(name)

    pool = "cpu" if stage == Stage.GENERATE else None
    assert (status.phase, status.attempts.of(stage, pool)) == (Phase.SUCCEEDED, 2)
    first, _ = scene.all_jobs(name, stage)
    assert first["metadata"]["uid"] in scene.world.seen(scene.namespace).gone
    told = wait_for_event(scene, name, "StartDeadlineExceeded")
    assert f"again: attempt 1 of {stage} did not start in time: {NO_CARD}" in told["note"]
    waited = datetime.fromisoformat(told["eventTime"]) - datetime.fromisoformat(first["status"]["startTime"])
    assert waited >= timedelta(seconds=START_SECONDS)


def wait_for_event(scene: Scene, name: str, reason: str) -> Object:
    """The one event about a resource that has this reason; events come a while after what they tell of."""

    def find() -> list[Object]:
        events = scene.client.list(EVENTS, scene.namespace).items
        return [event for event in events if (event["regarding"]["name"], event["reason"]) == (name, reason)]

    scene.wait_until(lambda: len(find()) == 1, lambda: scene.events(name))
    return find()[0]


def test_attempts_that_never_start_in_time_end_the_run_when_the_retries_are_spent(scene: Scene) -> None:
    status = scene.wait_for_end("late-for-good")

    message = f"attempt 2 of encode did not start in time: {NO_CARD} (after 2 attempts)"
    assert (status.phase, status.message) == (Phase.FAILED, message)
    assert scene.conditions("late-for-good", ConditionType.STALLED) == {
        ConditionType.STALLED: ("True", "StartDeadlineExceeded", message)
    }
    assert status.attempts == Attempts(preflight=1, encode=2)
    scene.wait_until(lambda: not scene.pods("late-for-good", Stage.ENCODE))


def test_a_run_that_takes_too_long_ends_although_nothing_happens(scene: Scene) -> None:
    status = scene.wait_for_end("stuck")

    message = (
        f"not finished within spec.schedule.activeDeadlineSeconds ({STUCK_SECONDS}); raise it and change spec.retry"
    )
    assert (status.phase, status.message) == (Phase.FAILED, message)
    assert scene.conditions("stuck", ConditionType.STALLED) == {
        ConditionType.STALLED: ("True", "ActiveDeadlineExceeded", message)
    }
    assert status.start_time is not None
    assert status.completion_time is not None
    assert status.completion_time - status.start_time >= timedelta(seconds=STUCK_SECONDS)
    scene.wait_until(lambda: not scene.children(PODS, "stuck"))


def test_what_is_done_when_a_run_takes_too_long_is_kept_for_the_next_try(scene: Scene) -> None:
    scene.wait("long", lambda status: status.clips is not None and status.clips.succeeded == 2)

    scene.edit("long", schedule={"activeDeadlineSeconds": 1})

    status = scene.wait_for_end("long")
    assert (status.phase, status.clips) == (Phase.FAILED, ClipCounts(total=4, succeeded=2))
    scene.wait_until(lambda: not scene.pods("long", Stage.GENERATE))

    scene.script("long", lambda _: succeed)
    scene.edit("long", schedule=None, retry="1")

    status = scene.wait_for_phase("long", Phase.SUCCEEDED)
    assert status.clips == ClipCounts(total=4, succeeded=4)
    assert status.attempts == Attempts(preflight=2, encode=1, generate={"cpu": 2}, collect=1)
    assert status.found is not None
    assert (status.found.embeddings, status.found.clips) == (1, 2)


def test_a_runner_that_its_node_has_killed_for_memory_is_reported_as_out_of_memory(scene: Scene) -> None:
    status = scene.wait_for_end("hungry")

    assert (status.phase, [failure.reason for failure in status.failures]) == (Phase.FAILED, ["OutOfMemory"])
    assert scene.conditions("hungry", ConditionType.STALLED)[ConditionType.STALLED][:2] == ("True", "OutOfMemory")


def test_a_run_whose_children_go_at_once_leaves_its_resource_and_nothing_else(scene: Scene) -> None:
    status = scene.wait_for_end("zero")
    scene.wait_until(lambda: have_children_gone(scene, "zero"))

    found = scene.get("zero")
    assert (status.phase, status.message) == (Phase.SUCCEEDED, "2 clips are ready")
    assert status.manifest == f"s3://videos/tests/runs/{scene.namespace}.zero-{status.run_id}/manifest.json"
    assert found["spec"] == {**SPEC, "ttlSecondsAfterFinished": 0}
    assert found["metadata"].keys().isdisjoint({"annotations", "labels", "finalizers"})
    assert {job["metadata"]["labels"][naming.LABEL_STAGE] for job in scene.all_jobs("zero")} == set(Stage)
    assert len(scene.all_jobs("zero")) == len(Stage)


def test_a_label_does_not_run_a_finished_resource_again_and_another_retry_does(scene: Scene) -> None:
    scene.wait_until(lambda: scene.status("zero").plan_revision == 0 and have_children_gone(scene, "zero"))
    labelled = scene.client.patch(
        VIDEO_GENERATIONS, scene.namespace, "zero", {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}
    )
    # Another one that begins shows that the operator has heard of it.
    scene.apply("owl")
    scene.wait_for_phase("owl", Phase.PREFLIGHT)
    assert scene.get("zero")["metadata"]["resourceVersion"] == labelled["resourceVersion"]
    assert len(scene.all_jobs("zero")) == len(Stage)

    scene.edit("zero", retry="1")

    scene.wait("zero", lambda status: status.retry == "1")
    status = scene.wait_for_end("zero")
    assert (status.phase, status.attempts) == (
        Phase.SUCCEEDED,
        Attempts(preflight=2, encode=1, generate={"cpu": 1}, collect=2),
    )
    scene.wait_until(lambda: have_children_gone(scene, "zero"))


def test_a_runner_that_fails_more_often_than_it_may_ends_the_run(scene: Scene) -> None:
    status = scene.wait_for_end("crashes")

    failures = [failure for failure in status.failures if failure.exit_code == 139]
    message = (
        f"{failures[0].pod} ended with exit code 139 and left no report; its last line: 'Segmentation fault' "
        "(after 2 attempts)"
    )
    assert [(failure.reason, failure.log_tail) for failure in status.failures] == [
        ("Internal", "Segmentation fault")
    ] * 2
    assert (status.phase, status.message) == (Phase.FAILED, message)
    # Kubernetes starts an index again itself; the runner that did well stays as it is.
    assert status.attempts == Attempts(preflight=1, encode=1, generate={"cpu": 1})
    assert status.clips == ClipCounts(total=4, succeeded=2)


def test_a_disruption_costs_no_retry_in_any_stage(scene: Scene) -> None:
    status = scene.wait_for_end("evicted")

    assert (status.phase, status.message) == (Phase.SUCCEEDED, "2 clips are ready")
    assert status.attempts == Attempts(preflight=2, encode=2, generate={"cpu": 1}, collect=2)
    pods = [pod for pod in scene.world.simulator.started.values() if pod.resource == "evicted"]
    assert sorted(pod.stage for pod in pods) == sorted([*Stage, *Stage])
    assert {failure.reason for failure in status.failures} == {"Interrupted"}


def test_an_operator_that_comes_back_removes_what_has_expired_and_runs_nothing_again(scene: Scene) -> None:
    """The last test of all: by now all but two have come to their ends."""
    finished = [*ONCE.values(), "kept", "late-for-good", "stuck", "crashes", "hungry", "long", "evicted", "zero"]
    for name in (*finished, "down"):
        scene.wait_for_end(name)
    assert len(scene.children(JOBS, "down")) == len(Stage)
    before = {name: (scene.get(name)["metadata"]["resourceVersion"], len(scene.all_jobs(name))) for name in finished}
    scene.place.kill()

    scene.edit("down", ttlSecondsAfterFinished=0)
    scene.place.start_operator()

    scene.wait_until(lambda: have_children_gone(scene, "down"))
    assert (scene.status("down").phase, len(scene.all_jobs("down"))) == (Phase.SUCCEEDED, len(Stage))
    # Another one that begins shows that the operator has looked at all of them.
    scene.apply("hen")
    scene.wait_for_phase("hen", Phase.PREFLIGHT)
    after = {name: (scene.get(name)["metadata"]["resourceVersion"], len(scene.all_jobs(name))) for name in finished}
    assert after == before
