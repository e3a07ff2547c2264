"""Weights between runs: fp32 tensors in safetensors files of a bounded size, replaced whole."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

MAX_PART_BYTES = 14_000_000
"""Of one file, so that it passes where files of 16 MB are too large."""


def save_weights(folder: Path, name: str, tensors: Mapping[str, Tensor], step: int) -> None:
    """Writes NAME-0.safetensors and so on, in place of what is there. A reader sees if a stop has mixed two steps."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = _split({key: tensor.detach().float().cpu().contiguous() for key, tensor in sorted(tensors.items())})
    metadata = {"step": json.dumps(step), "parts": json.dumps(len(parts))}
    for index, part in enumerate(parts):
        save_file(part, folder / f".{name}-{index}.unfinished", metadata=metadata)
    for index in range(len(parts)):
        (folder / f".{name}-{index}.unfinished").replace(folder / f"{name}-{index}.safetensors")


def load_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors that were saved last. Raises ValueError where files are missing or of two steps."""
    tensors: dict[str, Tensor] = {}
    marks: list[dict[str, str]] = []
    for path in sorted(folder.glob(f"{name}-*.safetensors")):
        with safe_open(path, "pt") as file:
            marks.append(file.metadata())
            tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    if not marks or any(mark != {**marks[0], "parts": json.dumps(len(marks))} for mark in marks):
        raise ValueError(f"{folder} holds no complete {name} weights; name the folder of another run")
    return tensors


def _split(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > MAX_PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][key] = tensor
        size += tensor.nbytes
    return parts
