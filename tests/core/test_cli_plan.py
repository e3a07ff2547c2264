"""`videogen plan` and `videogen validate`, as processes: output, exit codes, time, and what they never import."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from videogen_api.plan import Plan
from videogen_api.resource import load_manifests
from videogen_api.spec import Strategy
from videogen_operator.cli.main import main
from videogen_operator.cli.tables import format_bytes, format_flops, format_seconds, render_table
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.planner import make_plan

MANIFEST = """\
apiVersion: videogen.dev/v1alpha1
kind: VideoGeneration
metadata: {name: fox, namespace: team-a}
spec:
  prompts:
  - {name: snow, text: A red fox runs through fresh snow, seed: 42, samples: 2}
  video: {resolution: 480p}
  model: {weights: s3://models/open-sora-v1.2/}
  storage: {url: s3://videos/team-a/}
  runners:
  - {name: t4, replicas: 4, gpu: {product: Tesla-T4}}
  - {name: a100, gpu: {product: NVIDIA-A100-SXM4-80GB}}
"""


def videogen(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "videogen_operator.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        # A narrow terminal must not change what scripts and logs get.
        env=os.environ | {"COLUMNS": "40"},
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "fox.yaml"
    path.write_text(MANIFEST)
    return path


def test_plan_shows_clips_sizes_memory_and_time(manifest: Path) -> None:
    result = videogen("plan", manifest)

    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    fields = {words[0]: " ".join(words[1:]) for words in lines[:10]}
    assert fields | {"run": "", "total": "", "time": ""} == {
        "name": "team-a/fox",
        "run": "",
        "model": "open-sora-v1.2 (exact), weights s3://models/open-sora-v1.2/",
        "storage": "s3://videos/team-a/",
        "clips": "2 of 1 prompt: snow-42, snow-43",
        "size": "848x480 pixels, 51 frames at 24 fps (2.1 s); latents 15x60x106, 23,850 tokens",
        "sampling": "30 steps, guidance 7",
        "strategy": "Overlapped. Overlapped should take about 128 s and Sequential 188 s, starts of pods included, and "
        "there are cards for both at once.",
        "total": "",
        "time": "",
    }
    assert lines[11] == ["ENCODE", "TEXTS", "SHARDS", "DEVICE", "DTYPE", "PEAK", "MEMORY", "TIME"]
    assert lines[12][:4] == ["1", "1", "cuda", "float16"]
    assert lines[15][:9] == ["t4", "2", "1", "x", "Tesla-T4", "float16", "float32", "one", "batch"]
    assert lines[16][:7] == ["a100", "1", "1", "x", "NVIDIA-A100-SXM4-80GB", "bfloat16", "bfloat16"]
    assert len(lines) == 17


def test_plan_names_a_pool_that_gets_no_runners_with_the_numbers(manifest: Path) -> None:
    manifest.write_text(MANIFEST.replace("{product: Tesla-T4}", "{product: Tesla-T4, memory: 5Gi}"))

    result = videogen("plan", manifest)

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == (
        "Without runners: pool 't4': a clip of 854x480 and 51 frames needs 5.2 GiB even in its smallest form, and T4 "
        "has 4.2 GiB to use"
    )


def test_plan_for_scripts_is_one_json_line_for_each_resource(manifest: Path) -> None:
    manifest.write_text(MANIFEST + "---\n" + MANIFEST.replace("name: fox", "name: hen"))

    result = videogen("plan", manifest, "--output", "json")

    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["plan"]["name"] for answer in answers] == ["fox", "hen"]
    plan = Plan.from_bytes(json.dumps(answers[0]["plan"]).encode())
    assert (
        [clip["name"] for clip in answers[0]["clips"]] == [clip.name for clip in plan.clips] == ["snow-42", "snow-43"]
    )
    assert answers[0]["tokens"] == 23_850
    assert set(answers[0]["totals"]) == {"flops", "gpuSeconds", "seconds", "peakMemoryBytes"}


def test_plan_with_workers_is_what_run_would_do_here(manifest: Path) -> None:
    result = videogen("plan", manifest, "--workers", "2", "--output", "json")

    plan = Plan.from_bytes(json.dumps(json.loads(result.stdout)["plan"]).encode())
    assert [(pool.name, pool.replicas, pool.device.value) for pool in plan.pools] == [("local", 2, "cpu")]


def test_plan_needs_neither_pools_nor_a_place_for_weights_and_results(manifest: Path) -> None:
    manifest.write_text(MANIFEST[: MANIFEST.index("  model:")])

    result = videogen("plan", manifest)

    assert (result.returncode, result.stderr) == (0, "")
    assert "run       (depends on the weights)\n" in result.stdout
    assert "\nlocal          1         cpu   float32" in result.stdout


def test_a_manifest_that_cannot_be_planned_is_one_line_and_exit_65(manifest: Path) -> None:
    manifest.write_text(
        MANIFEST.replace("A red fox", "'|0| A red fox |1| A hen'").replace(" runs through fresh snow", "")
    )

    result = videogen("plan", manifest)

    assert (result.returncode, result.stdout) == (65, "")
    assert result.stderr == (
        f"error: {manifest}: spec.prompts[0].text: loop 1 has a text, but spec.video.loops is 1; raise it, or drop it\n"
    )


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5"])
def test_workers_that_are_no_number_are_refused(manifest: Path, workers: str) -> None:
    result = videogen("plan", manifest, f"--workers={workers}")

    assert result.returncode == 2
    assert result.stderr.endswith(f"error: argument --workers: '{workers}' is no positive number\n")


def test_validate_says_ok_or_every_problem_and_goes_on_to_the_next_file(manifest: Path, tmp_path: Path) -> None:
    bad, unplannable, missing = tmp_path / "bad.yaml", tmp_path / "loops.yaml", tmp_path / "none.yaml"
    bad.write_text(MANIFEST.replace("480p", "481p").replace("seed: 42", "sed: 42"))
    unplannable.write_text(
        MANIFEST + "---\n" + MANIFEST.replace("fox,", "hen,").replace("480p}", "480p, frames: 17, loops: 2}")
    )

    result = videogen("validate", bad, manifest, unplannable, missing)

    assert result.returncode == 65
    assert result.stdout == f"{manifest}: ok, 2 clips\n"
    loops = "17 of 17 frames would leave a loop nothing of its own; lower it, raise frames, or set loops to 1"
    assert result.stderr.splitlines() == [
        f"{bad}: spec.prompts[0].sed: unknown field; did you mean seed?",
        f'{bad}: spec.video.resolution: "481p" is not allowed: want one of 144p, 240p, 360p, 480p, 720p, 1080p, 2k, 4k',
        f"{unplannable}, team-a/hen: spec.video.conditionFrames: {loops}",
        f"{missing}: cannot be read: No such file or directory",
    ]


def test_validate_takes_what_a_cluster_would_complete(manifest: Path) -> None:
    manifest.write_text(MANIFEST[: MANIFEST.index("  model:")])

    result = videogen("validate", manifest)

    assert (result.returncode, result.stdout, result.stderr) == (0, f"{manifest}: ok, 2 clips\n", "")


PYDANTIC = "import argparse, json, pydantic, yaml; type('A', (pydantic.BaseModel,), {'__annotations__': {'a': int}})"


@pytest.mark.parametrize("command", ["plan", "validate"])
def test_the_command_takes_at_most_four_times_what_importing_pydantic_takes(manifest: Path, command: str) -> None:
    # That is a second where pydantic takes a quarter of one. Processor time, the best of three each, taken in turn.
    peer, ours = [], []
    for _ in range(3):
        peer.append(processor_seconds(lambda: subprocess.run([sys.executable, "-c", PYDANTIC], check=True)))
        ours.append(processor_seconds(lambda: videogen(command, manifest).check_returncode()))

    assert min(ours) < 4 * min(peer)


def processor_seconds(run: Callable[[], object]) -> float:
    """Of the processes that it starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", ["plan", "validate"])
def test_the_command_imports_nothing_heavy(manifest: Path, command: str) -> None:
    program = (
        "import sys; from videogen_operator.cli.main import main; "
        f"assert main([{command!r}, {str(manifest)!r}]) == 0; print(*sys.modules, file=sys.stderr)"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)

    imported = {module.partition(".")[0] for module in result.stderr.split()}
    assert "videogen_api" in imported
    assert not imported & {"torch", "boto3", "transformers", "numpy", "rich", "kubernetes", "kopf", "videogen_runner"}


# ---- Tables ----


def test_a_table_is_aligned_and_ends_no_line_in_spaces() -> None:
    assert render_table(["A", "LONG", "C"], [["xyz", "1", ""], ["", "22", "end"]]) == (
        "A    LONG  C\n"
        "xyz  1\n"
        "     22    end"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0354, "35 ms"),
        (1, "1.00 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_seconds_are_shown_with_three_digits_or_two_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_bytes_and_operations_are_shown_in_the_unit_that_fits() -> None:
    assert [format_bytes(2**20), format_bytes(2**30), format_bytes(1536 * 2**20)] == ["1 MiB", "1.0 GiB", "1.5 GiB"]
    assert [format_flops(n) for n in (5e7, 2.8e12, 3.4e15)] == ["0.05 GFLOP", "2.80 TFLOP", "3.40 PFLOP"]


EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid_and_comes_to_its_end_when_it_is_played(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(path)]) == 0
    assert main(["plan", str(path), "--simulate", "--output", "json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["timeline"][-1]["phase"] == "Succeeded"


def test_four_small_cards_share_the_encoder_first_and_then_take_a_clip_each() -> None:
    (found,) = load_manifests(EXAMPLES[0].parent / "four-t4.yaml")
    plan = make_plan(found, Defaults())

    assert (plan.strategy, plan.encoder.shards, len(plan.work)) == (Strategy.SEQUENTIAL, 4, 8)
    (pool,) = plan.pools
    assert (pool.replicas, pool.dtype, pool.vae_dtype, pool.shares_encoder_cards) == (4, "float16", "float32", True)
    assert max(plan.encoder.cost.peak_memory_bytes, pool.cost.peak_memory_bytes) < 13.8 * 2**30
