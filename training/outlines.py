"""Which shape an outline is, and how it is turned: the picture around its centre, compared with each shape's own.

Pictures are polar and scaled by area, so that a shape's place and size do not count and a turn is a shift; the best
shift says how it is turned. Shapes to compare with are drawn by rendering.py and blurred as video is.

Shape suffixes: T frames, H height, W width, R radii, A angles; K shapes, sharp and soft.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from training.rendering import signed_distance
from training.scenes import Shape

Floats = NDArray[np.float32]

FOLDS = {Shape.TRIANGLE: 3, Shape.SQUARE: 4, Shape.STAR: 5, Shape.CROSS: 4}
"""How often a shape looks the same in one turn, of those that a turn changes."""

LEAST_COVER = 0.2
"""Pixels that an object covers less are not counted: noise has as much."""

_NUM_ANGLES = 60  # a multiple of every fold
_RADII = np.linspace(0.1, 1.9, 19, dtype=np.float32)  # in radii of the disc of equal area
_RADIUS_STEP = 0.08  # between templates' sizes, as a part of a size
_PLAIN_LIKENESS = 0.9  # a correlation that needs nothing else
_LEAST_LIKENESS, _LEAST_LEAD = 0.8, 0.1  # one that is less, and how far behind all other shapes must then be
_SOFTNESSES = (2, 4)  # times that a template is smoothed: once as what is read, the rest as by networks and video files
_CANDIDATES = tuple(shape for _ in _SOFTNESSES for shape in Shape)


def smooth(x_THWC: Floats) -> Floats:
    """Each pixel with its neighbours, by 1 2 1 across and down; edges are repeated."""
    for axis in (1, 2):
        padding = [(0, 0)] * x_THWC.ndim
        padding[axis] = (1, 1)
        padded = np.pad(x_THWC, padding, mode="edge")
        length = x_THWC.shape[axis]
        before, at, after = (np.take(padded, range(first, first + length), axis) for first in range(3))
        x_THWC = np.asarray((before + 2 * at + after) / 4, np.float32)
    return x_THWC


def recognise(cover_THW: Floats, x_T: Floats, y_T: Floats, radius_T: Floats) -> tuple[Shape | None, Floats]:
    """The shape that all frames together show, None where none fits, and its turn in each frame in radians.

    `cover_THW` is how much of each pixel the object covers; centre and radius, of the disc of equal area, in pixels.
    The turn goes on from frame to frame without jumps; it is 0 for a shape that no turn changes.
    """
    polar_TRA = _polar(cover_THW, x_T, y_T, radius_T)
    template_TKRA = np.stack([_templates(_nearest(radius)) for radius in radius_T])
    likeness_TKA = _likeness(polar_TRA, template_TKRA)
    mean_K = likeness_TKA.max(axis=2).mean(axis=0)
    best = int(mean_K.argmax())
    shape = _CANDIDATES[best] if _is_clear(mean_K) else None
    return shape, _turns(shape, polar_TRA, template_TKRA[:, best])


def _is_clear(likeness_K: Floats) -> bool:
    second, first = np.sort(likeness_K.reshape(len(_SOFTNESSES), -1).max(axis=0))[-2:]
    return bool(first >= _PLAIN_LIKENESS or (first >= _LEAST_LIKENESS and first - second >= _LEAST_LEAD))


def _turns(shape: Shape | None, polar_TRA: Floats, template_TRA: Floats) -> Floats:
    """From the phase of the harmonic that the shape repeats with."""
    if shape not in FOLDS:
        return np.zeros(len(polar_TRA), np.float32)
    fold = FOLDS[shape]
    seen_TR, own_TR = (np.fft.rfft(x_TRA, axis=2)[:, :, fold] for x_TRA in (polar_TRA, template_TRA))
    phase_T = np.angle((seen_TR * own_TR.conj() * _RADII).sum(axis=1))
    # A picture turned by an angle has a phase that lags by as much.
    return np.asarray(np.unwrap(-phase_T) / fold, np.float32)


def _likeness(polar_TRA: Floats, template_TKRA: Floats) -> Floats:
    """Correlation with each shape at each turn, 1 where they are the same, of pictures weighed by area: T K A."""
    weight_R1 = np.sqrt(_RADII)[:, None]

    def normalised(x: Floats) -> Floats:
        x = x * weight_R1
        x = x - x.mean(axis=(-2, -1), keepdims=True)
        return np.asarray(x / (np.sqrt((x**2).sum(axis=(-2, -1), keepdims=True)) + 1e-6), np.float32)

    seen_TRa = np.fft.rfft(normalised(polar_TRA), axis=-1)
    own_TKRa = np.fft.rfft(normalised(template_TKRA), axis=-1)
    return np.asarray(np.fft.irfft((seen_TRa[:, None] * own_TKRa.conj()).sum(axis=2), _NUM_ANGLES, axis=-1), np.float32)


def _polar(cover_THW: Floats, x_T: Floats, y_T: Floats, radius_T: Floats) -> Floats:
    """Cover around the centre of each frame, between pixels in proportion, nothing beyond the frame: T R A."""
    angle_A = np.arange(_NUM_ANGLES, dtype=np.float32) * (2 * math.pi / _NUM_ANGLES)
    reach_TR1 = radius_T[:, None, None] * _RADII[:, None]
    padded_THW = np.pad(cover_THW, ((0, 0), (1, 1), (1, 1)))
    _, height, width = padded_THW.shape
    x_TRA = (x_T[:, None, None] + reach_TR1 * np.cos(angle_A) + 1).clip(0, width - 1.001)
    y_TRA = (y_T[:, None, None] + reach_TR1 * np.sin(angle_A) + 1).clip(0, height - 1.001)
    left, top = x_TRA.astype(int), y_TRA.astype(int)
    x_TRA, y_TRA = x_TRA - left, y_TRA - top
    frame = np.arange(len(cover_THW))[:, None, None]
    upper = padded_THW[frame, top, left] * (1 - x_TRA) + padded_THW[frame, top, left + 1] * x_TRA
    lower = padded_THW[frame, top + 1, left] * (1 - x_TRA) + padded_THW[frame, top + 1, left + 1] * x_TRA
    return np.asarray(upper * (1 - y_TRA) + lower * y_TRA, np.float32)


def _nearest(radius: float) -> float:
    return math.exp(round(math.log(radius) / _RADIUS_STEP) * _RADIUS_STEP)


@lru_cache
def _templates(radius: float) -> Floats:
    """Each shape, not turned, with an area of that of a disc of `radius` pixels: K R A."""
    side = 2 * math.ceil(2 * radius) + 1
    centre = np.full(1, side // 2, np.float32)
    across = torch.arange(side) - side // 2
    polars = []
    for number, shape in enumerate(_CANDIDATES):
        outer = radius * math.sqrt(math.pi / _area(shape))
        distance_HW = signed_distance(shape, across / outer, across[:, None] / outer, torch.zeros(()))
        cover_1HW = (0.5 - distance_HW * outer).clamp(0, 1).numpy()[None]
        for _ in range(_SOFTNESSES[number // len(Shape)]):
            cover_1HW = smooth(cover_1HW)
        cover_1HW[cover_1HW < LEAST_COVER] = 0
        seen_radius_1 = np.sqrt(cover_1HW.sum(axis=(1, 2)) / math.pi)
        polars.append(_polar(cover_1HW, centre, centre, seen_radius_1)[0])
    return np.stack(polars)


@lru_cache
def _area(shape: Shape) -> float:
    """Of a shape of radius 1."""
    across = torch.linspace(-1, 1, 801)
    return float((signed_distance(shape, across, across[:, None], torch.zeros(())) <= 0).float().mean() * 4)
