"""Writes the weights folder of `shapes` from trained weights: `python -m training.export`.

The layout is that of `videogen weights random`, and so are the writers: bf16, config.json, tokenizer, digests.
"""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from training.checkpoints import load_weights
from videogen_api.architecture import ARCHITECTURES
from videogen_runner.models.registry import blueprint_of
from videogen_runner.weights.components import CONFIG_FILE, SAFETENSORS_FILE, Component
from videogen_runner.weights.conversion import check_absent, write_component
from videogen_runner.weights.digests import ComponentDigests
from videogen_runner.weights.folders import appearing_folder
from videogen_runner.weights.pieces import DTYPES, as_bytes
from videogen_runner.weights.tensor_files import TensorSpec, never_stop

MODEL = "shapes"
DTYPE = "BF16"
MAX_FILE_BYTES, MAX_BYTES = 12_000_000, 24_000_000

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def export(
    trained: Mapping[Component, Mapping[str, Tensor]], tokenizer: Path, target: Path
) -> dict[Component, ComponentDigests]:
    """Writes all three components.

    Raises InvalidInput where one is there already, ValueError for tensors that are not the model's, or are not finite,
    or for files larger than the repository takes.
    """
    for component in Component:
        check_absent(target / component)
        check_tensors(component, trained[component])
    digests = {
        component: _write(component, trained[component], tokenizer, target / component) for component in Component
    }
    sizes = {component: (target / component / SAFETENSORS_FILE).stat().st_size for component in Component}
    total = sum(path.stat().st_size for component in Component for path in (target / component).iterdir())
    if max(sizes.values()) > MAX_FILE_BYTES or total > MAX_BYTES:
        raise ValueError(f"{target} has {total} bytes, tensors {sizes}; {MAX_BYTES} and {MAX_FILE_BYTES} are allowed")
    return digests


def check_tensors(component: Component, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError for tensors that are not exactly the model's, or are not finite."""
    blueprint = blueprint_of(MODEL, component)
    expected = blueprint.shapes(blueprint.config_of(ARCHITECTURES[MODEL]))
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found.keys() != expected.keys():
        raise ValueError(f"{component}: {sorted(found.keys() ^ expected.keys())} are missing or too many")
    for name, tensor in tensors.items():
        if tensor.numel() != TensorSpec(DTYPE, expected[name]).num_values or not tensor.isfinite().all():
            raise ValueError(
                f"{component}: {name} has shape {found[name]}, {expected[name]} and finite values belong there"
            )


def _write(component: Component, tensors: Mapping[str, Tensor], tokenizer: Path, target: Path) -> ComponentDigests:
    blueprint = blueprint_of(MODEL, component)
    config = blueprint.config_of(ARCHITECTURES[MODEL])
    if component is Component.VAE:
        # For people; the tensors are what counts.
        config |= {name: [round(value, 4) for value in tensors[name].flatten().tolist()] for name in ("scale", "shift")}
    specs = {name: TensorSpec(DTYPE, shape) for name, shape in sorted(blueprint.shapes(config).items())}
    values = ((name, [as_bytes(tensors[name].flatten().to(DTYPES[DTYPE]))]) for name in specs)
    with appearing_folder(target) as folder:
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if component is Component.ENCODER:
            for name in _TOKENIZER_FILES:
                shutil.copyfile(tokenizer / name, folder / name)
        return write_component(folder, component, specs, values, never_stop)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m training.export", description="Writes the weights folder.")
    arguments.add_argument("--vae", type=Path, required=True, help="folder of a run of training.vae")
    arguments.add_argument("--denoiser", type=Path, required=True, help="folder of a run of training.denoiser")
    arguments.add_argument("--tokenizer", type=Path, required=True, help="folder of training.tokenizer")
    arguments.add_argument("--out", type=Path, required=True, help="weights directory to write")
    options = arguments.parse_args()
    trained = {
        Component.ENCODER: load_weights(options.denoiser, "encoder"),
        Component.DENOISER: load_weights(options.denoiser, "denoiser"),
        Component.VAE: load_weights(options.vae, "vae"),
    }
    for component, table in export(trained, options.tokenizer, options.out).items():
        print(f"{options.out / component}: {len(table.tensors)} tensors, digest {table.digest}")


if __name__ == "__main__":
    main()
