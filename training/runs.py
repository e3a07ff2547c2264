"""What every training command shares: its arguments, the clock that ends it, the learning rate, the curve."""

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.plots import plot

CHECKPOINT_SECONDS = 40.0
"""Between checkpoints: a run that is killed loses no more than that."""

WAIT_EVERY = 20
"""Steps between waiting for the device: the host would run far ahead of it, and of the clock."""


def parser(name: str, what: str, *, rate: float) -> argparse.ArgumentParser:
    """Arguments that all commands have."""
    arguments = argparse.ArgumentParser(prog=f"python -m training.{name}", description=what)
    arguments.add_argument("--out", type=Path, required=True, help="folder for weights and curve")
    arguments.add_argument("--from", dest="start", type=Path, help="folder of the run to go on from")
    arguments.add_argument("--minutes", type=float, default=9.0, help="the run ends then; its imports come on top")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments.add_argument("--rate", type=float, default=rate, help="learning rate after warm-up")
    return arguments


@dataclass
class Clock:
    """A run's time, from the making of this on: what Python takes to start is not counted."""

    minutes: float
    now: Callable[[], float] = time.monotonic
    begin: float = field(init=False)

    def __post_init__(self) -> None:
        self.begin = self.now()

    @property
    def seconds(self) -> float:
        return self.now() - self.begin

    @property
    def part(self) -> float:
        """How much of the time is over, 0 to 1."""
        return min(1.0, self.seconds / (60 * self.minutes))

    def stage(self, until: float) -> Iterator[float]:
        """How much of the time from now to the part `until` is over, 0 to 1, before each step; at least once."""
        begin = self.part
        length = max(1e-9, until - begin)
        yield 0.0
        while (part := self.part) < until:
            yield (part - begin) / length


def learning_rate(step: int, part: float, peak: float, *, warm_up: int = 300, falls_from: float = 0.6) -> float:
    """Up in `warm_up` steps, level, and down to a fiftieth in the last part of the time: every run ends well."""
    down = 1.0 if part < falls_from else 1 - 0.98 * (part - falls_from) / (1 - falls_from)
    return peak * min(1.0, (step + 1) / warm_up) * down


class Curve:
    """Figures of a run: NAME.csv, and NAME.png of the columns `drawn`, which have one `unit`, or else the first."""

    def __init__(
        self, folder: Path, name: str, columns: Sequence[str], *, drawn: Sequence[str] = (), unit: str = ""
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._csv = folder / f"{name}.csv"
        self._png = folder / f"{name}.png"
        self._columns = ("seconds", "step", *columns)
        self._drawn, self._unit = drawn or columns[:1], unit
        self._rows: list[tuple[float, ...]] = []

    def add(self, seconds: float, step: int, *values: float) -> None:
        """Adds a row and prints it."""
        self._rows.append((round(seconds, 1), step, *values))
        named = zip(self._columns, self._rows[-1], strict=True)
        print("  ".join(f"{name} {value:.6g}" for name, value in named), flush=True)

    def write(self) -> None:
        """Replaces both files."""
        unfinished = self._csv.with_suffix(".unfinished")
        with unfinished.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self._columns)
            writer.writerows([[f"{value:.6g}" for value in row] for row in self._rows])
        unfinished.replace(self._csv)
        values = dict(zip(self._columns, zip(*self._rows, strict=True), strict=True))
        lines = {name: values[name] for name in self._drawn}
        plot(values["step"], lines, across="step", unit=self._unit).save(self._png)
