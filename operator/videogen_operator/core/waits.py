"""What holds the processes of a stage back, in one sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from videogen_operator.core.observed import GroupState, ObservedGroup, Waiting, WaitingReason

ENCODER_WAITS = "EncoderWaits"
"""Reason of a run whose encoder waits until that of another resource has all of its cards."""

_SHOWN_AFTER = timedelta(seconds=5)
"""A pod that has just been made waits for a moment in every life; that is not worth a write."""

_ORDER = (
    WaitingReason.POD_REFUSED,
    WaitingReason.CONFIG_MISSING,
    WaitingReason.IMAGE_UNAVAILABLE,
    WaitingReason.NODE_LOST,
    WaitingReason.UNSCHEDULABLE,
    WaitingReason.QUEUED,
)


@dataclass(frozen=True)
class Wait:
    """The most serious reason, how many processes it holds back, and whether nothing else is at work."""

    reason: WaitingReason
    message: str
    all_queued: bool


def find_wait(groups: Iterable[ObservedGroup], now: datetime) -> tuple[Wait | None, datetime | None]:
    """The wait to show, and when one that is too young to be shown will be old enough."""
    running = [group for group in groups if group.state == GroupState.RUNNING]
    held = [(group.waiting, group.size) for group in running if group.waiting is not None]
    held += [(process.waiting, 1) for group in running for process in group.processes if process.waiting is not None]
    shown = [(waiting, count) for waiting, count in held if _is_shown(waiting, now)]
    young = min((waiting.since + _SHOWN_AFTER for waiting, _ in held if not _is_shown(waiting, now)), default=None)
    if not shown:
        return None, young
    first = min((waiting for waiting, _ in shown), key=lambda waiting: (_ORDER.index(waiting.reason), waiting.message))
    count = sum(count for waiting, count in shown if waiting.reason == first.reason)
    total = sum(group.size for group in running)
    queued = all(group.waiting is not None and group.waiting.reason == WaitingReason.QUEUED for group in running)
    of_how_many = f"{count} of {total} pods wait: " if total > 1 and not queued else ""
    return Wait(first.reason, f"{of_how_many}{first.message}", queued), young


def _is_shown(waiting: Waiting, now: datetime) -> bool:
    return waiting.reason == WaitingReason.QUEUED or now - waiting.since >= _SHOWN_AFTER
