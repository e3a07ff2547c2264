"""When a status is worth a write: the ledger before acting, news at once, progress now and then."""

from datetime import timedelta

from videogen_api.status import Condition, VideoGenerationStatus

REPORT_EVERY = timedelta(seconds=10)
"""At most one write of mere progress in this time."""


def ledger_changed(before: VideoGenerationStatus, after: VideoGenerationStatus) -> bool:
    """Whether something must be remembered before anything is done."""
    return _ledger(before) != _ledger(after)


def is_news(before: VideoGenerationStatus, after: VideoGenerationStatus) -> bool:
    """Whether something has happened that people and tools wait for."""
    return ledger_changed(before, after) or _news(before) != _news(after)


def differs(before: VideoGenerationStatus, after: VideoGenerationStatus) -> bool:
    """Whether there is anything to tell; an estimate that moves with the clock alone is nothing."""
    return after != before.model_copy(update={"estimated_completion_time": after.estimated_completion_time})


def _ledger(status: VideoGenerationStatus) -> tuple[object, ...]:
    return (
        status.run_id,
        status.retry,
        status.asked,
        status.plan_revision,
        status.attempts,
        status.late_starts,
        status.least_shards,
        status.gave_way,
        status.start_time,
        status.completion_time,
    )


def _news(status: VideoGenerationStatus) -> tuple[object, ...]:
    return (
        status.observed_generation,
        status.phase,
        tuple(_kind(condition) for condition in status.conditions),
        status.failures,
    )


def _kind(condition: Condition) -> tuple[str, str, str]:
    return condition.type, condition.status, condition.reason
