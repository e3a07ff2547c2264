"""Milliseconds of a denoising step: the published script's way, the same compiled, this project's, and the floor.

    python -m benchmarks.denoise --out denoise.json [--sizes 240p 480p 720p] [--profile FOLDER] [--budget SECONDS]
    python -m benchmarks.denoise --device cpu --model open-sora-v1.2-tiny --dtype float32 --sizes 144p --out tiny.json

Random weights, which all contenders share; guidance batch 2, a prompt of 40 of 300 tokens. For each size, first every
product of the step alone, whose sum no engine goes below; then all contenders warm up one by one and take turns.
docs/benchmarks/denoise.md says how to read the table and the JSON.
"""

import argparse
import copy
import gc
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmarks.contenders import CONTENDERS, Build, Workload, build_model, build_workload, plain
from benchmarks.denoise_report import describe_contenders, describe_floor, table
from benchmarks.device_timing import ClockLog, clock_log
from benchmarks.interleaving import Contender, take_turns, warm_up
from benchmarks.step_floor import MeasuredShape, measure_attention, measure_matmul
from benchmarks.step_profile import kernel_table
from benchmarks.step_shapes import step_attentions, step_matmuls
from torch import Tensor

from videogen_api.architecture import ARCHITECTURES, DenoiserShape, architecture_of
from videogen_api.video import RESOLUTIONS
from videogen_runner.models.opensora.stdit3 import STDiT3

SIZES = ("240p", "480p", "720p")
WEIGHTS_SEED, INPUTS_SEED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--model", default="open-sora-v1.2", choices=sorted(ARCHITECTURES))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=RESOLUTIONS)
    parser.add_argument("--frames", type=int, default=51)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=10, help="at most so many turns of each contender")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds after which no further round begins")
    parser.add_argument("--profile", type=Path, help="folder for the largest kernels of each contender")
    parser.add_argument("--out", type=Path, required=True, help="JSON; written anew after every size")
    arguments = parser.parse_args(argv)

    end = time.monotonic() + arguments.budget
    device = torch.device(arguments.device)
    torch.backends.cudnn.allow_tf32 = False  # errors are measured against fp32
    shape = architecture_of(arguments.model).denoiser
    sizes: dict[str, Any] = {}
    with torch.no_grad(), clock_log(device) as clocks:
        model = build_model(shape, WEIGHTS_SEED, device, getattr(torch, arguments.dtype))
        for index, size in enumerate(arguments.sizes):
            now = time.monotonic()
            if now > end:
                print(f"{size} is left out: {arguments.budget:.0f} s are spent; raise --budget", file=sys.stderr)
                break
            deadline = now + (end - now) / (len(arguments.sizes) - index)
            workload = build_workload(model, size, arguments.frames, INPUTS_SEED)
            sizes[size] = measure_size(size, shape, model, workload, arguments, deadline, clocks)
            arguments.out.write_text(json.dumps({**conditions(arguments), "sizes": sizes}, indent=1) + "\n")
    print(table(sizes))
    is_whole = len(sizes) == len(arguments.sizes) and not any(measured["failed"] for measured in sizes.values())
    return 0 if is_whole else 1


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(arguments.device)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
        "arguments": {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()
        },
    }


def measure_size(
    size: str,
    shape: DenoiserShape,
    model: STDiT3,
    workload: Workload,
    arguments: argparse.Namespace,
    deadline: float,
    clocks: ClockLog | None,
) -> dict[str, Any]:
    """Everything of one size, as JSON holds it."""
    started = time.monotonic()
    floor = measure_floor(shape, model, workload)
    floor_clocks = clocks.during([(started, time.monotonic())]) if clocks else None
    release_memory(model.device)
    exact_BKTHW = predict_exactly(model, workload)
    release_memory(model.device)
    contenders, failed = warm_all_up({name: CONTENDERS[name] for name in arguments.contenders}, model, workload)
    if contenders:
        take_turns(contenders, workload, arguments.rounds, deadline)
    if arguments.profile:
        write_profiles(arguments.profile, size, contenders, workload)
    measured = {
        "latent": [workload.latent.frames, workload.latent.height, workload.latent.width],
        "floor": describe_floor(floor, floor_clocks),
        "contenders": describe_contenders(contenders, exact_BKTHW, clocks),
        "failed": failed,
    }
    contenders.clear()
    torch.compiler.reset()
    release_memory(model.device)
    return measured


def measure_floor(shape: DenoiserShape, model: STDiT3, workload: Workload) -> list[MeasuredShape]:
    latent, lengths = workload.latent, workload.text_lengths
    return [
        *(measure_matmul(entry, model.device, model.dtype) for entry in step_matmuls(shape, latent, len(lengths))),
        *(measure_attention(entry, model.device, model.dtype) for entry in step_attentions(shape, latent, lengths)),
    ]


def predict_exactly(model: STDiT3, workload: Workload) -> Tensor | None:
    """The plain model's first step in fp32, from the same weights, on the host; None where memory does not allow it."""
    try:
        step = plain(copy.deepcopy(model).float(), workload)
        return step(workload.z_BCTHW, workload.times_IB[0]).cpu()
    except torch.OutOfMemoryError:
        return None


def warm_all_up(
    builds: Mapping[str, Build], model: STDiT3, workload: Workload
) -> tuple[list[Contender], dict[str, str]]:
    """Those that work, and what the others raise."""
    contenders, failed = [], {}
    for name, build in builds.items():
        try:
            contenders.append(warm_up(name, build, model, workload))
        except Exception as error:  # noqa: BLE001 - time on a card is short: the others are measured all the same
            failed[name] = f"{type(error).__name__}: {error}"
            print(f"{name} failed, {failed[name]}", file=sys.stderr)
        release_memory(model.device)
    return contenders, failed


def write_profiles(folder: Path, size: str, contenders: Sequence[Contender], workload: Workload) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for contender in contenders:
        (folder / f"{size}-{contender.name}.md").write_text(kernel_table(contender.step, workload))


def release_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
