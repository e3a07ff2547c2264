"""Runs one stage with random weights and prints what it held, as JSON; a process of its own for every measurement.

    python measure_memory.py denoise HEIGHT WIDTH FRAMES BATCH
    python measure_memory.py decode HEIGHT WIDTH FRAMES BATCH_FRAMES
    python measure_memory.py finish HEIGHT WIDTH FRAMES LOOPS
    python measure_memory.py encode SHAPE TOKENS           (a TextEncoderShape as JSON)

`resident` is the most that the process held (VmHWM of /proc) above what it held before the models were built. The stage
has run once at its smallest size by then, so that thread pools and most code pages count among the imports; library
pages that come in later are taken off, for their number depends on what else the machine has in its cache. `allocated`
is the same from torch's own account of its tensors, above the weights, measured in a second run.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from videogen_api.architecture import TextEncoderShape, architecture_of
from videogen_api.video import latent_size
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipGenerator, ClipRequest, ClipState
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config
from videogen_runner.models.opensora.t5 import EMBEDDING, encode_ids, t5_config, t5_shapes
from videogen_runner.models.opensora.t5_shard import EncoderShard, load_shard
from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder
from videogen_runner.roles import clip_output

TEXT_TOKENS = 60
TINY = architecture_of("open-sora-v1.2-tiny")

Network = nn.Module | EncoderShard
Stage = tuple[Network, Callable[[Network], object]]


def denoise(height: int, width: int, frames: int, batch: int) -> Stage:
    """Two steps, because the second finds what the first has left behind."""
    shape, latent = TINY.denoiser, latent_size(frames, height, width)
    config = STDiT3Config(
        hidden_size=shape.hidden_size,
        depth=shape.depth,
        num_heads=shape.num_heads,
        caption_channels=shape.caption_channels,
    )

    @torch.no_grad()
    def run(model: nn.Module) -> None:
        assert isinstance(model, STDiT3)
        z_BCTHW = torch.zeros(1, 4, latent.frames, latent.height, latent.width)
        tokens_LX = torch.zeros(TEXT_TOKENS, shape.caption_channels)
        # Both branches' texts are prepared whether or not they run in one batch.
        conditionings = [
            model.prepare(
                [tokens_LX] * batch,
                torch.full((batch,), 24.0),
                (height, width),
                (latent.frames, latent.height, latent.width),
            )
            for _ in range(2 // batch)
        ]
        for _ in range(2):
            for conditioning in conditionings:
                z_BCTHW = z_BCTHW + model(z_BCTHW.repeat(batch, 1, 1, 1, 1), torch.zeros(batch), conditioning)[:1, :4]

    return STDiT3(config).eval(), run


def decode(height: int, width: int, frames: int, batch_frames: int) -> Stage:
    latent = latent_size(frames, height, width)

    def run(model: nn.Module) -> None:
        assert isinstance(model, VideoAutoencoder)
        z_BCTHW = torch.zeros(1, 4, latent.frames, latent.height, latent.width)
        model.decode(z_BCTHW, frames, decode_batch_frames=batch_frames)

    return VideoAutoencoder(VaeConfig.from_shape(TINY.vae)).eval(), run


class Decoded(ClipGenerator):
    """A generator whose last loop needs no decoding."""

    def _decode(self, loop: int, z_CTHW: torch.Tensor) -> torch.Tensor:
        if loop in self._pieces:
            return self._pieces[loop]
        height, width = (8 * size for size in z_CTHW.shape[-2:])
        return torch.full((3, self.request.num_frames, height, width), 0.5)


def finish(height: int, width: int, frames: int, loops: int) -> Stage:
    """From decoded loops to bytes of frames; all but the last loop are there before."""
    latent = latent_size(frames, height, width)
    shape = (4, latent.frames, latent.height, latent.width)

    def run(model: nn.Module) -> None:
        assert isinstance(model, VideoAutoencoder)
        request = ClipRequest((height, width), frames, 24, 1, 1.0, num_loops=loops)
        denoiser = STDiT3(STDiT3Config(hidden_size=16, depth=0, num_heads=1, caption_channels=4))
        generator = Decoded(denoiser, model, request, [torch.zeros(1, 4)] * loops, SeededDraws(0))
        generator._pieces = {loop: generator._decode(loop, torch.zeros(shape)) for loop in range(loops - 1)}
        z_CTHW = torch.zeros(shape)
        state = ClipState(loops - 1, 1, z_CTHW[None], torch.ones(1, latent.frames), (), (z_CTHW,) * (loops - 1))
        clip_output.decode(generator, state, "fox-1")

    return VideoAutoencoder(VaeConfig.from_shape(TINY.vae)).eval(), run


def encode(shape: TextEncoderShape, tokens: int) -> Stage:
    tensors = {name: torch.randn(size) for name, size in t5_shapes(shape).items()}
    embedding = tensors.pop(EMBEDDING)

    def read(name: str, dtype: torch.dtype, _: torch.device) -> torch.Tensor:
        return tensors.pop(name).to(dtype)

    blocks = range(shape.num_layers)
    shard = load_shard(t5_config(shape), blocks, torch.float32, read, lambda ids: embedding[list(ids)])
    return shard, lambda model: encode_ids(model, [2] * tokens)


def build(arguments: list[str], *, smallest: bool) -> Stage:
    stage, *rest = arguments
    if stage == "encode":
        shape = TextEncoderShape(**json.loads(rest[0]))
        return encode(TINY.encoder, 4) if smallest else encode(shape, int(rest[1]))
    height, width, frames, batch = map(int, rest)
    make = {"denoise": denoise, "decode": decode, "finish": finish}[stage]
    return make(64, 64, 34, batch) if smallest else make(height, width, frames, batch)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def most_allocated(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = most = 0
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]  # there after the with block
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main(arguments: list[str]) -> None:
    model, run = build(arguments, smallest=True)
    run(model)
    del model
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the first run left in the heap would hide as much of the second
    before, code = resident("VmRSS"), resident("RssFile")
    model, run = build(arguments, smallest=False)
    run(model)
    most_resident = resident("VmHWM") - before - (resident("RssFile") - code)
    print(json.dumps({"resident": most_resident, "allocated": most_allocated(lambda: run(model))}))


if __name__ == "__main__":
    main(sys.argv[1:])
