import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from videogen_api.errors import InvalidInput
from videogen_api.prompts import MaskStrategy
from videogen_runner.models.opensora.conditioning import (
    apply_mask_strategy,
    continuation,
    image_to_tensor,
    video_to_tensor,
)


def frames(*values: float) -> Tensor:
    """Latents [1, T, 1, 1] of which every frame is one number."""
    return torch.tensor(values).reshape(1, -1, 1, 1)


def applied(*strategies: MaskStrategy, loop: int = 0, align: int | None = None) -> tuple[list[float], list[float]]:
    """Frames and mask of ten free frames (zeros) after references 1..5 and 6 were written in."""
    z_CTHW, mask_T = apply_mask_strategy(
        torch.zeros(1, 10, 1, 1), [frames(1, 2, 3, 4, 5), frames(6)], strategies, loop, align
    )
    return z_CTHW.ravel().tolist(), mask_T.tolist()


def test_without_strategies_every_frame_is_free() -> None:
    assert applied() == ([0.0] * 10, [1.0] * 10)


def test_a_strategy_of_another_loop_does_nothing() -> None:
    assert applied(MaskStrategy(loop=1)) == ([0.0] * 10, [1.0] * 10)
    assert applied(MaskStrategy(loop=1), loop=1) == ([1.0] + [0.0] * 9, [0.0] + [1.0] * 9)


def test_negative_starts_count_from_the_end() -> None:
    z, mask = applied(MaskStrategy(reference_start=-2, target_start=-3, length=2, edit_ratio=0.5))
    assert z == [0.0] * 7 + [4.0, 5.0, 0.0]
    assert mask == [1.0] * 7 + [0.5, 0.5, 1.0]


def test_a_later_strategy_overwrites_an_earlier_one() -> None:
    z, mask = applied(MaskStrategy(length=3), MaskStrategy(reference=1, target_start=1, edit_ratio=0.25))
    assert z == [1.0, 6.0, 3.0] + [0.0] * 7
    assert mask == [0.0, 0.25, 0.0] + [1.0] * 7


def test_what_reaches_past_an_end_is_cut_off() -> None:
    assert applied(MaskStrategy(reference_start=3, target_start=9, length=50)) == ([0.0] * 9 + [4.0], [1.0] * 9 + [0.0])
    assert applied(MaskStrategy(reference_start=9)) == ([0.0] * 10, [1.0] * 10)


def test_starts_snap_to_the_alignment() -> None:
    z, mask = applied(MaskStrategy(reference_start=2, target_start=4, length=2), align=5)
    assert z == [0.0] * 5 + [1.0, 2.0] + [0.0] * 3
    assert mask == [1.0] * 5 + [0.0, 0.0] + [1.0] * 3


def test_the_noise_given_is_not_written_to() -> None:
    z_CTHW = torch.zeros(1, 10, 1, 1)
    apply_mask_strategy(z_CTHW, [frames(1)], [MaskStrategy()], 0)
    assert torch.equal(z_CTHW, torch.zeros(1, 10, 1, 1))


def test_references_take_the_dtype_of_the_noise() -> None:
    z_CTHW, mask_T = apply_mask_strategy(
        torch.zeros(1, 2, 1, 1, dtype=torch.bfloat16), [frames(1.001)], [MaskStrategy(edit_ratio=0.3)], 0
    )
    assert z_CTHW.ravel().tolist() == [1.0, 0.0]
    assert z_CTHW.dtype == torch.bfloat16
    assert torch.equal(mask_T, torch.tensor([0.3, 1.0]))


@pytest.mark.parametrize("reference", [2, -3])
def test_a_reference_that_is_not_given_is_refused(reference: int) -> None:
    with pytest.raises(InvalidInput, match=f"names reference {reference} of 2"):
        applied(MaskStrategy(reference=reference))


def test_a_start_before_the_first_frame_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"target start -11 .* before the first of 10 latent frames"):
        applied(MaskStrategy(target_start=-11))
    with pytest.raises(InvalidInput, match=r"reference start -6 .* before the first of 5 latent frames"):
        applied(MaskStrategy(reference_start=-6))


def test_a_loop_goes_on_from_the_end_of_the_clip_before_it() -> None:
    strategy = continuation(loop=2, num_references=3, length=5, edit_ratio=0.2)
    assert strategy == MaskStrategy(2, 2, -5, 0, 5, 0.2)
    references = [frames(0), frames(0), frames(*range(10))]
    z_CTHW, _ = apply_mask_strategy(torch.zeros(1, 10, 1, 1), references, [strategy], 2)
    assert z_CTHW.ravel().tolist() == [5.0, 6.0, 7.0, 8.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (7, 90), (24, 24), (16, 24)])
def test_a_reference_of_any_shape_covers_the_clip(height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 255, np.uint8)
    x_CHW = image_to_tensor(Image.fromarray(pixels), 16, 24)
    x_TCHW = video_to_tensor(torch.from_numpy(pixels).permute(2, 0, 1)[None], 16, 24)
    assert torch.equal(x_CHW, torch.ones(3, 16, 24))
    torch.testing.assert_close(x_TCHW, torch.ones(1, 3, 16, 24), rtol=0, atol=1e-6)


def test_the_centre_is_kept() -> None:
    pixels = np.zeros((16, 40, 3), np.uint8)
    pixels[:, 16:24] = 255
    expected_CHW = torch.full((3, 16, 24), -1.0)
    expected_CHW[:, :, 8:16] = 1.0
    assert torch.equal(image_to_tensor(Image.fromarray(pixels), 16, 24), expected_CHW)
    assert torch.equal(video_to_tensor(torch.from_numpy(pixels).permute(2, 0, 1)[None], 16, 24)[0], expected_CHW)
