"""From the Jobs and pods of one resource to what the core decides on. Pure: `now` is an argument.

A Job's verdict (FailureTarget, SuccessCriteriaMet) counts when its pods have left their cards, or are lost: until then
the group is at work. An object that carries our labels but does not read like a child of ours is left out and logged.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self, TypeVar

from videogen_api.report import Progress
from videogen_operator.cluster.hindrances import LOST_AFTER, waiting_of_job
from videogen_operator.cluster.observe_pods import give_up, is_at_work, is_node_lost, observe_pods
from videogen_operator.cluster.resources import Object
from videogen_operator.cluster.views import Condition, Event, Job, Labels, Malformed, Pod
from videogen_operator.core.observed import GroupState, Observed, ObservedGroup, ObservedProcess

log = logging.getLogger("videogen")

REFUSED_AFTER = timedelta(seconds=5)
"""A Job without pods is given this long before its events are read."""

REREAD_AFTER = timedelta(seconds=10)
"""How long the events of a Job are taken to be the same."""

REPLACED_AFTER = timedelta(seconds=10)
"""A pod that was deleted and has ended is given this long to be replaced before anybody asks why it is not."""

ASKED_AGAIN_AFTER = timedelta(seconds=30)

VERDICT_AHEAD = timedelta(seconds=10)
"""How far a Job's verdict may be ahead of the news of its pods, which come in a stream of their own."""

V = TypeVar("V", Job, Pod, Event)


@dataclass(frozen=True)
class Family:
    """The Jobs of one resource, and the pods of each, read once for all questions."""

    jobs: tuple[Job, ...]
    pods_of_job: Mapping[str, Sequence[Pod]]
    """By the uid of the Job; some of these are gone."""

    @classmethod
    def read(cls, jobs: Iterable[Object], pods: Iterable[Object]) -> Self:
        pods_of_job: dict[str, list[Pod]] = defaultdict(list)
        for pod in _read_all(Pod, pods):
            if pod.job_uid is not None:
                pods_of_job[pod.job_uid].append(pod)
        return cls(tuple(_read_all(Job, jobs)), dict(pods_of_job))

    @property
    def podless(self) -> tuple[Job, ...]:
        """The Jobs that should have pods and have none."""
        return tuple(job for job in self.jobs if job.metadata.uid not in self.pods_of_job and _should_have_pods(job))


def observe(
    family: Family,
    failed_creates: Mapping[str, Sequence[Object]],
    progress: Callable[[str], Progress | None],
    now: datetime,
) -> Observed:
    """`failed_creates` has FailedCreate events by the Job's uid; `progress` says what the pod of a uid said last."""
    groups = [
        _observe_job(
            job,
            family.pods_of_job.get(job.metadata.uid, ()),
            list(_read_all(Event, failed_creates.get(job.metadata.uid, ()))),
            progress,
            now,
        )
        for job in family.jobs
    ]
    present = {job.metadata.uid for job in family.jobs}
    groups += [
        _observe_remains(job_uid, remains, progress, now)
        for job_uid, remains in family.pods_of_job.items()
        if job_uid not in present
    ]
    found = (group for group in groups if group is not None)
    return Observed(
        tuple(sorted(found, key=lambda group: (group.run_id, group.stage, group.pool or "", group.attempt)))
    )


def find_refused(family: Family, now: datetime) -> tuple[Job, ...]:
    """The Jobs whose FailedCreate events are worth reading."""
    return tuple(job for job in family.podless if now - _created(job) >= REFUSED_AFTER)


def is_abandoned(family: Family, now: datetime) -> bool:
    """Whether a Job waits for pods in the place of those that were deleted: it may be backing off, or never get any."""
    return any(at <= now for at in _abandoned_at(family))


def _abandoned_at(family: Family) -> Iterator[datetime]:
    for job in family.jobs:
        pods = family.pods_of_job.get(job.metadata.uid, ())
        deleted = [pod.metadata.deletion_timestamp for pod in pods if pod.metadata.deletion_timestamp is not None]
        if deleted and _should_have_pods(job) and all(pod.is_terminal for pod in pods):
            yield max(deleted) + REPLACED_AFTER


def changes_at(family: Family, now: datetime) -> datetime | None:
    """When `observe` may next say something else although no object changes; None: never."""
    times = [
        pod.metadata.deletion_timestamp + LOST_AFTER + timedelta(seconds=1)
        for pods in family.pods_of_job.values()
        for pod in pods
        if pod.metadata.deletion_timestamp is not None and not pod.is_terminal
    ]
    times += [
        # Once it is too late already, nothing but another look at the events can tell that they are others now.
        due if (due := _created(job) + REFUSED_AFTER) > now else now + REREAD_AFTER
        for job in family.podless
    ]
    times += [at if at > now else now + ASKED_AGAIN_AFTER for at in _abandoned_at(family)]
    times += [
        _believed_at(job, verdict)
        for job in family.jobs
        if job.metadata.uid not in family.pods_of_job
        for verdict in job.status.conditions
        if verdict.status == "True"
    ]
    return min((time for time in times if time > now), default=None)


def _should_have_pods(job: Job) -> bool:
    over = job.status.find("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget") is not None
    return not over and not job.spec.suspend and job.metadata.deletion_timestamp is None


def _created(job: Job) -> datetime:
    return job.metadata.creation_timestamp


def _observe_job(
    job: Job, pods: Sequence[Pod], events: Sequence[Event], progress: Callable[[str], Progress | None], now: datetime
) -> ObservedGroup | None:
    processes = observe_pods(pods, progress, now)
    if job.metadata.deletion_timestamp is not None:
        leaving = now <= job.metadata.deletion_timestamp + LOST_AFTER
        ending = _group(job.metadata.uid, job.metadata.labels, processes, GroupState.ENDING)
        return ending if leaving or is_at_work(processes) else None
    state, verdict = _judge(job, processes, now)
    group = replace(
        _group(job.metadata.uid, job.metadata.labels, processes, state),
        expected=job.spec.completions,
        # A queue may have held it back for long: it could not start before it was resumed.
        created=job.status.start_time or _created(job),
        finished=verdict.last_transition_time if verdict is not None else None,
        failure=_describe(verdict) if verdict is not None and state == GroupState.FAILED else "",
    )
    if state != GroupState.RUNNING:
        return group
    if _is_lost(group):
        given_up = tuple(give_up(process) if process.exit_code is None else process for process in processes)
        return replace(group, state=GroupState.FAILED, processes=given_up, finished=now, lost=True)
    return replace(group, waiting=waiting_of_job(job, events, now, has_pods=bool(pods)))


def _judge(job: Job, processes: Sequence[ObservedProcess], now: datetime) -> tuple[GroupState, Condition | None]:
    """What the Job controller has decided, as soon as its pods are known to have left.

    Success and failure exclude each other; a verdict is never taken back. Without the last words of its pods a Job
    would look like one that has lost its report.
    """
    kinds = ("Failed", "Complete", "FailureTarget", "SuccessCriteriaMet")
    verdict = next((found for kind in kinds if (found := job.status.find(kind)) is not None), None)
    if verdict is None or is_at_work(processes) or (not processes and now < _believed_at(job, verdict)):
        return GroupState.RUNNING, None
    failed = verdict.type in ("Failed", "FailureTarget")
    return GroupState.FAILED if failed else GroupState.SUCCEEDED, verdict


def _believed_at(job: Job, verdict: Condition) -> datetime:
    """When a verdict counts although no pod was heard of."""
    return (verdict.last_transition_time or _created(job)) + VERDICT_AHEAD


def _describe(verdict: Condition) -> str:
    return ": ".join(part for part in (verdict.reason, " ".join(verdict.message.split())) if part)


def _observe_remains(
    job_uid: str, pods: Sequence[Pod], progress: Callable[[str], Progress | None], now: datetime
) -> ObservedGroup | None:
    """Pods whose Job is gone: they hold their cards until they have ended."""
    processes = observe_pods(pods, progress, now)
    return _group(job_uid, pods[0].metadata.labels, processes, GroupState.ENDING) if is_at_work(processes) else None


def _is_lost(group: ObservedGroup) -> bool:
    """Whether every index that has not ended waits for a node that does not answer."""
    newest = {process.index: process for process in group.processes}
    unfinished = [process for process in newest.values() if process.exit_code is None]
    complete = len(newest) >= group.size
    return complete and bool(unfinished) and all(is_node_lost(process) for process in unfinished)


def _group(job_uid: str, labels: Labels, processes: tuple[ObservedProcess, ...], state: GroupState) -> ObservedGroup:
    return ObservedGroup(
        labels.run_id,
        labels.stage,
        labels.pool,
        labels.attempt,
        labels.round,
        state,
        processes,
        template=labels.template,
        uid=job_uid,
    )


def _read_all(view: type[V], found: Iterable[Object]) -> Iterator[V]:
    for item in found:
        try:
            yield view.read(item)
        except Malformed as error:
            log.warning("ignored: %s", error)
