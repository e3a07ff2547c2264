"""A cluster whose groups end as a test tells them to: well, failed, hanging or gone. Time is a number that moves."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from videogen_api.errors import ExitCode, reason_of_exit
from videogen_api.naming import Stage
from videogen_api.plan import Plan, WeightsDigests
from videogen_api.report import Bitmap, CollectReport, PreflightReport, TerminationReport
from videogen_operator.core.observed import (
    Group,
    GroupState,
    Observed,
    ObservedGroup,
    ObservedProcess,
    Waiting,
    WaitingReason,
)

GRACE = timedelta(seconds=5)
"""How long the pods of a deleted group stay at work."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_WEIGHTS = WeightsDigests(encoder="", denoiser="", vae="")


@dataclass(frozen=True)
class Fate:
    """What becomes of one group. Left as it is, it does its work in no time."""

    seconds: float = 0.0
    """How long it works, or stays to be seen."""
    exit_code: int = ExitCode.OK
    """Of its first process; the others end well."""
    oom_killed: bool = False
    disrupted: bool = False
    loses_report: bool = False
    """Its processes end without any last words."""
    starts: bool = True
    """False: no node has room for it, ever."""
    vanishes: bool = False
    """Somebody deletes it from outside."""


FateOf = Callable[[Group], Fate]


@dataclass(frozen=True)
class _Life:
    """A group from its creation on. What it reports was decided by what the store held then."""

    run_id: str
    group: Group
    fate: Fate
    report: TerminationReport
    created: datetime
    deleted: datetime | None = None

    @property
    def ends(self) -> datetime | None:
        """When it ends by itself."""
        return self.created + timedelta(seconds=self.fate.seconds) if self.fate.starts else None

    @property
    def gone(self) -> datetime | None:
        """When nobody can see it any more."""
        if self.deleted is None:
            return self.ends if self.fate.vanishes else None
        was_at_work = self.ends is None or self.deleted < self.ends
        return self.deleted + GRACE if was_at_work else self.deleted

    def ended_with(self, exit_code: int, now: datetime) -> bool:
        """Whether it has come to that end by itself, whatever became of it afterwards."""
        if self.ends is None or self.ends > now or self.fate.vanishes:
            return False
        return self.fate.exit_code == exit_code and (self.deleted is None or self.ends <= self.deleted)

    def look(self, now: datetime) -> ObservedGroup | None:
        if self.gone is not None and self.gone <= now:
            return None
        at_work = self.ends is None or now < self.ends
        state = GroupState.RUNNING if at_work else GroupState.FAILED if self.fate.exit_code else GroupState.SUCCEEDED
        return ObservedGroup(
            run_id=self.run_id,
            stage=self.group.stage,
            pool=self.group.pool,
            attempt=self.group.attempt,
            round=self.group.round,
            state=GroupState.ENDING if self.deleted is not None else state,
            processes=tuple(self._process(index, at_work) for index in range(self.group.processes)),
            expected=self.group.processes,
            created=self.created,
            finished=None if at_work else self.ends,
            template=self.group.template,
        )

    def _process(self, index: int, at_work: bool) -> ObservedProcess:
        name = f"{self.group.label}-{index}"
        if not self.fate.starts:
            wait = Waiting(WaitingReason.UNSCHEDULABLE, f"no node has room for {self.group.label}", self.created)
            return ObservedProcess(index, name, started=False, waiting=wait)
        if at_work:
            return ObservedProcess(index, name)
        if index > 0:
            return ObservedProcess(index, name, exit_code=ExitCode.OK)
        killed = self.fate.oom_killed or self.fate.disrupted
        return ObservedProcess(
            index=index,
            name=name,
            exit_code=self.fate.exit_code,
            oom_killed=self.fate.oom_killed,
            disrupted=self.fate.disrupted,
            report=None if killed or self.fate.loses_report else self.report,
        )


@dataclass
class SimulatedCluster:
    """Groups that live as their fates say, and a store that holds what they have made."""

    fate_of: FateOf
    now: datetime
    _lives: list[_Life] = field(default_factory=list)

    def observe(self) -> Observed:
        """All groups that can be seen now."""
        return Observed(tuple(seen for life in self._lives if (seen := life.look(self.now)) is not None))

    def create(self, plan: Plan, group: Group) -> None:
        fate = self.fate_of(group)
        self._lives.append(_Life(plan.run_id, group, fate, self._report(plan, group, fate), self.now))

    def delete(self, group: ObservedGroup) -> None:
        """A group that is gone already, or going, is fine."""
        for position, life in enumerate(self._lives):
            if (life.run_id, life.group.label) == (group.run_id, group.label) and life.deleted is None:
                self._lives[position] = replace(life, deleted=self.now)

    def scale(self, group: ObservedGroup, processes: int) -> None:
        """The processes that stay go on as before."""
        for position, life in enumerate(self._lives):
            if (life.run_id, life.group.label) == (group.run_id, group.label):
                self._lives[position] = replace(life, group=replace(life.group, processes=processes))

    def next_change(self) -> datetime | None:
        """When something can be seen that cannot be seen now."""
        moments = [moment for life in self._lives for moment in (life.ends, life.gone)]
        return min((moment for moment in moments if moment is not None and moment > self.now), default=None)

    def wait(self, until: datetime | None) -> bool:
        """As `Cluster` of core/simulate.py says."""
        moments = [moment for moment in (until, self.next_change()) if moment is not None]
        self.now = max(self.now, min(moments, default=self.now))
        return bool(moments)

    def _report(self, plan: Plan, group: Group, fate: Fate) -> TerminationReport:
        code = fate.exit_code
        report = TerminationReport(
            stage=group.stage,
            pool=group.pool,
            index=0,
            attempt=group.attempt,
            exit_code=code,
            reason=reason_of_exit(code),
            message=f"{group.label} ended with exit code {code}" if code else "",
            seconds=fate.seconds,
            peak_memory_bytes=0,
        )
        if code:
            return report
        if group.stage == Stage.PREFLIGHT:
            return report.model_copy(update={"preflight": self._look_into_store(plan)})
        if group.stage == Stage.COLLECT:
            # A run collects only when its pools have left nothing undone.
            found = CollectReport(succeeded=len(plan.clips), failed=0, missing=0)
            return report.model_copy(update={"collect": found})
        return report

    def _look_into_store(self, plan: Plan) -> PreflightReport:
        lives = [life for life in self._lives if life.run_id == plan.run_id]
        done = [life for life in lives if life.ended_with(ExitCode.OK, self.now)]
        missed = [life.created for life in lives if life.ended_with(ExitCode.EMBEDDING_MISSING, self.now)]
        encoded = [life.created for life in done if life.group.stage == Stage.ENCODE]
        embeddings = bool(encoded) and max(encoded) > max(missed, default=_LONG_AGO)
        generated = {life.group.pool for life in done if life.group.stage == Stage.GENERATE}
        clips = {pool.name for pool in plan.pools if pool.replicas} <= generated
        return PreflightReport(
            weights=_WEIGHTS,
            embeddings=Bitmap.of(embeddings for _ in plan.texts),
            clips=Bitmap.of(clips for _ in plan.work),
            claims=True,
        )
