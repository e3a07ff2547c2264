"""The rectified-flow sampler of Open-Sora v1.2: timesteps, frame masks, Euler loop. No model, no randomness, no I/O.

A flow runs from noise at t = 1000 to a clip at t = 0 along straight lines (Liu et al., 2023); the network predicts the
velocity. Timesteps are moved towards noise for large and long videos (as in Esser et al., 2024, section 5.3.2).

Frames may be given instead of denoised. Each frame has a mask value: 1 is free, 0 stays as it is, and between them the
frame joins once t has fallen to 1000 * mask, starting from its given latents mixed with noise to that level. Which
frames are free at which step depends on mask and timesteps alone, so `plan_steps` decides it beforehand, on the host:
the loop neither waits for the device nor does any mask work at a step where all frames are free, and a run that starts
in the middle needs nothing but the latents.

Shape suffixes: I steps, B samples, C channels, K predicted channels (velocity first), T frames, H W rows and columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from videogen_api.video import CHUNK_FRAMES, CHUNK_LATENTS, IMAGE_FPS

NUM_TIMESTEPS = 1000
BASE_SIZE = 512
"""Side, in pixels, of the square still image whose timesteps stay where they are; a model's config gives its own."""

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (z_BCTHW, t_B, x_mask_BT) -> pred_BKTHW
Velocity = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (z_BCTHW, t_B, x_mask_BT) -> v_BCTHW
Noise = Callable[[int], Tensor]  # step index -> noise_BCTHW


@dataclass(frozen=True)
class ClipInfo:
    """The numbers that timesteps and frame-rate embedding depend on, rounded to the dtype the model runs in."""

    height_B: Tensor  # pixels
    width_B: Tensor
    num_frames_B: Tensor
    fps_B: Tensor

    @classmethod
    def build(
        cls, image_size: tuple[int, int], num_frames: int, fps: float, dtype: torch.dtype, batch: int = 1
    ) -> Self:
        """One row per sample, on the host. A single image counts as 120 frames per second, whatever `fps` says."""
        values = (*image_size, num_frames, IMAGE_FPS if num_frames == 1 else fps)
        return cls(*(torch.full((batch,), value, dtype=dtype) for value in values))


def timesteps(
    num_steps: int, info: ClipInfo, *, base_size: int = BASE_SIZE, transform: bool = True, discrete: bool = False
) -> Tensor:
    """The flow time at which each step starts: t_IB, fp32, on the host.

    `discrete` rounds to whole timesteps before the transform. 2 to 16 frames have no valid timesteps: the first is NaN.
    """
    times = [(1.0 - step / num_steps) * NUM_TIMESTEPS for step in range(num_steps)]
    if discrete:
        times = [float(round(t)) for t in times]
    t_IB = torch.tensor(times, dtype=torch.float32)[:, None].expand(-1, len(info.height_B))
    return transform_timesteps(t_IB, info, base_size) if transform else t_IB.clone()


def transform_timesteps(t_IB: Tensor, info: ClipInfo, base_size: int = BASE_SIZE) -> Tensor:
    """t' = 1000 * r u / (1 + (r - 1) u), u = t / 1000, with r the square root of pixels and latent frames.

    r is computed in the dtype of `info`, the rest in fp32, in exactly this order: released results depend on the last
    bit, which for r < 1 decides whether the first t' is above 1000.
    """
    height_B, width_B, num_frames_B = (
        # fp16 cannot hold the number of pixels.
        x.float() if x.dtype == torch.float16 else x
        for x in (info.height_B, info.width_B, info.num_frames_B)
    )
    space_B = (height_B * width_B / base_size**2).sqrt()
    latents_B = torch.where(num_frames_B == 1, 1, num_frames_B // CHUNK_FRAMES * CHUNK_LATENTS)
    ratio_B = space_B * latents_B.sqrt()
    u_IB = t_IB / NUM_TIMESTEPS
    return ratio_B * u_IB / (1 + (ratio_B - 1) * u_IB) * NUM_TIMESTEPS


@dataclass(frozen=True)
class Step:
    """One Euler step of length dt (a fraction of the flow) from flow time t."""

    t_B: Tensor
    dt_B: Tensor
    free_BT: Tensor | None  # frames that move in this step; None: all of them
    joining_BT: Tensor | None  # frames that start in this step, from their given latents and noise; None: none

    def to(self, device: torch.device) -> "Step":
        return Step(
            self.t_B.to(device),
            self.dt_B.to(device),
            None if self.free_BT is None else self.free_BT.to(device),
            None if self.joining_BT is None else self.joining_BT.to(device),
        )


def plan_steps(t_IB: Tensor, mask_BT: Tensor | None = None) -> list[Step]:
    """The steps of a run, from timesteps and frame mask, on the host.

    A mask of ones is not the same as no mask where rounding has put the first timestep above 1000: then no frame is
    free at that step, and all of them join at the next. The released script always has a mask.
    """
    end_IB = torch.cat([t_IB[1:], torch.zeros_like(t_IB[:1])])
    dt_IB = (t_IB - end_IB) / NUM_TIMESTEPS
    if mask_BT is None:
        return [Step(t_B, dt_B, None, None) for t_B, dt_B in zip(t_IB, dt_IB, strict=True)]
    steps = []
    free_before_BT = mask_BT == 1
    for t_B, dt_B in zip(t_IB, dt_IB, strict=True):
        free_BT = mask_BT * NUM_TIMESTEPS >= t_B[:, None]
        joining_BT = free_BT & ~free_before_BT
        steps.append(Step(t_B, dt_B, None if free_BT.all() else free_BT, joining_BT if joining_BT.any() else None))
        free_before_BT = free_BT
    return steps


def guide(denoiser: Denoiser, scale: float) -> Velocity:
    """Classifier-free guidance in one batch: `denoiser` takes 2B rows, with the prompts first, then without."""

    def velocity(z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        x_mask = None if x_mask_BT is None else x_mask_BT.repeat(2, 1)
        pred = denoiser(z_BCTHW.repeat(2, 1, 1, 1, 1), t_B.repeat(2), x_mask)
        v_cond, v_uncond = pred[:, : z_BCTHW.shape[1]].chunk(2)
        return v_uncond + scale * (v_cond - v_uncond)

    return velocity


def guide_in_two_passes(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Velocity:
    """The same as `guide` in two calls of B rows: half the activations in memory."""

    def velocity(z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        channels = z_BCTHW.shape[1]
        v_cond = conditional(z_BCTHW, t_B, x_mask_BT)[:, :channels]
        v_uncond = unconditional(z_BCTHW, t_B, x_mask_BT)[:, :channels]
        return v_uncond + scale * (v_cond - v_uncond)

    return velocity


def mix_with_noise(z_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
    """The point at flow time t on the line from z to noise."""
    u_B1111 = t_B[:, None, None, None, None] / NUM_TIMESTEPS
    return (1 - u_B1111) * z_BCTHW + u_B1111 * noise_BCTHW


def denoise(
    z_BCTHW: Tensor, steps: Sequence[Step], velocity: Velocity, noise: Noise, start: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Runs steps `start` and later; after each one yields the index of the next step and the latents in fp32.

    What is yielded is all that a later call needs: `denoise(z, steps, velocity, noise, next_step)` continues bit for
    bit. `noise(i)` is asked only for steps at which a frame joins.
    """
    z_BCTHW = z_BCTHW.float()
    on_device = [step.to(z_BCTHW.device) for step in steps]
    for index in range(start, len(steps)):
        step = on_device[index]
        given_BCTHW = z_BCTHW
        if step.joining_BT is not None:
            noise_BCTHW = noise(index).to(given_BCTHW.device, non_blocking=True)
            mixed_BCTHW = mix_with_noise(given_BCTHW, noise_BCTHW, step.t_B)
            z_BCTHW = torch.where(step.joining_BT[:, None, :, None, None], mixed_BCTHW, given_BCTHW)
        v_BCTHW = velocity(z_BCTHW, step.t_B, step.free_BT)
        z_BCTHW = z_BCTHW + v_BCTHW * step.dt_B[:, None, None, None, None]
        if step.free_BT is not None:
            z_BCTHW = torch.where(step.free_BT[:, None, :, None, None], z_BCTHW, given_BCTHW)
        yield index + 1, z_BCTHW
