"""`videogen weights convert`: any public layout to one safetensors file a component, with its table of digests.

Tensor by tensor and piece by piece: memory does not grow with the checkpoint.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from videogen_api.architecture import DEFAULT_MODEL
from videogen_api.errors import InvalidInput, WeightsMissing
from videogen_runner.models.opensora.t5 import dtype_in_memory
from videogen_runner.models.registry import blueprint_of
from videogen_runner.weights.checking import canonical_names
from videogen_runner.weights.components import (
    CONFIG_FILE,
    SAFETENSORS_FILE,
    Component,
    ComponentFiles,
    check_directory,
    find_files,
    list_tensors,
    read_json_object,
)
from videogen_runner.weights.digests import DIGESTS_FILE, ComponentDigests, TensorDigest, make_table
from videogen_runner.weights.folders import appearing_folder
from videogen_runner.weights.pieces import DTYPE_NAMES, DTYPES, as_bytes, pieces
from videogen_runner.weights.tensor_files import StoredTensor, TensorSpec, never_stop, write_safetensors

# Public repositories of the three components, and the model_type of their config.json.
_REPOSITORIES: Mapping[Component, tuple[str, str]] = {
    Component.ENCODER: ("DeepFloyd", "t5-v1_1-xxl"),
    Component.DENOISER: ("hpcai-tech", "OpenSora-STDiT-v3"),
    Component.VAE: ("hpcai-tech", "OpenSora-VAE-v1.2"),
}
_MODEL_TYPES: Mapping[str, Component] = {
    "t5": Component.ENCODER,
    "STDiT3": Component.DENOISER,
    "VideoAutoencoderPipeline": Component.VAE,
}

# Copied for other programs' sake; ours reads tokenizer.json or spiece.model.
_TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class _Source:
    files: ComponentFiles
    tensors: dict[str, StoredTensor]


def convert(
    source: Path, target: Path, dtype: torch.dtype | None = None, check: Callable[[], None] = never_stop
) -> dict[Component, ComponentDigests]:
    """Converts every component that `source` holds; `dtype` None keeps each tensor's own.

    `source` has the three folders (or some), under our names or those of the public repositories, or is one of them.
    In fp16, T5's `wo` stays fp32. All of it is looked at before anything is written, and a component's folder appears
    in `target` when it is whole. Raises WeightsMissing or WeightsInvalid, InvalidInput where a folder is there already,
    and what `check` raises, which is called before each piece.
    """
    sources = [_open(folder, component) for component, folder in find_components(source).items()]
    for opened in sources:
        check_absent(target / opened.files.component)
    return {opened.files.component: _convert(opened, target, dtype, check) for opened in sources}


def find_components(source: Path) -> dict[Component, Path]:
    """The folder of each component that is there."""
    check_directory(source)
    if (source / CONFIG_FILE).is_file():
        component = _MODEL_TYPES.get(str(read_json_object(source / CONFIG_FILE).get("model_type")))
        if component is not None:
            return {component: source}
    found = {component: folder for component in Component for folder in _candidates(source, component)}
    if not found:
        names = ", ".join([*Component, *(name for _, name in _REPOSITORIES.values())])
        raise WeightsMissing(f"{source} has none of the folders {names}; name the directory that holds them")
    return found


def _candidates(source: Path, component: Component) -> list[Path]:
    """The hub's cache, a copy of the repository, our own name; later ones win."""
    owner, name = _REPOSITORIES[component]
    snapshots = sorted((source / f"models--{owner}--{name}" / "snapshots").glob("*"))
    folders = [*snapshots, source / owner / name, source / name, source / component]
    return [folder for folder in folders if folder.is_dir()]


def check_absent(folder: Path) -> None:
    """Raises InvalidInput where the folder is there already."""
    if folder.exists():
        raise InvalidInput(f"{folder} is there already; remove it or write to another directory")


def _open(folder: Path, component: Component) -> _Source:
    files = find_files(folder, component)
    return _Source(files, canonical_names(list_tensors(files), blueprint_of(DEFAULT_MODEL, component)))


def _convert(source: _Source, target: Path, dtype: torch.dtype | None, check: Callable[[], None]) -> ComponentDigests:
    files = source.files
    extras = [files.folder / name for name in _TOKENIZER_EXTRAS if files.component is Component.ENCODER]
    specs = {
        name: TensorSpec(_dtype(name, stored, dtype), stored.spec.shape) for name, stored in source.tensors.items()
    }
    values = ((name, _cast(stored, specs[name])) for name, stored in source.tensors.items())
    with appearing_folder(target / files.component) as folder:
        for path in [*files.texts, *(extra for extra in extras if extra.is_file())]:
            shutil.copyfile(path, folder / path.name)
        return write_component(folder, files.component, specs, values, check)


def write_component(
    folder: Path,
    component: Component,
    specs: Mapping[str, TensorSpec],
    values: Iterable[tuple[str, Iterable[memoryview]]],
    check: Callable[[], None],
) -> ComponentDigests:
    """Writes tensors and table into a folder that has config.json and tokenizer already; `values` and `check`
    as in `write_safetensors`."""
    digests = write_safetensors(folder / SAFETENSORS_FILE, specs, values, check)
    tensors = {
        name: TensorDigest(dtype=spec.dtype, shape=spec.shape, sha256=digests[name]) for name, spec in specs.items()
    }
    table = make_table(find_files(folder, component), tensors)
    (folder / DIGESTS_FILE).write_text(table.to_json())
    return table


def _dtype(name: str, stored: StoredTensor, dtype: torch.dtype | None) -> str:
    if dtype is None or not DTYPES[stored.spec.dtype].is_floating_point:
        return stored.spec.dtype
    return DTYPE_NAMES[dtype_in_memory(name, dtype)]


def _cast(stored: StoredTensor, spec: TensorSpec) -> Iterator[memoryview]:
    if spec.dtype == stored.spec.dtype:
        yield from stored.chunks()
        return
    for piece in pieces(stored):
        yield as_bytes(piece.to(DTYPES[spec.dtype]))
