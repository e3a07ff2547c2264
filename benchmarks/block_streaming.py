"""What blocks on the host cost: seconds of a guided denoising step and memory of the card, by blocks on the host.

    python benchmarks/block_streaming.py --device cuda:0
    python benchmarks/block_streaming.py --device cpu --model open-sora-v1.2-tiny --resolution 240p --dtype float32

Full-size random weights; results of every row are compared bit for bit with the first. Prints one JSON object a row.
"""

import argparse
import json
import time

import torch

from videogen_api.architecture import ARCHITECTURES, architecture_of
from videogen_api.plan import Device
from videogen_api.video import image_size_of_aspect, latent_size
from videogen_runner.device import set_up_device
from videogen_runner.engine.streaming import BlockStreaming
from videogen_runner.memory import sample_memory
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipGenerator, ClipRequest, Placement
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config
from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder

TEXT_TOKENS = 60
QUARTERS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--model", default="open-sora-v1.2", choices=sorted(ARCHITECTURES))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--resolution", default="480p")
    parser.add_argument("--frames", type=int, default=51)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--guidance-batch", type=int, default=2, choices=(1, 2))
    arguments = parser.parse_args()

    device = set_up_device(arguments.device, Device.CUDA)
    shape = architecture_of(arguments.model)
    torch.manual_seed(0)
    with device:
        denoiser = STDiT3(
            STDiT3Config(
                hidden_size=shape.denoiser.hidden_size,
                depth=shape.denoiser.depth,
                num_heads=shape.denoiser.num_heads,
                caption_channels=shape.denoiser.caption_channels,
            )
        )
    denoiser = denoiser.to(getattr(torch, arguments.dtype)).eval().requires_grad_(requires_grad=False)
    with torch.device("meta"):
        vae = VideoAutoencoder(VaeConfig.from_shape(shape.vae))  # only its sizes are asked for
    height, width = image_size_of_aspect(arguments.resolution, "16:9")
    latent = latent_size(arguments.frames, height, width)
    generator = ClipGenerator(
        denoiser,
        vae,
        ClipRequest((height, width), arguments.frames, 24, arguments.steps + 1, 7.0),
        [torch.randn(TEXT_TOKENS, shape.denoiser.caption_channels, generator=torch.Generator().manual_seed(1))],
        SeededDraws(0),
        Placement(guidance_batch=arguments.guidance_batch),
    )
    streaming = BlockStreaming(denoiser)
    expected = None
    for quarter in range(QUARTERS + 1):
        streaming.keep_on_host(streaming.num_blocks * quarter // QUARTERS)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        states = generator.states(generator.start())
        next(states)  # the first step warms up
        _wait(device)
        started = time.perf_counter()
        last = [state.z_BCTHW.cpu() for state in states][-1]
        seconds = (time.perf_counter() - started) / arguments.steps
        expected = last if expected is None else expected
        print(
            json.dumps(
                {
                    "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                    "latent": [latent.frames, latent.height, latent.width],
                    "host_blocks": streaming.host_blocks,
                    "block_mib": round(streaming.block_bytes / 2**20, 1),
                    "seconds_per_step": round(seconds, 4),
                    "peak_gib": round(sample_memory(str(device)).peak / 2**30, 3),
                    "bit_equal": torch.equal(last, expected),
                }
            ),
            flush=True,
        )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
