"""The order in which a pass carries out what was decided, seen from the place where it is carried out."""

from dataclasses import dataclass, field, replace

import pytest
from tests.builders import (
    NOW,
    after,
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

from videogen_api.naming import Stage
from videogen_api.plan import Plan
from videogen_api.report import Progress, RunnerState
from videogen_api.resource import VideoGeneration
from videogen_api.status import Attempts, Findings, Phase, VideoGenerationStatus
from videogen_operator.core.asked import template_digest
from videogen_operator.core.observed import Group, GroupState, Observed, ObservedGroup
from videogen_operator.core.reconcile import reconcile, settle
from videogen_operator.sync import Outcome, apply, sync

PLAN = build_plan()
PREFLIGHT = build_group(PLAN, Stage.PREFLIGHT, 1, preflight_report())
ENCODE = build_group(PLAN, Stage.ENCODE, 1, encode_report())
GENERATE = build_group(PLAN, Stage.GENERATE, 1, generate_report(), generate_report(), pool="local")
COLLECT = build_group(PLAN, Stage.COLLECT, 1, collect_report())


@dataclass
class Recorder:
    """A backend that shows what it is told to show, and writes down what it is asked to do."""

    observed: Observed = field(default_factory=Observed)
    done: list[str] = field(default_factory=list)
    statuses: list[VideoGenerationStatus] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)

    def observe(self, resource: VideoGeneration) -> Observed:
        self.done.append(f"observe {resource.metadata.name}")
        return self.observed

    def write_status(self, resource: VideoGeneration, status: VideoGenerationStatus) -> None:
        self.done.append(f"status {resource.metadata.name} {status.phase}")
        self.statuses.append(status)

    def delete(self, group: ObservedGroup) -> None:
        self.done.append(f"delete {group.label}")

    def scale(self, group: ObservedGroup, processes: int) -> None:
        self.done.append(f"scale {group.label} to {processes}")

    def create(self, resource: VideoGeneration, plan: Plan, group: Group) -> None:
        self.done.append(f"create {group.label}")
        self.plans.append(f"{plan.run_id} at revision {resource.status.plan_revision}")


def carry_out(
    resource: VideoGeneration, *groups: ObservedGroup, at: float = 0.0, may_report: bool = True
) -> tuple[Outcome, Recorder]:
    recorder = Recorder()
    decision = reconcile(resource, PLAN, Observed(groups), after(at))
    return apply(resource, PLAN, decision, recorder, may_report=may_report), recorder


def resource_at(attempts: Attempts, *groups: ObservedGroup, **spec: object) -> VideoGeneration:
    """A resource whose status tells of exactly these groups."""
    resource = build_resource(**spec)
    before = resource.model_copy(update={"status": build_status(PLAN, build_resource(), attempts)})
    told = reconcile(before, PLAN, Observed(groups), NOW).status
    return resource.model_copy(update={"status": told})


def test_one_pass_looks_writes_the_ledger_and_then_acts() -> None:
    backend = Recorder()
    status = sync(build_resource(), PLAN, backend, NOW)
    assert backend.done == ["observe test", "status test Preflight", "create preflight-1"]
    assert backend.statuses == [status]


def test_what_is_created_is_told_of_the_plan_that_the_ledger_names() -> None:
    recorder = Recorder()
    decision = reconcile(build_resource(), PLAN, Observed(), NOW, plan_revision=7)
    apply(build_resource(), PLAN, decision, recorder, may_report=True)
    assert recorder.plans == [f"{PLAN.run_id} at revision 7"]


def test_a_child_that_the_ledger_names_already_is_created_without_another_write() -> None:
    resource = build_resource()
    begun = reconcile(resource, PLAN, Observed(), NOW).status
    crashed = resource.model_copy(update={"status": begun})
    _, recorder = carry_out(crashed)
    assert recorder.done == ["create preflight-1"]


def test_a_new_try_deletes_what_is_left_of_older_ones_before_its_ledger_says_that_it_has_begun() -> None:
    failed = build_group(PLAN, Stage.ENCODE, 1, build_report(Stage.ENCODE, 77, "denied"))
    resource = resource_at(Attempts(preflight=1, encode=1), PREFLIGHT, failed)
    again = build_resource(retry="1").model_copy(update={"status": resource.status})
    _, recorder = carry_out(again, PREFLIGHT, failed)
    assert recorder.done == ["delete preflight-1", "delete encode-1", "status test Preflight", "create preflight-2"]


def test_within_a_run_the_status_is_written_before_anything_is_deleted() -> None:
    running = build_group(PLAN, Stage.ENCODE, 1, None)
    resource = resource_at(Attempts(preflight=1, encode=1), PREFLIGHT, running)
    suspended = build_resource(suspend=True).model_copy(update={"status": resource.status})
    _, recorder = carry_out(suspended, PREFLIGHT, running)
    assert recorder.done == ["status test Suspended", "delete preflight-1", "delete encode-1"]


def test_a_delete_that_was_interrupted_is_done_again_without_another_write() -> None:
    running = build_group(PLAN, Stage.ENCODE, 1, None)
    resource = resource_at(Attempts(preflight=1, encode=1), PREFLIGHT, running)
    suspended = build_resource(suspend=True).model_copy(update={"status": resource.status})
    outcome, _ = carry_out(suspended, PREFLIGHT, running)
    interrupted = suspended.model_copy(update={"status": outcome.status})
    _, recorder = carry_out(interrupted, running)
    assert recorder.done == ["delete encode-1"]


def test_pools_are_scaled_in_place() -> None:
    spec = build_resource().spec
    found = Findings(attempt=1, embeddings=1, clips=0, claims=True)
    running = replace(
        build_group(PLAN, Stage.GENERATE, 1, None, None, None, pool="local"),
        template=template_digest(spec, Stage.GENERATE, "local"),
    )
    status = build_status(PLAN, build_resource(), Attempts(preflight=1, generate={"local": 1}))
    resource = build_resource().model_copy(update={"status": status.model_copy(update={"found": found})})
    _, recorder = carry_out(resource, running)
    assert recorder.done == ["scale generate-local-1 to 2", "status test Generating"]


def test_the_end_of_a_run_is_written_before_what_is_still_at_work_is_ended() -> None:
    denied = build_report(Stage.GENERATE, 77, "denied")
    failed, working = (
        build_group(PLAN, Stage.GENERATE, 1, denied, pool="local"),
        build_group(PLAN, Stage.GENERATE, 1, None, pool="other"),
    )
    attempts = Attempts(preflight=1, encode=1, generate={"local": 1, "other": 1})
    resource = build_resource().model_copy(update={"status": build_status(PLAN, build_resource(), attempts)})
    outcome, recorder = carry_out(resource, PREFLIGHT, ENCODE, failed, working)
    assert recorder.done == ["status test Failed", "delete generate-other-1"]
    assert outcome == Outcome(recorder.statuses[0], written=True, wake_at=None)


def progressed(step: int) -> ObservedGroup:
    running = build_group(PLAN, Stage.GENERATE, 1, None, None, pool="local")
    progress = Progress(
        stage=Stage.GENERATE, index=0, attempt=1, pod="fox-0", device="cpu", state=RunnerState.DENOISING,
        clip="fox-1", step=step, steps=4,
    )  # fmt: skip
    first, *others = running.processes
    return replace(running, processes=(replace(first, progress=progress), *others))


AT_WORK = resource_at(Attempts(preflight=1, encode=1, generate={"local": 1}), PREFLIGHT, ENCODE, progressed(0))


def test_mere_progress_is_written_where_it_may_be_and_only_then() -> None:
    silent, nothing = carry_out(AT_WORK, PREFLIGHT, ENCODE, progressed(1), may_report=False)
    assert (nothing.done, silent.written) == ([], False)
    assert silent.status.runners[0].step == 1
    reported, recorder = carry_out(AT_WORK, PREFLIGHT, ENCODE, progressed(1), may_report=True)
    assert (recorder.done, reported.written) == (["status test Generating"], True)


def test_a_pass_that_finds_nothing_new_writes_nothing_however_much_time_has_passed() -> None:
    outcome, recorder = carry_out(AT_WORK, PREFLIGHT, ENCODE, progressed(0), at=3600)
    assert (recorder.done, outcome.written) == ([], False)


def test_news_are_written_although_progress_may_not_be() -> None:
    outcome, recorder = carry_out(AT_WORK, PREFLIGHT, ENCODE, GENERATE, may_report=False)
    assert (recorder.done, outcome.written) == (["status test Collecting", "create collect-1"], True)
    ending = replace(progressed(0), state=GroupState.ENDING)
    failed = build_report(Stage.GENERATE, 70, "crashed")
    with_failure = replace(ending, processes=build_group(PLAN, Stage.GENERATE, 1, failed, pool="local").processes)
    _, told = carry_out(AT_WORK, PREFLIGHT, ENCODE, with_failure, may_report=False)
    assert told.done == ["status test Generating"]
    assert told.statuses[0].failures[0].message == "crashed"


def test_a_finished_run_is_settled_without_a_plan() -> None:
    groups = (PREFLIGHT, ENCODE, GENERATE, COLLECT)
    attempts = Attempts(preflight=1, encode=1, generate={"local": 1}, collect=1)
    resource = resource_at(attempts, *groups, ttlSecondsAfterFinished=100)
    assert resource.status.phase == Phase.SUCCEEDED

    recorder = Recorder()
    early = apply(resource, None, settle(resource, Observed(groups), after(99)), recorder, may_report=True)
    assert (recorder.done, early) == ([], Outcome(resource.status, written=False, wake_at=after(100)))

    expired = apply(resource, None, settle(resource, Observed(groups), after(100)), recorder, may_report=True)
    deletes = ["delete preflight-1", "delete encode-1", "delete generate-local-1", "delete collect-1"]
    assert recorder.done == ["status test Succeeded", *deletes]
    bare = resource.status.model_copy(update={"plan_revision": 0})
    assert expired == Outcome(bare, written=True, wake_at=None)


def test_nothing_is_created_without_a_plan() -> None:
    decision = reconcile(build_resource(), PLAN, Observed(), NOW)
    with pytest.raises(AssertionError, match="only a plan creates groups"):
        apply(build_resource(), None, decision, Recorder(), may_report=True)
