"""Conditions as Kubernetes defines them: a transition time changes only when the status does."""

from datetime import datetime

from videogen_api.status import Condition, ConditionStatus, ConditionType


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
