"""Milliseconds of calls on a device, and the clock and power of a card while they ran."""

import contextlib
import itertools
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

_LOOK_SECONDS = 0.2
_QUERY = ("nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_calls(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Milliseconds of each call, by the device's own clock; they follow each other without a wait between them."""
    wait(device)
    if device.type != "cuda":
        times = [time.perf_counter()]
        for call in calls:
            call()
            times.append(time.perf_counter())
        return [1000 * (after - before) for before, after in itertools.pairwise(times)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]  # type: ignore[no-untyped-call]
    events[0].record()
    for call, event in zip(calls, events[1:], strict=True):
        call()
        event.record()
    wait(device)
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]


@dataclass(frozen=True)
class Clocks:
    """Medians over some span of time."""

    sm_mhz: float
    watts: float


class ClockLog:
    """Looks at a card's clock and power from a thread, and changes nothing about them."""

    def __init__(self, device: torch.device) -> None:
        self._command = [*_QUERY, f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"]
        self._looks: list[tuple[float, float, float]] = []
        self._stop = threading.Event()

    def during(self, spans: Sequence[tuple[float, float]]) -> Clocks | None:
        """Of the looks within any of `spans`, from and to on the monotonic clock; None where there was none."""
        looks = [look for look in self._looks if any(start <= look[0] <= end for start, end in spans)]
        if not looks:
            return None
        return Clocks(*(statistics.median(values) for values in list(zip(*looks, strict=True))[1:]))

    def watch(self) -> None:
        """Looks until `stop`, or until the card does not tell."""
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                done = subprocess.run(self._command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
                mhz, watts = map(float, done.stdout.split(","))
            except (OSError, ValueError):
                return
            self._looks.append((time.monotonic(), mhz, watts))

    def stop(self) -> None:
        self._stop.set()


@contextlib.contextmanager
def clock_log(device: torch.device) -> Iterator[ClockLog | None]:
    """A log that runs meanwhile; None for a device without clocks to ask for."""
    if device.type != "cuda":
        yield None
        return
    log = ClockLog(device)
    thread = threading.Thread(target=log.watch, name="clocks", daemon=True)
    thread.start()
    try:
        yield log
    finally:
        log.stop()
        thread.join()
