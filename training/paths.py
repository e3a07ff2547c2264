"""Which motion a path is: rules on how place, size and turn change through a clip. Knows no pixels.

Lengths are in units of the frame's shorter side, y is down, as in scenes.py. The thresholds are about half of the least
that scenes.py draws of each motion.

Shape suffixes: T frames.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.scenes import Motion

Floats = NDArray[np.float32]

_LEAST_TRAVEL = 0.14
_LEAST_GROWTH = math.log(1.28)
_LEAST_TURN = math.radians(54)
_ORBIT_ROUNDNESS = 0.4  # of the lesser to the greater extent
_ORBIT_SWEEP = math.radians(150)
_STRAIGHTNESS = 0.8  # of the variance that even motion explains
_TURNING_PART = 0.3  # of the extent: what counts as turning back


@dataclass(frozen=True)
class Path:
    """An object through the clip. `radius_T` is that of the disc of equal area, `turn_T` goes on without jumps."""

    x_T: Floats
    y_T: Floats
    radius_T: Floats
    turn_T: Floats


def classify(path: Path) -> Motion | None:
    """The motion that the path shows most of; None where it stands still, or moves in a way that has no name."""
    if len(path.x_T) < 3:
        return None
    x_T, y_T = _without_outliers(path.x_T), _without_outliers(path.y_T)
    growth_T = _without_outliers(np.log(path.radius_T))
    travel = max(float(np.ptp(x_T)), float(np.ptp(y_T))) / _LEAST_TRAVEL
    growth = _even_change(growth_T) / _LEAST_GROWTH
    turn = _even_change(_without_outliers(path.turn_T)) / _LEAST_TURN
    strongest = max(travel, abs(growth), abs(turn))
    if strongest < 1:
        return None
    if strongest == travel:
        return _classify_travel(x_T, y_T)
    if strongest == abs(growth):
        return Motion.GROW if growth > 0 else Motion.SHRINK
    return Motion.ROTATE


def _classify_travel(x_T: Floats, y_T: Floats) -> Motion | None:
    across, down = float(np.ptp(x_T)), float(np.ptp(y_T))
    if min(across, down) > _ORBIT_ROUNDNESS * max(across, down):
        return Motion.ORBIT if _is_round(x_T, y_T) else None
    along_T = x_T if across > down else y_T
    change = _even_change(along_T)
    if _straightness(along_T) >= _STRAIGHTNESS:
        if across > down:
            return Motion.RIGHT if change > 0 else Motion.LEFT
        return Motion.DOWN if change > 0 else Motion.UP
    return Motion.BOUNCE if down > across and _count_reversals(along_T) >= 2 else None


def _without_outliers(values_T: Floats) -> Floats:
    """The median of each value and its neighbours."""
    padded = np.pad(values_T, 1, mode="edge")
    return np.asarray(np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0), np.float32)


def _line(values_T: Floats) -> Floats:
    """The even change that fits best."""
    frame_T = np.arange(len(values_T))
    slope, start = np.polyfit(frame_T, values_T, 1)
    return np.asarray(start + slope * frame_T, np.float32)


def _even_change(values_T: Floats) -> float:
    line_T = _line(values_T)
    return float(line_T[-1] - line_T[0])


def _straightness(values_T: Floats) -> float:
    return float(1 - np.var(values_T - _line(values_T)) / np.var(values_T))


def _count_reversals(values_T: Floats) -> int:
    """How often the path turns back, and goes back by more than a part of its extent."""
    least = _TURNING_PART * float(np.ptp(values_T))
    furthest, direction, reversals = float(values_T[0]), 0, 0
    for value in values_T:
        if direction * (value - furthest) > 0:
            furthest = float(value)
        elif abs(value - furthest) > least:
            reversals += direction != 0
            direction, furthest = (1 if value > furthest else -1), float(value)
    return reversals


def _is_round(x_T: Floats, y_T: Floats) -> bool:
    """Whether the points lie on a circle and go round it. The circle: least squares of x^2 + y^2 + ax + by + c."""
    terms_T3 = np.stack([x_T, y_T, np.ones_like(x_T)], axis=1)
    (a, b, c), *_ = np.linalg.lstsq(terms_T3, -(x_T**2 + y_T**2), rcond=None)
    radius = math.sqrt(max(a * a / 4 + b * b / 4 - c, 1e-9))
    from_centre_T = np.hypot(x_T + a / 2, y_T + b / 2)
    angle_T = np.unwrap(np.arctan2(y_T + b / 2, x_T + a / 2))
    return bool(from_centre_T.std() < 0.2 * radius and abs(angle_T[-1] - angle_T[0]) >= _ORBIT_SWEEP)
