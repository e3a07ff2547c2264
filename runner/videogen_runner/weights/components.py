"""The three folders of a weights directory, and which files in one are its tensors. Torch-free; docs/weights.md."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from videogen_api.errors import WeightsInvalid, WeightsMissing
from videogen_runner.weights.tensor_files import StoredTensor, TensorFile, open_tensor_file, read_safetensors

CONFIG_FILE = "config.json"
SAFETENSORS_FILE = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
"""What the encoder's tokenizer is read from; the first that is there counts."""

_SAFETENSORS = (".safetensors",)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_INDEX = ".index.json"


class Component(StrEnum):
    """The networks of a model; the values are the names of their folders."""

    ENCODER = "encoder"
    DENOISER = "denoiser"
    VAE = "vae"


@dataclass(frozen=True)
class ComponentFiles:
    """The files of one component: `tensor_files` hold its tensors, `texts` the rest of what it is.

    Tensors may be in a store; texts, and digests.json where there is one, are always in `folder`. `shard_of` is the
    index's: the file that should hold a tensor; empty where one file holds all.
    """

    component: Component
    folder: Path
    tensor_files: tuple[TensorFile, ...]
    texts: tuple[Path, ...]
    shard_of: Mapping[str, TensorFile]

    @property
    def is_pickled(self) -> bool:
        """Whether torch saved them (.bin, .pt ...): nothing can be said of such files without torch."""
        return is_pickle(self.tensor_files[0])

    @property
    def config(self) -> dict[str, Any]:
        """config.json; empty where there is none."""
        path = self.folder / CONFIG_FILE
        return read_json_object(path) if path in self.texts else {}


def is_pickle(file: TensorFile) -> bool:
    """Whether torch saved it, by its name."""
    return file.suffix in _PICKLES


def check_directory(root: Path) -> None:
    """Raises WeightsMissing or WeightsInvalid where `root` is no directory."""
    if not root.exists():
        raise WeightsMissing(f"weights {root}: no such directory; see `videogen weights --help` for making one")
    if not root.is_dir():
        raise WeightsInvalid(f"weights {root} is not a directory; name the one that holds {', '.join(Component)}")


def find_files(folder: Path, component: Component) -> ComponentFiles:
    """The files of a component's folder. Raises WeightsMissing or WeightsInvalid naming the file that is at fault."""
    if not folder.is_dir():
        raise WeightsMissing(f"{folder} is missing; the {component}'s weights belong there")
    texts = []
    if (folder / CONFIG_FILE).is_file():
        texts.append(folder / CONFIG_FILE)
    elif component is not Component.VAE:
        raise WeightsMissing(f"{folder / CONFIG_FILE} is missing; copy it from the checkpoint")
    if component is Component.ENCODER:
        tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
        if not tokenizer:
            raise WeightsMissing(
                f"{folder} has neither {' nor '.join(TOKENIZER_FILES)}; copy the checkpoint's tokenizer"
            )
        texts += tokenizer
    tensor_files, shard_of = _find_tensor_files(folder)
    return ComponentFiles(component, folder, tensor_files, tuple(texts), shard_of)


def _find_tensor_files(folder: Path) -> tuple[tuple[Path, ...], dict[str, Path]]:
    """Safetensors win over pickles, a file with an index over one without."""
    names = sorted(path.name for path in folder.iterdir())
    for suffixes in (_SAFETENSORS, _PICKLES):
        indexes = [name for name in names if name.endswith(tuple(f"{suffix}{_INDEX}" for suffix in suffixes))]
        files = [name for name in names if name.endswith(suffixes)]
        if len(indexes) > 1 or (len(files) > 1 and not indexes):
            found = ", ".join(indexes or files)
            raise WeightsInvalid(f"{folder} has {found}; keep one file, or one {suffixes[0]}{_INDEX} and its shards")
        if indexes:
            return _read_index(folder / indexes[0])
        if files:
            return (folder / files[0],), {}
    raise WeightsMissing(f"{folder / SAFETENSORS_FILE} is missing, and no other tensor file is there; copy it again")


def _read_index(path: Path) -> tuple[tuple[Path, ...], dict[str, Path]]:
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(map(_is_file_name, weight_map.values())):
        raise WeightsInvalid(f"{path}: weight_map must name a file of this folder for every tensor; copy it again")
    files = tuple(path.parent / name for name in sorted(set(weight_map.values())))
    for file in files:
        if not file.is_file():
            raise WeightsMissing(f"{file} is missing, and {path.name} names it; copy it again")
    return files, {tensor: path.parent / name for tensor, name in weight_map.items()}


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises WeightsMissing or WeightsInvalid naming it."""
    with open_tensor_file(path) as file:
        try:
            value = json.load(file)
        except (ValueError, RecursionError) as error:
            raise WeightsInvalid(f"{path} is no JSON file ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise WeightsInvalid(f"{path} holds no JSON object; copy it again")
    return value


def list_tensors(files: ComponentFiles) -> dict[str, StoredTensor]:
    """Every tensor of a component, by name. Reads headers alone; pickles need torch.

    Raises WeightsMissing or WeightsInvalid naming file and tensor.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files.tensor_files:
        for tensor in _read(file):
            if tensor.name in tensors:
                raise WeightsInvalid(f"tensor {tensor.name} is in {tensors[tensor.name].file} and in {file}; keep one")
            tensors[tensor.name] = tensor
    for name, file in files.shard_of.items():
        if name not in tensors or tensors[name].file != file:
            raise WeightsMissing(f"tensor {name} is not in {file}, where the index puts it; copy the file again")
    return tensors


def _read(file: TensorFile) -> list[StoredTensor]:
    if isinstance(file, Path) and is_pickle(file):
        from videogen_runner.weights.pickles import read_pickle

        return read_pickle(file)
    return read_safetensors(file)
