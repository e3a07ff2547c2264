"""Decodes a clip in a process that may hold less than the planned form takes: run by test_memory_adaptation.py."""

import logging
import resource
from pathlib import Path

import torch
from tests.builders import build_pool

from videogen_api.naming import Stage
from videogen_api.plan import FormBytes
from videogen_api.report import Progress, RunnerState
from videogen_runner.adaptation import Adaptation, AdaptiveClip
from videogen_runner.memory import MemorySample
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipGenerator, ClipRequest, ClipState
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config
from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder
from videogen_runner.models.opensora.vae_spatial import SpatialVaeConfig
from videogen_runner.models.opensora.vae_temporal import TemporalVaeConfig
from videogen_runner.progress import ProgressHolder

HEIGHT, WIDTH, FRAMES = 256, 256, 17


def address_space() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spatial = SpatialVaeConfig(block_channels=(32, 32, 32, 32), layers_per_block=1, num_groups=2)
    temporal = TemporalVaeConfig(filters=4, channel_multipliers=(1, 1, 1, 1), num_res_blocks=1, num_groups=2)
    vae = VideoAutoencoder(VaeConfig(spatial=spatial, temporal=temporal)).eval()
    denoiser = STDiT3(STDiT3Config(hidden_size=16, depth=0, num_heads=1, caption_channels=4)).eval()
    request = ClipRequest((HEIGHT, WIDTH), FRAMES, 24, 1, 1.0)
    generator = ClipGenerator(denoiser, vae, request, [torch.zeros(1, 4)], SeededDraws(0))
    state = ClipState(0, 1, torch.randn(1, 4, *generator.latent_size), torch.ones(1, 5), (), ())
    expected_CFHW = generator.frames(state)

    # The probe promises the world, so only the allocator can say no.
    initial = Progress(stage=Stage.GENERATE, index=0, attempt=1, pod="p", device="cpu", state=RunnerState.STARTING)
    progress = ProgressHolder(initial, lambda _: MemorySample(used=0, peak=0, free=2**60, total=2**60))
    forms = FormBytes(denoise={2: 1, 1: 1}, decode={4: 1, 3: 1, 2: 1, 1: 1})
    pool = build_pool("local", 1).model_copy(update={"form_bytes": forms})
    clip = AdaptiveClip(generator, Adaptation(pool, denoiser, vae, progress))
    # One frame's widest layer at full size is 8 MiB; four frames hold several layers of 32 MiB.
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + 120 * 2**20, resource.RLIM_INFINITY))
    frames_CFHW = clip.frames(state)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    torch.testing.assert_close(frames_CFHW, expected_CFHW, rtol=1e-4, atol=1e-4)
    print("equal within rounding,", "adapted" if clip.is_adapted else "as planned")


if __name__ == "__main__":
    main()
