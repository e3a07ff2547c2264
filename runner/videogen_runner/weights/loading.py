"""From files to modules, tensor by tensor: the host never holds more than the module and one piece of a tensor.

Denoiser and VAE are read from the folder of their component (`Weights.folder`). The encoder and its shards read their
own tensors where they are, in a folder or in a store, and compare them with the digests that are recorded; the
embedding, which is read by rows, only where the encoder is in one piece. Where the caller knows which model the plan
counts with, it gives its `architecture`, which the sizes must then equal. All raise WeightsMissing or WeightsInvalid
naming file and tensor before anything is read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from videogen_api.architecture import DEFAULT_MODEL, Architecture
from videogen_api.sharding import block_ranges
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.t5 import EMBEDDING, TextEncoder
from videogen_runner.models.opensora.t5_devices import room_on
from videogen_runner.models.opensora.t5_shard import EncoderShard, block_bytes, load_shard
from videogen_runner.models.opensora.tokenizer import load_tokenizer
from videogen_runner.models.opensora.vae import VideoAutoencoder
from videogen_runner.models.registry import Blueprint, blueprint_of
from videogen_runner.weights.checking import canonical_names, check_config, check_tensors
from videogen_runner.weights.components import Component, ComponentFiles, find_files, list_tensors
from videogen_runner.weights.digests import read_recorded
from videogen_runner.weights.embedding_rows import EmbeddingRows
from videogen_runner.weights.location import Weights
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
    weights: Weights,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    architecture: Architecture | None = None,
    spread: bool = False,
) -> TextEncoder:
    """The text encoder and its tokenizer; as a shard that holds all blocks, read as by `load_encoder_shard`."""
    files = weights.files(Component.ENCODER)
    shard = _load_shard(files, architecture, (0, 1), torch.device(device), dtype, spread)
    return TextEncoder(shard, load_tokenizer(files.folder))


def load_encoder_shard(
    weights: Weights,
    architecture: Architecture,
    shard: int,
    shards: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    spread: bool = False,
) -> EncoderShard:
    """Shard number `shard` (from 0) of the text encoder cut into `shards`, and nothing else of it.

    Reads the headers of all files and its own tensors; the first shard reads rows of the embedding when it embeds.
    What a card has no room for lies in host memory, with `spread` first on the other cards that the process sees. In
    fp16 the last projection of each block stays fp32. Raises InvalidInput for more shards than blocks, WeightsInvalid
    where a tensor is not the one whose digest is recorded, naming file, tensor and both digests, OutOfMemory where
    cards and host are too small together, and what the store raises. Rows of the embedding have no digest of their own
    and are not verified.
    """
    return _load_shard(weights.files(Component.ENCODER), architecture, (shard, shards), device, dtype, spread)


def _load_shard(
    files: ComponentFiles,
    architecture: Architecture | None,
    place: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    spread: bool,
) -> EncoderShard:
    shard, shards = place
    checked = _check(files, architecture)
    tensors, recorded = checked.tensors, read_recorded(files.folder)
    sizes = block_bytes({name: stored.spec.nbytes for name, stored in tensors.items()}, checked.config["num_layers"])
    blocks = block_ranges(sizes, shards)[shard]

    def read(name: str, wanted: torch.dtype, home: torch.device) -> Tensor:
        stored = tensors[name]
        return _read(stored, home, wanted, None if recorded is None else recorded.sha256_of(stored.name))

    rows = EmbeddingRows(tensors[EMBEDDING]) if blocks.start == 0 else None
    if shards == 1 and recorded is not None:
        # Rows have no digest of their own. A shard leaves the whole unread: it would be a tenth of what it reads.
        _verify(tensors[EMBEDDING], recorded.sha256_of(tensors[EMBEDDING].name))
    room = room_on(device, spread) if device.type == "cuda" else None
    return load_shard(checked.config, blocks, dtype, read, rows, device, room)


def _verify(stored: StoredTensor, sha256: str | None) -> None:
    for _ in stored.chunks(sha256):
        pass


@dataclass(frozen=True)
class _Checked:
    blueprint: Blueprint
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    """Exactly those of the module, by its names."""


def _check(files: ComponentFiles, architecture: Architecture | None) -> _Checked:
    blueprint = blueprint_of(architecture.name if architecture else DEFAULT_MODEL, files.component)
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
    checked = _check(find_files(folder, component), architecture)
    module = checked.blueprint.build(checked.config)
    for name, stored in checked.tensors.items():
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        tensor = _read(stored, device, dtype)
        is_parameter = isinstance(getattr(owner, attribute), nn.Parameter)
        setattr(owner, attribute, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
    return module.eval()


def _read(stored: StoredTensor, device: torch.device | str, dtype: torch.dtype, sha256: str | None = None) -> Tensor:
    """A tensor from its file, cast and placed piece by piece."""
    tensor = torch.empty(stored.spec.shape, dtype=dtype, device=device)
    values, first = tensor.view(-1), 0
    for piece in pieces(stored, sha256):
        values[first : first + len(piece)].copy_(piece)
        first += len(piece)
    return tensor
