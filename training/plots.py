"""Plots of lines, drawn with Pillow alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE = (900, 420)
COLOURS = ((40, 80, 225), (220, 35, 40), (40, 165, 70))
"""Of the first line, the second and so on, and over again."""

_LEFT, _TOP, _RIGHT, _BOTTOM = 80, 40, 870, 370  # of the frame around the lines
_FONT = ImageFont.load_default(14)
_INK, _GRID = (32, 32, 32), (222, 222, 222)
_MARGIN = 0.04  # of an axis, beyond what is drawn
_MOST_TICKS = 8


@dataclass(frozen=True)
class Axis:
    """The numbers at its ends, and where these are in the picture."""

    least: float
    greatest: float
    begin: int
    end: int

    def place(self, value: float) -> float:
        return self.begin + (value - self.least) / (self.greatest - self.least) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Round numbers: multiples of 1, 2 or 5 times a power of ten."""
        power = 10 ** math.floor(math.log10((self.greatest - self.least) / _MOST_TICKS))
        distance = next(
            power * round_number
            for round_number in (1, 2, 5, 10)
            if (self.greatest - self.least) / (power * round_number) <= _MOST_TICKS
        )
        first, last = math.ceil(self.least / distance), math.floor(self.greatest / distance)
        return [number * distance for number in range(first, last + 1)]


def plot(xs: Sequence[float], lines: Mapping[str, Sequence[float]], *, across: str, unit: str = "") -> Image.Image:
    """Named lines, each a value for every x, in one unit; `across` is what x counts. NaN and infinity are left out."""
    points = {
        name: [(x, y) for x, y in zip(xs, values, strict=True) if math.isfinite(y)] for name, values in lines.items()
    }
    x_axis = _axis([x for line in points.values() for x, _ in line], _LEFT, _RIGHT)
    y_axis = _axis([y for line in points.values() for _, y in line], _BOTTOM, _TOP)
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    for tick in x_axis.ticks():
        x = x_axis.place(tick)
        draw.line((x, _TOP, x, _BOTTOM), _GRID)
        draw.text((x, _BOTTOM + 6), f"{tick:,.6g}", _INK, _FONT, anchor="mt")
    for tick in y_axis.ticks():
        y = y_axis.place(tick)
        draw.line((_LEFT, y, _RIGHT, y), _GRID)
        draw.text((_LEFT - 8, y), f"{tick:,.6g}", _INK, _FONT, anchor="rm")
    draw.rectangle((_LEFT, _TOP, _RIGHT, _BOTTOM), outline=_INK)
    draw.text(((_LEFT + _RIGHT) / 2, SIZE[1] - 8), across, _INK, _FONT, anchor="mb")
    draw.text((_LEFT - 8, _TOP - 14), unit, _INK, _FONT, anchor="rs")
    name_left = float(_LEFT)
    for number, (name, line) in enumerate(points.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in line]
        draw.line(places, colour, width=2)
        for x, y in places:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
        draw.text((name_left, _TOP - 14), name, colour, _FONT, anchor="ls")
        name_left += _FONT.getlength(name) + 24
    return image


def _axis(values: Sequence[float], begin: int, end: int) -> Axis:
    least, greatest = (min(values), max(values)) if values else (0.0, 1.0)
    margin = _MARGIN * (greatest - least) or 0.5
    return Axis(least - margin, greatest + margin, begin, end)
