"""The order of the stages: which one a run stands at, and the groups that are due there."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from videogen_api.naming import Stage
from videogen_api.plan import Device, Plan
from videogen_api.report import CollectReport
from videogen_api.spec import Strategy
from videogen_api.status import Findings, Phase
from videogen_operator.core.observed import Group, GroupState, Observed, ObservedGroup, WaitingReason
from videogen_operator.core.policies import Ledger, Ruling, Verdict, rule_stage
from videogen_operator.core.waits import ENCODER_WAITS, find_wait

_LOOK_AGAIN = timedelta(seconds=10)

_MAKE_WAY_AFTER = timedelta(seconds=30)
"""So long an encoder may be without cards before runners that overlap with it leave theirs."""

_WITHOUT_CARDS = (WaitingReason.UNSCHEDULABLE, WaitingReason.QUEUED)


@dataclass(frozen=True)
class Step:
    """Where a run stands: its phase, one sentence, and the groups that are due or have come too late."""

    phase: Phase
    message: str
    reason: str
    due: tuple[Group, ...] = ()
    late: tuple[ObservedGroup, ...] = ()
    aside: tuple[ObservedGroup, ...] = ()
    """Runners that leave their cards to the encoder, and return after it."""
    collect: CollectReport | None = None
    note: str = ""
    """What else a person should know, after the message."""
    wake_at: datetime | None = None


def next_step(
    plan: Plan, observed: Observed, ledger: Ledger, found: Findings | None, now: datetime, *, encoder_may_start: bool
) -> Step:
    """The first stage that is not done decides."""
    if found is not None and found.attempt != ledger.attempts.preflight:
        found = None
    run = _Run(plan, observed, ledger, now, encoder_may_start)
    for step in _steps(run, found):
        if step is not None:
            return _with_wait(step, observed, now)
    return _conclude(run)


def _steps(run: "_Run", found: Findings | None) -> Iterator[Step | None]:
    if found is None:
        yield run.single(Stage.PREFLIGHT, Phase.PREFLIGHT, "checking store and weights")
        raise AssertionError("a preflight that is done has findings")
    if found.clips < len(run.plan.work):
        if found.embeddings == len(run.plan.texts):
            yield run.generate()
        elif run.plan.strategy == Strategy.OVERLAPPED:
            yield run.overlap()
        else:
            # Runners that have begun have their embeddings: an encoder's Job that somebody tidied away is not missed.
            if not (run.has_begun(Stage.GENERATE) and run.is_gone(Stage.ENCODE)):
                yield run.encode()
            yield run.generate()
    yield run.single(Stage.COLLECT, Phase.COLLECTING, "verifying the clips")


@dataclass(frozen=True)
class _Run:
    """What the steps of one pass look at."""

    plan: Plan
    observed: Observed
    ledger: Ledger
    now: datetime
    encoder_may_start: bool

    def has_begun(self, stage: Stage) -> bool:
        """Whether a group of this round is there."""
        this_round = self.ledger.attempts.preflight
        return any(group.stage == stage and group.round == this_round for group in self.observed.groups)

    def is_gone(self, stage: Stage) -> bool:
        """Whether the last attempt was removed, or is being removed."""
        last = self.observed.attempt(stage, None, self.ledger.attempts.of(stage, None))
        return last is None or last.state == GroupState.ENDING

    def encode(self) -> Step | None:
        return self.single(Stage.ENCODE, Phase.ENCODING, "encoding prompts")

    def overlap(self) -> Step | None:
        """The step of encoder and runners at once; None when both have nothing left to do."""
        encode = self.encode()
        if encode is None:
            return self.generate()
        if encode.phase != Phase.ENCODING:
            return encode
        aside, due_at = self._make_way()
        generate = self.generate(but=aside)
        if generate is not None and generate.phase == Phase.FAILED:
            return generate
        wake_at = [at for at in (encode.wake_at, due_at) if at is not None]
        # A preflight that looks again waits for the encoder to end.
        if generate is not None and generate.phase == Phase.GENERATING:
            wake_at += [generate.wake_at] if generate.wake_at is not None else []
            message = f"{encode.message}, {generate.message}"
            encode = replace(
                encode, message=message, due=(*encode.due, *generate.due), late=(*encode.late, *generate.late)
            )
        leaving = tuple(group for name in sorted(aside) for group in self._running(Stage.GENERATE, name))
        if aside:
            encode = replace(encode, message=f"{encode.message}; runners left their cards to it and return after it")
        return replace(encode, aside=leaving, wake_at=min(wake_at, default=None))

    def _make_way(self) -> tuple[frozenset[str], datetime | None]:
        """The pools that leave their cards to an encoder that gets none; else when they will have to."""
        pools = frozenset(pool.name for pool in self.plan.pools if pool.replicas and pool.shares_encoder_cards)
        if self.ledger.gave_way == self.ledger.attempts.preflight:
            return pools, None
        encoders = self._running(Stage.ENCODE, None)
        at_work = [group for name in pools for group in self._running(Stage.GENERATE, name)]
        held = [held for group in encoders for held in (group.waiting, *(each.waiting for each in group.processes))]
        since = [waiting.since for waiting in held if waiting is not None and waiting.reason in _WITHOUT_CARDS]
        if not (since and at_work):
            return frozenset(), None
        due_at = min(since) + _MAKE_WAY_AFTER
        return (pools, None) if self.now >= due_at else (frozenset(), due_at)

    def single(self, stage: Stage, phase: Phase, doing: str) -> Step | None:
        """The step of a stage that is one group; None when it is done."""
        ruling = self._rule(stage, None)
        if ruling.verdict == Verdict.DONE:
            return None
        if ruling.verdict == Verdict.STOP:
            return Step(Phase.FAILED, ruling.message, ruling.reason)
        if ruling.verdict == Verdict.CHECK_AGAIN:
            return self.check_again(ruling)
        step = Step(phase, _doing(doing, ruling), phase.value, wake_at=ruling.wake_at)
        if ruling.verdict == Verdict.GIVE_UP:
            return replace(step, late=self._running(stage, None))
        if ruling.verdict == Verdict.WAIT:
            return step
        encoder = self.plan.encoder
        if (
            stage == Stage.ENCODE
            and encoder.shards > 1
            and encoder.device == Device.CUDA
            and not self.encoder_may_start
        ):
            message = "waiting for the encoder of another resource, which holds cards that this one needs too"
            return Step(Phase.PENDING, message, ENCODER_WAITS, wake_at=self.now + _LOOK_AGAIN)
        return replace(step, due=(self._group(stage, None, encoder.shards if stage == Stage.ENCODE else 1),))

    def generate(self, *, but: AbstractSet[str] = frozenset()) -> Step | None:
        """The step of all pools but some together; None when every pool has nothing left to do."""
        pools = {pool.name: pool.replicas for pool in self.plan.pools if pool.replicas and pool.name not in but}
        rulings = {name: self._rule(Stage.GENERATE, name) for name in pools}
        verdicts = {ruling.verdict for ruling in rulings.values()}
        for ruling in rulings.values():
            if ruling.verdict == Verdict.STOP:
                return Step(Phase.FAILED, ruling.message, ruling.reason)
            if ruling.verdict == Verdict.CHECK_AGAIN and Verdict.WAIT not in verdicts:
                return self.check_again(ruling)
        if verdicts <= {Verdict.DONE}:
            return None
        told = next((ruling for ruling in rulings.values() if ruling.message), Ruling(Verdict.WAIT))
        return Step(
            Phase.GENERATING,
            _doing("denoising", told),
            Phase.GENERATING.value,
            due=tuple(
                self._group(Stage.GENERATE, name, pools[name])
                for name, ruling in rulings.items()
                if ruling.verdict == Verdict.START
            ),
            late=tuple(
                group
                for name, ruling in rulings.items()
                if ruling.verdict == Verdict.GIVE_UP
                for group in self._running(Stage.GENERATE, name)
            ),
            wake_at=min((ruling.wake_at for ruling in rulings.values() if ruling.wake_at is not None), default=None),
        )

    def _rule(self, stage: Stage, pool: str | None) -> Ruling:
        this_round = self.ledger.attempts.preflight
        return rule_stage(self.observed, stage, pool, self.ledger, this_round, self.now)

    def _running(self, stage: Stage, pool: str | None) -> tuple[ObservedGroup, ...]:
        return tuple(group for group in self.observed.attempts(stage, pool) if group.state == GroupState.RUNNING)

    def check_again(self, ruling: Ruling) -> Step:
        due = self._group(Stage.PREFLIGHT, None, 1)
        return Step(Phase.PREFLIGHT, _doing("checking store and weights", ruling), Phase.PREFLIGHT.value, (due,))

    def _group(self, stage: Stage, pool: str | None, processes: int) -> Group:
        attempt = self.ledger.next_attempt(stage, pool)
        this_round = attempt if stage == Stage.PREFLIGHT else self.ledger.attempts.preflight
        return Group(stage, pool, attempt, processes, this_round)


def _with_wait(step: Step, observed: Observed, now: datetime) -> Step:
    """The step with what holds its pods back; where nothing but a queue does, the run is pending."""
    if step.due or step.phase == Phase.FAILED:
        return step
    wait, young = find_wait(observed.groups, now)
    wake_at = min((time for time in (step.wake_at, young) if time is not None), default=None)
    step = replace(step, wake_at=wake_at)
    if wait is None:
        return step
    phase = Phase.PENDING if wait.all_queued else step.phase
    return replace(step, phase=phase, reason=wait.reason.value, note=wait.message)


def _doing(doing: str, ruling: Ruling) -> str:
    if not ruling.message:
        return doing
    return f"{doing}: {ruling.message}" if ruling.verdict == Verdict.WAIT else f"{doing} again: {ruling.message}"


def _conclude(run: "_Run") -> Step:
    """What collect found is the truth, not which processes ended well."""
    plan, observed, ledger = run.plan, run.observed, run.ledger
    group = observed.attempt(Stage.COLLECT, None, ledger.attempts.collect)
    report = group.report.collect if group is not None and group.report is not None else None
    if report is None:
        raise AssertionError("a collect that is done has left a report")
    if report.failed:
        first = report.failures[0] if report.failures else None
        detail = f": {first.clip}: {first.message}" if first is not None else ""
        message = f"{report.failed} of {len(plan.clips)} clips cannot be made{detail}"
        return Step(Phase.FAILED, message, first.reason if first is not None else "ClipsFailed", collect=report)
    if report.missing:
        message = f"{report.missing} of {len(plan.clips)} clips are missing"
        if sum(_lacks_clips(each) for each in observed.attempts(Stage.COLLECT)) <= ledger.retries:
            return run.check_again(Ruling(Verdict.CHECK_AGAIN, message=message))
        return Step(Phase.FAILED, f"{message}; change spec.retry to make them", "ClipsMissing", collect=report)
    ready = "1 clip is ready" if report.succeeded == 1 else f"{report.succeeded} clips are ready"
    return Step(Phase.SUCCEEDED, ready, "Succeeded", collect=report)


def _lacks_clips(group: ObservedGroup) -> bool:
    report = group.report.collect if group.report is not None else None
    return report is not None and report.missing > 0
