"""The 2D autoencoder of the Open-Sora v1.2 VAE: the SDXL kind (Rombach et al., 2022), one frame at a time.

8 x 8 pixels become one latent pixel; odd sizes are floored at each halving. Module names are those of the public
checkpoint. It knows nothing of time, slices or latent factors: vae.py does.

Shape suffixes: N frames, C and D channels, H and W pixels or latent pixels, S = H*W positions, M = 2*C moments (mean
and log-variance).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own texts use
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class SpatialVaeConfig:
    """Sizes of the 2D autoencoder; the defaults are the SDXL VAE."""

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    num_groups: int = 32
    image_channels: int = 3
    latent_channels: int = 4

    @property
    def pixels_per_latent(self) -> int:
        """Pixels along one side of a latent pixel."""
        return int(2 ** (len(self.block_channels) - 1))

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> Self:
        """Read the keys that the config.json of a diffusers AutoencoderKL has."""
        return cls(
            block_channels=tuple(config["block_out_channels"]),
            layers_per_block=config["layers_per_block"],
            num_groups=config["norm_num_groups"],
            image_channels=config["in_channels"],
            latent_channels=config["latent_channels"],
        )


def _group_norm(num_groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """x_NCHW -> x_NDHW: norm, SiLU, 3x3, twice, beside a 1x1 where the channels change."""

    def __init__(self, channels_in: int, channels_out: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(num_groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _group_norm(num_groups, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_NDHW: Tensor = self.conv1(F.silu(self.norm1(x_NCHW)))
        h_NDHW = self.conv2(F.silu(self.norm2(h_NDHW)))
        residual_NDHW: Tensor = self.conv_shortcut(x_NCHW)
        return residual_NDHW + h_NDHW


class Attention(nn.Module):
    """One head of attention over the S positions of each frame, added to its input."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.group_norm = _group_norm(num_groups, channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_N1SC = rearrange(self.group_norm(x_NCHW), "n c h w -> n 1 (h w) c")
        h_N1SC = F.scaled_dot_product_attention(self.to_q(h_N1SC), self.to_k(h_N1SC), self.to_v(h_N1SC))
        h_NCHW: Tensor = rearrange(self.to_out(h_N1SC), "n 1 (h w) c -> n c h w", h=x_NCHW.shape[2])
        # Contiguous: a sum in channels-last order would make every later group norm copy its input.
        return x_NCHW + h_NCHW.contiguous()


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        self.attentions = nn.Sequential(Attention(channels, num_groups))
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, num_groups) for _ in range(2)])

    def forward(self, x_NCHW: Tensor) -> Tensor:
        before, after = self.resnets
        h_NCHW: Tensor = after(self.attentions(before(x_NCHW)))
        return h_NCHW


class Downsample(nn.Module):
    """Halves H and W, rounding down; zeros are added on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_NCHW: Tensor = self.conv(F.pad(x_NCHW, (0, 1, 0, 1)))
        return h_NCHW


class Upsample(nn.Module):
    """Doubles H and W by repetition, then a 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_NCHW: Tensor = self.conv(F.interpolate(x_NCHW, scale_factor=2.0, mode="nearest"))
        return h_NCHW


def _resnets(widths: Sequence[int], num_groups: int) -> nn.Sequential:
    return nn.Sequential(*(ResnetBlock(a, b, num_groups) for a, b in pairwise(widths)))


class DownBlock(nn.Module):
    def __init__(self, widths: Sequence[int], num_groups: int, *, is_last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(widths, num_groups)
        self.downsamplers = nn.Sequential() if is_last else nn.Sequential(Downsample(widths[-1]))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_NCHW: Tensor = self.downsamplers(self.resnets(x_NCHW))
        return h_NCHW


class UpBlock(nn.Module):
    def __init__(self, widths: Sequence[int], num_groups: int, *, is_last: bool) -> None:
        super().__init__()
        self.resnets = _resnets(widths, num_groups)
        self.upsamplers = nn.Sequential() if is_last else nn.Sequential(Upsample(widths[-1]))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_NCHW: Tensor = self.upsamplers(self.resnets(x_NCHW))
        return h_NCHW


def _level_widths(channels: Sequence[int], blocks_per_level: int) -> list[list[int]]:
    """For each level: the channels before its first block, then after each block."""
    return [[before, *[width] * blocks_per_level] for before, width in pairwise([channels[0], *channels])]


class Encoder(nn.Module):
    """x_NCHW pixels -> moments_NMHW at an eighth of the height and width."""

    def __init__(self, config: SpatialVaeConfig) -> None:
        super().__init__()
        channels, groups = config.block_channels, config.num_groups
        levels = _level_widths(channels, config.layers_per_block)
        self.conv_in = nn.Conv2d(config.image_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.Sequential(*(DownBlock(w, groups, is_last=w is levels[-1]) for w in levels))
        self.mid_block = MidBlock(channels[-1], groups)
        self.conv_norm_out = _group_norm(groups, channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        h_NDHW = self.mid_block(self.down_blocks(self.conv_in(x_NCHW)))
        moments_NMHW: Tensor = self.conv_out(F.silu(self.conv_norm_out(h_NDHW)))
        return moments_NMHW


class Decoder(nn.Module):
    """z_NCHW latents -> x_NCHW pixels at eight times the height and width."""

    def __init__(self, config: SpatialVaeConfig) -> None:
        super().__init__()
        channels, groups = config.block_channels[::-1], config.num_groups
        levels = _level_widths(channels, config.layers_per_block + 1)
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock(channels[0], groups)
        self.up_blocks = nn.Sequential(*(UpBlock(w, groups, is_last=w is levels[-1]) for w in levels))
        self.conv_norm_out = _group_norm(groups, channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], config.image_channels, 3, padding=1)

    def forward(self, z_NCHW: Tensor) -> Tensor:
        h_NDHW = self.up_blocks(self.mid_block(self.conv_in(z_NCHW)))
        x_NCHW: Tensor = self.conv_out(F.silu(self.conv_norm_out(h_NDHW)))
        return x_NCHW


class SpatialAutoencoder(nn.Module):
    """The bare 2D autoencoder: no latent factor, no slicing."""

    def __init__(self, config: SpatialVaeConfig) -> None:
        super().__init__()
        latents, moments = config.latent_channels, 2 * config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(moments, moments, 1)
        self.post_quant_conv = nn.Conv2d(latents, latents, 1)

    def encode(self, x_NCHW: Tensor) -> Tensor:
        """Pixels -> moments_NMHW of the posterior."""
        moments_NMHW: Tensor = self.quant_conv(self.encoder(x_NCHW))
        return moments_NMHW

    def decode(self, z_NCHW: Tensor) -> Tensor:
        """Latents -> pixels, not clamped."""
        x_NCHW: Tensor = self.decoder(self.post_quant_conv(z_NCHW))
        return x_NCHW
