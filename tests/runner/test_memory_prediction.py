"""The planner's prediction of memory against real processes.

Two measures for each stage. Torch's own account of its tensors shows that the planner counts what the modules hold,
within 5 %. The growth of the process (measure_memory.py says from where) shows that this is what a machine must have,
within 15 %. Sizes are such that activations are most of it, because any process comes with a few MB of its own, and
glibc is told to give large blocks back (MALLOC_MMAP_THRESHOLD_): left alone, it keeps up to as much again for later.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from videogen_api.architecture import TextEncoderShape, architecture_of
from videogen_api.plan import Device, Dtype, PlannedVideo
from videogen_operator.core import activations, costs

TINY = architecture_of("open-sora-v1.2-tiny")
# As wide as half of XXL: the tiny encoder's few hundred kB would drown in what any process allocates.
WIDE_ENCODER = TextEncoderShape(vocab_size=512, d_model=2048, d_kv=64, d_ff=5120, num_layers=2, num_heads=32)
TEXT_TOKENS = 60
FP32_BYTES = 4


def video(height: int, width: int, frames: int, loops: int = 1) -> PlannedVideo:
    return PlannedVideo(height=height, width=width, frames=frames, fps=24, loops=loops, condition_frames=17)


def measure(*arguments: object) -> dict[str, int]:
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("measure_memory.py")), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    measured: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return measured


def check(measured: dict[str, int], weight_bytes: int, activation_bytes: int) -> None:
    assert activation_bytes == pytest.approx(measured["allocated"], rel=0.05)
    assert weight_bytes + activation_bytes == pytest.approx(measured["resident"], rel=0.15)


@pytest.mark.parametrize("batch", [1, 2])
def test_denoising_holds_what_the_planner_says(batch: int) -> None:
    measured = measure("denoise", 240, 426, 51, batch)

    predicted = activations.denoise_bytes(TINY.denoiser, video(240, 426, 51), TEXT_TOKENS, Dtype.FLOAT32, batch)
    check(measured, TINY.denoiser.parameters * FP32_BYTES, predicted)


@pytest.mark.parametrize("batch_frames", [1, 4])
def test_decoding_holds_what_the_planner_says(batch_frames: int) -> None:
    measured = measure("decode", 160, 288, 17, batch_frames)

    predicted = activations.decode_bytes(TINY.vae, video(160, 288, 17), Dtype.FLOAT32, batch_frames, Device.CPU)
    check(measured, costs.vae_parameters(TINY.vae) * FP32_BYTES, predicted)


@pytest.mark.parametrize("loops", [1, 2])
def test_finishing_a_clip_holds_what_the_planner_says(loops: int) -> None:
    measured = measure("finish", 240, 426, 51, loops)

    predicted = activations.finish_bytes(video(240, 426, 51, loops), Dtype.FLOAT32, Device.CPU)
    check(measured, costs.vae_parameters(TINY.vae) * FP32_BYTES, predicted)


def test_encoding_holds_what_the_planner_says() -> None:
    measured = measure("encode", json.dumps(asdict(WIDE_ENCODER)), 300)

    predicted = activations.encode_bytes(WIDE_ENCODER, 300, Dtype.FLOAT32, Device.CPU)
    check(measured, WIDE_ENCODER.parameters * FP32_BYTES, predicted)


@pytest.mark.parametrize("tokens", [30, 300])
def test_the_tiny_encoders_tensors_are_what_the_planner_says(tokens: int) -> None:
    measured = measure("encode", json.dumps(asdict(TINY.encoder)), tokens)

    predicted = activations.encode_bytes(TINY.encoder, tokens, Dtype.FLOAT32, Device.CPU)
    assert predicted == pytest.approx(measured["allocated"], rel=0.05)
