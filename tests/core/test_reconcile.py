"""The life of a run, one pass at a time: what is started, what is said, and when it ends."""

from dataclasses import replace

import pytest
from tests.builders import (
    NOW,
    build_group,
    build_plan,
    build_report,
    build_resource,
    build_status,
    collect_report,
    encode_report,
    generate_report,
    preflight_report,
)

from videogen_api.errors import ExitCode, Reason
from videogen_api.naming import Stage
from videogen_api.report import ClipFailureLine, EncodeReport
from videogen_api.resource import VideoGeneration
from videogen_api.status import Attempts, ClipCounts, ConditionType, Phase
from videogen_operator.core.asked import template_digest
from videogen_operator.core.observed import Group, Observed, ObservedGroup
from videogen_operator.core.reconcile import Decision, reconcile

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
