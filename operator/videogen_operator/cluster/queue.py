"""A queue of keys to look at: many wakes of one key are one look, and no two workers ever look at one key at once.

`KeySchedule` is the rule book, without threads or clock; `WorkQueue` lends it to worker threads. A key is in at most
one of these places, and beside that it may have one time to be woken at:

    (unknown) --wake--> ready --take--> active --done--> (unknown)
                                          │  ▲
                                     wake │  │ (still active, to be looked at again)
                                          ▼  │
                                         dirty --done--> ready

Taking a key answers every wake before it, also the timed one: the pass that begins now says itself when to look again.
The idea is that of client-go's workqueue.
"""

import heapq
import random
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_FEW_TIMERS = 64


@dataclass(frozen=True)
class Backoff:
    """Seconds to wait after the n-th failure in a row: doubling from `first` up to `most`, with up to half taken off.

    The jitter keeps a thousand keys that failed together from coming back together.
    """

    first: float = 0.2
    most: float = 60.0

    def seconds(self, failures: int, fraction: float) -> float:
        """`failures` counts from 1; `fraction` is the draw, in [0, 1)."""
        doublings = min(failures - 1, 32)
        return float(min(self.most, self.first * 2**doublings)) * (1 - fraction / 2)


class KeySchedule(Generic[Key]):
    """Which key is next, as a function of what was asked for and of `now` (seconds of any one clock)."""

    def __init__(self, backoff: Backoff, draw: Callable[[], float]) -> None:
        self._backoff = backoff
        self._draw = draw
        self._ready: dict[Key, None] = {}  # in the order of their wakes
        self._active: set[Key] = set()
        self._dirty: set[Key] = set()
        self._timer_of: dict[Key, tuple[float, int, Key]] = {}
        self._timers: list[tuple[float, int, Key]] = []  # a heap; a timer that is not its key's is void
        self._num_timers = 0  # ever made: keys of one time keep the order of their wakes, and are never compared
        self._failures: dict[Key, int] = {}

    @property
    def num_ready(self) -> int:
        return len(self._ready)

    @property
    def num_active(self) -> int:
        return len(self._active)

    def wake(self, key: Key) -> None:
        """Look at the key as soon as a worker is free, or once more if one is looking."""
        if key in self._active:
            self._dirty.add(key)
        else:
            self._ready.setdefault(key)

    def wake_at(self, key: Key, due: float) -> None:
        """Wake the key at a time; of several times the earliest counts."""
        before = self._timer_of.get(key)
        if before is not None and before[0] <= due:
            return
        self._num_timers += 1
        self._timer_of[key] = (due, self._num_timers, key)
        heapq.heappush(self._timers, self._timer_of[key])
        if len(self._timers) > 2 * len(self._timer_of) + _FEW_TIMERS:
            self._timers = sorted(self._timer_of.values())

    def take(self, now: float) -> Key | None:
        """The key that has been ready longest, now active; None where none is ready."""
        self._wake_due(now)
        if not self._ready:
            return None
        key = next(iter(self._ready))
        del self._ready[key]
        self._timer_of.pop(key, None)
        self._active.add(key)
        return key

    def done(self, key: Key) -> None:
        """The worker has finished with the key. Raises ValueError for a key that is not active."""
        if key not in self._active:
            raise ValueError(f"{key!r} is done but was not taken")
        self._active.remove(key)
        if key in self._dirty:
            self._dirty.remove(key)
            self._ready[key] = None

    def retry(self, key: Key, now: float, at_least: float = 0.0) -> float:
        """Counts one more failure of the key and wakes it after its back-off; returns the seconds."""
        self._failures[key] = self._failures.get(key, 0) + 1
        seconds = max(at_least, self._backoff.seconds(self._failures[key], self._draw()))
        self.wake_at(key, now + seconds)
        return seconds

    def forget(self, key: Key) -> None:
        """The key's last pass went well: its next failure is the first again."""
        self._failures.pop(key, None)

    def seconds_to_next(self, now: float) -> float | None:
        """Seconds until a key may be taken: 0 where one is ready, None where only a wake will make one so."""
        if self._ready:
            return 0.0
        self._drop_void_timers()
        return max(0.0, self._timers[0][0] - now) if self._timers else None

    def _wake_due(self, now: float) -> None:
        self._drop_void_timers()
        while self._timers and self._timers[0][0] <= now:
            key = heapq.heappop(self._timers)[2]
            del self._timer_of[key]
            self.wake(key)
            self._drop_void_timers()

    def _drop_void_timers(self) -> None:
        while self._timers and self._timer_of.get(self._timers[0][2]) is not self._timers[0]:
            heapq.heappop(self._timers)


class WorkQueue(Generic[Key]):
    """A KeySchedule for many threads, on the monotonic clock."""

    def __init__(
        self,
        backoff: Backoff | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._schedule = KeySchedule[Key](backoff or Backoff(), draw)
        self._changed = threading.Condition()
        self._shut_down = False

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        with self._changed:
            return self._schedule.num_ready

    def wake(self, key: Key) -> None:
        """Look at the key soon; a wake while a worker looks at it makes one more look."""
        with self._changed:
            self._schedule.wake(key)
            self._changed.notify()

    def wake_after(self, key: Key, seconds: float) -> None:
        """Wake the key later; of several such times the earliest counts, and a look before it cancels it."""
        with self._changed:
            self._schedule.wake_at(key, self._clock() + seconds)
            self._changed.notify()

    def take(self) -> Key | None:
        """Waits for a key; the caller owes a `done`. None: the queue was shut down."""
        with self._changed:
            while not self._shut_down:
                key = self._schedule.take(self._clock())
                if key is not None:
                    # This thread may have been the one that waited for the next timer.
                    self._changed.notify()
                    return key
                self._changed.wait(self._schedule.seconds_to_next(self._clock()))
            return None

    def done(self, key: Key) -> None:
        with self._changed:
            self._schedule.done(key)
            self._changed.notify()

    def retry(self, key: Key, at_least: float = 0.0) -> float:
        """Wake the key after its back-off, one step longer than the last time; returns the seconds."""
        with self._changed:
            seconds = self._schedule.retry(key, self._clock(), at_least)
            self._changed.notify()
            return seconds

    def forget(self, key: Key) -> None:
        with self._changed:
            self._schedule.forget(key)

    def shut_down(self) -> None:
        """No more keys are handed out; keys that are active may finish."""
        with self._changed:
            self._shut_down = True
            self._changed.notify_all()
