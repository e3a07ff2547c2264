"""The commands of docs/shapes-model.md one after the other, for seconds each: real processes, the real sizes."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training.autoencoder import build_vae
from training.checkpoints import load_weights, save_weights
from training.denoiser import Networks
from training.tokenizer import build_tokenizer, captions, write_tokenizer

from videogen_api.architecture import ARCHITECTURES
from videogen_runner.weights.inspection import inspect

SHAPES = ARCHITECTURES["shapes"]
ROOT = Path(__file__).parents[2]

# Minutes where other tests share two slow cores.
pytestmark = pytest.mark.timeout(1800)


def run(command: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", f"training.{command}", *map(str, arguments)], cwd=ROOT, check=True)


def checked_curve(folder: Path, name: str) -> None:
    with (folder / f"{name}.csv").open() as file:
        columns, *rows = csv.reader(file)
    assert columns[:3] == ["seconds", "step", "loss"]
    assert len(rows) >= 1
    assert (folder / f"{name}.png").is_file()


def change(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The greatest of any weight."""
    measured = {"scale", "shift"}
    return max((second[name] - first[name]).abs().max().item() for name in first if name not in measured)


def test_from_the_weights_of_other_runs_to_a_weights_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_tokenizer(tmp_path / "tokenizer", build_tokenizer(captions(1500), SHAPES.encoder.vocab_size))
    vae, networks = build_vae(), Networks()
    save_weights(tmp_path / "first", "vae", vae.state_dict(), step=1)
    save_weights(tmp_path / "first", "denoiser", networks.denoiser.weights(), step=1)
    save_weights(tmp_path / "first", "encoder", networks.encoder_weights(), step=1)

    brief = ("--minutes", 0.01, "--device", "cpu", "--from", tmp_path / "first")
    run("vae", *brief, "--out", tmp_path / "vae", "--pixels", 2048, "--store-pixels", 9000)
    given = ("--tokenizer", tmp_path / "tokenizer", "--vae", tmp_path / "vae")
    small = ("--workers", 1, "--sizes", "64x64", "--frames", 1, "--tokens", 64, "--chunk-pixels", 20_000)
    run("denoiser", *brief, *given, *small, "--out", tmp_path / "denoiser")
    run("export", *given, "--denoiser", tmp_path / "denoiser", "--out", tmp_path / "weights")

    assert [problem for report in inspect(tmp_path / "weights", SHAPES) for problem in report.problems] == []
    for name in ("vae", "denoiser"):
        # It begins where the first one ended: one step of warm-up changes little, but something.
        assert 0 < change(load_weights(tmp_path / "first", name), load_weights(tmp_path / name, name)) < 1e-4
        checked_curve(tmp_path / name, name)
