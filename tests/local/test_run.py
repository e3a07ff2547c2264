"""`videogen run` as a user meets it: real processes, the real tiny model, a folder as store."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from videogen_api.errors import ExitCode

# Several processes that import torch, one after the other: minutes where two other tests share two slow cores.
pytestmark = pytest.mark.timeout(1800)

MANIFEST = """
apiVersion: videogen.dev/v1alpha1
kind: VideoGeneration
metadata: {{name: clips}}
spec:
  prompts:
  - {{name: fox, text: a red fox in the snow, seed: 7, samples: 2}}
  - {{name: boat, text: a boat on a lake, seed: 1}}
  video: {{size: {{width: 64, height: 64}}, frames: 17, fps: 8}}
  sampling: {{steps: {steps}}}
  model: {{name: open-sora-v1.2-tiny, weights: {weights}}}
"""
VIDEOGEN = (sys.executable, "-m", "videogen_operator.cli.main")
LONG = 40  # steps: time enough to stop in the middle
CLIPS = ("boat-1", "fox-7", "fox-8")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    subprocess.run([*VIDEOGEN, "weights", "random", "--preset", "tiny", "--out", str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> dict[str, str]:
    """Digests of the long clips, made in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return digests(
        final_status(run(write_manifest(folder, weights, LONG), "--out", folder / "out", "--output", "json"))
    )


@pytest.fixture(scope="module")
def made_by_one_worker(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Manifest, output folder and final status of the short clips."""
    folder = tmp_path_factory.mktemp("short")
    manifest, out = write_manifest(folder, weights), folder / "out"
    return manifest, out, final_status(run(manifest, "--out", out, "--workers", "1", "--output", "json"))


def write_manifest(folder: Path, weights: Path, steps: int = 3) -> Path:
    path = folder / "clips.yaml"
    path.write_text(MANIFEST.format(weights=weights, steps=steps))
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VIDEOGEN, "run", *map(str, arguments)], capture_output=True, text=True, check=False)


def final_status(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == ExitCode.OK, done.stderr
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def digests(status: dict[str, Any]) -> dict[str, str]:
    return {output["clip"]: output["sha256"] for output in status["outputs"]}


def test_a_manifest_becomes_videos_and_the_same_command_again_recomputes_nothing(
    made_by_one_worker: tuple[Path, Path, dict[str, Any]],
) -> None:
    manifest, out, first = made_by_one_worker
    assert (first["phase"], first["progress"]) == ("Succeeded", 100)
    folder = out / "videos" / "default" / "clips"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["index.html", *(f"{clip}.json" for clip in CLIPS), *(f"{clip}.mp4" for clip in CLIPS)]
    )
    assert (folder / "fox-7.mp4").read_bytes()[4:8] == b"ftyp"
    sidecar = json.loads((folder / "fox-7.json").read_text())
    assert (sidecar["text"], sidecar["seed"]) == ("a red fox in the snow", 7)

    again = final_status(run(manifest, "--out", out, "--workers", "3", "--output", "json"))
    assert digests(again) == digests(first)
    assert again["clips"]["total"] == again["clips"]["succeeded"] == len(CLIPS)
    assert not list(out.glob(".videogen/*/*-gen-*-2-*")), "the second run started a generate process"


def test_three_workers_make_the_same_bytes_as_one(
    tmp_path: Path, weights: Path, made_by_one_worker: tuple[Path, Path, dict[str, Any]]
) -> None:
    by_one = digests(made_by_one_worker[2])
    by_three = run(write_manifest(tmp_path, weights), "--out", tmp_path / "out", "--workers", "3", "--output", "json")
    assert sorted(by_one) == sorted(CLIPS)
    assert digests(final_status(by_three)) == by_one


def test_an_encoder_in_two_shards_makes_the_same_bytes_as_one(
    tmp_path: Path, weights: Path, made_by_one_worker: tuple[Path, Path, dict[str, Any]]
) -> None:
    in_one, out = made_by_one_worker[2], tmp_path / "out"
    done = run(write_manifest(tmp_path, weights), "--out", out, "--encoder-shards", "2", "--output", "json")
    in_two = final_status(done)
    assert digests(in_two) == digests(in_one)
    assert [status["plan"]["encoderShards"] for status in (in_one, in_two)] == [1, 2]
    assert [status["encoder"]["prompts"] for status in (in_one, in_two)] == [
        {"total": 2, "cached": 0, "encoded": 2}
    ] * 2
    assert len(list(out.glob(".videogen/*/*-enc-1-*/termination.json"))) == 2


@pytest.mark.parametrize("gpus", ["", "0,", "0,0", "a", "-1"])
def test_gpus_that_are_none_are_refused_by_the_command_line(tmp_path: Path, gpus: str) -> None:
    done = run(tmp_path / "clips.yaml", f"--gpus={gpus}")
    assert done.returncode == 2
    assert f"argument --gpus: {gpus!r} is no list of GPUs; want numbers like 0,1,2,3" in done.stderr


def test_more_shards_than_the_encoder_has_blocks_are_refused_before_anything_is_written(
    tmp_path: Path, weights: Path
) -> None:
    done = run(write_manifest(tmp_path, weights), "--out", tmp_path / "out", "--encoder-shards", "5")
    assert done.returncode == ExitCode.INVALID_INPUT
    assert done.stderr.startswith("error: spec.encoder.shards: 5 is not allowed: the encoder has 4 blocks")
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_its_processes_and_goes_on_where_it_was(
    tmp_path: Path, weights: Path, undisturbed: dict[str, str], number: signal.Signals
) -> None:
    manifest, out = write_manifest(tmp_path, weights, LONG), tmp_path / "out"
    command = [*VIDEOGEN, "run", str(manifest), "--out", str(out), "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for_a_claim(process, out)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == ExitCode.INTERRUPTED
    assert errors.splitlines()[-1] == "error: stopped; the same command goes on where this one ended"

    done = run(manifest, "--out", out, "--workers", "1", "--output", "json")
    assert digests(final_status(done)) == undisturbed


def wait_for_a_claim(process: "subprocess.Popen[str]", out: Path) -> None:
    """Returns when a clip is begun; an end of the process, or five minutes without one, fails the test."""
    deadline = time.monotonic() + 300
    while not any(out.glob("runs/*/claims/*")):
        assert time.monotonic() < deadline, "no clip was begun"
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"ended with {process.wait(timeout=0.05)} before a clip was begun")


def test_a_run_whose_weights_are_missing_fails_in_one_line_that_names_the_folder(tmp_path: Path) -> None:
    done = run(write_manifest(tmp_path, tmp_path / "nowhere"), "--out", tmp_path / "out")
    assert done.returncode == ExitCode.WEIGHTS
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [
        f"error: weights {tmp_path / 'nowhere'}: no such directory; see `videogen weights --help` for making one"
    ]
    assert not (tmp_path / "out" / "videos").exists()


def test_a_manifest_with_errors_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(MANIFEST.format(weights="/w", steps=0))
    done = run(path, "--out", tmp_path / "out")
    assert done.returncode == ExitCode.INVALID_INPUT
    assert done.stderr == f"error: {path}: spec.sampling.steps: 0 is not allowed: want greater than or equal to 1\n"
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(write_manifest(tmp_path, weights), "--out", tmp_path / "file" / "out")
    assert done.returncode == ExitCode.STORE_DENIED
    assert done.stderr.count("\n") == 1
