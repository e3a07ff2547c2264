"""What is made of Jobs and pods as the API server gives them; every object goes through `slim` first, as in life."""

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import generate_report, preflight_report
from tests.cluster.child_objects import NOW, RUN, at, build_job, build_pod, condition, ended, waits

from videogen_api import naming
from videogen_api.errors import Reason
from videogen_api.naming import Stage
from videogen_api.report import Bitmap, Progress, RunnerState
from videogen_operator.cluster.observe import Family, changes_at, find_refused, is_abandoned, observe
from videogen_operator.cluster.resources import JOBS, PODS, Object
from videogen_operator.cluster.slim import slim
from videogen_operator.core.observed import (
    GroupState,
    ObservedGroup,
    ObservedProcess,
    Waiting,
    WaitingReason,
)

CREATED = NOW - timedelta(seconds=30)
SCHEDULED = NOW - timedelta(seconds=28)
RUNNING = ObservedProcess(0, "fox-j-0-p", node="gpu-1")
UNSCHEDULABLE = (
    "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: present}, 2 Insufficient nvidia.com/gpu. "
    "preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found."
)


def read(jobs: Sequence[Object], pods: Sequence[Object]) -> Family:
    return Family.read([slim(JOBS, job) for job in jobs], [slim(PODS, pod) for pod in pods])


def observe_all(
    jobs: Sequence[Object],
    pods: Sequence[Object] = (),
    events: Mapping[str, Sequence[Object]] | None = None,
    progress: Mapping[str, Progress] | None = None,
    now: datetime = NOW,
) -> tuple[ObservedGroup, ...]:
    return observe(read(jobs, pods), events or {}, (progress or {}).get, now).groups


def group_of(*processes: ObservedProcess, **fields: Any) -> ObservedGroup:
    """The group of `build_job()`, at work unless told otherwise."""
    group = ObservedGroup(
        RUN, Stage.GENERATE, "t4", 1, 1, GroupState.RUNNING, processes, expected=1, created=CREATED, uid="j"
    )
    return replace(group, **fields)


def process_of(pod: Object) -> ObservedProcess:
    """How one pod of a Job at work is seen."""
    (group,) = observe_all([build_job()], [pod])
    (process,) = group.processes
    return process


def test_a_job_at_work_is_a_running_group() -> None:
    assert observe_all([build_job()], [build_pod()]) == (group_of(RUNNING),)


def test_a_job_without_labels_of_a_pool_has_none() -> None:
    job = build_job(stage="preflight", pool=None)
    assert observe_all([job]) == (group_of(stage=Stage.PREFLIGHT, pool=None),)


def test_the_template_that_a_job_was_made_from_is_known() -> None:
    job = build_job()
    job["metadata"]["labels"][naming.LABEL_TEMPLATE] = "abc"
    assert observe_all([job]) == (group_of(template="abc"),)


def test_groups_and_processes_are_in_order() -> None:
    jobs = [build_job("j2", attempt=2), build_job("j1"), build_job("j0", stage="encode", pool=None)]
    pods = [
        build_pod("b", job="j1", index=1),
        build_pod("c", job="j1", index=0, created=-10),
        build_pod("a", job="j1", index=0, created=-20, phase="Failed", state=ended(70)),
    ]
    groups = observe_all(jobs, pods)
    assert [(group.stage, group.attempt) for group in groups] == [
        (Stage.ENCODE, 1),
        (Stage.GENERATE, 1),
        (Stage.GENERATE, 2),
    ]
    assert [process.name for process in groups[1].processes] == ["fox-j1-0-a", "fox-j1-0-c", "fox-j1-1-b"]


def test_progress_is_that_of_running_pods() -> None:
    progress = Progress(
        stage=Stage.GENERATE, pool="t4", index=0, attempt=1, pod="p", device="cuda", state=RunnerState.DENOISING
    )
    pods = [build_pod(), build_pod("old", created=-90, phase="Failed", state=ended(75))]
    (group,) = observe_all([build_job()], pods, progress={"p": progress, "old": progress})
    assert [process.progress for process in group.processes] == [None, progress]


# How Jobs end


def test_a_job_that_is_complete_has_succeeded() -> None:
    job = build_job(conditions=(condition("SuccessCriteriaMet"), condition("Complete", seconds=-4)))
    pod = build_pod(phase="Succeeded", state=ended(0, message=preflight_report().to_bytes().decode()))
    done = replace(RUNNING, exit_code=0, log_tail=preflight_report().to_bytes().decode())
    finished = NOW - timedelta(seconds=4)
    # A report of another stage is none.
    assert observe_all([job], [pod]) == (group_of(done, state=GroupState.SUCCEEDED, finished=finished),)


def test_a_job_without_pods_can_have_succeeded() -> None:
    job = build_job(conditions=(condition("Complete", seconds=-10),))
    (group,) = observe_all([job])
    assert (group.state, group.processes) == (GroupState.SUCCEEDED, ())


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_a_verdict_that_is_ahead_of_the_news_of_its_pods_waits_for_them(kind: str) -> None:
    job = build_job(conditions=(condition(kind, seconds=-4),))
    for pods in ([], [build_pod()]):
        (group,) = observe_all([job], pods)
        assert group.state == GroupState.RUNNING
    assert changes_at(read([job], []), NOW) == NOW + timedelta(seconds=6)
    assert observe_all([job], [], now=NOW + timedelta(seconds=6))[0].state != GroupState.RUNNING


@pytest.mark.parametrize(
    ("kind", "state"), [("SuccessCriteriaMet", GroupState.SUCCEEDED), ("FailureTarget", GroupState.FAILED)]
)
def test_a_verdict_counts_when_the_pods_have_left(kind: str, state: GroupState) -> None:
    job = build_job(conditions=(condition(kind, reason="R", message="m"),), completions=2)
    gone = build_pod("a", phase="Failed", state=ended(70))
    leaving = build_pod("b", index=1, deleted=10)
    lost = build_pod("b", index=1, deleted=-61)
    assert [observe_all([job], [gone, pod])[0].state for pod in (leaving, lost)] == [GroupState.RUNNING, state]
    (group,) = observe_all([job], [gone])
    assert (group.state, group.finished) == (state, NOW - timedelta(seconds=5))


def test_a_failed_job_says_why() -> None:
    verdict = condition("Failed", reason="PodFailurePolicy", message="Container runner for pod x failed\nwith 66")
    job = build_job(conditions=(condition("FailureTarget", reason="PodFailurePolicy"), verdict))
    pod = build_pod(phase="Failed", state=ended(66, message="no such file"))
    process = replace(RUNNING, exit_code=66, log_tail="no such file")
    assert observe_all([job], [pod]) == (
        group_of(
            process,
            state=GroupState.FAILED,
            finished=NOW - timedelta(seconds=5),
            failure="PodFailurePolicy: Container runner for pod x failed with 66",
        ),
    )


def test_conditions_that_are_not_true_say_nothing() -> None:
    job = build_job(conditions=(condition("Failed", "False"), condition("Complete", "Unknown")))
    assert observe_all([job])[0].state == GroupState.RUNNING


def test_a_deleted_job_is_ending_as_long_as_a_pod_may_be_at_work() -> None:
    job = build_job()
    job["metadata"]["deletionTimestamp"] = at(-100)
    assert observe_all([job], [build_pod()])[0].state == GroupState.ENDING
    assert observe_all([job], [build_pod(phase="Failed", state=ended(75))]) == ()
    job["metadata"]["deletionTimestamp"] = at(-10)
    assert observe_all([job])[0].state == GroupState.ENDING


def test_pods_whose_job_is_gone_are_a_group_that_ends() -> None:
    pods = [build_pod("a", deleted=10), build_pod("b", index=1, phase="Succeeded", state=ended(0))]
    (group,) = observe_all([], pods)
    assert (group.uid, group.stage, group.attempt, group.state) == ("j", Stage.GENERATE, 1, GroupState.ENDING)
    assert [process.exit_code for process in group.processes] == [None, 0]
    assert observe_all([], pods[1:]) == ()


# Nodes that do not answer


def test_a_pod_that_should_have_ended_long_ago_is_lost() -> None:
    at_the_bound, after = (build_pod(deleted=seconds) for seconds in (-60, -61))
    assert process_of(at_the_bound).waiting is None
    (group,) = observe_all([build_job(completions=2)], [after, build_pod("b", index=1)])
    assert group.state == GroupState.RUNNING
    assert group.processes[0].waiting == Waiting(
        WaitingReason.NODE_LOST,
        "node gpu-1 does not answer: a pod there should have ended and nobody knows whether it has",
        NOW - timedelta(seconds=1),
    )


def test_lost_pods_are_not_waited_for() -> None:
    assert observe_all([], [build_pod(deleted=-60)])[0].state == GroupState.ENDING
    assert observe_all([], [build_pod(deleted=-61)]) == ()


def test_a_job_of_which_only_lost_pods_are_left_has_failed_for_free() -> None:
    job = build_job(completions=2)
    done, lost = build_pod("a", phase="Succeeded", state=ended(0)), build_pod("b", index=1, deleted=-100)
    (group,) = observe_all([job], [done, lost])
    assert (group.state, group.finished) == (GroupState.FAILED, NOW)
    assert [process.reason for process in group.processes] == [None, Reason.INTERRUPTED]
    assert group.processes[1].message.endswith("nobody knows whether it has'")


def test_a_job_with_a_lost_pod_and_one_that_is_still_to_come_is_at_work() -> None:
    (group,) = observe_all([build_job(completions=2)], [build_pod(deleted=-100)])
    assert group.state == GroupState.RUNNING


# How pods end


def test_a_report_says_how_a_pod_ended() -> None:
    report = generate_report()
    pod = build_pod(phase="Succeeded", state=ended(0, message=report.to_bytes().decode()))
    assert process_of(pod) == replace(RUNNING, exit_code=0, report=report)


@pytest.mark.parametrize("message", ["", "Traceback\nValueError: x", "{}", '{"stage": 7}', "\ud800"])
def test_a_message_that_is_no_report_is_the_end_of_the_log(message: str) -> None:
    process = process_of(build_pod(phase="Failed", state=ended(1, message=message)))
    assert process == replace(RUNNING, exit_code=1, log_tail=message)
    assert process.reason == Reason.INTERNAL


@pytest.mark.parametrize("bits", ["", "AAAA", "not base64!", Bitmap.of([True] * 100).bits])
def test_a_report_whose_bits_are_damaged_is_no_report(bits: str) -> None:
    content = json.loads(preflight_report().to_bytes())
    content["preflight"]["clips"] = {"size": 2, "bits": bits} if bits else {"size": -1, "bits": bits}
    job, pod = build_job(stage="preflight", pool=None), build_pod(stage="preflight", pool=None, phase="Succeeded")
    pod["status"]["containerStatuses"][0]["state"] = ended(0, message=json.dumps(content))
    (group,) = observe_all([job], [pod])
    assert (group.processes[0].exit_code, group.report) == (0, None)


def test_what_killed_a_pod_is_told_apart() -> None:
    killed = process_of(build_pod(phase="Failed", state=ended(137)))
    out_of_memory = process_of(build_pod(phase="Failed", state=ended(137, reason="OOMKilled")))
    preempted = process_of(
        build_pod(phase="Failed", state=ended(137), conditions=(condition("DisruptionTarget", reason="Preemption"),))
    )
    reasons = [process.reason for process in (killed, out_of_memory, preempted)]
    assert reasons == [Reason.INTERNAL, Reason.OUT_OF_MEMORY, Reason.INTERRUPTED]
    assert (out_of_memory.oom_killed, preempted.disrupted) == (True, True)


def test_an_evicted_pod_was_interrupted() -> None:
    message = "The node was low on resource: ephemeral-storage."
    evicted = build_pod(phase="Failed", state={}, reason="Evicted", message=message)
    assert process_of(evicted) == replace(
        RUNNING, exit_code=137, disrupted=True, started=False, log_tail=f"Evicted: {message}"
    )
    assert process_of(evicted).reason == Reason.INTERRUPTED


def test_a_container_that_its_node_has_forgotten_was_interrupted() -> None:
    forgotten = build_pod(phase="Failed", state=ended(137, reason="ContainerStatusUnknown", message="gone"))
    assert process_of(forgotten).reason == Reason.INTERRUPTED


def test_a_pod_that_succeeded_and_left_no_word_has_succeeded() -> None:
    assert process_of(build_pod(phase="Succeeded", state={})) == replace(RUNNING, exit_code=0)


# Why pods do not run


def test_a_pod_that_has_just_been_made_waits_for_nothing() -> None:
    process = process_of(build_pod(phase="Pending", state=waits("ContainerCreating")))
    assert process == replace(RUNNING, started=False)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            UNSCHEDULABLE,
            "no node can take a pod: too little free nvidia.com/gpu; node(s) had untolerated taint {gpu: present}",
        ),
        (
            "0/2 nodes are available: 1 Insufficient memory, 2 Insufficient cpu.",
            "no node can take a pod: too little free cpu and memory",
        ),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: not helpful",
            "no node can take a pod: node(s) didn't match Pod's node affinity/selector",
        ),
        ("no nodes available to schedule pods", "no node can take a pod: no nodes available to schedule pods"),
        ("", "no node can take a pod: no reason given"),
    ],
)
def test_a_pod_that_fits_no_node_says_what_is_missing(message: str, expected: str) -> None:
    unscheduled = condition("PodScheduled", "False", "Unschedulable", message, seconds=-20)
    process = process_of(build_pod(phase="Pending", state={}, node=None, conditions=(unscheduled,)))
    waiting = Waiting(WaitingReason.UNSCHEDULABLE, expected, NOW - timedelta(seconds=20))
    assert process == replace(RUNNING, node=None, started=False, waiting=waiting)


def test_counts_of_nodes_do_not_change_what_is_said() -> None:
    other = UNSCHEDULABLE.replace("0/3", "0/9").replace("2 Insufficient", "8 Insufficient")
    said = {
        process.waiting.message
        for message in (UNSCHEDULABLE, other)
        if (process := process_of(
            build_pod(phase="Pending", state={}, conditions=(condition("PodScheduled", "False", "", message),))
        )).waiting
    }  # fmt: skip
    assert len(said) == 1


@pytest.mark.parametrize(
    ("reason", "message", "cause"),
    [
        ("ErrImagePull", 'failed to resolve "registry.example/runner:1": not found', ": the registry does not have it"),
        ("ImagePullBackOff", "Back-off pulling image", ""),
        ("ErrImagePull", "pull access denied", ": the registry refuses the credentials"),
        ("ErrImagePull", "dial tcp: lookup registry.example: no such host", ": the registry cannot be reached"),
        ("InvalidImageName", "couldn't parse image reference", ""),
        ("ErrImageNeverPull", "", ""),
    ],
)
def test_an_image_that_cannot_be_pulled_is_named(reason: str, message: str, cause: str) -> None:
    process = process_of(build_pod(phase="Pending", state=waits(reason, message)))
    said = f"image registry.example/runner:1 cannot be pulled{cause}; check its name and the imagePullSecrets"
    assert process.waiting == Waiting(WaitingReason.IMAGE_UNAVAILABLE, said, SCHEDULED)
    assert not process.started


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('secret "s3" not found', "secret s3 is not in namespace team; create it"),
        (
            "couldn't find key AWS_ACCESS_KEY_ID in Secret team/s3",
            "secret s3 in namespace team has no key AWS_ACCESS_KEY_ID; add it",
        ),
        ("container has runAsNonRoot", "the container cannot be created: container has runAsNonRoot"),
    ],
)
def test_a_secret_or_key_that_is_missing_is_named(message: str, expected: str) -> None:
    process = process_of(build_pod(phase="Pending", state=waits("CreateContainerConfigError", message)))
    assert process.waiting == Waiting(WaitingReason.CONFIG_MISSING, expected, SCHEDULED)


def test_a_job_in_a_queue_waits_for_its_admission() -> None:
    job = build_job(conditions=(condition("Suspended", seconds=-25),))
    job["spec"]["suspend"] = True
    job["metadata"]["labels"][naming.QUEUE_LABEL] = "team-a"
    (group,) = observe_all([job])
    said = "queue team-a has not admitted job fox-j yet"
    assert group.state == GroupState.RUNNING
    assert group.waiting == Waiting(WaitingReason.QUEUED, said, NOW - timedelta(seconds=25))


def test_a_job_that_somebody_suspended_says_so() -> None:
    job = build_job()
    job["spec"]["suspend"] = True
    said = "job fox-j was suspended from outside; set its spec.suspend to false to go on"
    assert observe_all([job])[0].waiting == Waiting(WaitingReason.QUEUED, said, CREATED)


def refusal(message: str, first: float = -28, last: float = -28) -> Object:
    return {
        "reason": "FailedCreate",
        "message": f'Error creating: pods "fox-j-0-x7k2p" is forbidden: {message}',
        "firstTimestamp": at(first),
        "lastTimestamp": at(last),
        "eventTime": None,
    }


def test_a_job_whose_pods_are_refused_says_why() -> None:
    events = {"j": [refusal("exceeded quota: gpus", last=-3), refusal("violates PodSecurity", first=-27)]}
    said = "the cluster refuses its pods: exceeded quota: gpus"
    waiting = Waiting(WaitingReason.POD_REFUSED, said, NOW - timedelta(seconds=28))
    assert observe_all([build_job()], events=events) == (group_of(waiting=waiting),)


def test_refusals_of_the_past_do_not_count_once_there_are_pods() -> None:
    events = {"j": [refusal("exceeded quota: gpus")]}
    assert observe_all([build_job()], [build_pod()], events) == (group_of(RUNNING),)


def test_events_are_read_of_jobs_that_should_have_pods_by_now() -> None:
    suspended, over, deleted = build_job("s"), build_job("o", conditions=(condition("Complete"),)), build_job("d")
    suspended["spec"]["suspend"] = True
    deleted["metadata"]["deletionTimestamp"] = at(-1)
    jobs = [build_job("old"), build_job("young", created=-4), build_job("busy"), suspended, over, deleted]
    pods = [build_pod(job="busy", phase="Pending")]
    assert [job.metadata.uid for job in find_refused(read(jobs, pods), NOW)] == ["old"]


def test_the_time_at_which_the_cluster_will_look_different_is_known() -> None:
    assert changes_at(read([build_job()], [build_pod()]), NOW) is None
    assert changes_at(read([build_job(created=-2)], []), NOW) == NOW + timedelta(seconds=3)
    assert changes_at(read([build_job()], []), NOW) == NOW + timedelta(seconds=10)
    leaving = build_pod(deleted=-40)
    when = changes_at(read([build_job()], [leaving]), NOW)
    assert when == NOW + timedelta(seconds=21)
    assert observe_all([], [leaving], now=when - timedelta(seconds=1)) != ()
    assert observe_all([], [leaving], now=when) == ()


# Objects that somebody has tampered with


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (naming.LABEL_ATTEMPT, "first"),
        (naming.LABEL_ATTEMPT, "-1"),
        (naming.LABEL_STAGE, "dream"),
        (naming.LABEL_RUN, None),
        (naming.LABEL_ROUND, ""),
    ],
)
def test_a_child_whose_labels_do_not_read_is_left_out(
    label: str, value: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    job = build_job("odd")
    del job["metadata"]["labels"][label]
    if value is not None:
        job["metadata"]["labels"][label] = value
    with caplog.at_level(logging.WARNING, "videogen"):
        groups = observe_all([job, build_job()], [build_pod()])
    assert groups == (group_of(RUNNING),)
    assert label in caplog.text
    assert "Job fox-odd" in caplog.text


def test_a_pod_without_an_index_is_left_out() -> None:
    pod = build_pod("odd")
    pod["metadata"]["annotations"] = {}
    assert observe_all([build_job()], [pod, build_pod()]) == (group_of(RUNNING),)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from([at(-100), at(100), "9999-12-31T23:59:59Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


def _paths(found: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = found.keys() if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
    for key in keys:
        yield (*path, key)
        yield from _paths(found[key], (*path, key))


@st.composite
def _mutated(draw: st.DrawFn, found: Object) -> Object:
    """The object with a few of its values replaced by anything, or removed."""
    mutated = copy.deepcopy(found)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(_paths(mutated))))
        parent = mutated
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = draw(_JSON)
        else:
            del parent[path[-1]]
    return mutated


_ENDED = build_pod("b", index=1, phase="Failed", state=ended(70, message=generate_report().to_bytes().decode()))
_LOST = build_pod("c", deleted=-100, conditions=(condition("DisruptionTarget"),))
_UNSCHEDULED = build_pod("d", state={}, conditions=(condition("PodScheduled", "False", "x", UNSCHEDULABLE),))


@given(
    jobs=st.tuples(
        _mutated(slim(JOBS, build_job(conditions=(condition("FailureTarget", reason="r", message="m"),)))),
        _mutated(slim(JOBS, build_job("k"))),
    ),
    pods=st.tuples(
        *(_mutated(slim(PODS, pod)) for pod in (build_pod(), _ENDED, _LOST, _UNSCHEDULED, build_pod("g", job="gone")))
    ),
    event=_mutated(refusal("exceeded quota")),
)
def test_no_object_stops_the_observation(jobs: tuple[Object, ...], pods: tuple[Object, ...], event: Object) -> None:
    family = Family.read(jobs, pods)
    groups = observe(family, {"j": [event], "k": [event]}, {}.get, NOW).groups
    find_refused(family, NOW)
    changes_at(family, NOW)
    # Whatever was done to it, the Job that nobody touched is seen.
    if jobs[1] == slim(JOBS, build_job("k")):
        assert "k" in [group.uid for group in groups]


# Pods that nobody replaces


def gone_pod(name: str = "p", *, seconds: float, **fields: Any) -> Object:
    """A pod that has ended and was to be gone that long ago."""
    return build_pod(name, phase="Failed", state=ended(137), deleted=-seconds, **fields)


@pytest.mark.parametrize(
    ("job", "pods", "expected"),
    [
        (build_job(), [gone_pod(seconds=10)], True),
        (build_job(), [gone_pod(seconds=9)], False),
        (build_job(), [gone_pod(seconds=60), gone_pod("q", index=1, seconds=9)], False),
        (build_job(), [gone_pod(seconds=60), build_pod("q", index=1)], False),
        (build_job(), [build_pod(phase="Failed", state=ended(137))], False),
        (build_job(), [], False),
        (build_job() | {"spec": {"suspend": True}}, [gone_pod(seconds=60)], False),
        (build_job(conditions=(condition("Failed"),)), [gone_pod(seconds=60)], False),
    ],
    ids=["deleted", "just deleted", "one just", "one runs", "not deleted", "no pods", "suspended", "failed"],
)
def test_a_job_whose_pods_were_deleted_and_are_not_replaced_is_abandoned(
    job: Object, pods: list[Object], expected: bool
) -> None:
    assert is_abandoned(read([job], pods), NOW) is expected


def test_a_job_that_may_be_abandoned_is_looked_at_when_it_is_and_again_later() -> None:
    assert changes_at(read([build_job()], [gone_pod(seconds=4)]), NOW) == NOW + timedelta(seconds=6)
    assert changes_at(read([build_job()], [gone_pod(seconds=60)]), NOW) == NOW + timedelta(seconds=30)
