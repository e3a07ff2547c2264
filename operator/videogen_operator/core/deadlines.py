"""When waiting ends: attempts that do not start, runs that take too long, finished runs whose children may go."""

from datetime import datetime, timedelta

from videogen_api.naming import Stage, short_hash
from videogen_api.spec import VideoGenerationSpec
from videogen_api.status import VideoGenerationStatus
from videogen_operator.core.observed import ObservedGroup, WaitingReason

LATE_START = "StartDeadlineExceeded"
TOO_LONG = "ActiveDeadlineExceeded"

HALF_STARTED_SECONDS = 1800
"""How long an encoder group may hold some cards while it waits for the others, where the manifest says nothing."""

_JITTER = 0.1


def starts_late(group: ObservedGroup, deadline_seconds: int | None) -> datetime | None:
    """When an attempt counts as not started in time; None where it cannot, or has started.

    Runners work alone, so a pool has started with its first one. The others start together or not at all. Whoever
    waits in a queue is not late. Up to a tenth is added, differently for each attempt: two groups that each hold half
    of the cards must not let go, and come back, at the same moment.
    """
    if group.created is None or (group.waiting is not None and group.waiting.reason == WaitingReason.QUEUED):
        return None
    started = group.size - group.unstarted
    if group.unstarted == 0 or (group.stage == Stage.GENERATE and started):
        return None
    seconds = deadline_seconds
    if seconds is None and group.stage == Stage.ENCODE and started:
        seconds = HALF_STARTED_SECONDS
    if seconds is None:
        return None
    share = int(short_hash(group.run_id, group.label), 16) / 0xFFFFFFFF
    return group.created + timedelta(seconds=seconds * (1 + _JITTER * share))


def runs_too_long(spec: VideoGenerationSpec, status: VideoGenerationStatus) -> datetime | None:
    """When the run ends whatever it does, counted from its start or from the last resume; None: never."""
    seconds = spec.schedule.active_deadline_seconds if spec.schedule is not None else None
    if seconds is None or status.start_time is None:
        return None
    return status.start_time + timedelta(seconds=seconds)


def children_expire(spec: VideoGenerationSpec, status: VideoGenerationStatus) -> datetime | None:
    """When the children of a finished run go; None: never."""
    if spec.ttl_seconds_after_finished is None or status.completion_time is None:
        return None
    return status.completion_time + timedelta(seconds=spec.ttl_seconds_after_finished)
