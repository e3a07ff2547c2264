"""From files to modules, tensor by tensor: the host never holds more than the module and one piece of a tensor.

Each function takes the folder of one component (`Weights.folder`) and, where the caller knows which model the plan
counts with, its `architecture`, which the folder's sizes must then equal. All raise WeightsMissing or WeightsInvalid
naming file and tensor before anything is read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from videogen_api.architecture import DEFAULT_MODEL, Architecture
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.t5 import TextEncoder, dtype_in_memory, load_t5
from videogen_runner.models.opensora.tokenizer import load_tokenizer
from videogen_runner.models.opensora.vae import VideoAutoencoder
from videogen_runner.models.registry import Blueprint, blueprint_of
from videogen_runner.weights.checking import canonical_names, check_config, check_tensors
from videogen_runner.weights.components import Component, find_files, list_tensors
from videogen_runner.weights.pieces import pieces
from videogen_runner.weights.tensor_files import StoredTensor


def load_denoiser(
    folder: Path, *, device: torch.device | str, dtype: torch.dtype, architecture: Architecture | None = None
) -> STDiT3:
    """The denoiser, every tensor in `dtype` on `device`."""
    return cast("STDiT3", _load(folder, Component.DENOISER, architecture, device, dtype))


def load_vae(
    folder: Path, *, device: torch.device | str, dtype: torch.dtype, architecture: Architecture | None = None
) -> VideoAutoencoder:
    """The video autoencoder, every tensor in `dtype` on `device`."""
    return cast("VideoAutoencoder", _load(folder, Component.VAE, architecture, device, dtype))


def load_encoder(
    folder: Path, *, device: torch.device | str, dtype: torch.dtype, architecture: Architecture | None = None
) -> TextEncoder:
    """The text encoder and its tokenizer. In fp16 the last projection of each block stays fp32."""
    tokenizer = load_tokenizer(folder)
    checked = _check(folder, Component.ENCODER, architecture)
    tensors = ((name, _read(stored, device, dtype_in_memory(name, dtype))) for name, stored in checked.tensors.items())
    return TextEncoder(load_t5(checked.config, tensors, dtype=dtype, device=device), tokenizer)


@dataclass(frozen=True)
class _Checked:
    blueprint: Blueprint
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    """Exactly those of the module, by its names."""


def _check(folder: Path, component: Component, architecture: Architecture | None) -> _Checked:
    blueprint = blueprint_of(architecture.name if architecture else DEFAULT_MODEL, component)
    files = find_files(folder, component)
    expected = check_config(files, blueprint, architecture)
    tensors = canonical_names(list_tensors(files), blueprint)
    for problem in check_tensors(files, tensors, expected):
        raise problem
    return _Checked(blueprint, files.config, tensors)


def _load(
    folder: Path,
    component: Component,
    architecture: Architecture | None,
    device: torch.device | str,
    dtype: torch.dtype,
) -> nn.Module:
    checked = _check(folder, component, architecture)
    module = checked.blueprint.build(checked.config)
    for name, stored in checked.tensors.items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        tensor = _read(stored, device, dtype)
        is_parameter = isinstance(getattr(owner, attribute), nn.Parameter)
        setattr(owner, attribute, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
    return module.eval()


def _read(stored: StoredTensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """A tensor from its file, cast and placed piece by piece."""
    tensor = torch.empty(stored.spec.shape, dtype=dtype, device=device)
    values, first = tensor.view(-1), 0
    for piece in pieces(stored):
        values[first : first + len(piece)].copy_(piece)
        first += len(piece)
    return tensor
