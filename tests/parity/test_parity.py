"""Every recorded case at its tolerance, and the harness itself against damaged and unknown ones."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import check
import pytest
import torch
from harness import Case, Measurement, count_wrong_rows, read_manifest, relative_error, sha256_of
from safetensors import safe_open
from safetensors.torch import save_file

FIXTURES = Path(__file__).parent / "fixtures" / "opensora-v1.2"
CHECK = Path(check.__file__)


@pytest.mark.parametrize("case", read_manifest(FIXTURES), ids=lambda case: case.file)
def test_a_recorded_case_is_met(case: Case) -> None:
    misses = [measurement for measurement in check.measure(case) if not measurement.passes]
    assert misses == []


def test_every_file_of_the_fixtures_is_in_the_manifest() -> None:
    listed = {case.file for case in read_manifest(FIXTURES)} | {"README.md", "manifest.json"}
    assert {path.relative_to(FIXTURES).as_posix() for path in FIXTURES.rglob("*") if path.is_file()} == listed


def build_folder(root: Path, *files: str) -> list[dict[str, object]]:
    """A fixture folder with some of the recorded files; returns the entries for its manifest."""
    manifest = json.loads((FIXTURES / "manifest.json").read_text())
    entries = [entry for entry in manifest["files"] if entry["file"] in files]
    assert len(entries) == len(files)
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FIXTURES / file, root / file)
    return entries


RunCheck = Callable[[Path, list[dict[str, object]]], tuple[int, list[str]]]


@pytest.fixture
def run_check(capsys: pytest.CaptureFixture[str]) -> RunCheck:
    """Exit code and lines of check.py on a folder with a manifest of the given entries."""

    def run(root: Path, entries: list[dict[str, object]]) -> tuple[int, list[str]]:
        (root / "manifest.json").write_text(json.dumps({"files": entries}))
        code = check.main([str(root)])
        return code, capsys.readouterr().out.splitlines()

    return run


def test_check_is_a_command_that_passes_a_folder_with_files_of_any_name(tmp_path: Path) -> None:
    entries = build_folder(tmp_path, "weights/stdit3.safetensors", "stdit3/image_t1.safetensors")
    (tmp_path / "stdit3" / "image_t1.safetensors").rename(tmp_path / "another.safetensors")
    entries = [
        entry | {"file": "another.safetensors"} if entry["file"] == "stdit3/image_t1.safetensors" else entry
        for entry in entries
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"files": entries}))
    process = subprocess.run([sys.executable, CHECK, tmp_path], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout.splitlines()[-1]) == (0, "2 of 2 cases pass")


def test_check_uses_the_bound_of_the_kind_where_the_manifest_gives_none(run_check: RunCheck, tmp_path: Path) -> None:
    entries = build_folder(tmp_path, "weights/stdit3.safetensors", "stdit3/image_t1.safetensors")
    for entry in entries:
        del entry["tolerance"]
    code, lines = run_check(tmp_path, entries)
    assert code == 0
    assert any("<= 5e-06" in line for line in lines)


def test_check_misses_a_flipped_value_even_if_the_manifest_was_made_to_agree(
    run_check: RunCheck, tmp_path: Path
) -> None:
    file = "stdit3/image_t1.safetensors"
    entries = build_folder(tmp_path, "weights/stdit3.safetensors", file)
    path = tmp_path / file
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - safe_open has no iteration
    tensors["out/pred"].view(-1)[17] *= -1
    save_file(tensors, path, metadata)
    code, lines = run_check(tmp_path, entries)
    assert code == 1
    assert any(line.startswith(f"MISS {file}") and "sha256 differs" in line for line in lines)

    entries = [entry | {"sha256": sha256_of(tmp_path / str(entry["file"]))} for entry in entries]
    code, lines = run_check(tmp_path, entries)
    assert code == 1
    assert any(line.startswith(f"MISS {file}") and "pred" in line for line in lines)
    assert lines[-1] == "1 of 2 cases pass"


def test_check_misses_a_changed_row_of_a_table(run_check: RunCheck, tmp_path: Path) -> None:
    file = "tables/timesteps.json"
    entries = build_folder(tmp_path, file)
    table = json.loads((tmp_path / file).read_text())
    table["rows"][3]["timesteps"][1] += 1e-4
    (tmp_path / file).write_text(json.dumps(table))
    code, lines = run_check(tmp_path, [entry | {"sha256": sha256_of(tmp_path / file)} for entry in entries])
    assert code == 1
    assert "timesteps 1 <= 0" in lines[0]


def test_check_misses_a_kind_that_it_does_not_know(run_check: RunCheck, tmp_path: Path) -> None:
    entries = build_folder(tmp_path, "tables/timesteps.json")
    code, lines = run_check(tmp_path, [entry | {"kind": "stdit4_forward"} for entry in entries])
    assert code == 1
    assert "unknown kind 'stdit4_forward'" in lines[0]


def test_check_misses_a_file_that_is_not_there(run_check: RunCheck, tmp_path: Path) -> None:
    entries = build_folder(tmp_path, "tables/timesteps.json")
    (tmp_path / "tables" / "timesteps.json").unlink()
    code, lines = run_check(tmp_path, entries)
    assert code == 1
    assert "file is missing" in lines[0]


def test_check_of_a_folder_without_manifest_says_how_it_is_used(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, CHECK, tmp_path], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("usage: python tests/parity/check.py DIR")


def test_an_error_of_nan_or_infinity_passes_no_bound() -> None:
    ones = torch.ones(3)
    assert relative_error(torch.tensor([1.0, float("nan"), 1.0]), ones) == float("inf")
    assert relative_error(torch.ones(2), ones) == float("inf")
    assert relative_error(torch.tensor([1.0, 1.0, 0.5]), 2 * ones) == 0.75
    assert not Measurement("x", float("nan"), 1.0).passes


def test_a_row_with_an_error_is_right_only_when_the_input_is_refused() -> None:
    rows = [{"input": "1", "output": 1}, {"input": "x", "error": "ValueError"}]
    assert count_wrong_rows(rows, lambda row: int(row["input"])) == 0
    assert count_wrong_rows(rows, lambda row: 1) == 1  # noqa: ARG005 - the same answer for every row
