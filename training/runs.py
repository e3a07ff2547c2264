"""What every training command shares: its arguments, the clock that ends it, the learning rate, the curve."""

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

CHECKPOINT_SECONDS = 40.0
"""Between checkpoints: a run that is killed loses no more than that."""

WAIT_EVERY = 20
"""Steps between waiting for the device: the host would run far ahead of it, and of the clock."""

_CURVE_SIZE = (900, 420)
_CURVE_MARGIN = 48


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
    begin: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begin

    @property
    def part(self) -> float:
        """How much of the time is over, 0 to 1."""
        return min(1.0, self.seconds / (60 * self.minutes))


def learning_rate(step: int, part: float, peak: float, *, warm_up: int = 300, falls_from: float = 0.6) -> float:
    """Up in `warm_up` steps, level, and down to a fiftieth in the last part of the time: every run ends well."""
    down = 1.0 if part < falls_from else 1 - 0.98 * (part - falls_from) / (1 - falls_from)
    return peak * min(1.0, (step + 1) / warm_up) * down


class Curve:
    """Figures of a run over time: curve.csv, and curve.png of the first one."""

    def __init__(self, folder: Path, name: str, columns: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._csv = folder / f"{name}.csv"
        self._png = folder / f"{name}.png"
        self._columns = ("seconds", "step", *columns)
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
        draw_curve([(row[1], row[2]) for row in self._rows], self._columns[2]).save(self._png)


def draw_curve(points: Sequence[tuple[float, float]], title: str) -> Image.Image:
    """A line through the points, both axes from their least to their greatest value."""
    width, height = _CURVE_SIZE
    image = Image.new("RGB", _CURVE_SIZE, "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = _CURVE_MARGIN, _CURVE_MARGIN, width - _CURVE_MARGIN, height - _CURVE_MARGIN
    draw.rectangle((left, top, right, bottom), outline="grey")
    draw.text((left, top - 20), title, fill="black")
    if not points:
        return image
    (x0, x1), (y0, y1) = ((min(values), max(values)) for values in zip(*points, strict=True))
    for text, at in ((f"{y1:.4g}", (4, top)), (f"{y0:.4g}", (4, bottom - 10))):
        draw.text(at, text, fill="black")
    draw.text((left, bottom + 6), f"step {x0:.0f}", fill="black")
    draw.text((right - 60, bottom + 6), f"step {x1:.0f}", fill="black")
    wide, high = max(x1 - x0, 1e-9), max(y1 - y0, 1e-9)
    line = [(left + (x - x0) / wide * (right - left), bottom - (y - y0) / high * (bottom - top)) for x, y in points]
    draw.line(line, fill=(40, 80, 225), width=2)
    return image
