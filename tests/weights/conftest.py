"""Weights to spoil: made once, copied for each test."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from videogen_runner.weights.random_weights import PRESETS, write_random


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random weights; not to be changed."""
    root = tmp_path_factory.mktemp("weights") / "tiny"
    write_random(PRESETS["tiny"], root, seed=0)
    return root


@pytest.fixture
def weights(original: Path, tmp_path: Path) -> Path:
    """A copy of the tiny random weights."""
    return Path(shutil.copytree(original, tmp_path / "weights"))
