"""When a status is worth a write."""

from typing import Any

import pytest
from tests.builders import NOW, after, build_plan, build_resource, build_status

from videogen_api.status import (
    Attempts,
    ClipCounts,
    Condition,
    ConditionStatus,
    ConditionType,
    Failure,
    Findings,
    Phase,
    RunnerStatus,
    VideoGenerationStatus,
)
from videogen_operator.core.writes import REPORT_EVERY, differs, is_news, ledger_changed


def condition(status: ConditionStatus = ConditionStatus.TRUE, **fields: Any) -> Condition:
    said = {"reason": "Encoding", "message": "encoding", "last_transition_time": NOW, "observed_generation": 1}
    return Condition(type=ConditionType.RECONCILING, status=status, **{**said, **fields})


BEFORE = build_status(build_plan(), build_resource(), Attempts(preflight=1)).model_copy(
    update={"phase": Phase.ENCODING, "observed_generation": 1, "conditions": (condition(),)}
)

LEDGER: list[dict[str, Any]] = [
    {"run_id": "another"},
    {"retry": "1"},
    {"asked": "something else"},
    {"plan_revision": 2},
    {"attempts": Attempts(preflight=1, encode=1)},
    {"late_starts": ("preflight-1",)},
    {"least_shards": 2},
    {"gave_way": 1},
    {"start_time": None},
    {"completion_time": NOW},
]
NEWS: list[dict[str, Any]] = [
    {"observed_generation": 2},
    {"phase": Phase.GENERATING},
    {"conditions": ()},
    {"conditions": (condition(ConditionStatus.FALSE),)},
    {"conditions": (condition(reason="Unschedulable"),)},
    {"failures": (Failure(pod="fox-0", reason="Internal", message="the encoder crashed"),)},
]
PROGRESS: list[dict[str, Any]] = [
    {"progress": 1},
    {"message": "2 at work"},
    {"clips": ClipCounts(total=2, running=1)},
    {"runners": (RunnerStatus(name="local-0", pod="fox-0", state="Denoising", step=1),)},
    {"conditions": (condition(message="2 at work"),)},
    # Both are found again by a look at the children; the ledger that counts them out is written anyway.
    {"created": Attempts(preflight=1, encode=1)},
    {"found": Findings(attempt=1, embeddings=0, clips=0, claims=True)},
]


def judge(after_it: VideoGenerationStatus) -> tuple[bool, bool, bool]:
    return ledger_changed(BEFORE, after_it), is_news(BEFORE, after_it), differs(BEFORE, after_it)


@pytest.mark.parametrize("fields", LEDGER, ids=lambda fields: next(iter(fields)))
def test_the_ledger_is_written_before_anything_is_done(fields: dict[str, Any]) -> None:
    assert judge(BEFORE.model_copy(update=fields)) == (True, True, True)


@pytest.mark.parametrize("fields", NEWS, ids=lambda fields: next(iter(fields)))
def test_news_are_written_at_once_but_nothing_waits_for_them(fields: dict[str, Any]) -> None:
    assert judge(BEFORE.model_copy(update=fields)) == (False, True, True)


@pytest.mark.parametrize("fields", PROGRESS, ids=lambda fields: next(iter(fields)))
def test_mere_progress_is_written_now_and_then(fields: dict[str, Any]) -> None:
    assert judge(BEFORE.model_copy(update=fields)) == (False, False, True)


def test_an_estimate_that_moves_with_the_clock_is_nothing() -> None:
    assert judge(BEFORE.model_copy(update={"estimated_completion_time": after(60)})) == (False, False, False)


def test_the_same_status_is_nothing() -> None:
    assert judge(BEFORE.model_copy()) == (False, False, False)


def test_every_field_of_the_status_is_ledger_news_or_progress() -> None:
    """A new field must be put into one of the lists above, or be named here."""
    told = {name for fields in (*LEDGER, *NEWS, *PROGRESS) for name in fields}
    derived = {"plan", "encoder", "outputs", "manifest", "estimated_completion_time"}
    assert told | derived == set(VideoGenerationStatus.model_fields)


def test_progress_is_written_at_most_every_10_seconds() -> None:
    assert REPORT_EVERY.total_seconds() == 10
