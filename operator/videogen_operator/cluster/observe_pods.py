"""From the pods of one Job to the processes that the core decides on. Pure: `now` is an argument."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime

from videogen_api.report import Progress, TerminationReport
from videogen_operator.cluster.hindrances import waiting_of_pod
from videogen_operator.cluster.views import Pod
from videogen_operator.core.observed import ObservedProcess, WaitingReason

_KILLED = 137


def observe_pods(
    pods: Iterable[Pod], progress: Callable[[str], Progress | None], now: datetime
) -> tuple[ObservedProcess, ...]:
    """By index, the oldest first; `progress` says what the pod of a uid said last."""
    oldest_first = sorted(pods, key=lambda pod: (pod.index, pod.metadata.creation_timestamp, pod.metadata.name))
    return tuple(_observe_pod(pod, progress(pod.metadata.uid), now) for pod in oldest_first)


def _observe_pod(pod: Pod, progress: Progress | None, now: datetime) -> ObservedProcess:
    state, phase = pod.container.state, pod.status.phase
    process = ObservedProcess(
        pod.index,
        pod.metadata.name,
        node=pod.spec.node_name,
        disrupted=pod.status.find("DisruptionTarget") is not None,
        started=state.running is not None or state.terminated is not None or phase in ("Running", "Succeeded"),
    )
    if state.terminated is not None and state.terminated.reason != "ContainerStatusUnknown":
        ended = state.terminated
        report = _read_report(ended.message, pod)
        return replace(
            process,
            exit_code=ended.exit_code,
            oom_killed=ended.reason == "OOMKilled",
            report=report,
            log_tail=ended.message if report is None else "",
        )
    if phase == "Succeeded":
        return replace(process, exit_code=0)
    if phase == "Failed":
        # Evicted, refused by its node, or gone with it: the program was never asked.
        last_words = ": ".join(part for part in (pod.status.reason, pod.status.message) if part)
        return replace(process, exit_code=_KILLED, disrupted=True, log_tail=last_words)
    if state.terminated is not None:
        return replace(process, exit_code=_KILLED, disrupted=True)
    return replace(process, waiting=waiting_of_pod(pod, now), progress=progress)


def _read_report(message: str, pod: Pod) -> TerminationReport | None:
    """A report of another stage than its pod's is no report."""
    report = TerminationReport.from_bytes(message.encode(errors="replace"))
    return report if report is not None and report.stage == pod.metadata.labels.stage else None


def is_at_work(processes: Iterable[ObservedProcess]) -> bool:
    """Whether any of them may still use its card, as far as anybody can know."""
    return any(process.exit_code is None and not is_node_lost(process) for process in processes)


def is_node_lost(process: ObservedProcess) -> bool:
    return process.waiting is not None and process.waiting.reason == WaitingReason.NODE_LOST


def give_up(process: ObservedProcess) -> ObservedProcess:
    """A process whose node does not answer, as if it had been evicted."""
    last_words = process.waiting.message if process.waiting is not None else ""
    return replace(process, exit_code=_KILLED, disrupted=True, waiting=None, log_tail=last_words)
