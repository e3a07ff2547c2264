import math

import pytest
import torch
from torch import Tensor

from videogen_runner.models.opensora.sampler import (
    ClipInfo,
    denoise,
    guide,
    guide_in_two_passes,
    mix_with_noise,
    plan_steps,
    timesteps,
)

VIDEO = ClipInfo.build((240, 426), 51, 24, torch.float32)
# Rounding puts the first timestep of this image above 1000.
KNIFE_EDGE = ClipInfo.build((117, 312), 1, 24, torch.float32)


def build_latents(batch: int = 1, num_frames: int = 5) -> Tensor:
    return torch.randn(batch, 4, num_frames, 3, 2, generator=torch.Generator().manual_seed(0))


def velocity(z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
    v_BCTHW = torch.sin(z_BCTHW) + t_B[:, None, None, None, None] / 1000
    return v_BCTHW if x_mask_BT is None else v_BCTHW + 0.1 * x_mask_BT[:, None, :, None, None]


def noise(step: int) -> Tensor:
    return torch.randn(1, 4, 5, 3, 2, generator=torch.Generator().manual_seed(100 + step))


def no_noise(step: int) -> Tensor:
    raise AssertionError(f"step {step} needs no noise")


def run(z_BCTHW: Tensor, mask_BT: Tensor | None, start: int = 0, num_steps: int = 6) -> list[Tensor]:
    steps = plan_steps(timesteps(num_steps, VIDEO), mask_BT)
    return [z for _, z in denoise(z_BCTHW, steps, velocity, noise, start)]


def test_timesteps_without_transform_fall_evenly_from_1000() -> None:
    assert timesteps(4, VIDEO, transform=False)[:, 0].tolist() == [1000, 750, 500, 250]
    assert timesteps(3, VIDEO, transform=False, discrete=True)[:, 0].tolist() == [1000, 667, 333]


def test_larger_and_longer_videos_stay_longer_near_the_noise() -> None:
    small = timesteps(10, ClipInfo.build((240, 426), 17, 24, torch.float32))
    large = timesteps(10, ClipInfo.build((480, 854), 17, 24, torch.float32))
    longer = timesteps(10, ClipInfo.build((240, 426), 102, 24, torch.float32))
    assert (large[1:] > small[1:]).all()
    assert (longer[1:] > small[1:]).all()


def test_2_to_16_frames_have_no_first_timestep() -> None:
    t_IB = timesteps(3, ClipInfo.build((240, 426), 16, 24, torch.float32))
    assert math.isnan(t_IB[0].item())
    assert t_IB[1:].tolist() == [[0], [0]]


def test_fp16_sizes_do_not_overflow() -> None:
    half = timesteps(5, ClipInfo.build((480, 854), 51, 24, torch.float16))
    assert torch.equal(half, timesteps(5, ClipInfo.build((480, 854), 51, 24, torch.float32)))


def test_an_image_counts_as_120_frames_per_second() -> None:
    assert ClipInfo.build((240, 426), 1, 24, torch.float32).fps_B.tolist() == [120]
    assert VIDEO.fps_B.tolist() == [24]


def test_each_row_of_a_batch_has_the_timesteps_of_its_own_size() -> None:
    both = ClipInfo(*(torch.cat([a, b]) for a, b in zip(vars(VIDEO).values(), vars(KNIFE_EDGE).values(), strict=True)))
    expected = torch.cat([timesteps(4, VIDEO), timesteps(4, KNIFE_EDGE)], dim=1)
    assert torch.equal(timesteps(4, both), expected)


def test_a_mask_of_ones_is_dropped() -> None:
    z_BCTHW = build_latents()
    steps = plan_steps(timesteps(6, VIDEO), torch.ones(1, 5))
    assert [(step.free_BT, step.joining_BT) for step in steps] == [(None, None)] * 6
    masked = [z for _, z in denoise(z_BCTHW, steps, velocity, no_noise)]
    assert torch.equal(torch.stack(masked), torch.stack(run(z_BCTHW, None)))


def test_at_the_knife_edge_a_mask_of_ones_waits_one_step_and_then_joins_with_noise() -> None:
    t_IB = timesteps(4, KNIFE_EDGE)
    assert t_IB[0].item() > 1000
    steps = plan_steps(t_IB, torch.ones(1, 5))
    assert steps[0].free_BT is not None
    assert not steps[0].free_BT.any()
    assert steps[1].joining_BT is not None
    assert steps[1].joining_BT.all()
    assert [step.free_BT for step in steps[1:]] == [None] * 3
    z_BCTHW = build_latents()
    after = [z for _, z in denoise(z_BCTHW, steps, velocity, noise)]
    assert torch.equal(after[0], z_BCTHW)
    mixed = mix_with_noise(z_BCTHW, noise(1), t_IB[1])
    assert torch.equal(after[1], mixed + velocity(mixed, t_IB[1], None) * steps[1].dt_B)


def test_frames_of_mask_0_never_change_and_frames_between_0_and_1_wait_for_their_time() -> None:
    z_BCTHW = build_latents()
    t_I = timesteps(6, VIDEO)[:, 0]
    after = run(z_BCTHW, torch.tensor([[0.0, 0.5, 1.0, 1.0, 0.0]]))
    assert torch.equal(after[-1][:, :, [0, 4]], z_BCTHW[:, :, [0, 4]])
    waiting = [torch.equal(z[:, :, 1], z_BCTHW[:, :, 1]) for z in after]
    assert waiting == [bool(t > 500) for t in t_I]
    assert not torch.equal(after[0][:, :, 2], z_BCTHW[:, :, 2])


@pytest.mark.parametrize("start", range(1, 6))
def test_a_run_continued_at_any_step_is_bit_equal_to_the_undisturbed_one(start: int) -> None:
    z_BCTHW = build_latents()
    mask_BT = torch.tensor([[0.0, 0.4, 1.0, 0.8, 0.6]])
    undisturbed = run(z_BCTHW, mask_BT)
    continued = run(undisturbed[start - 1].clone(), mask_BT, start)
    assert torch.equal(torch.stack(continued), torch.stack(undisturbed[start:]))


def test_the_index_yielded_with_the_latents_is_the_step_to_continue_with() -> None:
    steps = plan_steps(timesteps(3, VIDEO))
    assert [index for index, _ in denoise(build_latents(), steps, velocity, no_noise)] == [1, 2, 3]
    assert list(denoise(build_latents(), steps, velocity, no_noise, start=3)) == []


def test_latents_of_any_dtype_come_back_in_fp32() -> None:
    steps = plan_steps(timesteps(2, VIDEO))
    assert all(z.dtype == torch.float32 for _, z in denoise(build_latents().bfloat16(), steps, velocity, no_noise))


def test_guidance_in_two_passes_is_guidance_in_one_batch() -> None:
    weights = torch.tensor([1.0, 3.0])  # with and without a prompt

    def denoiser(rows: Tensor, z_BCTHW: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        v_BCTHW = z_BCTHW * rows[:, None, None, None, None]
        if x_mask_BT is not None:
            v_BCTHW = v_BCTHW * x_mask_BT[:, None, :, None, None]
        return torch.cat([v_BCTHW, torch.full_like(v_BCTHW, math.nan)], dim=1)  # the second half is never used

    z_BCTHW, t_B, x_mask_BT = build_latents(), torch.tensor([400.0]), torch.tensor([[True, False, True, True, True]])
    one = guide(lambda z, _t, x_mask: denoiser(weights, z, x_mask), 7.0)
    two = guide_in_two_passes(
        lambda z, _t, x_mask: denoiser(weights[:1], z, x_mask),
        lambda z, _t, x_mask: denoiser(weights[1:], z, x_mask),
        7.0,
    )
    for mask in (None, x_mask_BT):
        expected = 3 * z_BCTHW + 7.0 * (z_BCTHW - 3 * z_BCTHW)
        expected = expected if mask is None else expected * mask[:, None, :, None, None]
        assert torch.equal(one(z_BCTHW, t_B, mask), expected)
        assert torch.equal(two(z_BCTHW, t_B, mask), expected)


def test_a_model_with_a_smaller_base_moves_its_timesteps_as_the_released_one_does_at_a_larger_size() -> None:
    quarter = ClipInfo.build((128, 256), 51, 24, torch.float32)
    whole = ClipInfo.build((512, 1024), 51, 24, torch.float32)
    assert torch.equal(timesteps(10, quarter, base_size=128), timesteps(10, whole))
