"""When waiting ends: late starts, long runs, and the children of finished runs."""

from dataclasses import replace
from datetime import datetime

import pytest
from tests.builders import (
    NOW,
    after,
    build_group,
    build_plan,
    build_resource,
    build_status,
    build_waiting,
    hold_back,
)

from videogen_api.naming import Stage
from videogen_api.resource import VideoGeneration
from videogen_api.status import Attempts, VideoGenerationStatus
from videogen_operator.core.deadlines import HALF_STARTED_SECONDS, children_expire, runs_too_long, starts_late
from videogen_operator.core.observed import GroupState, ObservedGroup, ObservedProcess, WaitingReason

PLAN = build_plan()
NO_ROOM = build_waiting(WaitingReason.UNSCHEDULABLE, "0/3 nodes have nvidia.com/gpu")
SHARDS = hold_back(build_group(PLAN, Stage.ENCODE, 1, None, None, None, None), NO_ROOM)
HALF = hold_back(build_group(PLAN, Stage.ENCODE, 1, None, None, None, None), NO_ROOM, started=2)
POOL = hold_back(build_group(PLAN, Stage.GENERATE, 1, None, None, pool="local"), NO_ROOM)


def late_after(group: ObservedGroup, deadline_seconds: int | None) -> float | None:
    """Seconds after the group was created."""
    moment = starts_late(group, deadline_seconds)
    return None if moment is None else (moment - NOW).total_seconds()


def test_without_a_deadline_a_group_may_wait_for_ever() -> None:
    assert late_after(SHARDS, None) is None
    assert late_after(POOL, None) is None


def test_a_group_that_has_not_started_is_late_after_its_deadline_and_at_most_a_tenth() -> None:
    for attempt in range(1, 200):
        late = late_after(replace(SHARDS, attempt=attempt), 100)
        assert late is not None
        assert 100 <= late < 110


def test_the_tenth_is_spread_and_always_the_same_for_one_attempt() -> None:
    lates = [late_after(replace(SHARDS, attempt=attempt), 1000) for attempt in range(1, 41)]
    assert lates == [late_after(replace(SHARDS, attempt=attempt), 1000) for attempt in range(1, 41)]
    assert len({round(late or 0) for late in lates}) > 25
    assert late_after(replace(SHARDS, run_id="another"), 1000) != late_after(SHARDS, 1000)


def test_an_encoder_that_holds_some_of_its_cards_lets_go_after_half_an_hour_although_nobody_asked() -> None:
    late = late_after(HALF, None)
    assert late is not None
    assert HALF_STARTED_SECONDS == 1800
    assert 1800 <= late < 1980


def test_an_explicit_deadline_goes_before_the_half_hour() -> None:
    late = late_after(HALF, 60)
    assert late is not None
    assert 60 <= late < 66


def test_a_pool_has_started_with_its_first_runner() -> None:
    assert late_after(POOL, 60) is not None
    one_at_work = hold_back(build_group(PLAN, Stage.GENERATE, 1, None, None, pool="local"), NO_ROOM, started=1)
    assert late_after(one_at_work, 60) is None


def test_a_group_that_has_started_whole_is_never_late() -> None:
    whole = hold_back(build_group(PLAN, Stage.ENCODE, 1, None, None), NO_ROOM, started=2)
    assert late_after(whole, 60) is None


def test_an_index_that_ran_once_and_waits_again_has_started() -> None:
    processes = (
        ObservedProcess(0, "first", exit_code=75),
        ObservedProcess(0, "second", started=False, waiting=NO_ROOM),
    )
    again = ObservedGroup("run", Stage.ENCODE, None, 1, 1, GroupState.RUNNING, processes, created=NOW)
    assert late_after(again, 60) is None


def test_a_group_without_any_pod_is_late_like_one_whose_pods_wait() -> None:
    bare = ObservedGroup("run", Stage.ENCODE, None, 1, 1, GroupState.RUNNING, (), expected=4, created=NOW)
    late = late_after(bare, 60)
    assert late is not None
    assert 60 <= late < 66


def test_whoever_waits_in_a_queue_is_never_late() -> None:
    for group in (SHARDS, HALF, POOL):
        queued = replace(group, waiting=build_waiting(WaitingReason.QUEUED))
        assert (late_after(queued, 60), late_after(queued, None)) == (None, None)


def test_a_group_whose_age_nobody_knows_is_not_late() -> None:
    assert late_after(replace(SHARDS, created=None), 60) is None


def status(**fields: datetime | None) -> VideoGenerationStatus:
    return build_status(PLAN, build_resource(), Attempts()).model_copy(update=fields)


@pytest.mark.parametrize(
    ("resource", "start", "ends"),
    [
        (build_resource(), NOW, None),
        (build_resource(schedule={"queue": "team"}), NOW, None),
        (build_resource(schedule={"activeDeadlineSeconds": 60}), NOW, after(60)),
        (build_resource(schedule={"activeDeadlineSeconds": 60}), None, None),
    ],
)
def test_a_run_is_too_long_when_it_says_so(
    resource: VideoGeneration, start: datetime | None, ends: datetime | None
) -> None:
    assert runs_too_long(resource.spec, status(start_time=start)) == ends


@pytest.mark.parametrize(
    ("resource", "completion", "expires"),
    [
        (build_resource(), NOW, None),
        (build_resource(ttlSecondsAfterFinished=60), NOW, after(60)),
        (build_resource(ttlSecondsAfterFinished=0), NOW, NOW),
        (build_resource(ttlSecondsAfterFinished=60), None, None),
    ],
)
def test_children_expire_when_the_manifest_says_so_and_the_run_is_over(
    resource: VideoGeneration, completion: datetime | None, expires: datetime | None
) -> None:
    assert children_expire(resource.spec, status(completion_time=completion)) == expires
