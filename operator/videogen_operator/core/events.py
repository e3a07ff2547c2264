"""What is worth an event: derived from the change between two statuses and from nothing else.

An event is for a person who reads `kubectl describe`: few, each with the reason and, where something is wrong, what to
do about it. Status remains the record; events may be lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from videogen_api.naming import Stage
from videogen_api.status import FINISHED_PHASES, Condition, ConditionType, Phase, VideoGenerationStatus
from videogen_operator.core.conditions import TEXT_TRUNCATED
from videogen_operator.core.deadlines import LATE_START
from videogen_operator.core.observed import WaitingReason
from videogen_operator.core.waits import ENCODER_WAITS


class EventType(StrEnum):
    """The two that Kubernetes has."""

    NORMAL = "Normal"
    WARNING = "Warning"


STARTED = "Started"
RESUMED = "Resumed"
RETRYING = "Retrying"

_PHASE_OF_STAGE = {
    Stage.PREFLIGHT: Phase.PREFLIGHT,
    Stage.ENCODE: Phase.ENCODING,
    Stage.GENERATE: Phase.GENERATING,
    Stage.COLLECT: Phase.COLLECTING,
}
_WORKING_PHASES = (Phase.ENCODING, Phase.GENERATING, Phase.COLLECTING)
_AT_REST = (*FINISHED_PHASES, Phase.SUSPENDED)
_ORDERLY_WAITS = (WaitingReason.QUEUED, ENCODER_WAITS)
"""Waits that are meant to be: for a queue, and for another one's encoder."""


@dataclass(frozen=True)
class EventNote:
    """One thing to tell: `reason` is a stable CamelCase word, `note` one sentence."""

    type: EventType
    reason: str
    note: str


def events_of(before: VideoGenerationStatus, after: VideoGenerationStatus) -> tuple[EventNote, ...]:
    """What happened between two statuses of one resource, in the order in which a person would tell it."""
    return tuple(
        note
        for notes in (
            _of_start(before, after),
            _of_late_starts(before, after),
            _of_attempts(before, after),
            _of_phase(before, after),
            _of_waiting(before, after),
            _of_texts(before, after),
        )
        for note in notes
    )


def _of_start(before: VideoGenerationStatus, after: VideoGenerationStatus) -> Iterator[EventNote]:
    if after.run_id is None or _same_try(before, after):
        return
    if before.run_id is None:
        yield EventNote(EventType.NORMAL, STARTED, f"run {after.run_id} begins")
    elif before.run_id != after.run_id:
        yield EventNote(EventType.NORMAL, STARTED, f"the spec asks for other clips: run {after.run_id} begins")
    else:
        yield EventNote(EventType.NORMAL, STARTED, f"spec.retry has changed: run {after.run_id} is tried again")


def _of_attempts(before: VideoGenerationStatus, after: VideoGenerationStatus) -> Iterator[EventNote]:
    """A stage that is tried again. Attempts count on from run to run: the first one of a run is no second try."""
    if not _same_try(before, after):
        return
    made = _attempts(before)
    for (stage, pool), attempt in _attempts(after).items():
        again = stage == Stage.PREFLIGHT and before.phase in _WORKING_PHASES
        if attempt > made.get((stage, pool), 0) and (again or before.phase == _PHASE_OF_STAGE[stage]):
            what = f"{stage} of pool {pool}" if pool is not None else str(stage)
            yield EventNote(EventType.WARNING, RETRYING, f"attempt {attempt} of {what}: {after.message}")


def _of_late_starts(before: VideoGenerationStatus, after: VideoGenerationStatus) -> Iterator[EventNote]:
    """An attempt that is given up: what it waited for is told nowhere else once the next one is made."""
    if _same_try(before, after) and len(after.late_starts) > len(before.late_starts):
        yield EventNote(EventType.WARNING, LATE_START, after.message or "")


def _of_phase(before: VideoGenerationStatus, after: VideoGenerationStatus) -> Iterator[EventNote]:
    # A manifest may be refused twice in a row, for two reasons.
    refused_anew = after.phase == Phase.FAILED and after.message != before.message
    if after.phase is None or (after.phase == before.phase and _same_try(before, after) and not refused_anew):
        return
    note = after.message or ""
    if after.phase == Phase.FAILED:
        yield EventNote(EventType.WARNING, _reason(after, ConditionType.STALLED) or after.phase, note)
    elif after.phase in (Phase.SUCCEEDED, Phase.SUSPENDED):
        yield EventNote(EventType.NORMAL, after.phase, note)
    elif before.phase == Phase.SUSPENDED and _same_try(before, after):
        yield EventNote(EventType.NORMAL, RESUMED, note)
    elif after.phase in _WORKING_PHASES:
        yield EventNote(EventType.NORMAL, after.phase, note)


def _of_waiting(before: VideoGenerationStatus, after: VideoGenerationStatus) -> Iterator[EventNote]:
    """Something that should run does not, and did not wait for the same reason before."""
    reason = _reason(after, ConditionType.RECONCILING)
    if reason is None or after.phase in _AT_REST or reason in set(Phase):
        return
    if reason != _reason(before, ConditionType.RECONCILING):
        event_type = EventType.NORMAL if reason in _ORDERLY_WAITS else EventType.WARNING
        yield EventNote(event_type, reason, after.message or "")


def _of_texts(before: VideoGenerationStatus, after: VideoGenerationStatus) -> Iterator[EventNote]:
    condition = _condition(after, ConditionType.EMBEDDINGS_READY)
    if condition is None or condition.reason != TEXT_TRUNCATED:
        return
    if _reason(before, ConditionType.EMBEDDINGS_READY) != TEXT_TRUNCATED or not _same_try(before, after):
        yield EventNote(EventType.WARNING, TEXT_TRUNCATED, condition.message)


def _same_try(before: VideoGenerationStatus, after: VideoGenerationStatus) -> bool:
    return (before.run_id, before.retry) == (after.run_id, after.retry)


def _attempts(status: VideoGenerationStatus) -> dict[tuple[Stage, str | None], int]:
    attempts = status.attempts
    return {
        (Stage.PREFLIGHT, None): attempts.preflight,
        (Stage.ENCODE, None): attempts.encode,
        **{(Stage.GENERATE, pool): attempt for pool, attempt in attempts.generate.items()},
        (Stage.COLLECT, None): attempts.collect,
    }


def _condition(status: VideoGenerationStatus, condition_type: ConditionType) -> Condition | None:
    return next((condition for condition in status.conditions if condition.type == condition_type), None)


def _reason(status: VideoGenerationStatus, condition_type: ConditionType) -> str | None:
    condition = _condition(status, condition_type)
    return condition.reason if condition is not None else None
