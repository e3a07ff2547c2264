"""Clips of captions, made by the runner's own classes, many at once: what `videogen run` makes one by one.

The plan is that of `videogen run`, so texts, numbers and dtypes are what a user gets. Clips in one batch differ from
those made alone within rounding.

Shape suffixes: B clips, C channels, T latent frames, F frames, H W rows and columns, L text tokens, X caption channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from training.scenes import FRAMES_PER_SECOND

from videogen_api.architecture import architecture_of
from videogen_api.plan import Plan, PlannedPrompt
from videogen_api.resource import parse_resource
from videogen_operator.core.defaults import local_defaults
from videogen_operator.core.planner import make_plan
from videogen_runner.device import set_up_device, torch_dtype
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipGenerator
from videogen_runner.models.opensora.sampler import ClipInfo, denoise, guide, plan_steps, timesteps
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.text import clean_caption
from videogen_runner.models.opensora.vae import VideoAutoencoder
from videogen_runner.roles.clip_inputs import build_request
from videogen_runner.weights import Component
from videogen_runner.weights.loading import load_denoiser, load_encoder, load_vae
from videogen_runner.weights.location import LocalWeights

MODEL = "shapes"


@dataclass(frozen=True)
class Models:
    """The networks of a plan, on the device it is made for."""

    denoiser: STDiT3
    vae: VideoAutoencoder
    device: torch.device

    @property
    def batch(self) -> int:
        """Clips at a time: a CPU gains nothing from more."""
        return 32 if self.device.type == "cuda" else 4

    @property
    def batch_frames(self) -> int:
        """Frames that the VAE takes at a time."""
        return 128 if self.device.type == "cuda" else 4


def build_plan(
    captions: Sequence[str], weights: Path, size_HW: tuple[int, int], frames: int, device: str, **sampling: Any
) -> Plan:
    """One clip for each caption, seeded by its number. `sampling` is the manifest's; None stands for the default."""
    height, width = size_HW
    given = {name: value for name, value in sampling.items() if value is not None}
    resource = parse_resource(
        {
            "apiVersion": "videogen.dev/v1alpha1",
            "kind": "VideoGeneration",
            "metadata": {"name": "shapes-eval"},
            "spec": {
                "prompts": [{"text": text, "seed": seed} for seed, text in enumerate(captions)],
                "video": {"size": {"width": width, "height": height}, "frames": frames, "fps": FRAMES_PER_SECOND},
                "sampling": given,
                "model": {"name": MODEL, "weights": str(weights)},
            },
        }
    )
    return make_plan(resource, local_defaults("unused", device=device))


def encode_texts(plan: Plan, weights: Path) -> list[Tensor]:
    """y_LX of each prompt, by an encoder that is gone afterwards."""
    device, dtype = torch.device(plan.encoder.device), torch_dtype(plan.encoder.dtype)
    architecture = architecture_of(MODEL)
    encoder = load_encoder(LocalWeights(weights), device=device, dtype=dtype, architecture=architecture)
    return [encoder.encode(clean_caption(prompt.text_of_loop(0))).y_LC for prompt in plan.prompts]


def load_models(plan: Plan, weights: Path) -> Models:
    """Denoiser and VAE in the dtypes of the plan."""
    (pool,) = plan.pools
    device = set_up_device(None, pool.device)
    architecture = architecture_of(MODEL)
    denoiser = load_denoiser(
        weights / Component.DENOISER, device=device, dtype=torch_dtype(pool.dtype), architecture=architecture
    )
    vae = load_vae(weights / Component.VAE, device=device, dtype=torch_dtype(pool.vae_dtype), architecture=architecture)
    return Models(denoiser, vae, device)


@torch.no_grad()
def make_clips(
    models: Models, plan: Plan, prompts: Sequence[PlannedPrompt], tokens_LX: Sequence[Tensor], guidance: float
) -> Tensor:
    """The clips of prompts, which are some of the plan's, on the host: x_BCFHW in fp32, about [-1, 1]."""
    denoiser, request = models.denoiser, build_request(plan, prompts[0])
    generators = [
        ClipGenerator(denoiser, models.vae, request, [y_LX], SeededDraws(prompt.seed))
        for prompt, y_LX in zip(prompts, tokens_LX, strict=True)
    ]
    starts = [generator.start() for generator in generators]
    latent_size = generators[0].latent_size
    info = ClipInfo.build(request.image_size, request.num_frames, request.fps, denoiser.dtype, len(prompts))
    t_IB = timesteps(request.num_steps, info, base_size=denoiser.config.input_sq_size)
    steps = plan_steps(t_IB, torch.cat([start.mask_BT for start in starts]))
    null_LX = [denoiser.null_tokens(len(y_LX)) for y_LX in tokens_LX]
    conditioning = denoiser.prepare([*tokens_LX, *null_LX], info.fps_B.repeat(2), request.image_size, latent_size)

    def predict(z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        pred_BKTHW: Tensor = denoiser(z_BCTHW, t_B, conditioning, x_mask_BT)
        return pred_BKTHW

    def noise(step: int) -> Tensor:
        shape = (denoiser.config.in_channels, *latent_size)
        return torch.stack([generator.draws.step(0, step, shape) for generator in generators])

    start_BCTHW = torch.cat([start.z_BCTHW for start in starts]).to(models.device)
    *_, (_, z_BCTHW) = denoise(start_BCTHW, steps, guide(predict, guidance), noise)
    return _decode(models, z_BCTHW, request.num_frames)


@torch.no_grad()
def reconstruct(models: Models, x_BCFHW: Tensor) -> Tensor:
    """Clips through the VAE and back, on the host, in fp32 and clamped to [-1, 1]."""
    draws = SeededDraws(0).posterior(0, 0)
    x_BCFHW = x_BCFHW.to(models.device, models.vae.scale.dtype)
    z_BCTHW = models.vae.encode(x_BCFHW, draws, batch_frames=models.batch_frames)
    return _decode(models, z_BCTHW, x_BCFHW.shape[2]).clamp(-1, 1)


def _decode(models: Models, z_BCTHW: Tensor, num_frames: int) -> Tensor:
    z_BCTHW = z_BCTHW.to(models.vae.scale.dtype)
    return models.vae.decode(z_BCTHW, num_frames, decode_batch_frames=models.batch_frames).float().cpu()
