"""What holds the processes of a stage back, in one sentence."""

from dataclasses import replace
from datetime import datetime
from itertools import pairwise

from tests.builders import after, build_group, build_plan, build_waiting, hold_back

from videogen_api.naming import Stage
from videogen_operator.core.observed import GroupState, ObservedGroup, Waiting, WaitingReason
from videogen_operator.core.waits import Wait, find_wait

PLAN = build_plan()
NO_ROOM = build_waiting(WaitingReason.UNSCHEDULABLE, "no node has nvidia.com/gpu")
ONE = build_group(PLAN, Stage.ENCODE, 1, None)
FOUR = build_group(PLAN, Stage.GENERATE, 1, None, None, None, None, pool="local")


def find(*groups: ObservedGroup, at: float = 100) -> tuple[Wait | None, datetime | None]:
    return find_wait(groups, after(at))


def each_waits(group: ObservedGroup, *waits: Waiting | None) -> ObservedGroup:
    processes = tuple(replace(process, waiting=wait) for process, wait in zip(group.processes, waits, strict=True))
    return replace(group, processes=processes)


def test_a_group_at_work_waits_for_nothing() -> None:
    assert find(ONE, FOUR) == (None, None)
    assert find() == (None, None)


def test_a_pod_that_has_just_been_made_waits_unseen_until_it_is_5_seconds_old() -> None:
    held = hold_back(ONE, build_waiting(WaitingReason.UNSCHEDULABLE, "no node", since=10))
    assert find(held, at=14.9) == (None, after(15))
    assert find(held, at=15) == (Wait(WaitingReason.UNSCHEDULABLE, "no node", all_queued=False), None)


def test_a_queue_is_shown_at_once() -> None:
    queued = replace(ONE, waiting=build_waiting(WaitingReason.QUEUED, "not admitted by team-a", since=100))
    assert find(queued) == (Wait(WaitingReason.QUEUED, "not admitted by team-a", all_queued=True), None)


def test_a_group_of_which_some_wait_is_said_with_its_numbers() -> None:
    wait, _ = find(hold_back(FOUR, NO_ROOM, started=1))
    assert wait == Wait(WaitingReason.UNSCHEDULABLE, "3 of 4 pods wait: no node has nvidia.com/gpu", all_queued=False)


def test_what_holds_a_whole_group_back_counts_all_its_pods() -> None:
    refused = replace(FOUR, waiting=build_waiting(WaitingReason.POD_REFUSED, "exceeded quota: gpus"))
    wait, _ = find(refused)
    assert wait == Wait(WaitingReason.POD_REFUSED, "4 of 4 pods wait: exceeded quota: gpus", all_queued=False)


def test_the_most_serious_reason_is_shown_and_the_others_are_not_counted() -> None:
    order = [
        WaitingReason.POD_REFUSED,
        WaitingReason.CONFIG_MISSING,
        WaitingReason.IMAGE_UNAVAILABLE,
        WaitingReason.NODE_LOST,
        WaitingReason.UNSCHEDULABLE,
        WaitingReason.QUEUED,
    ]
    assert set(order) == set(WaitingReason)
    for more, less in pairwise(order):
        serious, trivial = build_waiting(more, "serious"), build_waiting(less, "trivial")
        wait, _ = find(each_waits(FOUR, trivial, serious, trivial, None))
        assert wait == Wait(more, "1 of 4 pods wait: serious", all_queued=False)


def test_of_two_sentences_for_one_reason_the_same_is_shown_in_any_order() -> None:
    a, b = build_waiting(WaitingReason.UNSCHEDULABLE, "a"), build_waiting(WaitingReason.UNSCHEDULABLE, "b")
    there, back = find(each_waits(FOUR, a, b, b, b)), find(each_waits(FOUR, b, b, b, a))
    assert there == back == (Wait(WaitingReason.UNSCHEDULABLE, "4 of 4 pods wait: a", all_queued=False), None)


def test_an_old_wait_is_shown_while_a_young_one_says_when_to_look_again() -> None:
    young = build_waiting(WaitingReason.POD_REFUSED, "exceeded quota", since=98)
    wait, look_again = find(each_waits(FOUR, NO_ROOM, young, None, None))
    assert wait == Wait(WaitingReason.UNSCHEDULABLE, "1 of 4 pods wait: no node has nvidia.com/gpu", all_queued=False)
    assert look_again == after(103)


def test_a_run_is_queued_only_while_nothing_of_it_is_at_work() -> None:
    queued = replace(FOUR, waiting=build_waiting(WaitingReason.QUEUED, "not admitted"))
    other = replace(build_group(PLAN, Stage.GENERATE, 1, None, pool="b"), attempt=1)
    alone, _ = find(queued)
    beside_another, _ = find(queued, other)
    assert alone == Wait(WaitingReason.QUEUED, "not admitted", all_queued=True)
    assert beside_another == Wait(WaitingReason.QUEUED, "4 of 5 pods wait: not admitted", all_queued=False)


def test_groups_that_have_ended_or_are_ending_hold_nothing_back() -> None:
    held = hold_back(ONE, NO_ROOM)
    for state in (GroupState.ENDING, GroupState.FAILED, GroupState.SUCCEEDED):
        assert find(replace(held, state=state)) == (None, None)
