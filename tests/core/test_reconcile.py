"""The life of a run, one pass at a time: what is started, what is said, and when it ends."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import (
    NOW,
    after,
    build_group,
    build_plan,
    build_report,
    build_resource,
    build_status,
    build_waiting,
    collect_report,
    encode_report,
    generate_report,
    hold_back,
    preflight_report,
)

from videogen_api.errors import ExitCode, Reason
from videogen_api.naming import Stage
from videogen_api.plan import Device, Dtype, Plan
from videogen_api.report import ClipFailureLine, EncodeReport
from videogen_api.resource import VideoGeneration
from videogen_api.spec import Strategy
from videogen_api.status import Attempts, ClipCounts, ConditionType, Findings, Phase
from videogen_operator.core.asked import template_digest
from videogen_operator.core.deadlines import starts_late
from videogen_operator.core.observed import (
    Group,
    GroupState,
    Observed,
    ObservedGroup,
    Scaling,
    Waiting,
    WaitingReason,
)
from videogen_operator.core.reconcile import Decision, least_shards, reconcile, settle

PLAN = build_plan()
PREFLIGHT = build_group(PLAN, Stage.PREFLIGHT, 1, preflight_report())
ENCODE = build_group(PLAN, Stage.ENCODE, 1, encode_report())
GENERATE = build_group(PLAN, Stage.GENERATE, 1, generate_report(), generate_report(), pool="local")
COLLECT = build_group(PLAN, Stage.COLLECT, 1, collect_report())


def decide(
    *groups: ObservedGroup, attempts: Attempts | None = None, resource: VideoGeneration | None = None
) -> Decision:
    """A pass over a run whose ledger counts the given attempts, or exactly the groups that are seen."""
    counted = attempts or Attempts(
        preflight=max((g.attempt for g in groups if g.stage == Stage.PREFLIGHT), default=0),
        encode=max((g.attempt for g in groups if g.stage == Stage.ENCODE), default=0),
        generate={g.pool or "": g.attempt for g in groups if g.stage == Stage.GENERATE},
        collect=max((g.attempt for g in groups if g.stage == Stage.COLLECT), default=0),
    )
    base = resource or build_resource()
    status = build_status(PLAN, base, counted)
    return reconcile(base.model_copy(update={"status": status}), PLAN, Observed(groups), NOW)


def due(stage: Stage, pool: str | None, attempt: int, processes: int, in_round: int) -> Group:
    """A group that is asked for by the resource of these tests."""
    return Group(stage, pool, attempt, processes, in_round, template_digest(build_resource().spec, stage, pool))


def test_a_new_resource_starts_with_one_preflight_and_a_ledger_that_says_so() -> None:
    decision = reconcile(build_resource(), PLAN, Observed(), NOW)
    assert decision.create == (due(Stage.PREFLIGHT, None, 1, 1, 1),)
    assert decision.status.run_id == PLAN.run_id
    assert decision.status.attempts == Attempts(preflight=1)
    assert decision.status.start_time == NOW
    assert decision.status.phase == Phase.PREFLIGHT


def test_nothing_is_started_while_a_stage_is_at_work() -> None:
    assert decide(build_group(PLAN, Stage.PREFLIGHT, 1, None)).create == ()
    assert decide(PREFLIGHT, build_group(PLAN, Stage.ENCODE, 1, None)).create == ()


def test_the_stages_follow_each_other() -> None:
    assert decide(PREFLIGHT).create == (due(Stage.ENCODE, None, 1, 1, 1),)
    assert decide(PREFLIGHT, ENCODE).create == (due(Stage.GENERATE, "local", 1, 2, 1),)
    assert decide(PREFLIGHT, ENCODE, GENERATE).create == (due(Stage.COLLECT, None, 1, 1, 1),)
    final = decide(PREFLIGHT, ENCODE, GENERATE, COLLECT)
    assert (final.create, final.status.phase, final.status.progress) == ((), Phase.SUCCEEDED, 100)


def test_embeddings_that_exist_save_the_encode_stage() -> None:
    found = build_group(PLAN, Stage.PREFLIGHT, 1, preflight_report(embeddings=(True,)))
    assert decide(found).create == (due(Stage.GENERATE, "local", 1, 2, 1),)


def test_clips_that_exist_need_no_gpu_at_all() -> None:
    found = build_group(PLAN, Stage.PREFLIGHT, 1, preflight_report(clips=(True, True)))
    assert decide(found).create == (due(Stage.COLLECT, None, 1, 1, 1),)


def test_a_failed_attempt_is_followed_by_the_next_one_until_the_retries_are_spent() -> None:
    crash = build_report(Stage.ENCODE, ExitCode.INTERNAL, "the encoder crashed")
    first = build_group(PLAN, Stage.ENCODE, 1, crash)
    assert decide(PREFLIGHT, first).create == (due(Stage.ENCODE, None, 2, 1, 1),)
    second = build_group(PLAN, Stage.ENCODE, 2, crash)
    final = decide(PREFLIGHT, first, second)
    assert (final.create, final.status.phase) == ((), Phase.FAILED)
    assert final.status.message == "the encoder crashed (after 2 attempts)"


def test_a_reason_that_a_second_try_cannot_cure_ends_the_run_at_once() -> None:
    denied = build_report(Stage.PREFLIGHT, ExitCode.STORE_DENIED, "bucket videos: access denied")
    final = decide(build_group(PLAN, Stage.PREFLIGHT, 1, denied))
    assert (final.create, final.status.phase) == ((), Phase.FAILED)
    assert final.status.message == "bucket videos: access denied"
    reasons = {condition.type.value: condition.reason for condition in final.status.conditions}
    assert reasons["Stalled"] == Reason.STORE_DENIED


def test_an_interruption_costs_no_retry() -> None:
    interrupted = build_report(Stage.GENERATE, ExitCode.INTERRUPTED, "stopped")
    attempts = tuple(
        build_group(PLAN, Stage.GENERATE, n, interrupted, generate_report(), pool="local") for n in range(1, 9)
    )
    assert decide(PREFLIGHT, ENCODE, *attempts).create == (due(Stage.GENERATE, "local", 9, 2, 1),)


def test_a_child_that_vanished_makes_the_next_attempt_never_the_same_name_again() -> None:
    decision = decide(PREFLIGHT, attempts=Attempts(preflight=1, encode=3))
    assert decision.create == (due(Stage.ENCODE, None, 4, 1, 1),)


def test_a_finished_run_starts_nothing_although_its_children_are_gone() -> None:
    done = decide(PREFLIGHT, ENCODE, GENERATE, COLLECT).status
    resource = build_resource().model_copy(update={"status": done})
    decision = reconcile(resource, PLAN, Observed(), NOW)
    assert decision == Decision((), (), done)


def test_a_changed_retry_starts_again_and_counts_attempts_on() -> None:
    denied = build_report(Stage.PREFLIGHT, ExitCode.STORE_DENIED, "denied")
    failed_group = build_group(PLAN, Stage.PREFLIGHT, 1, denied)
    failed = decide(failed_group).status
    resource = build_resource(retry="1").model_copy(update={"status": failed})
    decision = reconcile(resource, PLAN, Observed((failed_group,)), NOW)
    assert decision.create == (due(Stage.PREFLIGHT, None, 2, 1, 2),)
    assert decision.delete == (failed_group,)
    assert decision.status.retry == "1"


def test_groups_of_another_run_are_deleted() -> None:
    stale = replace(build_group(PLAN, Stage.GENERATE, 1, None, pool="local"), run_id="older")
    assert decide(PREFLIGHT, stale).delete == (stale,)


def test_suspend_deletes_the_groups_and_resume_makes_the_next_attempt() -> None:
    running = build_group(PLAN, Stage.ENCODE, 1, None)
    suspended = decide(PREFLIGHT, running, resource=build_resource(suspend=True))
    assert (suspended.create, suspended.delete) == ((), (PREFLIGHT, running))
    assert suspended.status.phase == Phase.SUSPENDED
    resumed = reconcile(build_resource().model_copy(update={"status": suspended.status}), PLAN, Observed(), NOW)
    assert resumed.create == (due(Stage.PREFLIGHT, None, 2, 1, 2),)


def test_a_clip_that_failed_makes_the_run_fail_with_its_name_and_keeps_the_others() -> None:
    line = ClipFailureLine(clip="fox-2", reason=Reason.INVALID_INPUT, message="its reference is no image")
    collect = build_group(PLAN, Stage.COLLECT, 1, collect_report(succeeded=1, failures=(line,)))
    final = decide(PREFLIGHT, ENCODE, GENERATE, collect)
    assert final.status.phase == Phase.FAILED
    assert final.status.message == "1 of 2 clips cannot be made: fox-2: its reference is no image"
    assert final.status.clips is not None
    assert (final.status.clips.succeeded, final.status.clips.failed) == (1, 1)
    assert why_stalled(final) == "InvalidInput"


def test_clips_of_which_no_word_is_left_are_counted_all_the_same() -> None:
    silent = collect_report(succeeded=1)
    assert silent.collect is not None
    without_lines = silent.model_copy(update={"collect": silent.collect.model_copy(update={"failed": 1})})
    final = decide(PREFLIGHT, ENCODE, GENERATE, build_group(PLAN, Stage.COLLECT, 1, without_lines))
    assert (final.status.phase, final.status.message) == (Phase.FAILED, "1 of 2 clips cannot be made")
    assert why_stalled(final) == "ClipsFailed"


def test_a_run_that_lacks_clips_at_its_end_looks_again_for_as_long_as_it_may_and_then_says_how_to_make_them() -> None:
    lacking = build_group(PLAN, Stage.COLLECT, 1, collect_report(succeeded=1, missing=1))
    again = decide(PREFLIGHT, ENCODE, GENERATE, lacking)
    assert again.create == (due(Stage.PREFLIGHT, None, 2, 1, 2),)
    assert again.status.message == "checking store and weights again: 1 of 2 clips are missing"

    second = build_group(PLAN, Stage.COLLECT, 2, collect_report(succeeded=1, missing=1), in_round=2)
    round_two = tuple(
        replace(group, attempt=2, round=2)
        for group in (build_group(PLAN, Stage.PREFLIGHT, 2, preflight_report(embeddings=(True,))), GENERATE)
    )
    final = decide(PREFLIGHT, ENCODE, GENERATE, lacking, *round_two, second)
    assert (final.status.phase, final.status.progress < 100) == (Phase.FAILED, True)
    assert final.status.message == "1 of 2 clips are missing; change spec.retry to make them"
    assert why_stalled(final) == "ClipsMissing"


@pytest.mark.parametrize(("succeeded", "message"), [(1, "1 clip is ready"), (2, "2 clips are ready")])
def test_a_run_that_succeeds_says_how_many_clips_are_ready(succeeded: int, message: str) -> None:
    collect = build_group(PLAN, Stage.COLLECT, 1, collect_report(succeeded=succeeded))
    assert decide(PREFLIGHT, ENCODE, GENERATE, collect).status.message == message


def why_stalled(decision: Decision) -> str:
    (reason,) = (each.reason for each in decision.status.conditions if each.type == ConditionType.STALLED)
    return reason


MISSING = build_report(Stage.GENERATE, ExitCode.EMBEDDING_MISSING, "the embedding of fox is gone")


def test_a_missing_embedding_makes_preflight_look_again_and_then_encode_what_is_missing() -> None:
    failed = build_group(PLAN, Stage.GENERATE, 1, MISSING, MISSING, pool="local")
    assert decide(PREFLIGHT, ENCODE, failed).create == (due(Stage.PREFLIGHT, None, 2, 1, 2),)
    second = build_group(PLAN, Stage.PREFLIGHT, 2, preflight_report())
    assert decide(PREFLIGHT, ENCODE, failed, second).create == (due(Stage.ENCODE, None, 2, 1, 2),)
    encoded = build_group(PLAN, Stage.ENCODE, 2, encode_report(), in_round=2)
    assert decide(PREFLIGHT, ENCODE, failed, second, encoded).create == (due(Stage.GENERATE, "local", 2, 2, 2),)


def test_an_embedding_that_is_missing_again_and_again_ends_the_run() -> None:
    first = build_group(PLAN, Stage.GENERATE, 1, MISSING, pool="local")
    found = build_group(PLAN, Stage.PREFLIGHT, 2, preflight_report(embeddings=(True,)))
    second = build_group(PLAN, Stage.GENERATE, 2, MISSING, pool="local", in_round=2)
    final = decide(PREFLIGHT, ENCODE, first, found, second)
    assert (final.create, final.status.phase) == ((), Phase.FAILED)
    assert final.status.message == "the embedding of fox is gone (after 2 attempts)"


def test_preflight_waits_until_every_pool_has_ended_before_it_looks_again() -> None:
    plan = build_plan(pools=(("a", 1), ("b", 1)))
    groups = (
        build_group(plan, Stage.PREFLIGHT, 1, preflight_report()),
        build_group(plan, Stage.ENCODE, 1, encode_report()),
        build_group(plan, Stage.GENERATE, 1, MISSING, pool="a"),
        build_group(plan, Stage.GENERATE, 1, None, pool="b"),
    )
    attempts = Attempts(preflight=1, encode=1, generate={"a": 1, "b": 1})
    status = build_status(plan, build_resource(), attempts)
    decision = reconcile(build_resource().model_copy(update={"status": status}), plan, Observed(groups), NOW)
    assert (decision.create, decision.status.phase) == ((), Phase.GENERATING)


def test_a_text_that_was_cut_is_said_in_the_condition_of_the_embeddings() -> None:
    cut = EncodeReport(encoded=1, seconds=1.0, load_seconds=1.0, truncated=("fox: 300 of 412 tokens are kept",))
    encode = build_group(PLAN, Stage.ENCODE, 1, build_report(Stage.ENCODE, encode=cut))
    conditions = {condition.type: condition for condition in decide(PREFLIGHT, encode).status.conditions}
    ready = conditions[ConditionType.EMBEDDINGS_READY]
    assert (ready.status, ready.reason) == ("True", "TextTruncated")
    assert ready.message == "fox: 300 of 412 tokens are kept"


def test_progress_never_goes_back_while_a_busy_process_does_not_answer() -> None:
    attempts = Attempts(preflight=1, encode=1, generate={"local": 1})
    counted = ClipCounts(total=2, succeeded=1)
    before = build_status(PLAN, build_resource(), attempts).model_copy(update={"progress": 80, "clips": counted})
    silent = build_group(PLAN, Stage.GENERATE, 1, None, None, pool="local")
    resource = build_resource().model_copy(update={"status": before})
    status = reconcile(resource, PLAN, Observed((PREFLIGHT, ENCODE, silent)), NOW).status
    assert status.clips is not None
    assert (status.progress, status.clips.succeeded) == (80, 1)


def test_a_pool_that_fails_for_good_ends_the_others_with_the_run() -> None:
    plan = build_plan(pools=(("a", 1), ("b", 1)))
    denied = build_report(Stage.GENERATE, ExitCode.WEIGHTS, "the weights changed during the run")
    running = build_group(plan, Stage.GENERATE, 1, None, pool="b")
    groups = (
        build_group(plan, Stage.PREFLIGHT, 1, preflight_report()),
        build_group(plan, Stage.ENCODE, 1, encode_report()),
        build_group(plan, Stage.GENERATE, 1, denied, pool="a"),
        running,
    )
    attempts = Attempts(preflight=1, encode=1, generate={"a": 1, "b": 1})
    status = build_status(plan, build_resource(), attempts)
    failed = reconcile(build_resource().model_copy(update={"status": status}), plan, Observed(groups), NOW)
    assert (failed.status.phase, failed.delete) == (Phase.FAILED, (running,))

    # The same once more, as after a crash between the status and the delete.
    resource = build_resource().model_copy(update={"status": failed.status})
    assert reconcile(resource, plan, Observed(groups), NOW) == Decision((), (running,), failed.status)


@pytest.mark.parametrize(("stage", "before"), [(Stage.PREFLIGHT, ()), (Stage.COLLECT, (PREFLIGHT, ENCODE, GENERATE))])
def test_a_report_that_was_lost_costs_an_attempt_and_no_more(stage: Stage, before: tuple[ObservedGroup, ...]) -> None:
    first, second = (build_group(PLAN, stage, n, build_report(stage), in_round=n if not before else 1) for n in (1, 2))
    assert [(group.stage, group.attempt) for group in decide(*before, first).create] == [(stage, 2)]
    final = decide(*before, first, second)
    assert (final.create, final.status.phase) == ((), Phase.FAILED)
    assert final.status.message == f"the {stage} stage ended well but its report was lost (after 2 attempts)"


def at_stage(
    *groups: ObservedGroup, plan: Plan = PLAN, at: float = 0.0, resource: VideoGeneration | None = None, **fields: Any
) -> Decision:
    """A later pass over a run that has come to its generate stage; `fields` are those of its ledger."""
    base = resource or build_resource()
    attempts = Attempts(preflight=1, encode=1, generate={pool.name: 1 for pool in plan.pools})
    status = build_status(plan, build_resource(), attempts).model_copy(update={"found": FOUND, **fields})
    return reconcile(base.model_copy(update={"status": status}), plan, Observed(groups), after(at))


NOTHING_FOUND = Findings(attempt=1, embeddings=0, clips=0, claims=True)
FOUND = NOTHING_FOUND.model_copy(update={"embeddings": 1})
HELD = build_waiting(WaitingReason.UNSCHEDULABLE, "no node has nvidia.com/gpu")
TWO_POOLS = build_plan(pools=(("a", 2), ("b", 1)))


def started(decision: Decision) -> list[tuple[Stage, str | None, int]]:
    return [(group.stage, group.pool, group.attempt) for group in decision.create]


def at_work(plan: Plan, pool: str, replicas: int, attempt: int = 1, template: str = "") -> ObservedGroup:
    group = build_group(plan, Stage.GENERATE, attempt, *[None] * replicas, pool=pool)
    return replace(group, template=template or template_digest(build_resource().spec, Stage.GENERATE, pool))


def test_findings_outlive_the_pod_of_their_preflight() -> None:
    running = build_group(PLAN, Stage.ENCODE, 1, None)
    both = decide(PREFLIGHT, running)
    assert both.status.found == NOTHING_FOUND
    base = build_resource().model_copy(update={"status": both.status})
    encoded = Observed((ENCODE,))
    assert started(reconcile(base, PLAN, encoded, NOW)) == [(Stage.GENERATE, "local", 1)]


def test_findings_are_forgotten_with_a_suspension_for_nobody_knows_what_happens_to_the_store_meanwhile() -> None:
    suspended = at_stage(resource=build_resource(suspend=True))
    assert (suspended.status.found, suspended.status.start_time) == (None, None)
    resumed = reconcile(build_resource().model_copy(update={"status": suspended.status}), PLAN, Observed(), after(500))
    assert started(resumed) == [(Stage.PREFLIGHT, None, 2)]
    assert resumed.status.start_time == after(500)


def test_findings_of_an_older_round_are_not_believed() -> None:
    older = at_stage(attempts=Attempts(preflight=2, encode=1), created=Attempts(preflight=2, encode=1))
    assert started(older) == [(Stage.PREFLIGHT, None, 3)]


def test_a_suspension_waits_for_nothing_and_is_no_news_the_second_time() -> None:
    resource = build_resource(suspend=True)
    ending = replace(at_work(PLAN, "local", 2), state=GroupState.ENDING)
    first = at_stage(ending, resource=resource)
    again = reconcile(resource.model_copy(update={"status": first.status}), PLAN, Observed((ending,)), after(60))
    assert (first.delete, again) == ((), Decision((), (), first.status))


def test_a_resumed_run_waits_for_the_pods_that_the_suspension_ended() -> None:
    ending = replace(build_group(PLAN, Stage.PREFLIGHT, 1, None), state=GroupState.ENDING)
    waiting = decide(ending)
    assert (waiting.create, waiting.status.phase) == ((), Phase.PREFLIGHT)
    assert waiting.status.message == "checking store and weights: waiting for the pods of attempt 1 to end"
    assert started(decide(attempts=Attempts(preflight=1))) == [(Stage.PREFLIGHT, None, 2)]


def test_a_resource_that_is_suspended_from_the_start_makes_nothing_but_a_status() -> None:
    decision = reconcile(build_resource(suspend=True), PLAN, Observed(), NOW)
    assert (decision.acts, decision.wake_at, decision.status.phase) == (False, None, Phase.SUSPENDED)
    assert decision.status.message == "suspended; set spec.suspend to false to go on"


def test_the_clock_of_the_active_deadline_starts_anew_with_a_resume() -> None:
    resource = build_resource(schedule={"activeDeadlineSeconds": 100})
    running = at_work(PLAN, "local", 2)
    assert at_stage(running, resource=resource, at=99).wake_at == after(100)
    resumed = at_stage(running, resource=resource, at=150, start_time=after(60))
    assert (resumed.status.phase, resumed.wake_at) == (Phase.GENERATING, after(160))


def test_a_run_that_takes_too_long_fails_ends_its_pods_and_says_what_to_do() -> None:
    resource = build_resource(schedule={"activeDeadlineSeconds": 100})
    running = at_work(PLAN, "local", 2)
    late = at_stage(running, resource=resource, at=100)
    assert (late.status.phase, late.delete, late.create) == (Phase.FAILED, (running,), ())
    assert late.status.message == (
        "not finished within spec.schedule.activeDeadlineSeconds (100); raise it and change spec.retry"
    )
    assert {each.type.value: each.reason for each in late.status.conditions}["Stalled"] == "ActiveDeadlineExceeded"


def test_the_operator_looks_again_at_the_first_of_several_moments() -> None:
    resource = build_resource(schedule={"activeDeadlineSeconds": 100, "startDeadlineSeconds": 60})
    stuck = hold_back(at_work(TWO_POOLS, "a", 2), None), hold_back(at_work(TWO_POOLS, "b", 1), None)
    deadlines = [late for group in stuck if (late := starts_late(group, 60)) is not None]
    assert len(set(deadlines)) == 2
    assert at_stage(*stuck, plan=TWO_POOLS, resource=resource).wake_at == min(deadlines)
    hurried = build_resource(schedule={"activeDeadlineSeconds": 50, "startDeadlineSeconds": 60})
    assert at_stage(*stuck, plan=TWO_POOLS, resource=hurried).wake_at == after(50)
    held = hold_back(at_work(TWO_POOLS, "a", 2), HELD), hold_back(at_work(TWO_POOLS, "b", 1), HELD)
    assert at_stage(*held, plan=TWO_POOLS, resource=resource).wake_at == after(5)


def test_a_pool_that_does_not_start_in_time_is_given_up_once_and_the_other_pool_works_on() -> None:
    resource = build_resource(schedule={"startDeadlineSeconds": 60})
    stuck, working = hold_back(at_work(TWO_POOLS, "a", 2), HELD), replace(at_work(TWO_POOLS, "b", 1), created=NOW)
    given_up = at_stage(stuck, working, plan=TWO_POOLS, resource=resource, at=70)
    assert (given_up.delete, given_up.create, given_up.status.late_starts) == ((stuck,), (), ("generate-a-1",))

    # The operator stops between the ledger and the delete, and the pods start after all: the ledger decides.
    status = {"late_starts": given_up.status.late_starts}
    started_after_all = hold_back(at_work(TWO_POOLS, "a", 2), None, started=2)
    again = at_stage(started_after_all, working, plan=TWO_POOLS, resource=resource, at=80, **status)
    assert (again.delete, again.status.late_starts) == ((started_after_all,), ("generate-a-1",))

    ending = replace(stuck, state=GroupState.ENDING)
    waiting = at_stage(ending, working, plan=TWO_POOLS, resource=resource, at=80, **status)
    assert (waiting.delete, waiting.create) == ((), ())
    gone = at_stage(working, plan=TWO_POOLS, resource=resource, at=90, **status)
    assert (gone.delete, started(gone)) == ((), [(Stage.GENERATE, "a", 2)])


def test_late_starts_end_the_run_after_the_retries_with_what_they_waited_for() -> None:
    resource = build_resource(schedule={"startDeadlineSeconds": 60})
    stuck = hold_back(at_work(PLAN, "local", 2, attempt=2), HELD)
    attempts = Attempts(preflight=1, encode=1, generate={"local": 2})
    final = at_stage(
        stuck,
        resource=resource,
        at=70,
        attempts=attempts,
        created=attempts,
        late_starts=("generate-local-1",),
    )
    assert (final.status.phase, final.delete) == (Phase.FAILED, (stuck,))
    assert final.status.message == (
        "attempt 2 of generate did not start in time: no node has nvidia.com/gpu (after 2 attempts)"
    )


def test_a_run_in_a_queue_is_pending_and_says_where_it_waits() -> None:
    queued = replace(at_work(PLAN, "local", 2), waiting=build_waiting(WaitingReason.QUEUED, "waiting in queue team-a"))
    status = at_stage(queued).status
    assert (status.phase, status.message) == (Phase.PENDING, "denoising; waiting in queue team-a")
    conditions = {each.type: (each.status, each.reason) for each in status.conditions}
    assert conditions[ConditionType.RECONCILING] == ("True", "Queued")
    assert conditions[ConditionType.STALLED] == ("False", "Queued")


def test_a_run_of_which_one_pool_is_queued_is_at_work() -> None:
    queued = replace(at_work(TWO_POOLS, "a", 2), waiting=build_waiting(WaitingReason.QUEUED, "waiting in queue team-a"))
    status = at_stage(queued, at_work(TWO_POOLS, "b", 1), plan=TWO_POOLS).status
    assert status.phase == Phase.GENERATING
    assert status.message == "denoising: 0 at work, 0 of 2 done; 2 of 3 pods wait: waiting in queue team-a"


def test_a_wait_is_told_beside_what_goes_on_and_one_that_is_young_wakes_the_operator() -> None:
    stuck = hold_back(at_work(PLAN, "local", 2), HELD, started=1)
    young = at_stage(stuck, at=4)
    assert (young.status.message, young.wake_at) == ("denoising: 0 at work, 0 of 2 done", after(5))
    status = at_stage(stuck, at=5).status
    assert status.phase == Phase.GENERATING
    assert status.message == ("denoising: 0 at work, 0 of 2 done; 1 of 2 pods wait: no node has nvidia.com/gpu")


def test_a_wait_is_not_told_of_a_run_that_has_failed() -> None:
    denied = build_report(Stage.GENERATE, ExitCode.STORE_DENIED, "bucket videos: access denied")
    failed = build_group(TWO_POOLS, Stage.GENERATE, 1, denied, pool="b")
    final = at_stage(hold_back(at_work(TWO_POOLS, "a", 2), HELD), failed, plan=TWO_POOLS, at=60)
    assert (final.status.phase, final.status.message) == (Phase.FAILED, "bucket videos: access denied")


def test_a_pool_whose_pods_are_to_look_otherwise_is_replaced_when_its_old_pods_are_gone() -> None:
    red = {"name": "a", "pod": {"labels": {"team": "red"}}}
    resource = build_resource(runners=[{"name": "b"}, red])
    old = at_work(
        TWO_POOLS, "a", 2, template=template_digest(build_resource(runners=[{"name": "a"}]).spec, Stage.GENERATE, "a")
    )
    other = at_work(TWO_POOLS, "b", 1, template=template_digest(resource.spec, Stage.GENERATE, "b"))
    outdated = at_stage(old, other, plan=TWO_POOLS, resource=resource)
    assert (outdated.delete, outdated.create) == ((old,), ())
    ending = replace(old, state=GroupState.ENDING)
    assert not at_stage(ending, other, plan=TWO_POOLS, resource=resource).acts
    gone = at_stage(other, plan=TWO_POOLS, resource=resource)
    assert gone.create == (Group(Stage.GENERATE, "a", 2, 2, 1, template_digest(resource.spec, Stage.GENERATE, "a")),)


def test_a_pool_that_has_ended_is_not_made_again_because_its_pods_would_look_otherwise_now() -> None:
    resource = build_resource(runners=[{"name": "local", "pod": {"labels": {"team": "red"}}}])
    ended = replace(GENERATE, template="another")
    assert started(at_stage(ended, resource=resource)) == [(Stage.COLLECT, None, 1)]


def test_a_pool_that_claims_share_out_is_scaled_in_place() -> None:
    running = at_work(PLAN, "local", 5)
    decision = at_stage(running)
    assert (decision.scale, decision.delete, decision.create) == ((Scaling(running, 2),), (), ())


def test_a_pool_with_fixed_shares_is_replaced_where_its_replicas_change() -> None:
    running, found = at_work(PLAN, "local", 5), FOUND.model_copy(update={"claims": False})
    decision = at_stage(running, found=found)
    assert (decision.scale, decision.delete, decision.create) == ((), (running,), ())


def test_a_pool_that_is_gone_from_the_manifest_ends_and_the_others_finish_without_it() -> None:
    removed = at_work(TWO_POOLS, "gone", 3)
    a, b = at_work(TWO_POOLS, "a", 2), at_work(TWO_POOLS, "b", 1)
    ended = at_stage(removed, a, b, plan=TWO_POOLS)
    assert (ended.delete, ended.create, ended.scale) == ((removed,), (), ())
    done = (
        build_group(TWO_POOLS, Stage.GENERATE, 1, generate_report(), generate_report(), pool="a"),
        build_group(TWO_POOLS, Stage.GENERATE, 1, generate_report(), pool="b"),
    )
    going = replace(removed, state=GroupState.ENDING)
    assert started(at_stage(going, *done, plan=TWO_POOLS)) == [(Stage.COLLECT, None, 1)]


def test_another_name_for_a_prompt_changes_nothing() -> None:
    renamed = build_resource(prompts=[{"name": "vixen", "text": "a red fox", "seed": 1, "samples": 2}])
    running = at_work(PLAN, "local", 2)
    assert at_stage(running, resource=renamed) == at_stage(running)
    assert not at_stage(running, resource=renamed).acts


def test_another_prompt_begins_another_run_deletes_the_old_groups_and_counts_attempts_on() -> None:
    resource = build_resource(prompts=[{"name": "fox", "text": "a blue fox", "seed": 1, "samples": 2}])
    plan = PLAN.model_copy(update={"run_id": "another"})
    running = at_work(PLAN, "local", 2)
    status = build_status(PLAN, build_resource(), Attempts(preflight=1, encode=1, generate={"local": 1}))
    busy = status.model_copy(update={"found": FOUND, "progress": 60, "late_starts": ("encode-1",)})
    decision = reconcile(resource.model_copy(update={"status": busy}), plan, Observed((ENCODE, running)), after(60))
    assert (started(decision), decision.delete) == ([(Stage.PREFLIGHT, None, 2)], (ENCODE, running))
    told = decision.status
    assert (told.run_id, told.found, told.progress, told.late_starts, told.start_time) == (
        "another",
        None,
        0,
        (),
        after(60),
    )


def test_a_manifest_that_goes_back_to_an_earlier_run_never_uses_its_names_again() -> None:
    attempts = Attempts(preflight=3, encode=1, generate={"local": 1})
    ledger = build_status(PLAN.model_copy(update={"run_id": "another"}), build_resource(retry="1"), attempts)
    decision = reconcile(build_resource().model_copy(update={"status": ledger}), PLAN, Observed(), NOW)
    assert (started(decision), decision.status.run_id) == ([(Stage.PREFLIGHT, None, 4)], PLAN.run_id)


def test_another_try_forgives_what_the_earlier_ones_have_cost() -> None:
    crash = build_report(Stage.ENCODE, ExitCode.INTERNAL, "the encoder crashed")
    failures = tuple(build_group(PLAN, Stage.ENCODE, n, crash) for n in (1, 2))
    failed = decide(PREFLIGHT, *failures).status
    assert failed.phase == Phase.FAILED
    again = reconcile(
        build_resource(retry="again").model_copy(update={"status": failed}), PLAN, Observed((PREFLIGHT, *failures)), NOW
    )
    assert again.delete == (PREFLIGHT, *failures)
    assert again.status.completion_time is None
    second = build_group(PLAN, Stage.PREFLIGHT, 2, preflight_report())
    third = build_group(PLAN, Stage.ENCODE, 3, crash, in_round=2)
    attempts = Attempts(preflight=2, encode=3)
    resource = build_resource(retry="again")
    assert started(decide(second, third, attempts=attempts, resource=resource)) == [(Stage.ENCODE, None, 4)]


def finish(**spec: Any) -> VideoGeneration:
    """The resource after its run, at NOW."""
    done = decide(PREFLIGHT, ENCODE, GENERATE, COLLECT).status
    return build_resource(**spec).model_copy(update={"status": done})


EVERYTHING = (PREFLIGHT, ENCODE, GENERATE, COLLECT)


def test_children_and_plans_go_once_when_their_time_is_over_and_the_record_stays() -> None:
    resource = finish(ttlSecondsAfterFinished=100)
    early = reconcile(resource, PLAN, Observed(EVERYTHING), after(99))
    assert early == Decision((), (), resource.status, wake_at=after(100))
    expired = reconcile(resource, PLAN, Observed(EVERYTHING), after(100))
    # The ledger names no plan any more, so that nobody looks for one again.
    bare = resource.status.model_copy(update={"plan_revision": 0})
    assert expired == Decision((), EVERYTHING, bare, forget_plans=True)
    again = resource.model_copy(update={"status": bare})
    assert reconcile(again, PLAN, Observed(), after(101)) == Decision((), (), bare)


def test_a_plan_goes_when_its_time_is_over_although_no_other_child_is_left() -> None:
    resource = finish(ttlSecondsAfterFinished=100)
    assert reconcile(resource, PLAN, Observed(), after(100)).forget_plans


@pytest.mark.parametrize(
    "spec",
    [
        {"ttlSecondsAfterFinished": 5000},
        {"ttlSecondsAfterFinished": 0},
        {"runners": [{"name": "local", "replicas": 9}]},
        {"retries": 9},
        {"schedule": {"activeDeadlineSeconds": 1}},
        {"encoder": {"shards": 2}},
        {"suspend": True},
    ],
)
def test_nothing_runs_again_whatever_is_edited_after_the_children_are_gone(spec: dict[str, Any]) -> None:
    resource = finish(**spec)
    resource = resource.model_copy(update={"status": resource.status.model_copy(update={"plan_revision": 0})})
    decision = reconcile(resource, PLAN, Observed(), after(3600))
    assert (decision.create, decision.delete, decision.status) == ((), (), resource.status)


def test_a_finished_run_tells_that_it_has_seen_an_edit() -> None:
    resource = finish(ttlSecondsAfterFinished=5000)
    edited = resource.model_copy(update={"metadata": resource.metadata.model_copy(update={"generation": 7})})
    seen = {"observed_generation": 7}
    conditions = tuple(condition.model_copy(update=seen) for condition in resource.status.conditions)
    assert settle(edited, Observed(), NOW).status == resource.status.model_copy(
        update={**seen, "conditions": conditions}
    )


def test_conditions_say_what_kstatus_reads_in_every_phase() -> None:
    crash = build_report(Stage.ENCODE, ExitCode.STORE_DENIED, "denied")
    lives = {
        "working": decide(PREFLIGHT),
        "suspended": at_stage(resource=build_resource(suspend=True)),
        "failed": decide(PREFLIGHT, build_group(PLAN, Stage.ENCODE, 1, crash)),
        "succeeded": decide(*EVERYTHING),
    }
    shown = (ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED, ConditionType.SUSPENDED)
    assert {
        name: "".join(each.status[0] for kind in shown for each in life.status.conditions if each.type == kind)
        for name, life in lives.items()
    } == {"working": "FTFF", "suspended": "FFFT", "failed": "FFTF", "succeeded": "TFFF"}


def test_a_condition_keeps_its_transition_time_while_it_stays_as_it_is() -> None:
    first = decide(PREFLIGHT).status
    resource = build_resource().model_copy(update={"status": first})
    running = build_group(PLAN, Stage.ENCODE, 1, None)
    later = reconcile(resource, PLAN, Observed((PREFLIGHT, running)), after(60)).status
    assert {each.last_transition_time for each in later.conditions} == {NOW}
    denied = build_group(PLAN, Stage.ENCODE, 1, build_report(Stage.ENCODE, ExitCode.STORE_DENIED, "denied"))
    failed = reconcile(resource, PLAN, Observed((PREFLIGHT, denied)), after(90)).status
    changed = {each.type for each in failed.conditions if each.last_transition_time == after(90)}
    assert changed == {ConditionType.RECONCILING, ConditionType.STALLED, ConditionType.STORE_READY}


SHARDS = PLAN.model_copy(
    update={"encoder": PLAN.encoder.model_copy(update={"shards": 4, "device": Device.CUDA, "dtype": Dtype.BFLOAT16})}
)


def test_an_encoder_of_many_shards_waits_while_another_one_holds_half_of_the_cards() -> None:
    status = build_status(SHARDS, build_resource(), Attempts(preflight=1)).model_copy(update={"found": NOTHING_FOUND})
    resource = build_resource().model_copy(update={"status": status})
    waiting = reconcile(resource, SHARDS, Observed((PREFLIGHT,)), NOW, encoder_may_start=False)
    assert (waiting.create, waiting.status.phase, waiting.wake_at) == ((), Phase.PENDING, after(10))
    assert waiting.status.attempts == Attempts(preflight=1)
    begun = reconcile(resource, SHARDS, Observed((PREFLIGHT,)), after(10), encoder_may_start=True)
    assert [(group.stage, group.processes) for group in begun.create] == [(Stage.ENCODE, 4)]


@pytest.mark.parametrize("encoder", [{"shards": 1}, {"device": Device.CPU}])
def test_an_encoder_that_cannot_hold_half_of_its_cards_waits_for_nobody(encoder: dict[str, Any]) -> None:
    plan = SHARDS.model_copy(update={"encoder": SHARDS.encoder.model_copy(update=encoder)})
    status = build_status(plan, build_resource(), Attempts(preflight=1)).model_copy(update={"found": NOTHING_FOUND})
    resource = build_resource().model_copy(update={"status": status})
    assert started(reconcile(resource, plan, Observed(), NOW, encoder_may_start=False)) == [(Stage.ENCODE, None, 1)]


def test_a_half_started_encoder_lets_its_cards_go_without_being_asked() -> None:
    half = hold_back(build_group(SHARDS, Stage.ENCODE, 1, None, None, None, None), HELD, started=2)
    status = build_status(SHARDS, build_resource(), Attempts(preflight=1, encode=1)).model_copy(
        update={"found": NOTHING_FOUND}
    )
    resource = build_resource().model_copy(update={"status": status})
    assert not reconcile(resource, SHARDS, Observed((half,)), after(1799)).acts
    given_up = reconcile(resource, SHARDS, Observed((half,)), after(1980))
    assert (given_up.delete, given_up.status.late_starts) == ((half,), ("encode-1",))


def test_a_group_whose_nodes_are_lost_is_deleted_as_the_next_attempt_begins() -> None:
    interrupted = build_report(Stage.GENERATE, ExitCode.INTERRUPTED, "node n1 does not answer")
    lost = replace(build_group(PLAN, Stage.GENERATE, 1, interrupted, generate_report(), pool="local"), lost=True)
    decision = decide(PREFLIGHT, ENCODE, lost)
    assert (decision.create, decision.delete) == ((due(Stage.GENERATE, "local", 2, 2, 1),), (lost,))

    finished = decide(PREFLIGHT, ENCODE, GENERATE, COLLECT).status
    resource = build_resource().model_copy(update={"status": finished})
    assert reconcile(resource, PLAN, Observed((lost,)), NOW) == Decision((), (lost,), finished)


def test_an_encoder_group_that_was_tidied_away_is_not_missed_by_runners_at_work() -> None:
    at_work = build_group(PLAN, Stage.GENERATE, 1, None, None, pool="local")
    decision = decide(PREFLIGHT, at_work, attempts=Attempts(preflight=1, encode=1, generate={"local": 1}))
    assert (decision.create, decision.status.phase) == ((), Phase.GENERATING)


# Encoder and runners at once.


def overlapping(*pools: tuple[str, int], shares: bool = True) -> Plan:
    plan = build_plan(pools=pools or (("local", 2),))
    shared = tuple(pool.model_copy(update={"shares_encoder_cards": shares}) for pool in plan.pools)
    return plan.model_copy(update={"strategy": Strategy.OVERLAPPED, "pools": shared})


OVERLAP = overlapping()
ENCODING = build_group(OVERLAP, Stage.ENCODE, 1, None)
WITHOUT_A_CARD = hold_back(ENCODING, HELD)
RUNNERS = at_work(OVERLAP, "local", 2)


def overlap(*groups: ObservedGroup, plan: Plan = OVERLAP, at: float = 0.0, **fields: Any) -> Decision:
    """A pass over a run that found no embedding, whose ledger counts the groups that are seen."""
    attempts = Attempts(
        preflight=1,
        encode=max((g.attempt for g in groups if g.stage == Stage.ENCODE), default=0),
        generate={g.pool or "": g.attempt for g in groups if g.stage == Stage.GENERATE},
    )
    fields = {"attempts": attempts, "created": attempts, "found": NOTHING_FOUND, **fields}
    status = build_status(plan, build_resource(), attempts).model_copy(update=fields)
    return reconcile(build_resource().model_copy(update={"status": status}), plan, Observed(groups), after(at))


def test_overlapping_stages_start_together_and_the_runners_outlast_the_encoder() -> None:
    begun = overlap()
    assert started(begun) == [(Stage.ENCODE, None, 1), (Stage.GENERATE, "local", 1)]
    assert (begun.status.phase, begun.status.message) == (Phase.ENCODING, "encoding prompts, denoising")
    going_on = overlap(replace(ENCODE, run_id=OVERLAP.run_id), RUNNERS)
    assert (going_on.acts, going_on.status.phase) == (False, Phase.GENERATING)


def test_embeddings_that_exist_need_no_encoder_beside_the_runners_either() -> None:
    decision = overlap(found=FOUND)
    assert started(decision) == [(Stage.GENERATE, "local", 1)]


def test_runners_that_overlap_do_not_start_before_an_encoder_that_waits_for_another_ones_cards() -> None:
    plan = overlapping().model_copy(update={"encoder": SHARDS.encoder})
    attempts = Attempts(preflight=1)
    status = build_status(plan, build_resource(), attempts).model_copy(update={"found": NOTHING_FOUND})
    resource = build_resource().model_copy(update={"status": status})
    waiting = reconcile(resource, plan, Observed(()), NOW, encoder_may_start=False)
    assert (waiting.create, waiting.status.phase) == ((), Phase.PENDING)


def test_each_of_overlapping_stages_is_tried_again_on_its_own() -> None:
    crash = build_report(Stage.ENCODE, ExitCode.INTERNAL, "the encoder crashed")
    again = overlap(build_group(OVERLAP, Stage.ENCODE, 1, crash), RUNNERS)
    assert (started(again), again.delete) == ([(Stage.ENCODE, None, 2)], ())

    broken = build_group(OVERLAP, Stage.GENERATE, 1, crash, crash, pool="local")
    again = overlap(ENCODING, broken)
    assert (started(again), again.delete) == ([(Stage.GENERATE, "local", 2)], ())


def test_a_final_failure_of_either_of_overlapping_stages_ends_both() -> None:
    denied = build_report(Stage.ENCODE, ExitCode.STORE_DENIED, "no")
    assert overlap(build_group(OVERLAP, Stage.ENCODE, 1, denied), RUNNERS).delete == (RUNNERS,)
    failed = build_group(OVERLAP, Stage.GENERATE, 1, denied, None, pool="local")
    failed = replace(failed, state=GroupState.FAILED)
    assert overlap(ENCODING, failed).delete == (ENCODING,)


def test_runners_that_waited_in_vain_do_not_make_preflight_look_again_while_the_encoder_works() -> None:
    missing = build_report(Stage.GENERATE, ExitCode.EMBEDDING_MISSING, "no embedding")
    in_vain = build_group(OVERLAP, Stage.GENERATE, 1, missing, missing, pool="local")
    assert not overlap(ENCODING, in_vain).acts
    assert started(overlap(replace(ENCODE, run_id=OVERLAP.run_id), in_vain)) == [(Stage.PREFLIGHT, None, 2)]


def test_runners_leave_their_cards_to_an_encoder_that_gets_none_and_return_after_it() -> None:
    patient = overlap(WITHOUT_A_CARD, RUNNERS, at=29)
    assert (patient.acts, patient.wake_at) == (False, after(30))

    leaving = overlap(WITHOUT_A_CARD, RUNNERS, at=30)
    assert (leaving.create, leaving.delete, leaving.status.gave_way) == ((), (RUNNERS,), 1)
    assert leaving.status.late_starts == ()
    assert "runners left their cards to it and return after it" in (leaving.status.message or "")

    counted = {"gave_way": 1, "attempts": leaving.status.attempts, "created": leaving.status.attempts}
    assert not overlap(WITHOUT_A_CARD, at=40, **counted).acts
    assert not overlap(ENCODING, at=50, **counted).acts
    # What a crash between the ledger and the act has left behind goes too.
    assert overlap(ENCODING, RUNNERS, at=50, **counted).delete == (RUNNERS,)
    crash = build_report(Stage.ENCODE, ExitCode.INTERNAL, "the encoder crashed")
    assert started(overlap(build_group(OVERLAP, Stage.ENCODE, 1, crash), at=50, **counted)) == [(Stage.ENCODE, None, 2)]
    back = overlap(replace(ENCODE, run_id=OVERLAP.run_id), at=60, **counted)
    assert started(back) == [(Stage.GENERATE, "local", 2)]


def test_runners_on_cards_that_the_encoder_cannot_use_stay_where_they_are() -> None:
    plan = overlapping(shares=False)
    assert not overlap(WITHOUT_A_CARD, at_work(plan, "local", 2), plan=plan, at=100).acts


def test_two_pools_of_which_one_shares_the_encoders_cards_part_ways() -> None:
    plan = overlapping(("a", 2), ("b", 1))
    pools = (plan.pools[0], plan.pools[1].model_copy(update={"shares_encoder_cards": False}))
    plan = plan.model_copy(update={"pools": pools})
    ours, theirs = at_work(plan, "a", 2), at_work(plan, "b", 1)
    assert overlap(WITHOUT_A_CARD, ours, theirs, plan=plan, at=30).delete == (ours,)


# An encoder that does not fit.


def test_an_encoder_that_ran_out_of_memory_is_tried_in_more_shards_and_that_is_remembered() -> None:
    too_large = build_report(Stage.ENCODE, ExitCode.OUT_OF_MEMORY, "3.1 GiB do not fit")
    failed = build_group(PLAN, Stage.ENCODE, 1, too_large)
    attempts = Attempts(preflight=1, encode=1)
    status = build_status(PLAN, build_resource(), attempts).model_copy(update={"found": NOTHING_FOUND})
    resource = build_resource(retries=0).model_copy(update={"status": status})
    assert least_shards(resource, Observed((failed,))) == 2

    two = PLAN.model_copy(update={"retries": 0, "encoder": PLAN.encoder.model_copy(update={"shards": 2})})
    again = reconcile(resource, two, Observed((PREFLIGHT, failed)), NOW, plan_revision=2)
    assert [(group.label, group.processes) for group in again.create] == [("encode-2", 2)]
    assert again.status.message == "encoding prompts again: 3.1 GiB do not fit; in 2 shards now"
    assert (again.status.least_shards, again.status.plan_revision) == (2, 2)

    remembered = resource.model_copy(update={"status": again.status})
    assert least_shards(remembered, Observed()) == 2


def test_an_encoder_that_goes_on_running_out_of_memory_is_in_many_shards_after_few_attempts() -> None:
    attempts = Attempts(preflight=1, encode=1)
    resource = build_resource().model_copy(update={"status": build_status(PLAN, build_resource(), attempts)})
    too_large = build_report(Stage.ENCODE, ExitCode.OUT_OF_MEMORY, "3.1 GiB do not fit")
    tried = [1]
    while tried[-1] < 24:
        failed = build_group(PLAN, Stage.ENCODE, 1, *[too_large] * tried[-1])
        tried.append(least_shards(resource, Observed((failed,))))
    assert tried == [1, 2, 3, 4, 6, 9, 13, 19, 28]


def test_an_encoder_whose_shards_are_asked_for_ends_the_run_when_it_does_not_fit() -> None:
    too_large = build_report(Stage.ENCODE, ExitCode.OUT_OF_MEMORY, "3.1 GiB do not fit")
    attempts = [build_group(PLAN, Stage.ENCODE, attempt, too_large) for attempt in (1, 2)]
    final = decide(PREFLIGHT, *attempts)
    assert (final.status.phase, final.status.message) == (
        Phase.FAILED,
        (
            "3.1 GiB do not fit; raise spec.encoder.shards or leave it out, or name cards with more memory "
            "(after 2 attempts)"
        ),
    )


def test_a_new_run_has_learnt_nothing() -> None:
    assert least_shards(build_resource(), Observed((ENCODE,))) == 1


def embeddings_ready(decision: Decision) -> str:
    conditions = {condition.type: condition.status for condition in decision.status.conditions}
    return str(conditions[ConditionType.EMBEDDINGS_READY])


def test_the_embeddings_stay_ready_while_the_runners_wait_in_a_queue() -> None:
    queued = Waiting(WaitingReason.QUEUED, "not admitted", NOW)
    generate = replace(build_group(PLAN, Stage.GENERATE, 1, None, None, pool="local"), waiting=queued)
    decision = decide(PREFLIGHT, ENCODE, generate)
    assert (decision.status.phase, embeddings_ready(decision)) == (Phase.PENDING, "True")


def test_the_embeddings_stay_ready_when_the_runners_fail() -> None:
    denied = build_report(Stage.GENERATE, ExitCode.STORE_DENIED, "no write access")
    decision = decide(PREFLIGHT, ENCODE, build_group(PLAN, Stage.GENERATE, 1, denied, denied, pool="local"))
    assert (decision.status.phase, embeddings_ready(decision)) == (Phase.FAILED, "True")


def test_a_store_that_refuses_is_not_ready() -> None:
    denied = build_report(Stage.PREFLIGHT, ExitCode.STORE_DENIED, "bucket videos: no read access")
    decision = decide(build_group(PLAN, Stage.PREFLIGHT, 1, denied))
    conditions = {condition.type: condition for condition in decision.status.conditions}
    store = conditions[ConditionType.STORE_READY]
    assert (store.status, store.reason, store.message) == ("False", "StoreDenied", "bucket videos: no read access")


def test_a_store_whose_conditional_writes_cannot_be_trusted_is_ready_and_said_to_cost_balance() -> None:
    without_claims = preflight_report(claims=False)
    decision = decide(build_group(PLAN, Stage.PREFLIGHT, 1, without_claims))
    conditions = {condition.type: condition for condition in decision.status.conditions}
    store = conditions[ConditionType.STORE_READY]
    assert (store.status, store.reason, store.message) == (
        "True",
        "StoreChecked",
        (
            "preflight has read and written the store, whose conditional writes (If-None-Match, If-Match) cannot be "
            "trusted: each runner has a fixed share of the clips, and none goes on with another's; a store that has "
            "them lets work move between runners"
        ),
    )


def test_a_pause_says_nothing_new_about_store_and_embeddings() -> None:
    before = decide(PREFLIGHT, ENCODE).status
    resource = build_resource(suspend=True).model_copy(update={"status": before})
    after = reconcile(resource, PLAN, Observed((PREFLIGHT, ENCODE)), NOW + timedelta(minutes=1)).status
    said = {ConditionType.STORE_READY, ConditionType.EMBEDDINGS_READY}
    assert after.phase == Phase.SUSPENDED
    assert [c for c in after.conditions if c.type in said] == [c for c in before.conditions if c.type in said]


def test_a_pool_that_no_clip_fits_gets_no_pods_and_status_says_why() -> None:
    why = "pool 'b': a clip of 64x64 and 17 frames needs 9.0 GiB even in its smallest form, and T4 has 4.2 GiB to use"
    small = TWO_POOLS.pools[1].model_copy(update={"replicas": 0, "unfit": why})
    plan = TWO_POOLS.model_copy(update={"pools": (TWO_POOLS.pools[0], small)})
    attempts = Attempts(preflight=1, encode=1)
    begun = at_stage(plan=plan, attempts=attempts, created=attempts)
    assert started(begun) == [(Stage.GENERATE, "a", 1)]
    assert begun.status.plan is not None
    assert begun.status.plan.unfit_pools == (why,)
    # One that has become too small while it was at work ends.
    assert at_stage(at_work(plan, "a", 2), at_work(plan, "b", 1), plan=plan).delete == (at_work(plan, "b", 1),)
