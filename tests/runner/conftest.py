"""What tests of several roles share and is slow to make."""

from pathlib import Path

import pytest

from videogen_runner.weights.random_weights import PRESETS, write_random


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with random weights: real networks, in layout and code, that make noise."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    write_random(PRESETS["tiny"], folder, seed=0)
    return folder
