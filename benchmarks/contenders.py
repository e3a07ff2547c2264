"""What benchmarks/denoise.py compares: ways to make a denoising step out of one model and one clip.

Whoever adds one adds it to `CONTENDERS`; it must not change the model's weights, which all of them share.

Shape suffixes as in models/opensora/stdit3.py; I the steps of a clip.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from benchmarks.reference_step import PaddedText, ReferenceStep, run_block
from torch import Tensor

from videogen_api.architecture import DenoiserShape
from videogen_api.video import LatentSize, image_size_of_aspect, latent_size
from videogen_runner.models.opensora.sampler import ClipInfo, timesteps
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config

ASPECT_RATIO = "16:9"
FPS = 24.0
NUM_STEPS = 30
# A sentence, as T5 counts it; the branch without a prompt gets as many.
PROMPT_TOKENS = 40
GUIDANCE_BATCH = 2

StepFunction = Callable[[Tensor, Tensor], Tensor]
"""(z_BCTHW in fp32, t_B in 0..1000) -> pred_BKTHW in fp32."""


@dataclass(frozen=True)
class Workload:
    """One clip, prompt and null in one batch, no frame given, on the device."""

    image_size: tuple[int, int]  # height, width in pixels
    latent: LatentSize
    z_BCTHW: Tensor
    times_IB: Tensor
    text: PaddedText
    fps_B: Tensor

    @property
    def text_lengths(self) -> list[int]:
        return [len(tokens_LX) for tokens_LX in self.text.real_tokens()]


Build = Callable[[STDiT3, Workload], StepFunction]


def build_model(shape: DenoiserShape, seed: int, device: torch.device, dtype: torch.dtype) -> STDiT3:
    """Random weights, drawn on the device."""
    config = STDiT3Config(
        hidden_size=shape.hidden_size,
        depth=shape.depth,
        num_heads=shape.num_heads,
        patch_size=shape.patch_size,
        in_channels=shape.in_channels,
        caption_channels=shape.caption_channels,
        model_max_length=shape.max_tokens,
        input_sq_size=shape.input_sq_size,
        mlp_ratio=shape.mlp_ratio,
    )
    torch.manual_seed(seed)
    with device:
        model = STDiT3(config)
    return model.to(dtype).eval().requires_grad_(requires_grad=False)


def build_workload(model: STDiT3, resolution: str, frames: int, seed: int) -> Workload:
    image_size = image_size_of_aspect(resolution, ASPECT_RATIO)
    latent = latent_size(frames, *image_size)
    generator = torch.Generator(model.device).manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=model.device)

    z_CTHW = draw(model.config.in_channels, latent.frames, latent.height, latent.width)
    length = model.config.model_max_length
    prompt_LX = draw(length, model.config.caption_channels).to(model.dtype)
    times_IB = timesteps(
        NUM_STEPS,
        ClipInfo.build(image_size, frames, FPS, model.dtype, batch=GUIDANCE_BATCH),
        base_size=model.config.input_sq_size,
    )
    return Workload(
        image_size,
        latent,
        z_CTHW.repeat(GUIDANCE_BATCH, 1, 1, 1, 1),
        times_IB.to(model.device),
        PaddedText(
            torch.stack([prompt_LX, model.null_tokens(length)]),
            (torch.arange(length, device=model.device) < PROMPT_TOKENS).repeat(GUIDANCE_BATCH, 1),
        ),
        torch.full((GUIDANCE_BATCH,), FPS, device=model.device),
    )


def reference(model: STDiT3, workload: Workload) -> StepFunction:
    """As the published script: eager, and always with a frame mask."""
    step = ReferenceStep(model)
    x_mask_BT = torch.ones(GUIDANCE_BATCH, workload.latent.frames, dtype=torch.bool, device=model.device)
    return lambda z_BCTHW, t_B: step(z_BCTHW, t_B, workload.text, workload.fps_B, workload.image_size, x_mask_BT)


def compiled_reference(model: STDiT3, workload: Workload) -> StepFunction:
    """The same without the mask, its blocks compiled."""
    step = ReferenceStep(model, torch.compile(run_block, fullgraph=True, dynamic=False))
    return lambda z_BCTHW, t_B: step(z_BCTHW, t_B, workload.text, workload.fps_B, workload.image_size, None)


def plain(model: STDiT3, workload: Workload) -> StepFunction:
    """The model of runner/ as it stands: prepared once, eager."""
    latent = workload.latent
    conditioning = model.prepare(
        workload.text.real_tokens(),
        workload.fps_B,
        workload.image_size,
        (latent.frames, latent.height, latent.width),
    )

    def step(z_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        pred_BKTHW: Tensor = model(z_BCTHW, t_B, conditioning)
        return pred_BKTHW

    return step


CONTENDERS: Mapping[str, Build] = MappingProxyType(
    {"reference": reference, "compiled": compiled_reference, "plain": plain}
)
