"""Conditions as Kubernetes defines them: a transition time changes only when the status does."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from videogen_api.errors import Reason
from videogen_api.naming import Stage
from videogen_api.plan import Plan
from videogen_api.spec import Strategy
from videogen_api.status import Condition, ConditionStatus, ConditionType, Phase, VideoGenerationStatus
from videogen_operator.core.observed import GroupState, Observed

if TYPE_CHECKING:
    from videogen_operator.core.stages import Step

TEXT_TRUNCATED = "TextTruncated"
"""Reason of EmbeddingsReady where a text was longer than the encoder reads."""

_STORE_REASONS = frozenset({Reason.STORE_UNAVAILABLE, Reason.STORE_DENIED})


def conditions_of(
    status: VideoGenerationStatus, plan: Plan, observed: Observed, step: Step, now: datetime
) -> tuple[Condition, ...]:
    """All conditions of a resource; `status` has those of before, and everything else as of now."""
    succeeded, failed = step.phase == Phase.SUCCEEDED, step.phase == Phase.FAILED
    suspended = step.phase == Phase.SUSPENDED
    truncated = _truncated_texts(observed)
    told = (step.reason, status.message or "")
    facts: list[tuple[ConditionType, bool | None, tuple[str, str]]] = [
        (ConditionType.READY, succeeded, told),
        (ConditionType.RECONCILING, not (succeeded or failed or suspended), told),
        (ConditionType.STALLED, failed, told),
        (ConditionType.SUSPENDED, suspended, told if suspended else ("NotSuspended", "spec.suspend is not set")),
    ]
    if not suspended:
        # What was found out before a pause stays said; on resume preflight looks again.
        store, encoded = _store_ready(status, step), _embeddings_ready(status, plan, observed, step)
        store_told = ("StoreChecked", _store_found(status)) if store else told
        encoded_told = ("Encoded", "every prompt is encoded") if encoded else told
        if truncated:
            encoded_told = (TEXT_TRUNCATED, "; ".join(truncated))
        facts += [
            (ConditionType.STORE_READY, store, store_told),
            (ConditionType.EMBEDDINGS_READY, encoded, encoded_told),
        ]
    conditions, generation = status.conditions, status.observed_generation
    for condition_type, value, (reason, message) in facts:
        conditions = set_condition(conditions, condition_type, value, reason, message, now=now, generation=generation)
    return conditions


def _store_ready(status: VideoGenerationStatus, step: Step) -> bool | None:
    if step.reason in _STORE_REASONS:
        return False
    return True if status.found is not None else None


def _store_found(status: VideoGenerationStatus) -> str:
    found = "preflight has read and written the store"
    if status.found is None or status.found.claims:
        return found
    return (
        f"{found}, whose conditional writes (If-None-Match, If-Match) cannot be trusted: each runner has a fixed share "
        "of the clips, and none goes on with another's; a store that has them lets work move between runners"
    )


def _embeddings_ready(status: VideoGenerationStatus, plan: Plan, observed: Observed, step: Step) -> bool:
    """Whether every text is known to be encoded, whatever the run does or waits for by now."""
    this_round = status.attempts.preflight
    groups = [group for group in observed.groups if group.round == this_round]
    return (
        step.phase in {Phase.COLLECTING, Phase.SUCCEEDED}
        or (status.found is not None and status.found.embeddings == len(plan.texts))
        or any(g.stage == Stage.ENCODE and g.state == GroupState.SUCCEEDED and not g.lost_its_report for g in groups)
        or (plan.strategy == Strategy.SEQUENTIAL and any(group.stage == Stage.GENERATE for group in groups))
    )


def _truncated_texts(observed: Observed) -> tuple[str, ...]:
    """Warnings about texts over the token limit."""
    return tuple(
        warning
        for group in observed.attempts(Stage.ENCODE)
        for process in group.processes
        if process.report is not None and process.report.encode is not None
        for warning in process.report.encode.truncated
    )


def set_condition(
    conditions: tuple[Condition, ...],
    condition_type: ConditionType,
    status: bool | None,
    reason: str,
    message: str,
    *,
    now: datetime,
    generation: int,
) -> tuple[Condition, ...]:
    """The conditions with one of them replaced or added, sorted by type; `status` None is Unknown."""
    value = ConditionStatus.UNKNOWN if status is None else ConditionStatus.TRUE if status else ConditionStatus.FALSE
    before = next((condition for condition in conditions if condition.type == condition_type), None)
    unchanged = before is not None and before.status == value
    condition = Condition(
        type=condition_type,
        status=value,
        reason=reason,
        message=message,
        last_transition_time=before.last_transition_time if before is not None and unchanged else now,
        observed_generation=generation,
    )
    others = tuple(other for other in conditions if other.type != condition_type)
    return tuple(sorted((*others, condition), key=lambda each: each.type))
