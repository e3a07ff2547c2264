"""Model families by name: how each network is built from its config.json, and what its checkpoints hold beside it.

Networks are built on the meta device: names and shapes, no memory. `weights.loading` fills them, `weights.inspection`
compares files with them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from videogen_api.architecture import ARCHITECTURES, Architecture, TextEncoderShape, architecture_of
from videogen_runner.models.opensora import t5
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config
from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder
from videogen_runner.models.opensora.vae_spatial import SpatialVaeConfig
from videogen_runner.models.opensora.vae_temporal import TemporalVaeConfig
from videogen_runner.weights.components import Component


@dataclass(frozen=True)
class Blueprint:
    """One network of a family.

    `sizes`, `build` and `shapes` take the content of config.json (empty where there is no file) and raise KeyError,
    TypeError or ValueError for one that describes no such network; `sizes` and `sizes_of` give comparable values.
    """

    sizes: Callable[[Mapping[str, Any]], Any]
    sizes_of: Callable[[Architecture], Any]
    config_of: Callable[[Architecture], dict[str, Any]]
    """The config.json of a network of these sizes, with the public checkpoint's keys."""
    build: Callable[[Mapping[str, Any]], nn.Module]
    shapes: Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]]
    """Name and shape of every tensor that a checkpoint must hold."""
    ignored_prefixes: tuple[str, ...] = ()
    """Tensors of public checkpoints that inference has no use for."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """A second name of a tensor, and the one under which checkpoints store it."""


def _shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def blueprint_of(model_name: str, component: Component) -> Blueprint:
    """How a component of that model is built. Raises InvalidInput for a model name that is not known."""
    return FAMILIES[architecture_of(model_name).name][component]


# ---- Open-Sora v1.2 ----


def _encoder_sizes(config: Mapping[str, Any]) -> TextEncoderShape:
    names = {size.name: size.name for size in fields(TextEncoderShape)}
    names["num_buckets"] = "relative_attention_num_buckets"
    sizes = {name: config[key] for name, key in names.items()}
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{names[name]} is {size!r}, a positive number belongs there")
    return TextEncoderShape(**sizes)


def _denoiser_sizes_of(architecture: Architecture) -> STDiT3Config:
    shape = architecture.denoiser
    return STDiT3Config(
        hidden_size=shape.hidden_size,
        depth=shape.depth,
        num_heads=shape.num_heads,
        patch_size=shape.patch_size,
        in_channels=shape.in_channels,
        caption_channels=shape.caption_channels,
        model_max_length=shape.max_tokens,
        input_sq_size=shape.input_sq_size,
        mlp_ratio=float(shape.mlp_ratio),
    )


def _denoiser_config_of(architecture: Architecture) -> dict[str, Any]:
    sizes = _denoiser_sizes_of(architecture)
    return {
        "architectures": ["STDiT3"],
        "model_type": "STDiT3",
        **{size.name: getattr(sizes, size.name) for size in fields(sizes)},
    }


def _build_denoiser(config: Mapping[str, Any]) -> STDiT3:
    with torch.device("meta"):
        return STDiT3(STDiT3Config.from_mapping(config))


def _vae_sizes(config: Mapping[str, Any]) -> VaeConfig:
    """The public config.json gives no sizes; shift, scale and chunks are the factory's whatever a file says."""
    spatial, temporal = config.get("vae_2d", {}), config.get("vae_temporal", {})
    return VaeConfig(
        spatial=SpatialVaeConfig.from_mapping(spatial) if "block_out_channels" in spatial else SpatialVaeConfig(),
        temporal=TemporalVaeConfig.from_mapping(temporal) if "filters" in temporal else TemporalVaeConfig(),
    )


def _vae_config_of(architecture: Architecture) -> dict[str, Any]:
    sizes = VaeConfig.from_shape(architecture.vae)
    return {
        "architectures": ["VideoAutoencoderPipeline"],
        "model_type": "VideoAutoencoderPipeline",
        "micro_frame_size": sizes.micro_frame_size,
        "scale": sizes.scale,
        "shift": sizes.shift,
        "vae_2d": {
            "block_out_channels": sizes.spatial.block_channels,
            "in_channels": sizes.spatial.image_channels,
            "latent_channels": sizes.spatial.latent_channels,
            "layers_per_block": sizes.spatial.layers_per_block,
            "norm_num_groups": sizes.spatial.num_groups,
        },
        "vae_temporal": {
            "channel_multipliers": sizes.temporal.channel_multipliers,
            "embed_dim": sizes.temporal.embed_channels,
            "filters": sizes.temporal.filters,
            "in_out_channels": sizes.temporal.in_channels,
            "latent_embed_dim": sizes.temporal.latent_channels,
            "num_groups": sizes.temporal.num_groups,
            "num_res_blocks": sizes.temporal.num_res_blocks,
            "temporal_downsample": sizes.temporal.halves_time,
        },
    }


def _build_vae(config: Mapping[str, Any]) -> VideoAutoencoder:
    with torch.device("meta"):
        return VideoAutoencoder(_vae_sizes(config))


OPEN_SORA: Mapping[Component, Blueprint] = MappingProxyType(
    {
        Component.ENCODER: Blueprint(
            sizes=_encoder_sizes,
            sizes_of=lambda architecture: architecture.encoder,
            config_of=lambda architecture: t5.t5_config(architecture.encoder),
            build=t5.build_on_meta,
            shapes=lambda config: t5.t5_shapes(_encoder_sizes(config)),
            ignored_prefixes=("decoder.", "lm_head."),
            aliases={t5.EMBEDDING_ALIAS: t5.EMBEDDING},
        ),
        Component.DENOISER: Blueprint(
            sizes=STDiT3Config.from_mapping,
            sizes_of=_denoiser_sizes_of,
            config_of=_denoiser_config_of,
            build=_build_denoiser,
            shapes=lambda config: _shapes_of(_build_denoiser(config)),
            ignored_prefixes=("pos_embed.",),
        ),
        Component.VAE: Blueprint(
            sizes=_vae_sizes,
            sizes_of=lambda architecture: VaeConfig.from_shape(architecture.vae),
            config_of=_vae_config_of,
            build=_build_vae,
            shapes=lambda config: _shapes_of(_build_vae(config)),
        ),
    }
)

FAMILIES: Mapping[str, Mapping[Component, Blueprint]] = MappingProxyType(dict.fromkeys(ARCHITECTURES, OPEN_SORA))
