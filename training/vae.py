"""Trains the autoencoder of `shapes`: `python -m training.vae --out DIR`.

A new run has three stages: the 2D half learns from single frames, no two of a kind; then the 3D half learns from the
latents of the first, so small that thousands of steps take a minute; then both learn from the frames that come out of
the whole. A run that goes on from another has the last stage only.

Shape suffixes: as in the runner's vae.py.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from training.autoencoder import (
    TrainedVae,
    loss_of_all,
    loss_of_frames,
    loss_of_time,
    measured_weights,
    psnr,
    psnr_of_frames,
)
from training.checkpoints import load_weights, save_weights
from training.reels import FORMS, Reel, ReelForm
from training.rendering import render
from training.runs import CHECKPOINT_SECONDS, WAIT_EVERY, Clock, Curve, learning_rate, parser
from training.scenes import held_out_scene
from training.steps import Trainer
from videogen_api.architecture import ARCHITECTURES
from videogen_runner.models.opensora.vae import VaeConfig

FRAMES_UNTIL, TIME_UNTIL = 0.4, 0.65
"""Parts of a new run's time at which its first and its second stage end."""

RATES = (1.0, 1.25, 0.5)
"""Of the stages, in units of the run's: together the halves learn more calmly."""

FRAMES_PIXELS, CHUNKS_PIXELS = 1, 2
"""Of a step in units of --pixels: alone, and together."""

TIME_CHUNKS = 64
"""Of a step of the second stage, if they are of 64x64 pixels."""

_ADD_EVERY = 20  # steps

T = TypeVar("T")


def forms_within(max_pixels: int) -> list[ReelForm]:
    """The forms of which a chunk has at most so many pixels. Raises ValueError where there is none."""
    fitting = [form for form in FORMS if form.chunk_pixels <= max_pixels]
    if not fitting:
        raise ValueError(f"no clip has as few as {max_pixels} pixels; give more with --pixels")
    return fitting


class Run:
    """The networks, what they learn from, and how far they are."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.clock = Clock(options.minutes)
        self._device = torch.device(options.device)
        self._pixels = options.pixels
        self._rate = options.rate
        self._out = options.out
        torch.manual_seed(options.seed)
        self.vae = TrainedVae(VaeConfig.from_shape(ARCHITECTURES["shapes"].vae))
        if options.start:
            self.vae.load_state_dict(load_weights(options.start, "vae"))
            self.vae.use_latents_as_they_come()
        self.vae.to(self._device)
        self._order = torch.Generator().manual_seed(options.seed)
        self._reels = [
            Reel(form, options.store_pixels, (options.seed * 64 + index) * 10**7, self._device)
            for index, form in enumerate(forms_within(options.pixels * CHUNKS_PIXELS))
        ]
        num_measured = max(2, min(64, options.pixels // 2**13))
        scenes = [held_out_scene(seed) for seed in range(num_measured)]
        self._held_out_BCTHW = render(scenes, 17, 64, 64, device=self._device)
        self._curve = Curve(options.out, "vae", ("loss", "frames_psnr", "psnr"))
        self._num_steps, self._saved = 0, 0.0

    def frames(self, until: float) -> None:
        """The 2D half."""
        trainer = self._trainer(self.vae.spatial_vae)

        def loss(x_BCTHW: Tensor) -> Tensor:
            return loss_of_frames(self.vae, x_BCTHW)[None]

        for part, reel in self._turns(until, self._reels):
            size = (reel.form.height, reel.form.width)
            count = max(1, self._pixels * FRAMES_PIXELS // (size[0] * size[1]))
            trainer.step(size, loss, [reel.sample_frames(count)], self._rate_of(0, trainer, part))
            self._checkpoint(trainer)

    def time(self, until: float) -> None:
        """The 3D half, on latents that the first stage has left."""
        trainer = self._trainer(self.vae.temporal_vae)
        for part, (form, y_NCTHW) in self._turns(until, [self._latents(reel) for reel in self._reels]):
            count = max(1, min(TIME_CHUNKS, self._pixels // 4096) * 17 * 64 * 64 // form.chunk_pixels)
            chosen_B = torch.randint(len(y_NCTHW), (count,), device=self._device)

            def loss(y_BCTHW: Tensor, num_frames: int) -> Tensor:
                return loss_of_time(self.vae, y_BCTHW, num_frames)[None]

            losses = partial(loss, num_frames=form.chunk_frames)
            shape = (form.chunk_frames, form.height, form.width)
            trainer.step(shape, losses, [y_NCTHW[chosen_B]], self._rate_of(1, trainer, part))
            self._checkpoint(trainer)

    def all(self) -> None:
        """Both halves, to the end of the run."""
        trainer = self._trainer(self.vae)

        def loss(x_BCTHW: Tensor) -> Tensor:
            return loss_of_all(self.vae, x_BCTHW)[None]

        for part, reel in self._turns(1.0, self._reels):
            form = reel.form
            count = max(1, self._pixels * CHUNKS_PIXELS // form.chunk_pixels)
            shape = (form.chunk_frames, form.height, form.width)
            trainer.step(shape, loss, [reel.sample(count)], self._rate_of(2, trainer, part))
            self._checkpoint(trainer)
        self._save(trainer)

    def _trainer(self, networks: torch.nn.Module) -> Trainer:
        return Trainer(networks.parameters(), weight_decay=0.0, num_losses=1, device=self._device.type)

    def _rate_of(self, stage: int, trainer: Trainer, part: float) -> float:
        return learning_rate(trainer.num_steps, part, self._rate * RATES[stage])

    def _turns(self, until: float, choices: Sequence[T]) -> Iterator[tuple[float, T]]:
        """How much of the stage is over, and any of the choices by its reel's weight; at least once."""
        weights = torch.tensor([reel.form.weight for reel in self._reels])
        begin = self.clock.part
        for count in range(10**9):
            index = int(torch.multinomial(weights, 1, generator=self._order))
            yield min(1.0, (self.clock.part - begin) / max(1e-9, until - begin)), choices[index]
            if self.clock.part >= until:
                return
            if count % _ADD_EVERY == 0:
                self._reels[index].add()

    @torch.no_grad()
    def _latents(self, reel: Reel) -> tuple[ReelForm, Tensor]:
        """2D latents of all chunks of a reel, drawn from their posterior."""
        size = max(1, self._pixels * 4 // reel.form.chunk_pixels)
        parts = [self.vae.code_frames(x_BCTHW.float())[0] for x_BCTHW in torch.split(reel.all(), size)]
        return reel.form, torch.cat(parts)

    def _checkpoint(self, trainer: Trainer) -> None:
        """Counts a step, and saves now and then."""
        self._num_steps += 1
        if self._num_steps % WAIT_EVERY == 0:
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            if self.clock.seconds > self._saved + CHECKPOINT_SECONDS:
                self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        z_BCTHW = self.vae.means(self._held_out_BCTHW)
        save_weights(self._out, "vae", measured_weights(self.vae, z_BCTHW), self._num_steps)
        frames_psnr = psnr_of_frames(self.vae, self._held_out_BCTHW)
        whole_psnr = psnr(self.vae, self._held_out_BCTHW, z_BCTHW)
        self._curve.add(self.clock.seconds, self._num_steps, *trainer.mean_losses(), frames_psnr, whole_psnr)
        self._curve.write()
        self._saved = self.clock.seconds


def main() -> None:
    arguments = parser("vae", "Trains the autoencoder.", rate=4e-4)
    arguments.add_argument("--pixels", type=int, default=2**18, help="of one step's frames together")
    arguments.add_argument("--store-pixels", type=int, default=2**28, help="of each form's clips that are kept")
    options = arguments.parse_args()
    run = Run(options)
    if not options.start:
        run.frames(FRAMES_UNTIL)
        run.time(TIME_UNTIL)
    run.all()


if __name__ == "__main__":
    main()
