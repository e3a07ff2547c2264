import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from files import pickle_instead

from videogen_api.errors import ExitCode
from videogen_runner.weights_cli import main

COMMAND = [sys.executable, "-m", "videogen_runner.weights_cli"]


def test_random_convert_and_inspect_work_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, converted = str(tmp_path / "made"), str(tmp_path / "converted")
    assert main(["random", "--preset", "tiny", "--out", made, "--seed", "3"]) == ExitCode.OK
    assert "they make noise, not pictures" in capsys.readouterr().out
    assert main(["convert", made, converted, "--dtype", "bf16"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert main(["inspect", converted, "--model", "open-sora-v1.2-tiny"]) == ExitCode.OK
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in table] == [
        ["COMPONENT", "STATE", "TENSORS"],
        ["encoder", "complete", "39"],
        ["denoiser", "complete", "157"],
        ["vae", "complete", "273"],
    ]
    assert [row[-1] for row in table[1:]] == [line.split()[-1] for line in lines]


def test_inspect_speaks_json(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (weights / "vae" / "model.safetensors").unlink()
    assert main(["inspect", str(weights), "--output", "json"]) == ExitCode.WEIGHTS
    captured = capsys.readouterr()
    reports = {report["component"]: report for report in json.loads(captured.out)}
    assert [bool(reports[name]["problems"]) for name in ("encoder", "denoiser", "vae")] == [False, False, True]
    assert captured.err == f"videogen weights: {reports['vae']['problems'][0]}\n"


def test_a_bad_pickle_ends_with_one_line_and_66(weights: Path, tmp_path: Path) -> None:
    path = pickle_instead(weights / "vae", "vae.pt")
    path.write_text("not a tensor in sight")
    command = [*COMMAND, "convert", str(weights), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (66, "", 1)
    assert done.stderr.startswith(f"videogen weights: {path} is no tensor file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("directory", ["nowhere", "weights/vae/config.json"])
def test_what_is_no_directory_ends_with_one_line_and_66(
    weights: Path, tmp_path: Path, directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights.is_dir()
    for command in (
        ["inspect", str(tmp_path / directory)],
        ["convert", str(tmp_path / directory), str(tmp_path / "x")],
    ):
        assert main(command) == ExitCode.WEIGHTS
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("stop", "code", "left"), [(signal.SIGTERM, 75, []), (signal.SIGINT, 75, []), (signal.SIGKILL, -9, [".unfinished"])]
)
def test_a_writer_that_is_stopped_leaves_nothing_under_a_final_name(
    tmp_path: Path, stop: signal.Signals, code: int, left: list[str]
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        [*COMMAND, "random", "--preset", "xl", "--out", str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        wait_until_written(out, process)
        process.send_signal(stop)
        process.communicate(timeout=300)
    assert process.returncode == code
    assert [path.name.split("-")[0] for path in out.iterdir()] == left


def wait_until_written(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Returns once the tensor file has begun."""
    polling = threading.Event()
    for _ in range(6000):
        if any(path.stat().st_size > 0 for path in out.glob(".unfinished-*/model.safetensors")):
            return
        assert process.poll() is None
        polling.wait(0.01)
    raise AssertionError("no tensor file appeared in a minute")
