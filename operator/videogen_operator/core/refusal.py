"""Statuses of resources that cannot be worked on: refused until their spec changes, or blocked for now."""

from datetime import datetime

from videogen_api.resource import VideoGeneration
from videogen_api.status import FINISHED_PHASES, ConditionType, Phase, VideoGenerationStatus
from videogen_operator.core.conditions import set_condition
from videogen_operator.core.reconcile import is_new


def refuse(
    status: VideoGenerationStatus, generation: int, reason: str, message: str, now: datetime
) -> VideoGenerationStatus:
    """Nothing can be made of this spec. What it asks for counts as new once it has changed."""
    refused_before = status.phase == Phase.FAILED and status.observed_generation == generation
    told = status.model_copy(
        update={
            "asked": None,
            "observed_generation": generation,
            "phase": Phase.FAILED,
            "message": message,
            "runners": (),
            "estimated_completion_time": None,
            "completion_time": status.completion_time if refused_before else now,
        }
    )
    return _with_conditions(told, generation, reason, now)


def block(resource: VideoGeneration, reason: str, message: str, now: datetime) -> VideoGenerationStatus:
    """The cluster does not let the operator go on, for a reason that may pass.

    A finished run stays finished whatever becomes of its children. A new one that cannot begin counts as new until it
    has begun, also where the manifest goes back to what the finished one made; and an edit that is not carried out yet
    is not called observed, or it would never be.
    """
    status = resource.status
    finished = status.phase in FINISHED_PHASES
    if finished and not is_new(resource):
        return status
    phase = Phase.PENDING if status.phase is None or finished else status.phase
    asked = None if finished else status.asked
    told = status.model_copy(update={"asked": asked, "phase": phase, "message": message})
    return _with_conditions(told, resource.metadata.generation, reason, now)


def _with_conditions(
    status: VideoGenerationStatus, generation: int, reason: str, now: datetime
) -> VideoGenerationStatus:
    failed = status.phase == Phase.FAILED
    facts = ((ConditionType.READY, False), (ConditionType.RECONCILING, not failed), (ConditionType.STALLED, failed))
    conditions = status.conditions
    for condition_type, value in facts:
        conditions = set_condition(
            conditions, condition_type, value, reason, status.message or "", now=now, generation=generation
        )
    return status.model_copy(update={"conditions": conditions})
