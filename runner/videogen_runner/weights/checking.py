"""Whether a component's files are those of the network that its config.json, or a model's name, describes."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from videogen_api.architecture import Architecture
from videogen_api.errors import VideogenError, WeightsInvalid, WeightsMissing
from videogen_runner.models.registry import Blueprint
from videogen_runner.weights.components import CONFIG_FILE, ComponentFiles
from videogen_runner.weights.tensor_files import StoredTensor


def check_config(
    files: ComponentFiles, blueprint: Blueprint, architecture: Architecture | None
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that belongs into these files.

    Raises WeightsInvalid where config.json describes no network, or another one than `architecture`.
    """
    path, config = files.folder / CONFIG_FILE, files.config
    try:
        sizes = blueprint.sizes(config)
        shapes = blueprint.shapes(config)
    except KeyError as error:
        raise WeightsInvalid(f"{path} has no {error}; copy it from the checkpoint") from error
    except (AttributeError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsInvalid(f"{path} describes no {files.component}: {error}; copy it from the checkpoint") from error
    if architecture is not None:
        differing = _differences(sizes, blueprint.sizes_of(architecture))
        if differing:
            raise WeightsInvalid(
                f"{path} is of another model than {architecture.name}: {'; '.join(differing)}; give that one's weights"
            )
    return shapes


def _differences(actual: Any, wanted: Any, prefix: str = "") -> list[str]:
    found: list[str] = []
    for field in fields(wanted):
        ours, theirs = getattr(actual, field.name), getattr(wanted, field.name)
        if is_dataclass(theirs):
            found += _differences(ours, theirs, f"{prefix}{field.name}.")
        elif ours != theirs:
            found.append(f"{prefix}{field.name} is {ours}, not {theirs}")
    return found


def canonical_names(tensors: Mapping[str, StoredTensor], blueprint: Blueprint) -> dict[str, StoredTensor]:
    """The tensors under the names that checkpoints of this kind use, without those that inference never reads."""
    named = {
        blueprint.aliases.get(name, name): tensor
        for name, tensor in tensors.items()
        if blueprint.aliases.get(name) not in tensors
    }
    return {name: tensor for name, tensor in named.items() if not name.startswith(blueprint.ignored_prefixes)}


def check_tensors(
    files: ComponentFiles, tensors: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]
) -> list[VideogenError]:
    """What keeps these tensors (by canonical name) from filling the network, one error each."""
    is_one_file = len(files.tensor_files) == 1
    where = files.tensor_files[0] if is_one_file else f"{files.folder} ({len(files.tensor_files)} files)"
    problems: list[VideogenError] = [
        WeightsMissing(f"{where}: tensor {name} is missing; copy the checkpoint again")
        for name in expected
        if name not in tensors
    ]
    for name, tensor in tensors.items():
        shape = list(tensor.spec.shape)
        if name not in expected:
            what = "is unknown"
        elif tensor.spec.shape != expected[name]:
            what = f"has shape {shape}, {list(expected[name])} is needed"
        else:
            continue
        problems.append(
            WeightsInvalid(f"{tensor.file}: tensor {name} {what}; the file is of another {files.component}")
        )
    return problems
