"""Watches the memory of this process's device: one look a second, whoever asks how often.

`/progress` and `/metrics` show the last look. The memory ladder asks for the *room* of the last half minute: what the
process could count on throughout, other processes of the card at their worst.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from videogen_runner.memory import MemorySample

log = logging.getLogger("videogen")

INTERVAL_SECONDS = 1.0
WINDOW_SECONDS = 30.0

# A card that does not answer keeps nobody from ending.
_JOIN_SECONDS = 5.0


class MemoryMonitor:
    """Looks at one device; safe to use from many threads. The clock and the probe are the caller's."""

    def __init__(
        self,
        probe: Callable[[str], MemorySample],
        device: Callable[[], str],
        now: Callable[[], float],
        window_seconds: float = WINDOW_SECONDS,
    ) -> None:
        """`device` says which device the process runs on; a process learns that after it has begun."""
        self._probe = probe
        self._device = device
        self._now = now
        self._window_seconds = window_seconds
        self._lock = threading.Lock()
        self._seen_device = ""
        self._seen: deque[tuple[float, MemorySample]] = deque()

    def look(self) -> MemorySample:
        """Asks the device now."""
        device = self._device()
        sample, now = self._probe(device), self._now()
        with self._lock:
            if device != self._seen_device:
                self._seen.clear()
                self._seen_device = device
            self._seen.append((now, sample))
            while self._seen[0][0] < now - self._window_seconds:
                self._seen.popleft()
        return sample

    def last(self) -> MemorySample:
        """The last look at the device."""
        with self._lock:
            if self._seen and self._seen_device == self._device():
                return self._seen[-1][1]
        return self.look()

    def room(self, at_most_seconds_ago: float = 0.0) -> int:
        """The fewest bytes that this process could have held altogether, over the window up to now.

        It looks now, unless the last look was so few seconds ago: files of control groups can take milliseconds.
        """
        with self._lock:
            is_fresh = (
                bool(self._seen)
                and self._seen_device == self._device()
                and self._now() - self._seen[-1][0] < at_most_seconds_ago
            )
        if not is_fresh:
            self.look()
        with self._lock:
            return min(sample.room for _, sample in self._seen)

    def run(self, ended: threading.Event, interval_seconds: float = INTERVAL_SECONDS) -> None:
        """Looks once an interval until `ended`. A device that cannot be asked is not asked again: the work itself will
        say what is wrong with it."""
        while not ended.wait(interval_seconds):
            try:
                self.look()
            except (OSError, RuntimeError) as error:
                log.warning("the memory of %s can no longer be watched: %s", self._device(), error)
                return


@contextmanager
def watch_memory(monitor: MemoryMonitor, interval_seconds: float = INTERVAL_SECONDS) -> Iterator[MemoryMonitor]:
    """Runs the monitor on a thread of its own until the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=monitor.run, args=(ended, interval_seconds), name="memory", daemon=True)
    thread.start()
    try:
        yield monitor
    finally:
        ended.set()
        thread.join(_JOIN_SECONDS)
