"""A runner process that comes to grief as it is told to: the real generate role, and a journal of what it did.

It is forked from a server that has imported everything, so that a run of a second can have dozens of processes.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
from tests.loss.stand_in import StandInDenoiser, StandInVae
from tests.store.store_backends import Backend
from tests.store.store_proxy import Fault, Proxy, Reply

from videogen_api import report
from videogen_api.errors import StoreUnavailable
from videogen_api.naming import Env, Stage
from videogen_api.plan import Plan
from videogen_runner.checkpoint import CheckpointInterval
from videogen_runner.environment import Environment
from videogen_runner.main import failure_of
from videogen_runner.progress import ProgressHolder
from videogen_runner.roles import generate
from videogen_runner.roles.context import Clock, RoleContext
from videogen_runner.store import Entry, Object, Store

T = TypeVar("T")

LEAST_INTERVAL_SECONDS = 0.1
WORK_PER_WRITE = 2.0


class End(Enum):
    """What becomes of a process at the moment that its fate names."""

    NONE = auto()
    KILLED = auto()
    STOPPED = auto()
    """SIGSTOP; whoever plays sends SIGCONT after more than a lease."""
    TOLD_TO_STOP = auto()
    """As by SIGTERM."""


@dataclass(frozen=True)
class Fate:
    """`at` counts the changes of the process's progress, or its requests to the store: any step, and any write."""

    end: End = End.NONE
    at: int = 0
    in_store: bool = False


@dataclass(frozen=True)
class Order:
    """All that a process is told; picklable."""

    folder: Path
    plan: Path
    backend: Backend
    pool: str
    index: int
    attempt: int
    name: str
    times: generate.Times
    fate: Fate
    seed: int
    store_errors: float
    """Share of the store's requests that fail: before they are carried out, or after."""
    step_seconds: float | None
    """Of the stand-in; None: the plan's own weights, with the real networks."""


class Journal:
    """One line for each thing that happened, of which a killed process has written all that it did."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, **entry: Any) -> None:
        os.write(self._descriptor, json.dumps({"time": time.monotonic(), **entry}).encode() + b"\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Doom:
    """Counts, and ends the process where its fate says."""

    def __init__(self, fate: Fate, journal: Journal, stop: threading.Event) -> None:
        self._fate, self._journal, self._stop = fate, journal, stop
        self._counts = {True: 0, False: 0}

    def count(self, *, in_store: bool) -> None:
        self._counts[in_store] += 1
        if self._fate.in_store is not in_store or self._counts[in_store] != self._fate.at:
            return
        self._journal.write(end=self._fate.end.name)
        if self._fate.end is End.KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._fate.end is End.STOPPED:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._fate.end is End.TOLD_TO_STOP:
            self._stop.set()


class WatchedProgress(ProgressHolder):
    """Writes every change into the journal."""

    def __init__(self, initial: report.Progress, journal: Journal, doom: Doom) -> None:
        super().__init__(initial)
        self._journal, self._doom = journal, doom

    def update(self, **changes: Any) -> None:
        super().update(**changes)
        seen = self.snapshot()
        self._journal.write(state=seen.state, clip=seen.clip, step=seen.step)
        self._doom.count(in_store=False)


class WatchedInterval(CheckpointInterval):
    """Writes into the journal how long there will be no checkpoint."""

    def __init__(self, journal: Journal, now: float) -> None:
        super().__init__(now, least_seconds=LEAST_INTERVAL_SECONDS, work_per_write=WORK_PER_WRITE)
        self._journal = journal

    def begin(self, now: float) -> None:
        super().begin(now)
        self._journal.write(interval=self._due - now)

    def written(self, started: float, ended: float) -> None:
        super().written(started, ended)
        self._journal.write(interval=self._due - ended)


class UnreliableStore(Store):
    """Another store, some of whose requests fail: before they are carried out, or after. Its claims are noted."""

    def __init__(self, inner: Store, errors: float, seed: int, doom: Doom, journal: Journal) -> None:
        self._inner, self._errors, self._doom, self._journal = inner, errors, doom, journal
        self._random = random.Random(seed)  # noqa: S311 - no secrets here

    def _ask(self, request: Callable[[], T]) -> T:
        fails, before = self._random.random() < self._errors, self._random.random() < 0.5
        if not (fails and before):
            self._doom.count(in_store=True)
            result = request()
            if not fails:
                return result
        raise StoreUnavailable("made up for a test")

    def url(self, key: str) -> str:
        return self._inner.url(key)

    def get(self, key: str, sha256: str | None = None) -> Object:
        return self._ask(lambda: self._inner.get(key, sha256))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._ask(lambda: self._inner.get_range(key, start, length))

    def get_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        self._ask(lambda: self._inner.get_file(key, path, sha256))

    def put(self, key: str, body: bytes) -> None:
        self._ask(lambda: self._inner.put(key, body))

    def put_file(self, key: str, path: Path) -> None:
        self._ask(lambda: self._inner.put_file(key, path))

    def copy(self, source: str, target: str) -> None:
        self._ask(lambda: self._inner.copy(source, target))

    def create(self, key: str, body: bytes) -> str | None:
        return self._noted(key, self._ask(lambda: self._inner.create(key, body)))

    def swap(self, key: str, body: bytes, etag: str) -> str | None:
        return self._noted(key, self._ask(lambda: self._inner.swap(key, body, etag)))

    def _noted(self, key: str, etag: str | None) -> str | None:
        if etag is not None and "/claims/" in key:
            self._journal.write(claims=True)
        return etag

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._ask(lambda: iter(list(self._inner.list(prefix))))

    def head(self, key: str) -> Entry:
        return self._ask(lambda: self._inner.head(key))

    def delete(self, key: str) -> None:
        self._ask(lambda: self._inner.delete(key))


def jumping_clock(seed: int) -> Clock:
    """Clocks of which no two processes agree: one began anywhere, the other jumps at every look."""
    chance = random.Random(seed)  # noqa: S311 - no secrets here
    start = chance.uniform(0, 1e7)
    return Clock(monotonic=lambda: start + time.monotonic(), wall=lambda: chance.uniform(0, 4e9))


def run_process(order: Order) -> None:
    """Runs the role and ends the process with its exit code."""
    torch.set_num_threads(1)
    journal = Journal(order.folder / f"{order.name}.journal")
    stop = threading.Event()
    doom = Doom(order.fate, journal, stop)
    environment = Environment.parse(
        {
            Env.ROLE: Stage.GENERATE,
            Env.PLAN: str(order.plan),
            Env.POOL: order.pool,
            Env.INDEX: str(order.index),
            Env.ATTEMPT: str(order.attempt),
            Env.POD: order.name,
            Env.DEVICE: "cpu",
            Env.SCRATCH: str(order.folder),
        }
    )
    plan = Plan.read(order.plan)
    context = RoleContext(
        environment=environment,
        plan=plan,
        store=UnreliableStore(order.backend.open(), order.store_errors, order.seed, doom, journal),
        progress=WatchedProgress(ProgressHolder.starting(environment).snapshot(), journal, doom),
        stop=stop,
        clock=jumping_clock(order.seed),
    )
    times = generate.Times(
        order.times.lease, order.times.heartbeat, order.times.poll, new_interval=partial(WatchedInterval, journal)
    )
    try:
        with _stand_ins(order.step_seconds):
            generate.run(context, times)
    except Exception as error:  # noqa: BLE001 - as in main: the exit code says it
        journal.write(error=f"{type(error).__name__}: {error}")
        os._exit(failure_of(error).exit_code)
    journal.write(state="Ended", clip=None, step=0)
    os._exit(0)


def _stand_ins(step_seconds: float | None) -> AbstractContextManager[object]:
    if step_seconds is None:
        return nullcontext()
    return mock.patch.multiple(
        generate,
        checked_weights=mock.Mock(),
        load_denoiser=lambda *_, **__: StandInDenoiser(step_seconds),
        load_vae=lambda *_, **__: StandInVae(),
    )


def unreliable_proxy(proxy: Proxy, share: float, seed: int) -> None:
    """Has the proxy lose a share of the requests and replies to come."""
    chance = random.Random(seed)  # noqa: S311 - no secrets here
    errors = [Reply(503, "SlowDown"), Reply(500, "InternalError")]
    faults = [Fault.DROP_REQUEST, Fault.DROP_REPLY, Fault.CUT_REPLY, *errors]
    for method in ("GET", "PUT", "HEAD", "DELETE"):
        proxy.plan(method, *(chance.choice(faults) if chance.random() < share else Fault.NONE for _ in range(20_000)))
