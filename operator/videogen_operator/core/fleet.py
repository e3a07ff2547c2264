"""A simulated cluster of many pods: groups as `reconcile` creates them, runners that claim clips, pods that are lost.

Event-driven: the time between two events costs nothing, so a thousand runners and ten thousand clips take seconds. The
same plan, scenario and seed give the same run. Preflight and collect take no time beyond their start. What comes out,
beside what can be observed, is what each card did when.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from math import floor, log

from videogen_api.naming import Stage, runner_name, short_hash
from videogen_api.plan import Plan
from videogen_api.spec import Strategy
from videogen_operator.core.fleet_view import KILLED, SimulatedJob, look
from videogen_operator.core.observed import Group, Observed, ObservedGroup
from videogen_operator.core.totals import last_texts
from videogen_operator.core.workload import Runner, Workload

LEASE_SECONDS = 60.0
"""A clip whose holder has given no sign of life for so long may be taken."""
CHECKPOINT_SECONDS = 5.0
"""As a runner's, about; what is computed since the last checkpoint is lost with the pod."""

_BACK_OFF_SECONDS = 10.0
_MOST_BACK_OFF_SECONDS = 360.0


@dataclass(frozen=True)
class Scenario:
    """What befalls a run beyond what its plan predicts."""

    losses_per_hour: float = 0.0
    """Share of the pods that is lost in an hour, without a word: 0.05 is one in twenty."""
    start_seconds: float = 0.0
    """From creating a pod to its first operation: scheduling, pulling, loading weights."""
    speeds: Mapping[str, float] = field(default_factory=dict)
    """Of a pool's cards, as a multiple of what the plan predicts."""
    seed: int = 0


@dataclass(frozen=True)
class Span:
    """What a card did for a while: `label` is a clip's name, or a stage. `kept` is the share that was not lost."""

    card: str
    label: str
    begin: float
    end: float
    kept: float = 1.0


@dataclass(order=True)
class _Event:
    time: float
    order: int
    kind: str = field(compare=False)
    job: SimulatedJob = field(compare=False)
    runner: Runner | None = field(compare=False, default=None)
    life: int = field(compare=False, default=0)
    number: int = field(compare=False, default=0)
    """A text's position, or a clip's."""


class Fleet:
    """One run's pods. Times inside are seconds since `start`."""

    def __init__(self, plan: Plan, scenario: Scenario, start: datetime) -> None:
        self._plan = plan
        self._scenario = scenario
        self._start = start
        self._seconds = 0.0
        self._draws = count()
        self._loss_rate = -log(1 - scenario.losses_per_hour) / 3600
        pools = [pool for pool in plan.pools if pool.replicas]
        self._pace = {pool.name: 1 / scenario.speeds.get(pool.name, 1.0) for pool in pools}
        seconds = {pool.name: pool.cost.seconds for pool in pools}
        self._workload = Workload(seconds, self._pace, last_texts(plan))
        self._jobs: list[SimulatedJob] = []
        self._events: list[_Event] = []
        self._order = count()
        self.spans: list[Span] = []
        self.losses = 0

    @property
    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._seconds)

    @property
    def done(self) -> int:
        """Clips that are finished."""
        return self._workload.done

    # What a pass asks of its backend.

    def observe(self) -> Observed:
        return Observed(tuple(look(job, self._plan, self._workload, self._start) for job in self._jobs))

    def create(self, plan: Plan, group: Group) -> None:
        job = SimulatedJob(plan.run_id, group, self._seconds)
        self._jobs.append(job)
        begins = self._seconds + self._scenario.start_seconds
        if group.stage == Stage.GENERATE:
            pool = group.pool or ""
            job.runners = [Runner(pool, index) for index in range(group.processes)]
            for runner in job.runners:
                self._begin(job, runner, begins)
        elif group.stage == Stage.ENCODE:
            self._begin_encoding(job, begins)
        else:
            self._at(begins, "end", job)

    def delete(self, group: ObservedGroup) -> None:
        """Stopped processes checkpoint and hand back; a group that is gone already is fine."""
        for job in self._jobs:
            if (job.run_id, job.group.label) == (group.run_id, group.label):
                self._stop(job)
                self._jobs.remove(job)
                return

    def wait(self, until: datetime | None) -> bool:
        """Goes on to when something can be seen that could not be seen before, at most to `until`.

        Returns whether there is such a moment.
        """
        limit = None if until is None else (until - self._start).total_seconds()
        has_changed = False
        while self._events and (limit is None or self._events[0].time <= limit):
            if has_changed and self._events[0].time > self._seconds:
                return True
            event = heappop(self._events)
            self._seconds = max(self._seconds, event.time)
            if self._is_due(event) and self._happen(event):
                has_changed = True
        if has_changed:
            return True
        if limit is not None:
            self._seconds = max(self._seconds, limit)
        return limit is not None

    # Events.

    def _at(self, time: float, kind: str, job: SimulatedJob, runner: Runner | None = None, number: int = 0) -> None:
        life = runner.life if runner is not None else 0
        heappush(self._events, _Event(time, next(self._order), kind, job, runner, life, number))

    def _draw_lifetime(self, rate: float) -> float:
        """Seconds until the first of events that come `rate` times a second, exponentially distributed.

        From a hash and not from `random`, so that a seed gives the same run with every version of Python.
        """
        drawn = short_hash(str(self._scenario.seed), str(next(self._draws)), length=13)
        return -log(1 - int(drawn, 16) / 16**13) / rate

    def _is_due(self, event: _Event) -> bool:
        runner = event.runner
        if runner is not None and runner.life != event.life:
            return False
        if event.kind == "lease":
            return runner is not None and runner.clip == event.number and not runner.alive
        return event.job.at_work

    def _happen(self, event: _Event) -> bool:
        """Carries an event out; returns whether a group has ended with it."""
        job, runner = event.job, event.runner
        if runner is None:
            return self._happen_to_group(event.kind, job, event.number)
        if event.kind == "begin":
            runner.alive = True
            if self._loss_rate:
                self._at(self._seconds + self._draw_lifetime(self._loss_rate), "lost", job, runner)
            self._give_work(job, runner)
        elif event.kind == "finish":
            self._note(runner, 1.0)
            self._workload.finish(runner)
            self._give_work(job, runner)
        elif event.kind == "lost":
            self._lose(job, runner)
        elif runner.clip is not None:
            self._workload.reopen(runner.clip)
            self._wake_idle()
        return self._end_idle()

    def _happen_to_group(self, kind: str, job: SimulatedJob, number: int) -> bool:
        if kind == "text":
            self._workload.encode(number)
            self._wake_idle()
            return self._end_idle()
        job.ended = self._seconds
        if job.group.stage == Stage.ENCODE:
            self._note_encoding(job)
            if kind == "lost":
                self.losses += 1
                job.exit_code = KILLED
        return True

    # Encoders.

    def _begin_encoding(self, job: SimulatedJob, begins: float) -> None:
        texts, seconds = len(self._plan.texts), self._plan.encoder.cost.seconds
        todo = texts - self._workload.encoded
        ends = begins + seconds * todo / texts
        for position in range(1, todo + 1):
            self._at(begins + seconds * position / texts, "text", job, number=self._workload.encoded + position)
        self._at(ends, "end", job)
        if self._loss_rate:
            lost = begins + self._draw_lifetime(self._loss_rate * job.group.processes)
            if lost < ends:
                self._at(lost, "lost", job)

    def _note_encoding(self, job: SimulatedJob) -> None:
        begins = min(job.created + self._scenario.start_seconds, self._seconds)
        for card in encoder_cards(self._plan)[: job.group.processes]:
            self.spans.append(Span(card, Stage.ENCODE, begins, self._seconds))

    # Runners.

    def _begin(self, job: SimulatedJob, runner: Runner, time: float) -> None:
        self._at(time, "begin", job, runner)

    def _give_work(self, job: SimulatedJob, runner: Runner) -> None:
        if self._workload.take(runner, self._seconds):
            self._at(runner.ends, "finish", job, runner)

    def _wake_idle(self) -> None:
        for job in self._jobs:
            for runner in job.runners if job.at_work else ():
                if not self._workload.is_open:
                    return
                if runner.alive and runner.clip is None:
                    self._give_work(job, runner)

    def _lose(self, job: SimulatedJob, runner: Runner) -> None:
        self.losses += 1
        runner.alive = False
        runner.life += 1
        runner.losses += 1
        if runner.clip is not None:
            worked = self._seconds - runner.began
            kept = floor(worked / CHECKPOINT_SECONDS) * CHECKPOINT_SECONDS
            self._note(runner, kept / worked if worked else 1.0)
            self._workload.keep(runner, runner.left * (1 - kept / (runner.ends - runner.began)))
            self._at(self._seconds + LEASE_SECONDS, "lease", job, runner, runner.clip)
        back_off = min(_MOST_BACK_OFF_SECONDS, _BACK_OFF_SECONDS * 2 ** (runner.losses - 1))
        self._begin(job, runner, self._seconds + back_off + self._scenario.start_seconds)

    def _stop(self, job: SimulatedJob) -> None:
        job.deleted = self._seconds
        for runner in job.runners:
            runner.life += 1
            if runner.clip is not None and runner.alive:
                self._note(runner, 1.0)
                self._workload.keep(runner, runner.left * (runner.ends - self._seconds) / (runner.ends - runner.began))
            if runner.clip is not None:
                self._workload.reopen(runner.clip)
            runner.alive = False
        if job.group.stage == Stage.ENCODE and job.ended is None:
            self._note_encoding(job)
        self._wake_idle()

    def _end_idle(self) -> bool:
        """Runners for which there is nothing end, and groups with their last one; returns whether one has."""
        if self._workload.waits_for_texts or self._workload.is_open:
            return False
        idle = [job for job in self._jobs if job.runners and job.at_work and all(r.clip is None for r in job.runners)]
        for job in idle:
            job.ended = self._seconds
        return bool(idle)

    def _note(self, runner: Runner, kept: float) -> None:
        if runner.clip is not None and self._seconds > runner.began:
            name = self._plan.work[runner.clip].name
            card = runner_name(runner.pool, runner.index)
            self.spans.append(Span(card, name, runner.began, self._seconds, kept))


def encoder_cards(plan: Plan) -> list[str]:
    """A card for each shard: one of the runners' where the encoder goes before them on the same ones."""
    shared = [
        runner_name(pool.name, index)
        for pool in plan.pools
        for index in range(pool.replicas)
        if pool.shares_encoder_cards and plan.strategy == Strategy.SEQUENTIAL
    ]
    own = (runner_name("encoder", index) for index in range(len(shared), plan.encoder.shards))
    return [*shared, *own][: plan.encoder.shards]
