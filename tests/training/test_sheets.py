import numpy as np
import pytest
from training.sheets import Pixels, contact_sheet, evenly_spaced


def build_clip(num_frames: int, level: int = 0) -> Pixels:
    """Frames of 8 x 12 that say their number in every pixel."""
    return np.broadcast_to(
        np.arange(level, level + num_frames, dtype=np.uint8)[:, None, None, None], (num_frames, 8, 12, 3)
    )


@pytest.mark.parametrize(("num_frames", "count", "chosen"), [
    (17, 5, [0, 4, 8, 12, 16]), (51, 3, [0, 25, 50]), (3, 6, [0, 1, 2]), (1, 6, [0]),
])  # fmt: skip
def test_frames_are_evenly_spaced_from_the_first_to_the_last(num_frames: int, count: int, chosen: list[int]) -> None:
    assert evenly_spaced(num_frames, count) == chosen


def test_a_row_shows_frames_beside_each_other_and_enlarged() -> None:
    sheet_HWC = contact_sheet([("", build_clip(17))], num_frames=3, scale=2)
    assert sheet_HWC.shape == (4 + 16 + 8, 3 * (24 + 4) + 4, 3)
    for column, level in enumerate((0, 8, 16)):
        left = 4 + column * 28
        assert np.array_equal(sheet_HWC[4:20, left : left + 24], np.full((16, 24, 3), level, np.uint8))


def test_the_text_stands_under_its_row_and_long_ones_are_wrapped() -> None:
    clips = [("a red star", build_clip(9)), ("a red star that moves to the left\nread: nothing", build_clip(9, 100))]
    sheet_HWC = contact_sheet(clips, num_frames=9)
    width = 9 * 16 + 4
    one_line, three_lines = 16 + 8, 3 * 16 + 8
    assert sheet_HWC.shape == (4 + 2 * 8 + one_line + three_lines, width, 3)
    is_ink_HW = np.asarray(sheet_HWC.min(axis=2) < 128)
    for first_row in (12, 44, 60, 76):
        assert is_ink_HW[first_row : first_row + 16].any()
    assert not is_ink_HW[:, -4:].any()


def test_clips_of_several_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="clips of one size"):
        contact_sheet([("a", build_clip(3)), ("b", build_clip(3)[:, :4])])
    with pytest.raises(ValueError, match="clips of one size"):
        contact_sheet([])
