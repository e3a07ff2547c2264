"""Sizes of the networks that a model name stands for: numbers alone, for planner, weights tools and runner.

Open-Sora v1.2 pairs the T5 v1.1 XXL encoder (google/t5-v1_1-xxl) with STDiT3-XL/2 and the VAE of
hpcai-tech/OpenSora-VAE-v1.2. `open-sora-v1.2-tiny` has the same structure at a size that a CPU runs in seconds, and so
has `shapes`, which training/ trains to draw moving shapes (docs/shapes-model.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from videogen_api.errors import InvalidInput

MAX_TOKENS = 300


@dataclass(frozen=True)
class TextEncoderShape:
    """T5 v1.1 encoder (gated GELU)."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    num_buckets: int = 32

    @property
    def block_parameters(self) -> int:
        attention = 4 * self.d_model * self.num_heads * self.d_kv
        return attention + 3 * self.d_model * self.d_ff + 2 * self.d_model

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.d_model

    @property
    def parameters(self) -> int:
        bias = self.num_buckets * self.num_heads
        return self.embedding_parameters + self.num_layers * self.block_parameters + bias + self.d_model


@dataclass(frozen=True)
class DenoiserShape:
    """STDiT3; `depth` counts pairs of a spatial and a temporal block."""

    depth: int
    hidden_size: int
    num_heads: int
    caption_channels: int
    patch_size: tuple[int, int, int] = (1, 2, 2)
    in_channels: int = 4
    mlp_ratio: int = 4
    input_sq_size: int = 512
    max_tokens: int = MAX_TOKENS
    frequency_size: int = 256

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def block_parameters(self) -> int:
        h = self.hidden_size
        linears = 3 * h * h + h * h + 2 * h * h + h * h + h * h + 2 * self.mlp_ratio * h * h
        biases = 3 * h + h + 2 * h + h + h + self.mlp_ratio * h + h
        return linears + biases + 6 * h + 2 * self.head_dim

    @property
    def parameters(self) -> int:
        h = self.hidden_size
        patch = self.patch_size[0] * self.patch_size[1] * self.patch_size[2]
        embed = self.in_channels * patch * h + h
        embedders = 2 * (self.frequency_size * h + h + h * h + h)
        t_block = 6 * h * h + 6 * h
        caption = self.caption_channels * h + h + h * h + h + self.max_tokens * self.caption_channels
        out_channels = 2 * self.in_channels * patch
        final = h * out_channels + out_channels + 2 * h
        rope = self.head_dim // 2
        return embed + embedders + t_block + caption + final + rope + 2 * self.depth * self.block_parameters


@dataclass(frozen=True)
class SpatialVaeShape:
    """AutoencoderKL of the SDXL form, applied to each frame."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int = 4
    norm_num_groups: int = 32


@dataclass(frozen=True)
class TemporalVaeShape:
    """Causal 3D-convolution autoencoder over the spatial latents."""

    filters: int
    num_res_blocks: int
    channel_multipliers: tuple[int, ...]
    temporal_downsample: tuple[bool, ...]
    latent_channels: int = 4
    num_groups: int = 32


@dataclass(frozen=True)
class VaeShape:
    spatial: SpatialVaeShape
    temporal: TemporalVaeShape


@dataclass(frozen=True)
class Architecture:
    """Everything that a model name decides."""

    name: str
    encoder: TextEncoderShape
    denoiser: DenoiserShape
    vae: VaeShape


_TEMPORAL_DOWNSAMPLE = (False, True, True)

_OPEN_SORA = Architecture(
    name="open-sora-v1.2",
    encoder=TextEncoderShape(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64),
    denoiser=DenoiserShape(depth=28, hidden_size=1152, num_heads=16, caption_channels=4096),
    vae=VaeShape(
        spatial=SpatialVaeShape(block_out_channels=(128, 256, 512, 512), layers_per_block=2),
        temporal=TemporalVaeShape(
            filters=128, num_res_blocks=4, channel_multipliers=(1, 2, 2, 4), temporal_downsample=_TEMPORAL_DOWNSAMPLE
        ),
    ),
)

_TINY = Architecture(
    name="open-sora-v1.2-tiny",
    encoder=TextEncoderShape(vocab_size=512, d_model=64, d_kv=16, d_ff=128, num_layers=4, num_heads=4),
    denoiser=DenoiserShape(depth=4, hidden_size=96, num_heads=4, caption_channels=64),
    vae=VaeShape(
        spatial=SpatialVaeShape(block_out_channels=(16, 32, 64, 64), layers_per_block=1, norm_num_groups=8),
        temporal=TemporalVaeShape(
            filters=16,
            num_res_blocks=1,
            channel_multipliers=(1, 2, 2, 4),
            temporal_downsample=_TEMPORAL_DOWNSAMPLE,
            num_groups=8,
        ),
    ),
)

# At most 12 MB a component and 24 MB in all, in bf16. Positions and timesteps are scaled by the sizes it is trained
# for.
_SHAPES = Architecture(
    name="shapes",
    encoder=TextEncoderShape(vocab_size=512, d_model=192, d_kv=32, d_ff=512, num_layers=4, num_heads=6),
    denoiser=DenoiserShape(depth=6, hidden_size=160, num_heads=5, caption_channels=192, input_sq_size=128),
    vae=VaeShape(
        spatial=SpatialVaeShape(block_out_channels=(24, 48, 64, 96), layers_per_block=1, norm_num_groups=8),
        temporal=TemporalVaeShape(
            filters=32,
            num_res_blocks=1,
            channel_multipliers=(1, 2, 2, 2),
            temporal_downsample=_TEMPORAL_DOWNSAMPLE,
            num_groups=8,
        ),
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({a.name: a for a in (_OPEN_SORA, _TINY, _SHAPES)})

DEFAULT_MODEL = _OPEN_SORA.name


def architecture_of(model_name: str) -> Architecture:
    """The sizes of a model. Raises InvalidInput for a name that is not known."""
    if model_name not in ARCHITECTURES:
        raise InvalidInput(f"spec.model.name: {model_name!r} is unknown; use one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[model_name]
