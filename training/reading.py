"""What a clip shows, read from its frames by rules: the background, and each object's colour, shape and motion.

Nothing here is learned, and nothing is guessed: what fits no rule is None, and where nothing is to be seen there are no
objects. A pixel counts as background, as one of the palette's colours, or as a mixture of both, which is what edges
are; noise, soft edges and colours that are a little wrong are to be expected of networks and video files.

Shape suffixes: T frames, H height, W width, C = 3 channels RGB; N pixels that are no background, K colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training import outlines, paths
from training.rendering import BACKGROUNDS, PALETTE
from training.scenes import Background, Colour, Motion, Shape

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_COLOURS = tuple(PALETTE)
_PALETTE_KC = np.array([PALETTE[colour] for colour in _COLOURS], np.float32)

_COARSE_SIDE = 128  # from this shorter side on, two by two pixels are read as one
_FAR = 60.0  # levels: no background that is a little wrong is further from its colour
_LEAST_BACKGROUND = 0.5  # of all pixels
_LEAST_CONTRAST = 32.0  # levels between a pixel and the background
_WORST_COLOUR = 60.0  # levels from the line between background and colour
_PALENESS = 30.0  # levels: what it costs to take a pixel for nothing but background, less with more of a colour
_LEAST_AREA = 0.005  # of the square of the shorter side; the least that is drawn has 0.0117
_LEAST_PRESENCE = 0.75  # of all frames
_WINDOW = 2.0  # radii of the disc of equal area: no shape reaches further


@dataclass(frozen=True)
class SeenObject:
    """One object. `x`, `y`, `radius` (of the disc of equal area) are its middle values, in the units of a scene."""

    colour: Colour
    shape: Shape | None
    motion: Motion | None
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Reading:
    """What a clip shows; the largest object first, none where nothing is to be seen."""

    background: Background | None
    objects: tuple[SeenObject, ...]


@dataclass(frozen=True)
class _Track:
    """One colour through the clip, in pixels. Frames without it have a radius of 0."""

    colour: Colour
    cover_THW: Floats
    x_T: Floats
    y_T: Floats
    radius_T: Floats


@dataclass(frozen=True)
class _Foreground:
    """The pixels that are no background: where they are, and for each colour how much of it they hold."""

    index_3N: tuple[NDArray[np.intp], ...]  # frame, row, column
    cover_NK: Floats
    misfit_NK: Floats  # levels; infinite where a colour cannot be part of it
    size_THW: tuple[int, int, int]


def read(frames_THWC: Pixels) -> Reading:
    """The clip's background and objects. Raises ValueError for anything but frames of RGB bytes.

    A single frame has no motion.
    """
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8 or not frames_THWC.size:
        raise ValueError(
            f"frames are bytes of shape T H W 3, not {frames_THWC.dtype} of {frames_THWC.shape}; decode them as rgb24"
        )
    x_THWC = outlines.smooth(_coarse(frames_THWC.astype(np.float32)))
    background, behind_HC = _find_background(x_THWC)
    if background is None:
        return Reading(None, ())
    foreground = _find_foreground(x_THWC, behind_HC)
    tracks = _find_tracks(foreground)
    return Reading(background, tuple(_describe(track) for track in tracks))


def _coarse(x_THWC: Floats) -> Floats:
    _, height, width, _ = x_THWC.shape
    if min(height, width) < _COARSE_SIDE:
        return x_THWC
    x_THWC = x_THWC[:, : height // 2 * 2, : width // 2 * 2]
    return np.asarray(
        (x_THWC[:, ::2, ::2] + x_THWC[:, 1::2, ::2] + x_THWC[:, ::2, 1::2] + x_THWC[:, 1::2, 1::2]) / 4, np.float32
    )


def _find_background(x_THWC: Floats) -> tuple[Background | None, Floats]:
    """The background that most pixels are nearest to, and its colour in each row, as far off as those pixels are."""
    some_THWC = x_THWC[:: max(1, len(x_THWC) // 8)]
    down_H1 = ((np.arange(x_THWC.shape[1], dtype=np.float32) + 0.5) / x_THWC.shape[1])[:, None]
    found: list[tuple[float, Background, Floats]] = []
    for background, (top, bottom) in BACKGROUNDS.items():
        plain_HC = np.asarray(np.array(top) * (1 - down_H1) + np.array(bottom) * down_H1, np.float32)
        distance_THW = np.linalg.norm(some_THWC - plain_HC[:, None], axis=-1)
        found.append((float(np.minimum(distance_THW, _FAR).mean()), background, plain_HC))
    _, background, plain_HC = min(found, key=lambda candidate: candidate[0])
    off_THWC = some_THWC - plain_HC[:, None]
    is_near_THW = np.linalg.norm(off_THWC, axis=-1) < _FAR
    if is_near_THW.mean() < _LEAST_BACKGROUND:
        return None, plain_HC
    return background, plain_HC + np.median(off_THWC[is_near_THW], axis=0)


def _find_foreground(x_THWC: Floats, behind_HC: Floats) -> _Foreground:
    off_THWC = x_THWC - behind_HC[:, None]
    index_3N = np.nonzero(np.linalg.norm(off_THWC, axis=-1) > _LEAST_CONTRAST / 2)
    off_NC = off_THWC[index_3N]
    direction_NKC = (_PALETTE_KC - behind_HC[:, None])[index_3N[1]]
    length_NK = (direction_NKC**2).sum(axis=-1)
    cover_NK = (np.einsum("nc,nkc->nk", off_NC, direction_NKC) / length_NK).clip(0, 1.1)
    misfit_NK = np.linalg.norm(off_NC[:, None] - cover_NK[..., None] * direction_NKC, axis=-1)
    misfit_NK[misfit_NK > _WORST_COLOUR] = np.inf
    misfit_NK += _PALENESS * (1 - cover_NK).clip(0)
    return _Foreground(index_3N, cover_NK.clip(0, 1), misfit_NK, x_THWC.shape[:3])


def _find_tracks(foreground: _Foreground) -> list[_Track]:
    """A track for each colour that is there, is large enough and has a place of its own; the largest first."""
    everything = range(len(_COLOURS))
    candidates = [track for index in everything if _is_object(track := _follow(foreground, index, everything))]
    candidates.sort(key=lambda track: -float(np.median(track.radius_T)))
    chosen: list[_Track] = []
    for track in candidates:
        if all(_are_apart(track, other) for other in chosen):
            chosen.append(track)
    # Pixels that looked like another colour at an object's edge belong to the object.
    indices = [_COLOURS.index(track.colour) for track in chosen]
    return [_follow(foreground, index, indices) for index in indices]


def _is_object(track: _Track) -> bool:
    return bool((track.radius_T > 0).mean() >= _LEAST_PRESENCE)


def _are_apart(one: _Track, other: _Track) -> bool:
    """Edges of an object may look like another colour, but lie around it or at its side."""
    both_T = (one.radius_T > 0) & (other.radius_T > 0)
    if not both_T.any():
        return False
    apart_T = np.hypot(one.x_T - other.x_T, one.y_T - other.y_T) - one.radius_T - other.radius_T
    return bool(np.median(apart_T[both_T]) > 0)


def _follow(foreground: _Foreground, index: int, choice: Sequence[int]) -> _Track:
    """The pixels that fit this colour best of those in `choice`, frame by frame."""
    is_it_N = foreground.misfit_NK[:, list(choice)].argmin(axis=1) == choice.index(index)
    cover_N = foreground.cover_NK[:, index]
    is_it_N &= np.isfinite(foreground.misfit_NK[:, index]) & (cover_N > outlines.LEAST_COVER)
    cover_THW = np.zeros(foreground.size_THW, np.float32)
    cover_THW[tuple(axis_N[is_it_N] for axis_N in foreground.index_3N)] = cover_N[is_it_N]
    places_T3 = np.array([_locate(cover_HW) for cover_HW in cover_THW], np.float32)
    return _Track(_COLOURS[index], cover_THW, *places_T3.T)


def _locate(cover_HW: Floats) -> tuple[float, float, float]:
    """Centre and radius of the disc of equal area, in pixels; specks far from the middle do not count."""
    rows_N, columns_N = np.nonzero(cover_HW)
    least = _LEAST_AREA * min(cover_HW.shape) ** 2
    cover_N = cover_HW[rows_N, columns_N]
    area = cover_N.sum()
    if area < least:
        return 0.0, 0.0, 0.0
    x, y = float(np.median(columns_N)), float(np.median(rows_N))
    for _ in range(2):
        is_near_N = (columns_N - x) ** 2 + (rows_N - y) ** 2 < _WINDOW**2 * area / np.pi
        near_N = cover_N * is_near_N
        area = near_N.sum()
        if area < least:
            return 0.0, 0.0, 0.0
        x, y = float((near_N * columns_N).sum() / area), float((near_N * rows_N).sum() / area)
    return x, y, float(np.sqrt(area / np.pi))


def _describe(track: _Track) -> SeenObject:
    _, height, width = track.cover_THW.shape
    side, seen_T = min(height, width), track.radius_T > 0
    x_T, y_T, radius_T = track.x_T[seen_T], track.y_T[seen_T], track.radius_T[seen_T]
    shape, turn_T = outlines.recognise(track.cover_THW[seen_T], x_T, y_T, radius_T)
    path = paths.Path((x_T + 0.5 - width / 2) / side, (y_T + 0.5 - height / 2) / side, radius_T / side, turn_T)
    return SeenObject(
        colour=track.colour,
        shape=shape,
        motion=paths.classify(path),
        x=float(np.median(path.x_T)),
        y=float(np.median(path.y_T)),
        radius=float(np.median(path.radius_T)),
    )
