import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training.export import DTYPE, export
from training.tokenizer import build_tokenizer, captions, write_tokenizer

from videogen_api.architecture import ARCHITECTURES
from videogen_api.errors import InvalidInput
from videogen_runner.models.registry import blueprint_of
from videogen_runner.weights.components import Component
from videogen_runner.weights.inspection import inspect
from videogen_runner.weights.loading import load_denoiser, load_vae
from videogen_runner.weights.random_weights import PRESETS, write_random

SHAPES = ARCHITECTURES["shapes"]


def some_tensors(component: Component) -> dict[str, Tensor]:
    blueprint = blueprint_of("shapes", component)
    generator = torch.Generator().manual_seed(0)
    shapes = blueprint.shapes(blueprint.config_of(SHAPES))
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def trained() -> dict[Component, dict[str, Tensor]]:
    return {component: some_tensors(component) for component in Component}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, build_tokenizer(captions(500), SHAPES.encoder.vocab_size))
    return folder


@pytest.fixture(scope="module")
def exported(
    trained: dict[Component, dict[str, Tensor]], tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "shapes"
    export(trained, tokenizer, folder)
    return folder


def test_the_layout_is_that_of_random_weights(exported: Path, tmp_path: Path) -> None:
    write_random(PRESETS["shapes"], tmp_path / "random", seed=0)
    ours, theirs = (
        sorted(path.relative_to(root) for path in root.rglob("*")) for root in (exported, tmp_path / "random")
    )
    assert ours == theirs


def test_exported_weights_are_whole_and_have_their_digests(exported: Path) -> None:
    reports = inspect(exported, SHAPES)
    assert [problem for report in reports for problem in report.problems] == []
    for report in reports:
        table = json.loads((exported / report.component / "digests.json").read_text())
        assert table["digest"] == report.digest


def test_the_runner_reads_what_was_trained_rounded_once(
    exported: Path, trained: dict[Component, dict[str, Tensor]]
) -> None:
    denoiser = load_denoiser(exported / "denoiser", device="cpu", dtype=torch.float32, architecture=SHAPES)
    vae = load_vae(exported / "vae", device="cpu", dtype=torch.float32, architecture=SHAPES)
    for component, network in ((Component.DENOISER, denoiser), (Component.VAE, vae)):
        state = network.state_dict()
        for name, tensor in trained[component].items():
            assert torch.equal(state[name].flatten(), tensor.flatten().to(torch.bfloat16).float())


def test_the_config_of_the_vae_says_the_measured_shift_and_scale(
    exported: Path, trained: dict[Component, dict[str, Tensor]]
) -> None:
    config = json.loads((exported / "vae" / "config.json").read_text())
    for name in ("scale", "shift"):
        assert config[name] == pytest.approx(trained[Component.VAE][name].flatten().tolist(), abs=1e-4)


def test_finished_weights_are_never_written_over(
    exported: Path, trained: dict[Component, dict[str, Tensor]], tokenizer: Path
) -> None:
    with pytest.raises(InvalidInput, match="is there already"):
        export(trained, tokenizer, exported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("scale"), r"\['scale'\] are missing or too many"),
        (lambda tensors: tensors.update(more=torch.ones(1)), r"\['more'\] are missing or too many"),
        (lambda tensors: tensors.update(scale=torch.full((1, 4, 1, 1, 1), torch.nan)), "finite values belong there"),
        (lambda tensors: tensors.update(scale=torch.ones(5)), r"scale has shape \(5,\)"),
    ],
    ids=["missing", "unknown", "not a number", "wrong shape"],
)
def test_tensors_that_are_not_the_models_are_refused_before_anything_is_written(
    trained: dict[Component, dict[str, Tensor]], tokenizer: Path, tmp_path: Path, change, message: str
) -> None:  # type: ignore[no-untyped-def]
    vae = dict(trained[Component.VAE])
    change(vae)
    with pytest.raises(ValueError, match=message):
        export({**trained, Component.VAE: vae}, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_have_the_dtype_that_the_preset_has() -> None:
    assert set(PRESETS["shapes"].dtypes.values()) == {DTYPE}
