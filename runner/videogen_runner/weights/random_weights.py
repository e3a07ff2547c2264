"""`videogen weights random`: weights that make noise, in the layout of the public checkpoints, for tests and timing.

Every tensor's values come from its own counter-based stream (Philox, keyed by seed, component and name), are uniform
and scaled by integer and exact fp32 steps alone: the same bytes on every machine.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videogen_api.architecture import ARCHITECTURES, Architecture
from videogen_runner.models.opensora.stdit3 import MAX_PERIOD
from videogen_runner.models.opensora.vae import VaeConfig
from videogen_runner.models.registry import blueprint_of
from videogen_runner.weights.components import CONFIG_FILE, Component
from videogen_runner.weights.conversion import check_absent, write_component
from videogen_runner.weights.digests import ComponentDigests
from videogen_runner.weights.folders import appearing_folder
from videogen_runner.weights.made_up_tokenizer import write_tokenizer
from videogen_runner.weights.pieces import DTYPES, as_bytes
from videogen_runner.weights.tensor_files import TensorSpec, never_stop

_PIECE_VALUES = 4 * 2**20


@dataclass(frozen=True)
class Preset:
    """A model and the dtype (as safetensors names it) of each component's file."""

    model: str
    dtypes: Mapping[Component, str]


PRESETS: Mapping[str, Preset] = {
    "tiny": Preset("open-sora-v1.2-tiny", dict.fromkeys(Component, "F32")),
    "shapes": Preset("shapes", dict.fromkeys(Component, "BF16")),
    "xl": Preset("open-sora-v1.2", {Component.ENCODER: "BF16", Component.DENOISER: "BF16", Component.VAE: "F32"}),
}


def write_random(
    preset: Preset, target: Path, seed: int, check: Callable[[], None] = never_stop
) -> dict[Component, ComponentDigests]:
    """Writes all three components.

    Raises InvalidInput where one is there already, and what `check` raises, which is called before each piece.
    """
    for component in Component:
        check_absent(target / component)
    return {component: _write(preset, component, target / component, seed, check) for component in Component}


def _write(
    preset: Preset, component: Component, target: Path, seed: int, check: Callable[[], None]
) -> ComponentDigests:
    architecture = ARCHITECTURES[preset.model]
    blueprint = blueprint_of(preset.model, component)
    config = blueprint.config_of(architecture)
    dtype = preset.dtypes[component]
    specs = {name: TensorSpec(dtype, shape) for name, shape in sorted(blueprint.shapes(config).items())}
    true_values = _true_values(architecture, component)

    def values(name: str, spec: TensorSpec) -> Iterator[memoryview]:
        if name in true_values:
            yield as_bytes(true_values[name].to(DTYPES[dtype]))
            return
        mean, std = _mean_and_std(name, spec.shape, architecture)
        for piece in _draw(f"{seed}/{component}/{name}", spec.num_values, mean, std):
            yield as_bytes(piece.to(DTYPES[dtype]))

    with appearing_folder(target) as folder:
        (folder / CONFIG_FILE).write_text(_json(config))
        if component is Component.ENCODER:
            write_tokenizer(folder, architecture.encoder.vocab_size)
        pieces = ((name, values(name, spec)) for name, spec in specs.items())
        return write_component(folder, component, specs, pieces, check)


def _json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _draw(stream: str, count: int, mean: float, std: float) -> Iterator[Tensor]:
    """fp32 values, uniform with this mean and standard deviation, a bounded piece at a time."""
    key = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    width = np.float32(std * math.sqrt(12))
    for first in range(0, count, _PIECE_VALUES):
        values = generator.random(min(_PIECE_VALUES, count - first), dtype=np.float32)
        values -= np.float32(0.5)
        values *= width
        values += np.float32(mean)
        yield torch.from_numpy(values)


def _true_values(architecture: Architecture, component: Component) -> dict[str, Tensor]:
    """Tensors that no training changes: what they hold is part of the mathematics."""
    if component is Component.DENOISER:
        size = architecture.denoiser.head_dim
        return {"rope.freqs": torch.tensor([MAX_PERIOD ** (-i / size) for i in range(0, size, 2)])}
    if component is Component.VAE:
        factory = VaeConfig()
        return {"scale": torch.tensor(factory.scale), "shift": torch.tensor(factory.shift)}
    return {}


def _mean_and_std(name: str, shape: tuple[int, ...], architecture: Architecture) -> tuple[float, float]:
    """Keeps activations near 1 through every layer: linear maps and convolutions by fan-in, norms around 1."""
    if name.endswith(".bias"):
        return 0.0, 0.02
    if len(shape) == 1:  # the weight of a norm
        return 1.0, 0.1
    if name.endswith("shared.weight"):
        return 0.0, 1.0
    if name.endswith("relative_attention_bias.weight"):
        return 0.0, 0.5
    if name.endswith(("scale_shift_table", "y_embedding")):
        return 0.0, shape[-1] ** -0.5
    fan_in = math.prod(shape[1:])
    if name.endswith("SelfAttention.q.weight"):  # T5 does not divide by sqrt(d_kv) when it attends: its q does
        return 0.0, (fan_in * architecture.encoder.d_kv) ** -0.5
    return 0.0, fan_in**-0.5
