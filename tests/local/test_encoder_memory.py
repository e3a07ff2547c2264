"""`videogen run` on a machine where the encoder does not fit in one piece: it is tried in more shards, and fits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from videogen_api.errors import ExitCode

pytestmark = pytest.mark.timeout(1800)

MANIFEST = """
apiVersion: videogen.dev/v1alpha1
kind: VideoGeneration
metadata: {{name: clips}}
spec:
  prompts: [{{name: fox, text: a red fox in the snow, seed: 7}}]
  video: {{size: {{width: 64, height: 64}}, frames: 17, fps: 8}}
  sampling: {{steps: 2}}
  retries: 0
  model: {{name: open-sora-v1.2-tiny, weights: {weights}}}
"""
PROGRAM = """
import sys
from videogen_operator.cli.main import main
from videogen_operator.local.backend import LocalBackend
if {tight}:
    LocalBackend.__init__.__kwdefaults__["command"] = (sys.executable, "-m", "tests.local.tight_encoder")
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    command = [sys.executable, "-m", "videogen_operator.cli.main"]
    subprocess.run([*command, "weights", "random", "--preset", "tiny", "--out", str(folder)], check=True)
    return folder


def run(folder: Path, weights: Path, *options: str, tight: bool) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    manifest = folder / "clips.yaml"
    manifest.write_text(MANIFEST.format(weights=weights))
    return subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM.format(tight=tight), "run", str(manifest)),
            *("--out", str(folder / "out"), "--workers", "1", "--output", "json", *options),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def final_status(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(done.stdout)
    return status


def test_an_encoder_that_runs_out_of_memory_is_made_of_two_shards_with_the_same_result(
    tmp_path: Path, weights: Path
) -> None:
    ample = final_status(run(tmp_path / "ample", weights, tight=False))

    done = run(tmp_path / "tight", weights, tight=True)

    assert done.returncode == ExitCode.OK, done.stderr
    status = final_status(done)
    assert (status["phase"], status["attempts"]["encode"], status["plan"]["encoderShards"]) == ("Succeeded", 2, 2)
    assert [output["sha256"] for output in status["outputs"]] == [output["sha256"] for output in ample["outputs"]]
    # It costs no retry: there are none to spend.
    assert ample["attempts"]["encode"] == 1


def test_shards_that_were_asked_for_are_not_raised_behind_the_users_back(tmp_path: Path, weights: Path) -> None:
    done = run(tmp_path / "asked", weights, "--encoder-shards", "1", tight=True)
    assert done.returncode == ExitCode.OUT_OF_MEMORY
    status = final_status(done)
    assert (status["phase"], status["attempts"]["encode"], status["plan"]["encoderShards"]) == ("Failed", 1, 1)
    assert "raise spec.encoder.shards or leave it out, or name cards with more memory" in status["message"]
