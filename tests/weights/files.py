"""Ways to lay out, and to spoil, the files of a weights directory."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videogen_runner.weights.tensor_files import TensorSpec, never_stop, write_safetensors


def rewrite(path: Path, change: Mapping[str, Tensor | None]) -> None:
    """Replaces tensors of a safetensors file, or drops those that are None; its table goes."""
    tensors: dict[str, Tensor | None] = {**load_file(path), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    (path.parent / "digests.json").unlink(missing_ok=True)


def shard(folder: Path, suffix: str, shards: int = 3) -> list[Path]:
    """Spreads model.safetensors over files with an index, as the hub does; suffix .safetensors or .bin."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "digests.json").unlink()
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    weight_map = {}
    paths = [folder / f"{stem}-{number + 1:05d}-of-{shards:05d}{suffix}" for number in range(shards)]
    for number, path in enumerate(paths):
        part = {name: tensors[name] for name in sorted(tensors)[number::shards]}
        weight_map |= dict.fromkeys(part, path.name)
        if suffix == ".safetensors":
            save_file(part, path)
        else:
            torch.save(part, path)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return paths


def pickle_instead(folder: Path, name: str) -> Path:
    """Replaces model.safetensors by one file that torch.save writes."""
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    (folder / "digests.json").unlink()
    return folder / name


def cut(path: Path, left: int) -> None:
    """Keeps the first bytes of a file."""
    os.truncate(path, left)


def write_zeros(path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """A safetensors file of any size, at no cost of memory."""
    piece = memoryview(bytes(2**20))

    def pieces(size: int) -> Iterable[memoryview]:
        for first in range(0, size, len(piece)):
            yield piece[: size - first]

    write_safetensors(path, specs, ((name, pieces(spec.nbytes)) for name, spec in specs.items()), never_stop)
