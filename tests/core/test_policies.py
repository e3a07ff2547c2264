"""What is due for one stage, given the attempts that are seen and those that the ledger remembers."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import (
    NOW,
    after,
    build_group,
    build_plan,
    build_report,
    build_waiting,
    encode_report,
    generate_report,
    hold_back,
)

from videogen_api.errors import ExitCode, Reason
from videogen_api.naming import Stage
from videogen_api.report import TerminationReport
from videogen_api.status import Attempts
from videogen_operator.core.deadlines import LATE_START
from videogen_operator.core.observed import GroupState, Observed, ObservedGroup, ObservedProcess, WaitingReason
from videogen_operator.core.policies import Ledger, Ruling, Verdict, charge, retry_delay, rule_stage, worst_process

PLAN = build_plan()
CRASH = build_report(Stage.ENCODE, ExitCode.INTERNAL, "the encoder crashed")
STORE_DOWN = build_report(Stage.ENCODE, ExitCode.STORE_UNAVAILABLE, "the store does not answer")
LEDGER = Ledger(Attempts(preflight=1), Attempts(preflight=1), (), retries=3, start_deadline_seconds=None)


def remember(
    *,
    encode: int,
    created: int | None = None,
    retries: int = 3,
    late_starts: tuple[str, ...] = (),
    start_deadline_seconds: int | None = None,
) -> Ledger:
    """A ledger with that many encode attempts, all of which have existed where nothing else is said."""
    existed = encode if created is None else created
    return Ledger(
        attempts=Attempts(preflight=1, encode=encode),
        created=Attempts(preflight=1, encode=existed),
        late_starts=late_starts,
        retries=retries,
        start_deadline_seconds=start_deadline_seconds,
    )


def encode(
    attempt: int, *reports: TerminationReport | None, finished: float | None = None, in_round: int = 1
) -> ObservedGroup:
    group = build_group(PLAN, Stage.ENCODE, attempt, *reports, in_round=in_round)
    return replace(group, finished=None if finished is None else after(finished))


def rule(ledger: Ledger, *groups: ObservedGroup, at: float = 0.0, this_round: int = 1) -> Ruling:
    return rule_stage(Observed(groups), Stage.ENCODE, None, ledger, this_round, after(at))


def test_the_first_attempt_is_due_at_once() -> None:
    assert rule(remember(encode=0)) == Ruling(Verdict.START)
    assert remember(encode=0).next_attempt(Stage.ENCODE, None) == 1


def test_a_child_that_was_never_created_keeps_its_name() -> None:
    crashed_in_between = remember(encode=2, created=1)
    assert rule(crashed_in_between) == Ruling(Verdict.START)
    assert crashed_in_between.next_attempt(Stage.ENCODE, None) == 2


def test_a_child_that_was_seen_and_vanished_leaves_its_name_unused_for_ever() -> None:
    seen_once = remember(encode=2)
    assert rule(seen_once) == Ruling(Verdict.START)
    assert seen_once.next_attempt(Stage.ENCODE, None) == 3


def test_each_pool_counts_its_own_attempts() -> None:
    attempts = Attempts(generate={"a": 2, "b": 5})
    ledger = replace(LEDGER, attempts=attempts, created=Attempts(generate={"a": 1, "b": 5}))
    assert [ledger.next_attempt(Stage.GENERATE, pool) for pool in ("a", "b", "c")] == [2, 6, 1]


def test_a_group_at_work_is_waited_for() -> None:
    assert rule(remember(encode=1), encode(1, None)) == Ruling(Verdict.WAIT)


def test_a_group_that_ended_well_is_done() -> None:
    assert rule(remember(encode=1), encode(1, encode_report())) == Ruling(Verdict.DONE)


def test_what_ended_in_an_earlier_round_decides_nothing() -> None:
    for report in (encode_report(), CRASH, build_report(Stage.ENCODE, ExitCode.STORE_DENIED)):
        assert rule(remember(encode=1), encode(1, report), this_round=2) == Ruling(Verdict.START)


def test_a_group_of_an_earlier_round_that_is_still_at_work_is_waited_for() -> None:
    assert rule(remember(encode=1), encode(1, None), this_round=2) == Ruling(Verdict.WAIT)


def test_the_next_attempt_waits_for_the_pods_of_the_one_before_to_end() -> None:
    ending = replace(encode(1, None), state=GroupState.ENDING)
    assert rule(remember(encode=1), ending) == Ruling(
        Verdict.WAIT, "Ending", "waiting for the pods of attempt 1 to end"
    )
    assert rule(remember(encode=1)).verdict == Verdict.START


def test_a_group_that_is_done_does_not_wait_for_an_older_one_to_end() -> None:
    ending = replace(encode(1, None), state=GroupState.ENDING)
    assert rule(remember(encode=2), ending, encode(2, encode_report())) == Ruling(Verdict.DONE)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (8, 300), (5000, 300)]
)
def test_the_first_failure_is_tried_again_at_once_and_later_ones_back_off(failures: int, seconds: int) -> None:
    assert retry_delay(Reason.INTERNAL, failures) == timedelta(seconds=seconds)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (5000, 300)])
def test_a_store_that_does_not_answer_is_left_alone_from_the_first_failure_on(failures: int, seconds: int) -> None:
    assert retry_delay(Reason.STORE_UNAVAILABLE, failures) == timedelta(seconds=seconds)


def test_back_off_says_what_it_waits_for_and_when_it_ends() -> None:
    ledger, failed = remember(encode=1), encode(1, STORE_DOWN, finished=100)
    waiting = Ruling(Verdict.WAIT, Reason.STORE_UNAVAILABLE, "the store does not answer; trying again soon", after(110))
    assert rule(ledger, failed, at=100) == waiting
    assert rule(ledger, failed, at=109.9) == waiting
    assert rule(ledger, failed, at=110) == Ruling(Verdict.START, Reason.STORE_UNAVAILABLE, "the store does not answer")


def test_failures_that_cost_nothing_back_off_too() -> None:
    stopped = build_report(Stage.ENCODE, ExitCode.INTERRUPTED, "stopped")
    groups = tuple(encode(attempt, stopped, finished=attempt) for attempt in range(1, 6))
    ruling = rule(remember(encode=5), *groups, at=5)
    assert (ruling.verdict, ruling.wake_at) == (Verdict.WAIT, after(85))


def test_attempts_are_made_until_the_retries_are_spent() -> None:
    groups = [encode(1, CRASH), encode(2, CRASH)]
    assert rule(remember(encode=2, retries=2), *groups).verdict == Verdict.START
    assert rule(remember(encode=2, retries=1), *groups) == Ruling(
        Verdict.STOP, Reason.INTERNAL, "the encoder crashed (after 2 attempts)"
    )


@pytest.mark.parametrize(
    "code", [ExitCode.INVALID_INPUT, ExitCode.WEIGHTS, ExitCode.STORE_DENIED, ExitCode.CONFIG_INVALID]
)
def test_a_final_reason_ends_the_run_whatever_the_others_say(code: ExitCode) -> None:
    final = build_report(Stage.ENCODE, code, "no use")
    ruling = rule(remember(encode=1), encode(1, CRASH, final, CRASH))
    assert (ruling.verdict, ruling.message) == (Verdict.STOP, "no use")


def test_the_process_that_decides_is_the_one_whose_reason_counts_most() -> None:
    stopped = build_report(Stage.ENCODE, ExitCode.INTERRUPTED, "stopped")
    assert worst_process(encode(1, stopped, CRASH, CRASH)).index == 1
    assert worst_process(encode(1, stopped, stopped)).index == 0


def test_a_missing_embedding_makes_preflight_look_again() -> None:
    missing = build_report(Stage.ENCODE, ExitCode.EMBEDDING_MISSING, "the embedding of fox is gone")
    assert rule(remember(encode=1), encode(1, missing)) == Ruling(
        Verdict.CHECK_AGAIN, Reason.EMBEDDING_MISSING, "the embedding of fox is gone"
    )


def retried(*exit_codes: int, state: GroupState = GroupState.FAILED) -> ObservedGroup:
    """A group whose index 0 was tried again in place, as the Job controller does, and whose index 1 is done."""
    processes = tuple(ObservedProcess(0, f"pod-{n}", exit_code=code) for n, code in enumerate(exit_codes))
    done = ObservedProcess(1, "pod-done", exit_code=0)
    return ObservedGroup("run", Stage.GENERATE, "local", 1, 1, state, (*processes, done), expected=2)


def test_an_index_that_was_tried_again_in_place_is_charged_each_time() -> None:
    assert charge(retried(70, 137, 134)) == 3
    assert charge(retried(70, 75, 70, 75)) == 2
    assert charge(retried(75, 75)) == 0


def test_an_attempt_costs_what_its_worst_index_has_cost() -> None:
    processes = tuple(ObservedProcess(index, f"pod-{index}", exit_code=70) for index in (0, 0, 1, 2, 2, 2))
    assert charge(ObservedGroup("run", Stage.GENERATE, "local", 1, 1, GroupState.FAILED, processes)) == 3


def test_a_group_that_is_still_at_work_or_ended_well_costs_nothing() -> None:
    assert [charge(retried(70, 70, state=state)) for state in (GroupState.RUNNING, GroupState.SUCCEEDED)] == [0, 0]


def test_a_pod_that_was_preempted_or_drained_costs_nothing_even_when_it_was_killed() -> None:
    killed = ObservedProcess(0, "pod", exit_code=137, disrupted=True)
    group = ObservedGroup("run", Stage.ENCODE, None, 1, 1, GroupState.FAILED, (killed,))
    assert (killed.reason, charge(group)) == (Reason.INTERRUPTED, 0)


def test_memory_that_ran_out_on_the_host_counts() -> None:
    killed = ObservedProcess(0, "pod", exit_code=137, oom_killed=True)
    group = ObservedGroup("run", Stage.ENCODE, None, 1, 1, GroupState.FAILED, (killed,))
    assert (killed.reason, charge(group)) == (Reason.OUT_OF_MEMORY, 1)


def test_a_group_that_failed_and_left_no_pod_costs_one_attempt_and_says_why() -> None:
    bare = ObservedGroup("run", Stage.ENCODE, None, 1, 1, GroupState.FAILED, (), failure="DeadlineExceeded: too old")
    assert charge(bare) == 1
    assert rule(remember(encode=1), bare) == Ruling(Verdict.START, Reason.INTERNAL, "DeadlineExceeded: too old")
    silent = replace(bare, failure="")
    assert rule(remember(encode=1), silent).message == "attempt 1 of encode failed and left no pod"


def test_a_process_without_a_report_is_known_by_its_last_words() -> None:
    killed = ObservedProcess(0, "fox-0", exit_code=139, log_tail="loading\nsegmentation fault\n")
    assert killed.message == ("fox-0 ended with exit code 139 and left no report; its last line: 'segmentation fault'")


def test_a_report_of_another_exit_code_is_not_believed() -> None:
    process = ObservedProcess(0, "fox-0", exit_code=137, oom_killed=True, report=encode_report())
    assert process.reason == Reason.OUT_OF_MEMORY


LATE = hold_back(
    build_group(PLAN, Stage.ENCODE, 1, None), build_waiting(WaitingReason.UNSCHEDULABLE, "no node has nvidia.com/gpu")
)


def test_an_attempt_that_does_not_start_in_time_is_given_up() -> None:
    ledger = remember(encode=1, start_deadline_seconds=60)
    early = rule(ledger, LATE, at=60)
    assert early.verdict == Verdict.WAIT
    assert early.wake_at is not None
    assert after(60) <= early.wake_at <= after(66)
    woken = (early.wake_at - NOW).total_seconds()
    assert rule(ledger, LATE, at=woken).verdict == Verdict.GIVE_UP
    assert rule(ledger, LATE, at=66) == Ruling(
        Verdict.GIVE_UP, LATE_START, "attempt 1 of encode did not start in time: no node has nvidia.com/gpu"
    )


def test_an_attempt_that_the_ledger_calls_late_is_given_up_although_it_has_started_since() -> None:
    started = build_group(PLAN, Stage.ENCODE, 1, None)
    ledger = remember(encode=1, late_starts=("encode-1",), start_deadline_seconds=60)
    assert rule(ledger, started).verdict == Verdict.GIVE_UP


def test_late_starts_end_the_run_when_the_retries_are_spent_and_the_message_says_what_was_missing() -> None:
    second = replace(LATE, attempt=2)
    ledger = remember(encode=2, retries=1, late_starts=("encode-1",), start_deadline_seconds=60)
    assert rule(ledger, second, at=70) == Ruling(
        Verdict.STOP,
        LATE_START,
        "attempt 2 of encode did not start in time: no node has nvidia.com/gpu (after 2 attempts)",
    )


def test_late_starts_and_failures_are_charged_together() -> None:
    ledger = remember(encode=2, retries=1, late_starts=("encode-1",), start_deadline_seconds=60)
    assert rule(ledger, encode(2, CRASH)) == Ruling(
        Verdict.STOP, Reason.INTERNAL, "the encoder crashed (after 2 attempts)"
    )


def test_late_starts_of_another_stage_or_pool_cost_nothing() -> None:
    ledger = remember(encode=1, retries=1, late_starts=("preflight-1", "generate-a-1"), start_deadline_seconds=60)
    assert rule(ledger, encode(1, CRASH)).verdict == Verdict.START


def test_two_attempts_are_late_at_different_moments() -> None:
    ledger = remember(encode=0, start_deadline_seconds=1000)
    wakes = {rule(replace(ledger, attempts=Attempts(encode=n)), replace(LATE, attempt=n)).wake_at for n in range(1, 9)}
    assert len(wakes) == 8


def test_a_lost_report_costs_an_attempt_and_is_said() -> None:
    silent = build_group(PLAN, Stage.PREFLIGHT, 1, build_report(Stage.PREFLIGHT))
    assert (silent.lost_its_report, charge(silent)) == (True, 1)
    ledger = replace(LEDGER, retries=0)
    ruling = rule_stage(Observed((silent,)), Stage.PREFLIGHT, None, ledger, 1, NOW)
    assert ruling == Ruling(
        Verdict.STOP,
        Reason.INTERNAL,
        "the preflight stage ended well but its report was lost (after 1 attempts)",
    )


def test_a_runner_needs_no_report_to_be_done() -> None:
    without = build_group(PLAN, Stage.GENERATE, 1, generate_report(), pool="local")
    without = replace(without, processes=tuple(replace(process, report=None) for process in without.processes))
    assert (without.lost_its_report, without.state) == (False, GroupState.SUCCEEDED)


# Shards that lose each other.

LOST = build_report(Stage.ENCODE, ExitCode.PEER_LOST, "shard 1 was lost")
STOPPED = build_report(Stage.ENCODE, ExitCode.INTERRUPTED, "stopped")
TOO_LARGE = build_report(Stage.ENCODE, ExitCode.OUT_OF_MEMORY, "does not fit")


@pytest.mark.parametrize(
    ("reports", "reason", "cost"),
    [
        ((LOST, TOO_LARGE, LOST), Reason.OUT_OF_MEMORY, 1),
        ((LOST, STORE_DOWN), Reason.STORE_UNAVAILABLE, 1),
        ((LOST, STOPPED), Reason.PEER_LOST, 1),
        ((LOST, LOST), Reason.PEER_LOST, 1),
        ((STOPPED, STOPPED), Reason.INTERRUPTED, 0),
    ],
)
def test_a_shard_that_lost_another_stands_for_the_cause_only_where_nobody_knows_it(
    reports: tuple[TerminationReport, ...], reason: Reason, cost: int
) -> None:
    group = encode(1, *reports)
    assert (worst_process(group).reason, charge(group)) == (reason, cost)


def test_a_group_of_which_one_shard_was_drained_costs_nothing() -> None:
    group = encode(1, LOST, STOPPED)
    drained = replace(group.processes[1], disrupted=True)
    group = replace(group, processes=(group.processes[0], drained))
    assert (worst_process(group).reason, charge(group)) == (Reason.INTERRUPTED, 0)
