"""The causal 3D autoencoder of the Open-Sora v1.2 VAE: the MAGVIT-v2 kind (Yu et al., 2023), on latents of frames.

4 frames become one latent frame; height and width stay. Module names are those of the public checkpoint. It knows
nothing of chunks, shift or scale: vae.py does.

Shape suffixes: B clips, C and D channels, T frames or latent frames, H and W latent pixels, M = 2*C moments (mean and
log-variance).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own texts use
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class TemporalVaeConfig:
    """Sizes of the causal 3D autoencoder; the defaults are v1.2."""

    in_channels: int = 4
    latent_channels: int = 4
    embed_channels: int = 4
    filters: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    halves_time: tuple[bool, ...] = (False, True, True)  # after each level but the last
    num_res_blocks: int = 4
    num_groups: int = 32

    @property
    def level_channels(self) -> tuple[int, ...]:
        return tuple(self.filters * multiplier for multiplier in self.channel_multipliers)

    @property
    def time_factor(self) -> int:
        """Frames per latent frame."""
        return int(2 ** sum(self.halves_time))

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> Self:
        """Read the keys that the reference's configuration of the temporal part has."""
        return cls(
            in_channels=config["in_out_channels"],
            latent_channels=config["latent_embed_dim"],
            embed_channels=config["embed_dim"],
            filters=config["filters"],
            channel_multipliers=tuple(config["channel_multipliers"]),
            halves_time=tuple(config["temporal_downsample"]),
            num_res_blocks=config["num_res_blocks"],
            num_groups=config["num_groups"],
        )


class CausalConv3d(nn.Module):
    """A 3D convolution that sees no later frame: all zeros in time are added in front."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, time_stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        side = kernel // 2
        self.padding = (side, side, side, side, kernel - time_stride, 0)
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride=(time_stride, 1, 1), bias=bias)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h_BDTHW: Tensor = self.conv(F.pad(x_BCTHW, self.padding))
        return h_BDTHW


class DoubleTime(CausalConv3d):
    """Twice the channels, then each pair of channels (2c, 2c+1) becomes two frames (2t, 2t+1)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels, 3)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return rearrange(super().forward(x_BCTHW), "b (c s) t h w -> b c (t s) h w", s=2)


class ResBlock(nn.Module):
    """x_BCTHW -> x_BDTHW: norm, SiLU, causal 3x3x3, twice, beside a 1x1x1 where the channels change."""

    def __init__(self, channels_in: int, channels_out: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, channels_in)
        self.conv1 = CausalConv3d(channels_in, channels_out, 3, bias=False)
        self.norm2 = nn.GroupNorm(num_groups, channels_out)
        self.conv2 = CausalConv3d(channels_out, channels_out, 3, bias=False)
        self.conv3 = (
            CausalConv3d(channels_in, channels_out, 1, bias=False) if channels_in != channels_out else nn.Identity()
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h_BDTHW: Tensor = self.conv1(F.silu(self.norm1(x_BCTHW)))
        h_BDTHW = self.conv2(F.silu(self.norm2(h_BDTHW)))
        residual_BDTHW: Tensor = self.conv3(x_BCTHW)
        return residual_BDTHW + h_BDTHW


def _res_blocks(channels_in: int, channels_out: int, config: TemporalVaeConfig) -> nn.Sequential:
    widths: Sequence[int] = [channels_in, *[channels_out] * config.num_res_blocks]
    return nn.Sequential(*(ResBlock(a, b, config.num_groups) for a, b in pairwise(widths)))


class TemporalEncoder(nn.Module):
    """x_BCTHW -> moments_BMTHW; T must be a multiple of the time factor."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        channels = config.level_channels
        self.conv_in = CausalConv3d(config.in_channels, channels[0], 3, bias=False)
        self.block_res_blocks = nn.ModuleList(
            [_res_blocks(before, width, config) for before, width in pairwise([channels[0], *channels])]
        )
        self.conv_blocks = nn.ModuleList(
            [
                CausalConv3d(width, width, 3, time_stride=2) if halves else nn.Identity()
                for width, halves in zip(channels, [*config.halves_time, False], strict=True)
            ]
        )
        self.res_blocks = _res_blocks(channels[-1], channels[-1], config)
        self.norm1 = nn.GroupNorm(config.num_groups, channels[-1])
        self.conv2 = CausalConv3d(channels[-1], 2 * config.latent_channels, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        h_BDTHW: Tensor = self.conv_in(x_BCTHW)
        for res_blocks, conv in zip(self.block_res_blocks, self.conv_blocks, strict=True):
            h_BDTHW = conv(res_blocks(h_BDTHW))
        h_BDTHW = self.res_blocks(h_BDTHW)
        moments_BMTHW: Tensor = self.conv2(F.silu(self.norm1(h_BDTHW)))
        return moments_BMTHW


class TemporalDecoder(nn.Module):
    """z_BCTHW -> x_BCTHW with `time_factor` times the frames. Levels are numbered as in the encoder, run backwards."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        channels = config.level_channels
        self.conv1 = CausalConv3d(config.latent_channels, channels[-1], 3)
        self.res_blocks = _res_blocks(channels[-1], channels[-1], config)
        self.block_res_blocks = nn.ModuleList(
            [_res_blocks(above, width, config) for width, above in pairwise([*channels, channels[-1]])]
        )
        self.conv_blocks = nn.ModuleList(
            [
                DoubleTime(width) if doubles else nn.Identity()
                for width, doubles in zip(channels[1:], config.halves_time, strict=True)
            ]
        )
        self.norm1 = nn.GroupNorm(config.num_groups, channels[0])
        self.conv_out = CausalConv3d(channels[0], config.in_channels, 3)

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        h_BDTHW: Tensor = self.res_blocks(self.conv1(z_BCTHW))
        after_level = [nn.Identity(), *self.conv_blocks]
        for res_blocks, conv in zip(reversed(self.block_res_blocks), reversed(after_level), strict=True):
            h_BDTHW = conv(res_blocks(h_BDTHW))
        x_BCTHW: Tensor = self.conv_out(F.silu(self.norm1(h_BDTHW)))
        return x_BCTHW


class TemporalAutoencoder(nn.Module):
    """The bare 3D autoencoder, any number of frames: the missing ones are zeros in front."""

    def __init__(self, config: TemporalVaeConfig) -> None:
        super().__init__()
        self.time_factor = config.time_factor
        self.encoder = TemporalEncoder(config)
        self.decoder = TemporalDecoder(config)
        self.quant_conv = CausalConv3d(2 * config.latent_channels, 2 * config.embed_channels, 1)
        self.post_quant_conv = CausalConv3d(config.embed_channels, config.latent_channels, 1)

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """x_BCTHW -> moments_BMTHW of the posterior, ceil(T / time_factor) latent frames."""
        missing = -x_BCTHW.shape[2] % self.time_factor
        moments_BMTHW: Tensor = self.quant_conv(self.encoder(F.pad(x_BCTHW, (0, 0, 0, 0, missing, 0))))
        return moments_BMTHW

    def decode(self, z_BCTHW: Tensor, num_frames: int) -> Tensor:
        """z_BCTHW -> x_BCTHW: leading frames are dropped as encoding `num_frames` frames would have added them."""
        x_BCTHW: Tensor = self.decoder(self.post_quant_conv(z_BCTHW))
        return x_BCTHW[:, :, -num_frames % self.time_factor :]
