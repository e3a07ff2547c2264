"""The model's weights must fit into the repository, before anybody trains them."""

from pathlib import Path

import pytest
from training.export import MAX_BYTES, MAX_FILE_BYTES

from videogen_api.architecture import ARCHITECTURES
from videogen_runner.weights import random_weights
from videogen_runner.weights.components import Component
from videogen_runner.weights.inspection import inspect


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "shapes"
    random_weights.write_random(random_weights.PRESETS["shapes"], folder, seed=0)
    return folder


def test_no_file_has_more_than_12_mb_and_all_have_no_more_than_24(weights: Path) -> None:
    sizes = {path: path.stat().st_size for path in weights.rglob("*") if path.is_file()}
    assert max(sizes.values()) <= MAX_FILE_BYTES
    assert sum(sizes.values()) <= MAX_BYTES


def test_random_weights_of_the_preset_are_whole_and_of_the_sizes_of_the_name(weights: Path) -> None:
    reports = inspect(weights, ARCHITECTURES["shapes"])
    assert [report.component for report in reports] == list(Component)
    assert [problem for report in reports for problem in report.problems] == []
    assert {dtype for report in reports for dtype in report.dtypes} == {"BF16"}
