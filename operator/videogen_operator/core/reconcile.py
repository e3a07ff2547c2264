"""The heart: from a resource, its plan and what was seen of its children to what should be done now.

`reconcile` is a pure function and knows nothing of what it did before: the ledger in status (run id, attempts) and the
observed groups say everything. The shell writes the ledger, then acts, then writes the rest of the status.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from videogen_api.naming import Stage
from videogen_api.plan import Plan
from videogen_api.report import CollectReport, PreflightReport
from videogen_api.resource import VideoGeneration
from videogen_api.status import FINISHED_PHASES, Attempts, Phase, VideoGenerationStatus
from videogen_operator.core.observed import Group, GroupState, Observed, ObservedGroup
from videogen_operator.core.policies import Ruling, Verdict, rule_stage
from videogen_operator.core.summary import summarize


@dataclass(frozen=True)
class Decision:
    """What to do now; `status` is complete, with the ledger as it must be written before acting."""

    create: tuple[Group, ...]
    delete: tuple[ObservedGroup, ...]
    status: VideoGenerationStatus


@dataclass(frozen=True)
class Step:
    """Where a run stands: its phase, one sentence, and the groups that are due."""

    phase: Phase
    message: str
    reason: str
    due: tuple[Group, ...] = ()
    preflight: PreflightReport | None = None
    collect: CollectReport | None = None


def reconcile(resource: VideoGeneration, plan: Plan, observed: Observed, now: datetime) -> Decision:
    """One look at everything. `now` is the wall clock, in UTC."""
    ledger = _ledger_of(resource, plan, now)
    begins = ledger is not resource.status
    # What belongs to another run, or to a try that was given up, decides nothing any more.
    seen = Observed() if begins else observed.of_run(plan.run_id)
    stale = tuple(group for group in observed.groups if group not in seen.groups)
    at_work = tuple(group for group in seen.groups if group.state == GroupState.RUNNING)
    if ledger.phase in FINISHED_PHASES:
        # A crash after the status was written must not leave cards busy for a run that is over.
        return Decision(create=(), delete=(*stale, *at_work), status=ledger)
    if resource.spec.suspend:
        step = Step(Phase.SUSPENDED, "suspended; set spec.suspend to false to go on", "Suspended")
        return Decision((), (*stale, *seen.groups), summarize(resource, plan, seen, ledger, step, now))
    step = next_step(plan, seen, ledger.attempts)
    ledger = ledger.model_copy(update={"attempts": _count(ledger.attempts, step.due)})
    ended = at_work if step.phase in FINISHED_PHASES else ()
    return Decision(step.due, (*stale, *ended), summarize(resource, plan, seen, ledger, step, now))


@dataclass(frozen=True)
class _Run:
    """What the steps of one pass look at."""

    plan: Plan
    observed: Observed
    attempts: Attempts

    def single(self, stage: Stage, phase: Phase, doing: str) -> Step | None:
        """The step of a stage that is one group; None when it is done."""
        last: int = getattr(self.attempts, stage.value)
        ruling = self._rule(stage, None, last)
        if ruling.verdict == Verdict.DONE:
            return None
        if ruling.verdict == Verdict.STOP:
            return Step(Phase.FAILED, ruling.message, ruling.reason)
        if ruling.verdict == Verdict.CHECK_AGAIN:
            return self._check_again(ruling)
        processes = self.plan.encoder.shards if stage == Stage.ENCODE else 1
        due = (self._group(stage, None, last + 1, processes),) if ruling.verdict == Verdict.START else ()
        return Step(phase, _doing(doing, ruling), phase.value, due)

    def generate(self) -> Step | None:
        """The step of all pools together; None when every pool has nothing left to do."""
        last = self.attempts.generate
        pools = [pool for pool in self.plan.pools if pool.replicas]
        rulings = {pool.name: self._rule(Stage.GENERATE, pool.name, last.get(pool.name, 0)) for pool in pools}
        verdicts = {ruling.verdict for ruling in rulings.values()}
        for ruling in rulings.values():
            if ruling.verdict == Verdict.STOP:
                return Step(Phase.FAILED, ruling.message, ruling.reason)
            if ruling.verdict == Verdict.CHECK_AGAIN and Verdict.WAIT not in verdicts:
                return self._check_again(ruling)
        if verdicts == {Verdict.DONE}:
            return None
        due = tuple(
            self._group(Stage.GENERATE, pool.name, last.get(pool.name, 0) + 1, pool.replicas)
            for pool in pools
            if rulings[pool.name].verdict == Verdict.START
        )
        again = next((ruling for ruling in rulings.values() if ruling.message), Ruling(Verdict.WAIT))
        return Step(Phase.GENERATING, _doing("denoising", again), Phase.GENERATING.value, due)

    def _rule(self, stage: Stage, pool: str | None, last: int) -> Ruling:
        seen = self.observed.attempts(stage, pool)
        this_round = last if stage == Stage.PREFLIGHT else self.attempts.preflight
        return rule_stage(seen, last, this_round, self.plan.retries)

    def _check_again(self, ruling: Ruling) -> Step:
        due = self._group(Stage.PREFLIGHT, None, self.attempts.preflight + 1, 1)
        return Step(Phase.PREFLIGHT, _doing("checking store and weights", ruling), Phase.PREFLIGHT.value, (due,))

    def _group(self, stage: Stage, pool: str | None, attempt: int, processes: int) -> Group:
        this_round = attempt if stage == Stage.PREFLIGHT else self.attempts.preflight
        return Group(stage, pool, attempt, processes, this_round)


def next_step(plan: Plan, observed: Observed, attempts: Attempts) -> Step:
    """The first stage that is not done decides."""
    run = _Run(plan, observed, attempts)
    preflight = run.single(Stage.PREFLIGHT, Phase.PREFLIGHT, "checking store and weights")
    if preflight is not None:
        return preflight
    found = _preflight_report(observed, attempts)
    for step in _steps_after_preflight(run, found):
        if step is not None:
            return replace(step, preflight=found)
    return replace(_conclude(plan, observed, attempts), preflight=found)


def _steps_after_preflight(run: _Run, found: PreflightReport) -> Iterator[Step | None]:
    if found.clips.count < len(run.plan.work):
        if found.embeddings.count < len(run.plan.texts):
            yield run.single(Stage.ENCODE, Phase.ENCODING, "encoding prompts")
        yield run.generate()
    yield run.single(Stage.COLLECT, Phase.COLLECTING, "verifying the clips")


def _ledger_of(resource: VideoGeneration, plan: Plan, now: datetime) -> VideoGenerationStatus:
    """The status to build on: the resource's own, or a fresh one where another run or another try is asked for."""
    status = resource.status
    if status.run_id == plan.run_id and status.retry == resource.spec.retry:
        return status
    # Attempts count on within one run, because a child's name is never used twice.
    attempts = status.attempts if status.run_id == plan.run_id else Attempts()
    return VideoGenerationStatus(
        run_id=plan.run_id,
        retry=resource.spec.retry,
        attempts=attempts,
        start_time=now,
        conditions=status.conditions,
    )


def _count(attempts: Attempts, due: tuple[Group, ...]) -> Attempts:
    counted = attempts.model_dump()
    for group in due:
        if group.stage == Stage.GENERATE:
            counted["generate"][group.pool] = group.attempt
        else:
            counted[group.stage.value] = group.attempt
    return Attempts.model_validate(counted)


def _doing(doing: str, ruling: Ruling) -> str:
    return f"{doing} again: {ruling.message}" if ruling.message else doing


def _preflight_report(observed: Observed, attempts: Attempts) -> PreflightReport:
    group = observed.attempt(Stage.PREFLIGHT, None, attempts.preflight)
    if group is None or group.report is None or group.report.preflight is None:
        raise ValueError("a preflight that succeeded left no report")
    return group.report.preflight


def _conclude(plan: Plan, observed: Observed, attempts: Attempts) -> Step:
    """What collect found is the truth, not which processes ended well."""
    group = observed.attempt(Stage.COLLECT, None, attempts.collect)
    report = group.report.collect if group is not None and group.report is not None else None
    if report is None:
        raise ValueError("a collect that succeeded left no report")
    if report.failed:
        first = report.failures[0] if report.failures else None
        detail = f": {first.clip}: {first.message}" if first is not None else ""
        message = f"{report.failed} of {len(plan.clips)} clips cannot be made{detail}"
        return Step(Phase.FAILED, message, first.reason if first is not None else "ClipsFailed", collect=report)
    if report.missing:
        message = f"{report.missing} of {len(plan.clips)} clips are missing; change spec.retry to make them"
        return Step(Phase.FAILED, message, "ClipsMissing", collect=report)
    ready = "1 clip is ready" if report.succeeded == 1 else f"{report.succeeded} clips are ready"
    return Step(Phase.SUCCEEDED, ready, "Succeeded", collect=report)
