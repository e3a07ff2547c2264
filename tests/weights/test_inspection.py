from pathlib import Path

import pytest
import torch
from files import cut, pickle_instead, rewrite, shard

from videogen_api.architecture import architecture_of
from videogen_api.errors import WeightsMissing
from videogen_runner.weights.components import Component
from videogen_runner.weights.digests import DIGESTS_FILE, read_recorded
from videogen_runner.weights.inspection import ComponentReport, inspect

TINY = architecture_of("open-sora-v1.2-tiny")


def problems_of(root: Path) -> dict[str, list[str]]:
    return {report.component: list(report.problems) for report in inspect(root) if report.problems}


def test_a_complete_directory_is_described(original: Path) -> None:
    assert inspect(original, TINY)[1] == ComponentReport(
        component=Component.DENOISER,
        folder=str(original / "denoiser"),
        files=("model.safetensors",),
        tensors=157,
        parameters=1_358_156,
        bytes=5_432_624,
        dtypes=("F32",),
        digest=_recorded(original, Component.DENOISER),
    )
    assert problems_of(original) == {}


def _recorded(root: Path, component: Component) -> str:
    table = read_recorded(root / component)
    assert table is not None
    return table.digest


def test_tables_are_written_where_there_are_none(weights: Path, original: Path) -> None:
    shard(weights / "encoder", ".bin")
    pickle_instead(weights / "vae", "vae.pt")
    (weights / "denoiser" / DIGESTS_FILE).unlink()
    reports = inspect(weights)
    assert [report.note for report in reports] == ["digests.json written"] * 3
    for component, report in zip(Component, reports, strict=True):
        assert report.digest == _recorded(weights, component) == _recorded(original, component)
    assert [report.note for report in inspect(weights)] == [None] * 3


def test_a_table_of_the_same_tensors_in_other_files_is_renewed(weights: Path) -> None:
    table = (weights / "encoder" / DIGESTS_FILE).read_text()
    shard(weights / "encoder", ".safetensors")
    (weights / "encoder" / DIGESTS_FILE).write_text(table)
    assert inspect(weights)[0].note == "digests.json written"
    renewed = read_recorded(weights / "encoder")
    assert renewed is not None
    assert len(renewed.tensor_files) == 3


def test_weights_are_inspected_though_the_table_cannot_be_written(weights: Path) -> None:
    path = weights / "vae" / DIGESTS_FILE
    path.unlink()
    path.mkdir()
    report = inspect(weights)[2]
    assert (report.problems, report.digest is None) == ((), False)
    assert report.note is not None
    assert f"cannot write {path}: Is a directory" in report.note


def test_every_problem_has_its_line(weights: Path) -> None:
    path = weights / "denoiser" / "model.safetensors"
    rewrite(path, {"rope.freqs": None, "final_layer.linear.bias": torch.zeros(7), "surprise": torch.zeros(1)})
    cut(weights / "vae" / "model.safetensors", 100_000)
    (weights / "encoder" / "config.json").unlink()
    found = problems_of(weights)
    assert found["denoiser"] == [
        f"{path}: tensor rope.freqs is missing; copy the checkpoint again",
        f"{path}: tensor final_layer.linear.bias has shape [7], [32] is needed; the file is of another denoiser",
        f"{path}: tensor surprise is unknown; the file is of another denoiser",
    ]
    assert found["encoder"] == [f"{weights}/encoder/config.json is missing; copy it from the checkpoint"]
    assert len(found["vae"]) == 1
    assert f"{weights}/vae/model.safetensors has 100000 bytes, its header describes" in found["vae"][0]
    assert not (weights / "denoiser" / DIGESTS_FILE).exists()


def test_changed_values_are_found_though_nothing_else_changed(weights: Path) -> None:
    path = weights / "vae" / "model.safetensors"
    table = (weights / "vae" / DIGESTS_FILE).read_text()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    recorded = _recorded(weights, Component.VAE)
    (problem,) = problems_of(weights)["vae"]
    assert problem.startswith(f"{weights}/vae/digests.json records digest {recorded}, the files have ")
    assert (weights / "vae" / DIGESTS_FILE).read_text() == table


def test_a_tokenizer_that_cannot_be_read_is_a_problem(weights: Path) -> None:
    (weights / "encoder" / "tokenizer.json").write_text("{}")
    (problem,) = problems_of(weights)["encoder"]
    assert "encoder/tokenizer.json is no tokenizer file" in problem


def test_sizes_of_another_model_are_a_problem(weights: Path) -> None:
    (report, _, vae) = inspect(weights, architecture_of("open-sora-v1.2"))
    assert "d_model is 64, not 4096" in report.problems[0]
    assert "temporal.filters is 16, not 128" in vae.problems[0]


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="no such directory"):
        inspect(tmp_path / "nowhere")
