"""Contact sheets: many clips on one picture, a row of evenly spaced frames for each, with its text under it.

Shape suffixes: T frames, H height, W width, C = 3 channels RGB.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

_GAP = 4
_FONT_SIZE = 12
_LINE_HEIGHT = 16
_CHARACTER_WIDTH = 7  # no narrower than the widest average line of that font
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


def contact_sheet(clips: Sequence[tuple[str, Pixels]], *, num_frames: int = 6, scale: int = 1) -> Pixels:
    """The sheet, H W 3, of texts and frames_THWC of one size; each pixel of a frame becomes scale x scale.

    Lines of a text stay lines, and are wrapped where they are longer than the row. Raises ValueError for no clips, or
    clips of several sizes.
    """
    sizes = {frames_THWC.shape[1:] for _, frames_THWC in clips}
    if len(sizes) != 1:
        raise ValueError(f"a sheet shows frames of one size, not {len(sizes)}; give one or more clips of one size")
    _, width, _ = sizes.pop()
    columns = max(1, min(num_frames, max(len(frames_THWC) for _, frames_THWC in clips)))
    sheet_width = columns * (width * scale + _GAP) + _GAP
    rows = [_row(text, frames_THWC, columns, scale, sheet_width) for text, frames_THWC in clips]
    return np.concatenate([_paper(_GAP, sheet_width), *rows])


def evenly_spaced(num_frames: int, count: int) -> list[int]:
    """`count` frames of a clip, the first and the last among them; all frames where it has no more."""
    if num_frames <= count:
        return list(range(num_frames))
    return [round(position) for position in np.linspace(0, num_frames - 1, count)]


def _row(text: str, frames_THWC: Pixels, columns: int, scale: int, sheet_width: int) -> Pixels:
    chosen_THWC = frames_THWC[evenly_spaced(len(frames_THWC), columns)]
    large_THWC = chosen_THWC.repeat(scale, axis=1).repeat(scale, axis=2)
    pictures = _paper(large_THWC.shape[1], sheet_width)
    for number, frame_HWC in enumerate(large_THWC):
        left = _GAP + number * (frame_HWC.shape[1] + _GAP)
        pictures[:, left : left + frame_HWC.shape[1]] = frame_HWC
    return np.concatenate([pictures, _written(text, sheet_width)])


def _written(text: str, sheet_width: int) -> Pixels:
    most = max(1, (sheet_width - 2 * _GAP) // _CHARACTER_WIDTH)
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, most)]
    image = Image.new("RGB", (sheet_width, len(lines) * _LINE_HEIGHT + 2 * _GAP), _PAPER)
    canvas = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        canvas.text((_GAP, number * _LINE_HEIGHT), line, _INK, ImageFont.load_default(_FONT_SIZE))
    return np.asarray(image)


def _paper(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), _PAPER, np.uint8)
