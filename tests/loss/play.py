"""A run with several runner processes, some of which are killed, stopped for longer than a lease, or told to stop.

`play` does what Kubernetes and the operator would do: it replaces a process that did not end well, and makes the next
attempt where processes have ended and clips are missing. What comes out is compared with an undisturbed run, and the
journals of all processes say what was computed twice and who waited for whom.
"""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tests.builders import build_plan
from tests.loss.runner_process import LEAST_INTERVAL_SECONDS, End, Fate, Order, read_journal, run_process
from tests.loss.stand_in import TOKENS_LX
from tests.runner.role_contexts import build_context, build_inputs, changed
from tests.store.store_backends import Backend

from videogen_api import keys
from videogen_api.naming import Stage
from videogen_api.plan import Inputs, Plan, PlannedSampling
from videogen_api.records import Manifest
from videogen_api.report import RunnerState
from videogen_runner.done import look_for_marker
from videogen_runner.embeddings import Embeddings
from videogen_runner.roles import collect
from videogen_runner.roles.generate import Times
from videogen_runner.store import Store
from videogen_runner.store.records import get_record, put_record

RUNNERS = 3
CLIPS = 4
STEPS = 12
STEP_SECONDS = 0.02
_PLAY_SECONDS = 900.0
_LOOK_SECONDS = 0.03
_MOST_ATTEMPTS = 8

Contents = dict[str, tuple[str, str, str]]
"""By clip: sha256 of latents, frames and video."""


@dataclass(frozen=True)
class Workload:
    """What is to be made: with the stand-in, or with the tiny networks of a weights folder."""

    inputs: Inputs
    tokens_LX: torch.Tensor
    weights: Path | None = None

    @property
    def step_seconds(self) -> float | None:
        return STEP_SECONDS if self.weights is None else None

    def plan(self, folder: Path) -> Plan:
        # Unclean ends are counted, and there will be many: how they add up has tests of its own.
        plan = build_plan(storage=str(folder / "store"), pools=(("local", RUNNERS),), retries=1000)
        return changed(
            plan,
            prompts=(plan.prompts[0].model_copy(update={"samples": CLIPS}),),
            sampling=PlannedSampling(steps=STEPS, guidance=7.0),
            model=plan.model.model_copy(update={"weights": str(self.weights)}),
        )

    def prepare(self, store: Store, plan: Plan) -> None:
        put_record(store, keys.inputs(plan.run), self.inputs)
        Embeddings(store, plan, self.inputs).write("a red fox", self.tokens_LX, 0)


def stand_in_workload() -> Workload:
    return Workload(build_inputs(build_plan()), TOKENS_LX)


def tiny_workload(folder: Path, weights: Path) -> Workload:
    """The real preflight and encoder, once, in `folder`, which does not exist yet."""
    # Importing the encoder takes longer than a run.
    from tests.runner.tiny_model import TinyRun, tiny_plan

    folder.mkdir()
    run = TinyRun(folder, tiny_plan(folder, weights)).prepare()
    tokens_LX = Embeddings(run.store, run.plan, run.inputs).read("a red fox")
    return Workload(run.inputs, tokens_LX, weights)


@dataclass
class Outcome:
    """What one play came to; seconds."""

    contents: Contents
    manifest_clips: Counter[str]
    ends: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[int] = field(default_factory=Counter)
    processes: int = 0
    attempts: int = 0
    seconds: float = 0.0
    redone: list[tuple[float, float]] = field(default_factory=list)
    """For each clip that another process went on with: seconds of steps computed again, and the bound on them."""
    idle: list[tuple[float, float]] = field(default_factory=list)
    """How long a runner with nothing else to do waited for the lease of a process that had come to grief, and how long
    the longest of its looks took meanwhile."""


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.loss.play", "torch._inductor.config", "boto3", "av"])
    return context


class _Player:
    """Starts, watches and replaces the processes of one run."""

    def __init__(self, order: Order, chance: random.Random) -> None:
        self._order = order
        self._chance = chance
        self._running: dict[int, BaseProcess] = {}
        self._wakes_at: dict[int, float] = {}
        self.exit_codes: Counter[int] = Counter()
        self.names: list[str] = []

    def play(self, fates: Sequence[Fate], attempt: int, deadline: float) -> None:
        """One attempt: until every process has ended and was not replaced."""
        for index, fate in enumerate(fates):
            self._start(index, attempt, fate)
        while self._running:
            assert time.monotonic() < deadline, f"{self._order.folder}: still at work: {sorted(self._running)}"
            wait([process.sentinel for process in self._running.values()], _LOOK_SECONDS)
            self._wake_up()
            for index, process in list(self._running.items()):
                code = process.exitcode
                if code is None:
                    continue
                del self._running[index]
                process.close()
                self.exit_codes[code] += 1
                # Every other time nobody replaces it, as where a node is gone: the others have its lease to wait for.
                if code != 0 and self._chance.random() < 0.5:
                    self._start(index, attempt, Fate())

    def _start(self, index: int, attempt: int, fate: Fate) -> None:
        name = f"r{index}-{attempt}-{len(self.names)}"
        seed = self._chance.randrange(1 << 30)
        order = replace(self._order, index=index, attempt=attempt, name=name, fate=fate, seed=seed)
        process = _context().Process(target=run_process, args=(order,), name=name)
        process.start()
        self.names.append(name)
        self._running[index] = process

    def _wake_up(self) -> None:
        """Processes that have stopped themselves go on after more than a lease."""
        for process in self._running.values():
            if process.pid is None or not _is_stopped(process.pid):
                continue
            wakes_at = self._wakes_at.setdefault(process.pid, time.monotonic() + 1.5 * self._order.times.lease)
            if time.monotonic() >= wakes_at:
                del self._wakes_at[process.pid]
                os.kill(process.pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return False


def play(
    folder: Path,
    backend: Backend,
    workload: Workload,
    *,
    seed: int,
    times: Times,
    store_errors: float = 0.0,
    through: Backend | None = None,
    disturbed: bool = True,
) -> Outcome:
    """One run in a fresh place of the backend; the processes reach it `through` another one (a proxy)."""
    chance = random.Random(seed)  # noqa: S311 - no secrets here
    folder.mkdir(parents=True)
    plan, store = workload.plan(folder), backend.open()
    workload.prepare(store, plan)
    (folder / "plan.json").write_bytes(plan.to_bytes())
    order = Order(
        folder=folder,
        plan=folder / "plan.json",
        backend=through or backend,
        pool="local",
        index=0,
        attempt=1,
        name="",
        times=times,
        fate=Fate(),
        seed=0,
        store_errors=store_errors,
        step_seconds=workload.step_seconds,
    )
    player = _Player(order, chance)
    started = time.monotonic()
    deadline = started + _PLAY_SECONDS
    fates = [_draw_fate(chance) if disturbed else Fate() for _ in range(RUNNERS)]
    attempt = 1
    player.play(fates, attempt, deadline)
    clip_digests = [plan.clip_digest(clip, workload.inputs) for clip in plan.work]
    while any(not _is_done(store, clip_digest) for clip_digest in clip_digests):
        attempt += 1
        assert attempt <= _MOST_ATTEMPTS, f"{folder}: clips are missing after {_MOST_ATTEMPTS} attempts"
        player.play([Fate()] * RUNNERS, attempt, deadline)
    seconds = time.monotonic() - started
    outcome = Outcome(*_collect(folder, plan, store))
    outcome.ends.update(fate.end.name for fate in fates)
    outcome.exit_codes, outcome.processes, outcome.attempts = player.exit_codes, len(player.names), attempt
    outcome.seconds = seconds
    spells = read_spells(folder, player.names)
    outcome.redone = list(redone_work(spells))
    outcome.idle = list(idle_times(spells))
    return outcome


def _draw_fate(chance: random.Random) -> Fate:
    """Four of five processes come to grief, at any change of their progress or at any request to the store."""
    end = chance.choice([End.KILLED, End.KILLED, End.STOPPED, End.TOLD_TO_STOP, End.NONE])
    in_store = chance.random() < 0.5
    return Fate(end, chance.randint(1, 60 if in_store else 40), in_store)


def _is_done(store: Store, clip_digest: str) -> bool:
    return look_for_marker(store, clip_digest).marker is not None


def _collect(folder: Path, plan: Plan, store: Store) -> tuple[Contents, Counter[str]]:
    context = replace(build_context(folder, plan, Stage.COLLECT), store=store)
    collect.run(context)
    manifest = get_record(store, keys.manifest(plan.run), Manifest).record
    contents = {
        clip.clip: (clip.sidecar.done.latents.sha256, clip.sidecar.done.frames_sha256, clip.sidecar.done.video.sha256)
        for clip in manifest.clips
        if clip.sidecar is not None
    }
    return contents, Counter(clip.clip for clip in manifest.clips)


@dataclass
class Spell:
    """One process's work on one clip, out of its journal; `steps` are (time, next step)."""

    process: str
    clip: str
    idle_since: float
    taken: float
    steps: list[tuple[float, int]] = field(default_factory=list)
    saved: list[tuple[float, float]] = field(default_factory=list)
    """Ends of checkpoint writes, and the interval that began there."""
    last: float = 0.0
    """Its last sign of life."""
    longest_look: float = 0.0
    """Of those that it took before it had the clip."""


_IDLE = (RunnerState.CHECKING, RunnerState.WAITING, RunnerState.STARTING)


def read_spells(folder: Path, names: Sequence[str]) -> list[Spell]:
    """Of all processes, in the order in which the clips were taken."""
    spells: list[Spell] = []
    for name in names:
        spells += _spells_of(name, read_journal(folder / f"{name}.journal"))
    return sorted(spells, key=lambda spell: spell.taken)


def _spells_of(name: str, journal: list[dict[str, Any]]) -> Iterator[Spell]:
    spell: Spell | None = None
    idle_since = look_since = longest_look = 0.0
    taken: float | None = None
    interval = LEAST_INTERVAL_SECONDS
    was_idle = False
    for entry in journal:
        now, state = entry["time"], entry.get("state")
        if was_idle and state != RunnerState.CHECKING:
            longest_look = max(longest_look, now - look_since)
        if state in _IDLE:
            spell = None
            if not was_idle:
                idle_since, longest_look, taken, was_idle = now, 0.0, None, True
            look_since = now
        elif "claims" in entry and was_idle:
            taken, was_idle = now, False
        elif "interval" in entry:
            interval = entry["interval"]
            if spell is not None:
                spell.saved.append((now, interval))
        elif state == RunnerState.DENOISING:
            if spell is None:
                begun = taken if taken is not None else now
                spell = Spell(
                    name, entry["clip"], idle_since, begun, saved=[(now, interval)], longest_look=longest_look
                )
                yield spell
            spell.steps.append((now, entry["step"]))
        if spell is not None:
            spell.last = now


def redone_work(spells: Sequence[Spell]) -> Iterator[tuple[float, float]]:
    """For each spell that went on with another's clip: seconds of steps that are computed again, and their bound."""
    for position, later in enumerate(spells):
        begun, first_step = later.steps[0]
        before = [spell for spell in spells[:position] if spell.clip == later.clip and spell.process != later.process]
        reached = [
            (step, time_of_step, spell)
            for spell in before
            for time_of_step, step in spell.steps
            if time_of_step < begun and step > first_step
        ]
        if not reached:
            if before:
                yield 0.0, LEAST_INTERVAL_SECONDS
            continue
        _, end, robbed = max(reached, key=lambda item: (item[0], item[1]))
        base = max(time_of_step for time_of_step, step in robbed.steps if step <= first_step)
        saved, interval = max((item for item in robbed.saved if item[0] <= end), default=(base, LEAST_INTERVAL_SECONDS))
        times = [time_of_step for time_of_step, _ in robbed.steps if base <= time_of_step <= end]
        longest_step = max(after - before for before, after in pairwise(times))
        yield end - max(base, saved if saved < end else base), interval + longest_step


def idle_times(spells: Sequence[Spell]) -> Iterator[tuple[float, float]]:
    """How long each spell's process waited, once the one whose clip it went on with had given its last sign."""
    for position, later in enumerate(spells):
        before = [spell for spell in spells[:position] if spell.clip == later.clip and spell.process != later.process]
        if before and before[-1].last < later.taken:
            yield later.taken - max(later.idle_since, before[-1].last), later.longest_look


def problems(outcome: Outcome, undisturbed: Contents, times: Times) -> list[str]:
    """What must not be: sentences, none of them where all is well."""
    found = []
    if outcome.contents != undisturbed:
        found.append(f"the clips differ from those of the undisturbed run: {outcome.contents}")
    if set(outcome.manifest_clips.values()) != {1} or set(outcome.manifest_clips) != set(undisturbed):
        found.append(f"the manifest does not name each clip once: {outcome.manifest_clips}")
    found += [
        f"{seconds:.3f} s of steps were computed again, more than one interval and a step: {bound:.3f} s"
        for seconds, bound in outcome.redone
        if seconds > bound
    ]
    for idle, look in outcome.idle:
        # A look finds that the lease is over; the one that saw the claim first, and the one before it, came too early.
        bound = times.lease + 2 * (times.poll + look)
        if idle > bound:
            found.append(f"a runner waited {idle:.3f} s, more than {bound:.3f} s")
    return found
