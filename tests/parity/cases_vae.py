"""Parity kinds of the video autoencoder: the whole pipeline, and its two bare parts.

Shape suffixes as in vae.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from harness import Case, Check, Measurement
from torch import Tensor

from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder
from videogen_runner.models.opensora.vae_spatial import SpatialAutoencoder, SpatialVaeConfig
from videogen_runner.models.opensora.vae_temporal import TemporalAutoencoder, TemporalVaeConfig

BOUND = 2e-5
TOLERANCE = "max_over_refmax"


@dataclass(frozen=True)
class RecordedPosteriorDraws:
    """Posterior noise of a recorded run: by frame, and by latent frame of [B, C, T, H, W]."""

    spatial_NCHW: Tensor
    temporal_BCTHW: Tensor

    def posterior_spatial(self, frame: int, shape: tuple[int, ...]) -> Tensor:
        return _of_shape(self.spatial_NCHW[frame], shape)

    def posterior_temporal(self, frame: int, shape: tuple[int, ...]) -> Tensor:
        return _of_shape(rearrange(self.temporal_BCTHW, "b c t h w -> (b t) c h w")[frame], shape)


def _of_shape(noise_CHW: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(noise_CHW.shape) != shape:
        raise AssertionError(f"noise of shape {tuple(noise_CHW.shape)} was recorded, {shape} was asked for")
    return noise_CHW


def build_vae(config: dict[str, Any], params: dict[str, Tensor]) -> VideoAutoencoder:
    """The autoencoder that a fixture's config describes, with its recorded weights."""
    vae = VideoAutoencoder(
        VaeConfig(
            spatial=SpatialVaeConfig.from_mapping(config["vae_2d"]),
            temporal=TemporalVaeConfig.from_mapping(config["vae_temporal"]),
            shift=tuple(config["shift"]),
            scale=tuple(config["scale"]),
            micro_frame_size=config["micro_frame_size"],
        )
    )
    vae.load_state_dict(params)
    return vae


def _without_prefix(case: Case) -> dict[str, Tensor]:
    prefix = case.config["key_prefix"]
    params = case.params("params_file")
    return {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}


def check_encode(case: Case) -> list[Measurement]:
    config, inputs, outputs = case.config, case.inputs(), case.outputs()
    vae = build_vae(config, case.params("params_file"))
    draws = RecordedPosteriorDraws(inputs["noise_spatial"], inputs["noise_temporal"])
    x_BCTHW = inputs["x"]
    x_NCHW = rearrange(x_BCTHW, "b c t h w -> (b t) c h w")
    batch_frames = config["micro_batch_size"] or len(x_NCHW)
    with torch.no_grad():
        moments_NMHW = vae.spatial_vae.module.encode(x_NCHW)
        z_NCHW = vae.spatial_vae.encode(x_NCHW, draws, batch_frames)
        x_z_BCTHW = rearrange(z_NCHW, "(b t) c h w -> b c t h w", b=len(x_BCTHW))
        moments_BMTHW = vae.encode_time_moments(x_z_BCTHW)
    z_BCTHW = vae.encode(x_BCTHW, draws, batch_frames=batch_frames)
    bound = case.bound(TOLERANCE, BOUND)
    return [
        case.measure("latent_size", torch.tensor(z_BCTHW.shape[2:]), torch.tensor(config["latent_size"]), 0.0),
        case.measure("spatial_moments", moments_NMHW, outputs["spatial_moments"], bound),
        case.measure("x_z", x_z_BCTHW, outputs["x_z"], bound),
        case.measure("temporal_moments", moments_BMTHW, outputs["temporal_moments"], bound),
        case.measure("z", z_BCTHW, outputs["z"], bound),
    ]


def check_decode(case: Case) -> list[Measurement]:
    config, outputs = case.config, case.outputs()
    vae = build_vae(config, case.params("params_file"))
    z_BCTHW, num_frames = case.inputs()["z"], config["num_frames"]
    batch_frames = config["micro_batch_size"] or z_BCTHW.shape[0] * num_frames
    with torch.no_grad():
        x_z_BCTHW = vae.decode_time(z_BCTHW, num_frames)
    x_BCTHW = vae.decode(z_BCTHW, num_frames, decode_batch_frames=batch_frames)
    bound = case.bound(TOLERANCE, BOUND)
    return [
        case.measure("x_z", x_z_BCTHW, outputs["x_z"], bound),
        case.measure("x", x_BCTHW, outputs["x"], bound),
    ]


@torch.no_grad()
def check_spatial(case: Case) -> list[Measurement]:
    inputs, outputs, bound = case.inputs(), case.outputs(), case.bound(TOLERANCE, BOUND)
    autoencoder = SpatialAutoencoder(SpatialVaeConfig.from_mapping(case.config["vae_2d"]))
    autoencoder.load_state_dict(_without_prefix(case))
    return [
        case.measure("moments", autoencoder.encode(inputs["image"]), outputs["moments"], bound),
        case.measure("image", autoencoder.decode(inputs["latent"]), outputs["image"], bound),
    ]


@torch.no_grad()
def check_temporal(case: Case) -> list[Measurement]:
    inputs, outputs, bound = case.inputs(), case.outputs(), case.bound(TOLERANCE, BOUND)
    autoencoder = TemporalAutoencoder(TemporalVaeConfig.from_mapping(case.config["vae_temporal"]))
    autoencoder.load_state_dict(_without_prefix(case))
    measurements = []
    for frames in case.config["num_frames"]:
        moments_BMTHW = autoencoder.encode(inputs[f"x_t{frames}"])
        x_BCTHW = autoencoder.decode(inputs[f"z_t{frames}"], frames)
        measurements.append(case.measure(f"moments_t{frames}", moments_BMTHW, outputs[f"moments_t{frames}"], bound))
        measurements.append(case.measure(f"x_t{frames}", x_BCTHW, outputs[f"x_t{frames}"], bound))
    return measurements


KINDS: dict[str, Check] = {
    "vae_decode": check_decode,
    "vae_encode": check_encode,
    "vae_spatial": check_spatial,
    "vae_temporal": check_temporal,
}
