import json
import time
from pathlib import Path

import pytest
import torch
from benchmarks import denoise
from benchmarks.contenders import Workload, build_model, build_workload, plain
from benchmarks.denoise_report import difference
from benchmarks.interleaving import Contender, take_turns
from torch import Tensor

from videogen_api.architecture import architecture_of
from videogen_runner.models.opensora.stdit3 import STDiT3

CPU = torch.device("cpu")
TINY = architecture_of("open-sora-v1.2-tiny").denoiser


@pytest.fixture(scope="module")
def model() -> STDiT3:
    with torch.no_grad():
        return build_model(TINY, 0, CPU, torch.float32)


@pytest.fixture(scope="module")
def workload(model: STDiT3) -> Workload:
    return build_workload(model, "144p", 17, 1)


def test_a_dry_run_on_a_cpu_measures_floor_and_contenders_of_equal_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, profiles = tmp_path / "figures.json", tmp_path / "profiles"
    arguments = "--device cpu --model open-sora-v1.2-tiny --dtype float32 --sizes 144p --frames 17 --rounds 2"
    code = denoise.main(
        [*arguments.split(), "--contenders", "reference", "plain", "--out", str(out), "--profile", str(profiles)]
    )
    assert code == 0

    measured = json.loads(out.read_text())["sizes"]["144p"]
    assert measured["failed"] == {}
    assert measured["latent"] == [5, 18, 32]
    assert measured["floor"]["ms"] == pytest.approx(sum(shape["step_ms"] for shape in measured["floor"]["shapes"]))
    assert [shape["kind"] for shape in measured["floor"]["shapes"]] == ["Matmul"] * 9 + ["Attention"] * 3
    assert list(measured["contenders"]) == ["reference", "plain"]
    for contender in measured["contenders"].values():
        assert [len(turn) for turn in contender["rounds_ms"]] == [3, 3]
        assert contender["ms"]["least"] <= contender["ms"]["median"] <= contender["ms"]["most"]
        assert max(found["largest"] for found in contender["difference"].values()) <= 5e-6
    assert measured["contenders"]["reference"]["speedup"] == {"median": 1.0, "least": 1.0, "most": 1.0}

    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()]
    assert rows[2:] == [["| 144p", "floor"], ["| 144p", "reference"], ["| 144p", "plain"]]
    assert sorted(path.name for path in profiles.iterdir()) == ["144p-plain.md", "144p-reference.md"]
    assert "aten::addmm" in (profiles / "144p-plain.md").read_text()


def test_a_budget_that_is_spent_leaves_sizes_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    arguments = "--device cpu --model open-sora-v1.2-tiny --sizes 144p --budget -1"
    assert denoise.main([*arguments.split(), "--out", str(out)]) == 1
    assert "144p is left out" in capsys.readouterr().err


@torch.no_grad()
def test_one_that_fails_leaves_the_others_to_be_measured(model: STDiT3, workload: Workload) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    contenders, failed = denoise.warm_all_up({"broken": broken, "plain": plain}, model, workload)  # type: ignore[dict-item]
    assert [contender.name for contender in contenders] == ["plain"]
    assert failed == {"broken": "RuntimeError: no kernel image is available"}


class Recorded:
    """Contenders whose steps write down whose they are."""

    def __init__(self, *names: str) -> None:
        self.steps: list[str] = []
        self.contenders = [self.build(name) for name in names]

    def build(self, name: str) -> Contender:
        def step(z_BCTHW: Tensor, _: Tensor) -> Tensor:
            self.steps.append(name)
            return z_BCTHW

        return Contender(name, step, 0.0, None, torch.zeros(1))


def test_contenders_take_turns(workload: Workload) -> None:
    recorded = Recorded("a", "b")
    take_turns(recorded.contenders, workload, rounds=2, deadline=time.monotonic() + 600)
    assert recorded.steps == [*"aaabbbaaabbb"]


def test_a_deadline_that_has_passed_leaves_one_round(workload: Workload) -> None:
    recorded = Recorded("a", "b")
    take_turns(recorded.contenders, workload, rounds=5, deadline=time.monotonic())
    assert recorded.steps == [*"aaabbb"]


def test_differences_are_parts_of_what_is_expected_and_none_where_something_is_not_finite() -> None:
    expected = torch.tensor([3.0, -4.0])
    assert difference(torch.tensor([3.0, -3.0]), expected) == {"largest": 0.25, "norm": 0.2}
    assert difference(torch.tensor([3.0, float("nan")]), expected) is None
