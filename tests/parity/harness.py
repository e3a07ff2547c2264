"""What a parity case is and how an error is measured; knows nothing of any model.

A fixture folder holds `manifest.json` and the files it lists: `.safetensors` with `param/`, `in/`, `mid/` and `out/`
tensors and a JSON `config` in the metadata, or `.json` tables of rows. Each `cases_*.py` beside this file maps kinds to
functions `Case -> list[Measurement]` in a dictionary called `KINDS`; check.py and test_parity.py run them.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """One number of a case against its bound. For exact comparisons `error` counts what differs and `bound` is 0."""

    name: str
    error: float
    bound: float

    @property
    def passes(self) -> bool:
        return self.error <= self.bound  # a NaN error passes nothing


@dataclass(frozen=True)
class Case:
    """One entry of manifest.json: a file below `root`, what kind of record it is, and how far results may be off."""

    root: Path
    file: str
    kind: str
    sha256: str
    tolerance: Mapping[str, float | str] | str

    @property
    def path(self) -> Path:
        return self.root / self.file

    @property
    def config(self) -> dict[str, Any]:
        """The safetensors metadata: constructor and call arguments."""
        return _read_config(self.path)

    @property
    def table(self) -> dict[str, Any]:
        """The whole JSON table, header fields included."""
        table: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return table

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.table["rows"]
        return rows

    def inputs(self) -> dict[str, Tensor]:
        return _read_tensors(self.path, "in/")

    def intermediates(self) -> dict[str, Tensor]:
        return _read_tensors(self.path, "mid/")

    def outputs(self) -> dict[str, Tensor]:
        return _read_tensors(self.path, "out/")

    def params(self, key: str | None = None) -> dict[str, Tensor]:
        """The weights of a case: its own `param/` tensors, or those of the file that `config[key]` names."""
        return _read_tensors(self.path if key is None else self.root / self.config[key], "param/")

    def params_config(self, key: str) -> dict[str, Any]:
        """The metadata of the weights file that `config[key]` names."""
        return _read_config(self.root / self.config[key])

    def bound(self, name: str, default: float) -> float:
        """The manifest's tolerance called `name`; `default` (the README's for this kind) where it gives none."""
        if isinstance(self.tolerance, str):
            return 0.0 if self.tolerance == "exact" else default
        value = self.tolerance.get(name, default)
        return 0.0 if value == "exact" else float(value)

    def measure(self, name: str, actual: Tensor, expected: Tensor, bound: float) -> Measurement:
        return Measurement(name, relative_error(actual, expected), bound)


Check = Callable[[Case], list[Measurement]]


def read_manifest(root: Path) -> list[Case]:
    """Every case of a fixture folder, in the manifest's order."""
    manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    return [
        Case(root, entry["file"], entry["kind"], entry["sha256"], entry.get("tolerance", {}))
        for entry in manifest["files"]
    ]


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """max|actual - expected| / max|expected|, in fp64; infinite for another shape or a NaN that is not in both.

    A reference that is zero everywhere leaves the absolute error.
    """
    if actual.shape != expected.shape:
        return math.inf
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach().double(), expected.double()
    both_nan = actual.isnan() & expected.isnan()
    actual, expected = actual.masked_fill(both_nan, 0.0), expected.masked_fill(both_nan, 0.0)
    difference = (actual - expected).abs().max().item()
    scale = expected.abs().max().item() or 1.0
    return difference / scale if math.isfinite(difference) else math.inf


def count_wrong_values(actual: Tensor, expected: Tensor) -> float:
    """How many elements differ (a NaN equals a NaN); infinite for another shape."""
    if actual.shape != expected.shape:
        return math.inf
    actual, expected = actual.detach().double(), expected.double()
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    return float((~same).sum().item())


def count_wrong_rows(rows: Sequence[Mapping[str, Any]], function: Callable[[Mapping[str, Any]], object]) -> float:
    """How many rows `function(row)` gets wrong: a row's `output` must be returned, a row with `error` be refused."""
    return float(sum(not _row_is_right(row, function) for row in rows))


def _row_is_right(row: Mapping[str, Any], function: Callable[[Mapping[str, Any]], object]) -> bool:
    if "error" not in row:
        return function(row) == row["output"]
    try:
        function(row)
    except Exception:  # noqa: BLE001 - which exception refuses an input is the project's own choice
        return True
    return False


@lru_cache(maxsize=64)
def _read_config(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        config: dict[str, Any] = json.loads(file.metadata()["config"])
    return config


def _read_tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118 - safe_open has no iteration


def dtype_of(name: str) -> torch.dtype:
    """The dtype that a fixture names, in either spelling."""
    return {"fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16}[name]
