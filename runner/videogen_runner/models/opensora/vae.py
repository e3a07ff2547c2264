"""The Open-Sora v1.2 video autoencoder: pixels to latents and back. Mathematics only: no files, no device choice.

The 2D autoencoder (vae_spatial.py) codes every frame alone, the causal 3D one (vae_temporal.py) then codes time in
chunks of `micro_frame_size` frames that know nothing of each other. What is public here keeps the keys of the public
checkpoint: `spatial_vae.module.*`, `temporal_vae.*`, `scale`, `shift`.

Shape suffixes: B clips, T frames, N = B*T frames in one row, C channels, H and W pixels or latent pixels, M = 2*C
moments (mean and log-variance). Videos are x_BCTHW, about [-1, 1] and not clamped; latents are z_BCTHW.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from videogen_api.architecture import VaeShape
from videogen_runner.models.opensora.vae_spatial import SpatialAutoencoder, SpatialVaeConfig
from videogen_runner.models.opensora.vae_temporal import TemporalAutoencoder, TemporalVaeConfig

# The pipeline's factor between 2D and 3D latents; the 0.13025 of the 2D checkpoint's own config is never used.
SPATIAL_LATENT_FACTOR = 0.18215

_LOG_VARIANCE_MIN, _LOG_VARIANCE_MAX = -30.0, 20.0


class PosteriorDraws(Protocol):
    """Standard normal noise of the two posteriors, by frame, so that no slice size can change what a frame gets.

    Frames are numbered through the batch: frame t of clip b is b*T + t. The result has the `shape` (C, H, W).
    """

    def posterior_spatial(self, frame: int, shape: tuple[int, ...]) -> Tensor: ...

    def posterior_temporal(self, frame: int, shape: tuple[int, ...]) -> Tensor: ...


@dataclass(frozen=True)
class VaeConfig:
    """The whole autoencoder; the defaults are the v1.2 factory values, which override what a stored config says."""

    spatial: SpatialVaeConfig = field(default_factory=SpatialVaeConfig)
    temporal: TemporalVaeConfig = field(default_factory=TemporalVaeConfig)
    shift: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98)
    scale: tuple[float, ...] = (3.85, 2.32, 2.33, 3.06)
    micro_frame_size: int | None = 17  # frames per temporal chunk; None: the whole clip is one chunk

    @classmethod
    def from_shape(cls, shape: VaeShape) -> Self:
        """The v1.2 factory values around networks of the given sizes."""
        return cls(
            spatial=SpatialVaeConfig(
                block_channels=shape.spatial.block_out_channels,
                layers_per_block=shape.spatial.layers_per_block,
                num_groups=shape.spatial.norm_num_groups,
                latent_channels=shape.spatial.latent_channels,
            ),
            temporal=TemporalVaeConfig(
                in_channels=shape.spatial.latent_channels,
                latent_channels=shape.temporal.latent_channels,
                embed_channels=shape.temporal.latent_channels,
                filters=shape.temporal.filters,
                channel_multipliers=shape.temporal.channel_multipliers,
                halves_time=shape.temporal.temporal_downsample,
                num_res_blocks=shape.temporal.num_res_blocks,
                num_groups=shape.temporal.num_groups,
            ),
        )


def sample_posterior(moments_BM: Tensor, noise_BC: Tensor) -> Tensor:
    """mean + exp(log-variance / 2) * noise, in the dtype of the moments; their channels are [mean | log-variance]."""
    mean_BC, log_variance_BC = moments_BM.chunk(2, dim=1)
    std_BC = torch.exp(0.5 * log_variance_BC.clamp(_LOG_VARIANCE_MIN, _LOG_VARIANCE_MAX))
    return mean_BC + std_BC * noise_BC.to(mean_BC)


class SpatialVae(nn.Module):
    """The 2D autoencoder on many frames, a slice at a time, with the pipeline's latent factor."""

    def __init__(self, config: SpatialVaeConfig) -> None:
        super().__init__()
        self.module = SpatialAutoencoder(config)

    def encode(self, x_NCHW: Tensor, draws: PosteriorDraws, batch_frames: int) -> Tensor:
        """Pixels of N frames -> z_NCHW, sampled from the posterior."""
        parts_NCHW = []
        for first, x_nCHW in _slices(x_NCHW, batch_frames):
            moments_nMHW = self.module.encode(x_nCHW)
            shape = _latent_shape(moments_nMHW)
            noise_nCHW = torch.stack([draws.posterior_spatial(first + i, shape) for i in range(len(x_nCHW))])
            parts_NCHW.append(sample_posterior(moments_nMHW, noise_nCHW) * SPATIAL_LATENT_FACTOR)
        return torch.cat(parts_NCHW)

    def decode(self, z_NCHW: Tensor, batch_frames: int) -> Iterator[tuple[int, Tensor]]:
        """z_NCHW -> (number of a frame, its pixels x_CHW) for each of N frames in turn."""
        for first, z_nCHW in _slices(z_NCHW, batch_frames):
            yield from enumerate(self.module.decode(z_nCHW / SPATIAL_LATENT_FACTOR), start=first)


class VideoAutoencoder(nn.Module):
    """The whole of it: `encode` and `decode` are what the sampler's surroundings call."""

    scale: Tensor
    shift: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.spatial_vae = SpatialVae(config.spatial)
        self.temporal_vae = TemporalAutoencoder(config.temporal)
        self.register_buffer("scale", torch.tensor(config.scale).view(1, -1, 1, 1, 1))
        self.register_buffer("shift", torch.tensor(config.shift).view(1, -1, 1, 1, 1))
        self.micro_frame_size = config.micro_frame_size
        self.image_channels = config.spatial.image_channels
        self.pixels_per_latent = config.spatial.pixels_per_latent

    @torch.no_grad()
    def encode(self, x_BCTHW: Tensor, draws: PosteriorDraws, *, batch_frames: int = 4) -> Tensor:
        """Pixels -> z_BCTHW of ceil(T/4) latent frames per chunk, floor(H/8) x floor(W/8).

        At most `batch_frames` frames at a time go through the 2D part: that bounds the memory. On a CPU the result has
        the same bits for any value from 3 on.
        """
        clips = x_BCTHW.shape[0]
        x_NCHW = rearrange(x_BCTHW, "b c t h w -> (b t) c h w")
        z_NCHW = self.spatial_vae.encode(x_NCHW, draws, batch_frames)
        return self.encode_time(rearrange(z_NCHW, "(b t) c h w -> b c t h w", b=clips), draws)

    @torch.no_grad()
    def decode(self, z_BCTHW: Tensor, num_frames: int, *, decode_batch_frames: int = 4) -> Tensor:
        """z_BCTHW -> pixels of `num_frames` frames, 8 times as high and wide.

        At most `decode_batch_frames` frames at a time go through the 2D part, which is where the memory peaks. On a CPU
        the result has the same bits for any value from 3 on.
        """
        z_NCHW = rearrange(self.decode_time(z_BCTHW, num_frames), "b c t h w -> (b t) c h w")
        height, width = (size * self.pixels_per_latent for size in z_NCHW.shape[-2:])
        # Filled frame by frame: joining slices and then turning time and channels would hold the video three times.
        x_BCTHW = z_NCHW.new_empty(len(z_BCTHW), self.image_channels, num_frames, height, width)
        for index, x_CHW in self.spatial_vae.decode(z_NCHW, decode_batch_frames):
            clip, frame = divmod(index, num_frames)
            x_BCTHW[clip, :, frame] = x_CHW
        return x_BCTHW

    def encode_time(self, x_BCTHW: Tensor, draws: PosteriorDraws) -> Tensor:
        """2D latents of frames -> z_BCTHW, sampled, shifted and scaled."""
        moments_BMTHW = self.encode_time_moments(x_BCTHW)
        clips, _, latent_frames, _, _ = moments_BMTHW.shape
        shape = _latent_shape(moments_BMTHW[:, :, 0])
        noise_NCHW = torch.stack([draws.posterior_temporal(i, shape) for i in range(clips * latent_frames)])
        noise_BCTHW = rearrange(noise_NCHW, "(b t) c h w -> b c t h w", b=clips)
        return (sample_posterior(moments_BMTHW, noise_BCTHW) - self.shift) / self.scale

    def encode_time_moments(self, x_BCTHW: Tensor) -> Tensor:
        """2D latents of frames -> moments_BMTHW of the posterior, chunk by chunk."""
        chunks_BCTHW = torch.split(x_BCTHW, self.micro_frame_size or x_BCTHW.shape[2], dim=2)
        return torch.cat([self.temporal_vae.encode(chunk_BCTHW) for chunk_BCTHW in chunks_BCTHW], dim=2)

    def decode_time(self, z_BCTHW: Tensor, num_frames: int) -> Tensor:
        """z_BCTHW -> 2D latents of `num_frames` frames."""
        z_BCTHW = z_BCTHW * self.scale + self.shift
        frames = self.micro_frame_size or num_frames
        chunks_BCTHW = torch.split(z_BCTHW, ceil(frames / self.temporal_vae.time_factor), dim=2)
        parts_BCTHW = [
            self.temporal_vae.decode(chunk_BCTHW, min(frames, num_frames - index * frames))
            for index, chunk_BCTHW in enumerate(chunks_BCTHW)
        ]
        return torch.cat(parts_BCTHW, dim=2)


def _slices(x_NCHW: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """(number of the first frame, frames) of each slice of at most `size` frames, as even as they can be.

    Even, because convolutions of a single frame may round otherwise than those of two or more: 17 frames by 4 would
    leave one over, and that frame's bits would depend on the size.
    """
    first = 0
    for slice_NCHW in torch.tensor_split(x_NCHW, ceil(len(x_NCHW) / size)):
        yield first, slice_NCHW
        first += len(slice_NCHW)


def _latent_shape(moments_NMHW: Tensor) -> tuple[int, int, int]:
    _, moments, height, width = moments_NMHW.shape
    return moments // 2, height, width
