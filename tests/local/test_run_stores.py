"""`videogen run` and where it writes: a real S3 server, one that is not there, one that refuses, and a full disk."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.store import versitygw
from tests.store.store_backends import BUCKET, ENV, Backend, free_port, real_s3

from videogen_api.errors import ExitCode
from videogen_runner.weights.random_weights import PRESETS, write_random

VIDEOGEN = (sys.executable, "-m", "videogen_operator.cli.main")
IN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


@pytest.fixture(scope="module")
def server() -> Iterator[Backend]:
    program = versitygw.build()
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("versitygw needs Go: https://go.dev/dl")
    with real_s3(program) as backend:
        yield backend


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    write_random(PRESETS["tiny"], folder, seed=0)
    return folder


def run(
    folder: Path, weights: Path, storage: dict[str, Any] | None, *arguments: str, env: Mapping[str, str] = ENV
) -> subprocess.CompletedProcess[str]:
    """Runs one image of one prompt with its state in `folder`."""
    manifest = folder / "clip.yaml"
    spec = {
        "prompts": [{"name": "fox", "text": "a red fox", "seed": 1}],
        "video": {"size": {"width": 64, "height": 64}, "frames": 1},
        "sampling": {"steps": 2},
        "retries": 1,
        "model": {"name": "open-sora-v1.2-tiny", "weights": str(weights)},
        **({"storage": storage} if storage is not None else {}),
    }
    document = {"apiVersion": "videogen.dev/v1alpha1", "kind": "VideoGeneration", "metadata": {"name": "clip"}}
    manifest.write_text(json.dumps({**document, "spec": spec}))
    command = [*VIDEOGEN, "run", str(manifest), "--out", str(folder / "out"), *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(command, env={**inherited, **env}, capture_output=True, text=True, check=False)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error:")]


def test_clips_go_to_a_bucket_and_are_found_there_by_another_machine(
    tmp_path: Path, weights: Path, server: Backend
) -> None:
    backend = server.elsewhere()
    storage = {"url": backend.url, "endpoint": backend.endpoint}
    first = run(tmp_path, weights, storage, "--output", "json")
    assert first.returncode == ExitCode.OK, first.stderr
    (output,) = json.loads(first.stdout)["outputs"]
    assert output["url"] == f"{backend.url}/videos/default/clip/fox-1.png"
    assert backend.open().get("videos/default/clip/fox-1.png", output["sha256"]).body.startswith(b"\x89PNG")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    second = run(elsewhere, weights, storage, "--output", "json")
    assert json.loads(second.stdout)["outputs"] == [output]
    assert not list(elsewhere.glob("out/.videogen/*/*-gen-*")), "a second machine made the clip again"


def test_a_missing_bucket_is_one_line_that_names_it(tmp_path: Path, weights: Path, server: Backend) -> None:
    done = run(tmp_path, weights, {"url": "s3://nowhere/x", "endpoint": server.endpoint})
    assert (done.returncode, len(errors(done))) == (ExitCode.STORE_DENIED, 1)
    assert "'nowhere'" in errors(done)[0]


def test_wrong_credentials_are_one_line_that_names_bucket_and_action(
    tmp_path: Path, weights: Path, server: Backend
) -> None:
    wrong = {**ENV, "AWS_SECRET_ACCESS_KEY": "wrong"}
    done = run(tmp_path, weights, {"url": f"s3://{BUCKET}/x", "endpoint": server.endpoint}, env=wrong)
    assert (done.returncode, len(errors(done))) == (ExitCode.STORE_DENIED, 1)
    assert f"'{BUCKET}'" in errors(done)[0]


def test_an_endpoint_where_nobody_listens_is_one_line_after_the_retries(tmp_path: Path, weights: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    done = run(tmp_path, weights, {"url": f"s3://{BUCKET}/x", "endpoint": endpoint})
    assert (done.returncode, len(errors(done))) == (ExitCode.STORE_UNAVAILABLE, 1)
    assert endpoint in errors(done)[0]
    assert errors(done)[0].endswith("(after 2 attempts)")


@pytest.mark.parametrize("kibibytes", [8, 24, 60, 100])
def test_a_full_output_folder_is_one_line_wherever_it_fills_up(
    tmp_path: Path, weights: Path, kibibytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mount = f'mount -t tmpfs -o size={kibibytes}k none "{out}"'
    probe = [*IN_NAMESPACE, mount]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount in a user namespace")
    script = f'{mount} && "$@"; code=$?; find "{out}" -name "*.new" -o -path "*/.tmp/*"; exit $code'
    monkeypatch.setattr(sys.modules[__name__], "VIDEOGEN", (*IN_NAMESPACE, script, "sh", *VIDEOGEN))
    done = run(tmp_path, weights, None)
    assert (done.returncode, len(errors(done))) == (ExitCode.STORE_UNAVAILABLE, 1), done.stderr
    assert "No space left on device" in errors(done)[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == "", "something was left half-written"
