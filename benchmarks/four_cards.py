"""Four small cards on one large one: a text encoder in shards, then runners, each with no more than 14.5 GiB of it.

    python benchmarks/four_cards.py WEIGHTS --device cuda:0 --clips 8

WEIGHTS is what `videogen weights random --preset xl` writes, or a real checkpoint. The peer of the same run is the same
work in one process of each stage that may use the whole card: `--processes 4 1` makes both, one after the other.

Memory is the most that torch's allocator held (`torch.cuda.max_memory_reserved`), beside what the plan predicted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videogen_api.plan import Plan
from videogen_api.report import TerminationReport

CARD_MEMORY = "14.5Gi"
_GIB = 2**30


def manifest(weights: Path, processes: int, num_clips: int, steps: int) -> dict[str, Any]:
    """One VideoGeneration of 480p clips."""
    texts = ("a red fox runs through fresh snow", "a boat on a lake at dawn", "rain on a city street", "a slow river")
    prompts = [
        {"name": f"p{number}", "text": text, "seed": 1, "samples": max(1, num_clips // len(texts))}
        for number, text in enumerate(texts)
    ]
    return {
        "apiVersion": "videogen.dev/v1alpha1",
        "kind": "VideoGeneration",
        "metadata": {"name": f"cards-{processes}"},
        "spec": {
            "prompts": prompts,
            "video": {"resolution": "480p", "aspectRatio": "16:9", "frames": 51},
            "sampling": {"steps": steps},
            "model": {"name": "open-sora-v1.2", "weights": str(weights)},
        },
    }


def run(weights: Path, processes: int, num_clips: int, steps: int, device: str, out: Path) -> dict[str, Any]:
    """Makes the clips with `videogen run`; returns what its processes report."""
    out.mkdir(parents=True)
    file = out / "cards.json"
    file.write_text(json.dumps(manifest(weights, processes, num_clips, steps)))
    command = [sys.executable, "-m", "videogen_operator.cli.main", "run", str(file), "--out", str(out / "made")]
    command += ["--device", device, "--workers", str(processes), "--encoder-shards", str(processes), "--output", "json"]
    if processes > 1:
        command += ["--gpu-memory", CARD_MEMORY]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    seconds = time.monotonic() - began
    if done.returncode != 0:
        logs = "\n".join(f"{path}: {path.read_text()[-1500:]}" for path in sorted(out.rglob("log")))
        raise SystemExit(f"{processes} processes: exit code {done.returncode}\n{done.stderr}\n{done.stdout}\n{logs}")
    plan = Plan.read(next(out.rglob("plan.json")))
    reports = list(_reports(out))
    return {
        "processes": processes,
        "clips": len(plan.clips),
        "seconds": seconds,
        "predicted_gib": {
            "encode": plan.encoder.cost.peak_memory_bytes / _GIB,
            "generate": plan.pools[0].cost.peak_memory_bytes / _GIB,
        },
        "peak_gib": {
            stage: [report.peak_memory_bytes / _GIB for report in reports if report.stage == stage]
            for stage in ("encode", "generate")
        },
        "stage_seconds": {
            stage: max(report.seconds for report in reports if report.stage == stage)
            for stage in ("preflight", "encode", "generate", "collect")
        },
        "encode": [report.encode.model_dump() for report in reports if report.encode is not None],
        "generate": [report.generate.model_dump() for report in reports if report.generate is not None],
        "failures": [report.message for report in reports if report.exit_code],
    }


def _reports(out: Path) -> Iterator[TerminationReport]:
    for path in sorted(out.rglob("termination.json")):
        report = TerminationReport.from_bytes(path.read_bytes())
        if report is not None:
            yield report


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each number of processes."""
    lines = [
        "| processes | clips | seconds | encode, generate s | encoder GiB (predicted) | runner GiB (predicted) |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        peaks = {
            stage: f"{max(result['peak_gib'][stage]):.2f} ({result['predicted_gib'][stage]:.2f})"
            for stage in ("encode", "generate")
        }
        stages = result["stage_seconds"]
        lines.append(
            f"| {result['processes']} | {result['clips']} | {result['seconds']:.0f} "
            f"| {stages['encode']:.0f}, {stages['generate']:.0f} | {peaks['encode']} | {peaks['generate']} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--processes", type=int, nargs="+", default=[4, 1])
    parser.add_argument("--json", type=Path, help="where the full figures go")
    arguments = parser.parse_args()
    results = []
    for processes in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "cards"
            results.append(run(arguments.weights, processes, arguments.clips, arguments.steps, arguments.device, out))
        print(table(results[-1:]), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1))
    print(table(results))
    return 0 if not any(result["failures"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
