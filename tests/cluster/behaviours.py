"""What a simulated pod can do: each behaviour is the status that a kubelet would leave behind, at once.

What the pods of one run "made" is remembered, so that a later preflight or collect reports what earlier pods did, as
the store would.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from videogen_api import naming
from videogen_api.errors import reason_of_exit
from videogen_api.naming import Stage
from videogen_api.plan import Plan, WeightsDigests
from videogen_api.report import (
    Bitmap,
    CollectReport,
    EncodeReport,
    GenerateReport,
    PreflightReport,
    TerminationReport,
)
from videogen_api.status import format_time
from videogen_operator.cluster.resources import Object

Status = dict[str, Any]
"""The `status` of a pod."""


@dataclass(frozen=True)
class SimulatedPod:
    """What a script may decide by."""

    namespace: str
    resource: str
    name: str
    uid: str
    stage: Stage
    pool: str | None
    attempt: int
    index: int

    @classmethod
    def of(cls, pod: Object) -> Self:
        metadata = pod["metadata"]
        labels = metadata["labels"]
        return cls(
            namespace=metadata["namespace"],
            resource=labels[naming.LABEL_NAME],
            name=metadata["name"],
            uid=metadata["uid"],
            stage=Stage(labels[naming.LABEL_STAGE]),
            pool=labels.get(naming.LABEL_POOL),
            attempt=int(labels[naming.LABEL_ATTEMPT]),
            index=int(metadata["annotations"]["batch.kubernetes.io/job-completion-index"]),
        )


@dataclass
class Made:
    """What one run has in its pretended store: by position, the UID of the pod that made it."""

    texts: dict[int, str] = field(default_factory=dict)
    clips: dict[int, str] = field(default_factory=dict)


Behaviour = Callable[[SimulatedPod, Plan, Made], Status]


def succeed(pod: SimulatedPod, plan: Plan, made: Made) -> Status:
    """Does all of its work in no time."""
    match pod.stage:
        case Stage.PREFLIGHT:
            found = PreflightReport(
                weights=WeightsDigests(encoder="e", denoiser="d", vae="v"),
                embeddings=Bitmap.of(position in made.texts for position in range(len(plan.texts))),
                clips=Bitmap.of(position in made.clips for position in range(len(plan.work))),
                claims=True,
            )
            return _ended(0, _report(pod, 0, preflight=found))
        case Stage.ENCODE:
            encoded = _make(made.texts, range(len(plan.texts)), pod)
            worked = EncodeReport(encoded=encoded, seconds=1.0, load_seconds=1.0)
            return _ended(0, _report(pod, 0, encode=worked))
        case Stage.GENERATE:
            finished = _make(made.clips, _share(plan, pod), pod)
            drawn = GenerateReport(
                finished=finished, reused=0, failed=0, resumed=0, steps=finished, step_seconds=1.0, load_seconds=1.0
            )
            return _ended(0, _report(pod, 0, generate=drawn))
        case Stage.COLLECT:
            missing = len(plan.work) - len(made.clips)
            found_clips = CollectReport(
                succeeded=len(plan.clips) if not missing else len(made.clips),
                failed=0,
                missing=missing,
                manifest=f"{plan.storage.url}/runs/{plan.run}/manifest.json",
            )
            return _ended(0, _report(pod, 0, collect=found_clips))


def fail(exit_code: int, message: str = "simulated failure") -> Behaviour:
    """Ends with a report of its own that says why."""
    return lambda pod, _plan, _made: _ended(exit_code, _report(pod, exit_code, message))


def crash(exit_code: int = 139, log_tail: str = "Segmentation fault") -> Behaviour:
    """Ends without a report: the kubelet puts the last lines of the log in its place."""
    return lambda _pod, _plan, _made: _ended(exit_code, log_tail)


def oom_killed(pod: SimulatedPod, plan: Plan, made: Made) -> Status:  # noqa: ARG001 - a Behaviour
    return _ended(137, "", reason="OOMKilled")


def evict(pod: SimulatedPod, plan: Plan, made: Made) -> Status:  # noqa: ARG001 - a Behaviour
    """Preempted or drained."""
    status = _ended(137, "")
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "drained"}
    return {**status, "conditions": [*status["conditions"], {**disrupted, "lastTransitionTime": _now()}]}


def hang(pod: SimulatedPod, plan: Plan, made: Made) -> Status:  # noqa: ARG001 - a Behaviour
    """Runs, and never ends by itself."""
    return {
        "phase": "Running",
        "startTime": _now(),
        "conditions": _conditions(Initialized="True", PodScheduled="True", Ready="True"),
        "containerStatuses": [_container({"running": {"startedAt": _now()}}, started=True)],
    }


def unschedulable(pod: SimulatedPod, plan: Plan, made: Made) -> Status:  # noqa: ARG001 - a Behaviour
    message = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [{**condition, "lastTransitionTime": _now()}]}


def pull_error(pod: SimulatedPod, plan: Plan, made: Made) -> Status:  # noqa: ARG001 - a Behaviour
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nowhere/runner:1"'}
    return {
        "phase": "Pending",
        "startTime": _now(),
        "conditions": _conditions(Initialized="True", PodScheduled="True", Ready="False"),
        "containerStatuses": [_container({"waiting": waiting}, started=False)],
    }


def _share(plan: Plan, pod: SimulatedPod) -> range:
    """Positions of the clips of one index: the fixed share of the generate role."""
    names = [pool.name for pool in plan.pools]
    before = sum(pool.replicas for pool in plan.pools[: names.index(pod.pool or "")])
    return range(before + pod.index, len(plan.work), sum(pool.replicas for pool in plan.pools))


def _make(things: dict[int, str], positions: range, pod: SimulatedPod) -> int:
    """Makes those that are not there; how many this pod has made, however often it is asked."""
    for position in positions:
        things.setdefault(position, pod.uid)
    return sum(things[position] == pod.uid for position in positions)


def _report(pod: SimulatedPod, exit_code: int, message: str = "done", **fields: Any) -> str:
    report = TerminationReport(
        stage=pod.stage,
        pool=pod.pool,
        index=pod.index,
        attempt=pod.attempt,
        exit_code=exit_code,
        reason=reason_of_exit(exit_code),
        message=message,
        seconds=1.0,
        peak_memory_bytes=1,
        **fields,
    )
    return report.to_bytes().decode()


def _ended(exit_code: int, message: str, reason: str | None = None) -> Status:
    terminated = {
        "exitCode": exit_code,
        "reason": reason or ("Error" if exit_code else "Completed"),
        "message": message,
        "startedAt": _now(),
        "finishedAt": _now(),
    }
    return {
        "phase": "Failed" if exit_code else "Succeeded",
        "startTime": _now(),
        "conditions": _conditions(Initialized="True", PodScheduled="True", Ready="False"),
        "containerStatuses": [_container({"terminated": terminated}, started=False)],
    }


def _container(state: dict[str, Any], *, started: bool) -> dict[str, Any]:
    return {
        "name": naming.CONTAINER,
        "image": "simulated",
        "imageID": "",
        "ready": started,
        "started": started,
        "restartCount": 0,
        "state": state,
    }


def _conditions(**values: str) -> list[dict[str, str]]:
    return [{"type": name, "status": value, "lastTransitionTime": _now()} for name, value in values.items()]


def _now() -> str:
    return format_time(datetime.now(UTC))
