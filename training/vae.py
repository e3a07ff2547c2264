"""Trains the autoencoder of `shapes`: `python -m training.vae --out DIR`, see docs/shapes-model.md.

A new run has three stages: the 2D half learns from single frames, no two of a kind; then the 3D half learns from the
first one's latents, 48 times fewer numbers than pixels; then both learn from the frames that come out of the whole. A
run that goes on from another has the last stage only.

Shape suffixes: as in the runner's vae.py; N chunks of a reel.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn

from training.autoencoder import (
    build_vae,
    load_trained,
    loss_of_all,
    loss_of_frames,
    loss_of_time,
    measured_weights,
    psnr,
    psnr_of_frames,
)
from training.checkpoints import save_weights
from training.reels import FORMS, Reel, ReelForm
from training.rendering import render
from training.runs import CHECKPOINT_SECONDS, WAIT_EVERY, Clock, Curve, learning_rate, parser
from training.scenes import held_out_scene
from training.steps import Trainer


@dataclass(frozen=True)
class Stage:
    """`until`: the part of a run's time at which it ends. `rate`, `pixels` of a step: in units of the run's."""

    until: float
    rate: float
    pixels: int


FRAMES = Stage(until=0.4, rate=1.0, pixels=1)
TIME = Stage(until=0.65, rate=1.25, pixels=17)
BOTH = Stage(until=1.0, rate=0.5, pixels=3)  # together the halves learn more calmly

_ADD_EVERY = 20  # steps: that costs little time


PIXELS = 2**18
"""Of a step of the first stage, if nothing else is asked for: clips of every form fit into one of the last."""


def forms_within(pixels: int) -> list[ReelForm]:
    """The forms of which a chunk fits into a step of `--pixels`. Raises ValueError where there is none."""
    fitting = [form for form in FORMS if form.chunk_pixels <= BOTH.pixels * pixels]
    if not fitting:
        least = ceil(min(form.chunk_pixels for form in FORMS) / BOTH.pixels)
        raise ValueError(f"--pixels {pixels} is less than the smallest clips need; give {least} or more")
    return fitting


class Run:
    """The network, what it learns from, and how far it is."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.clock = Clock(options.minutes)
        self._device = torch.device(options.device)
        self._pixels: int = options.pixels
        self._rate = options.rate
        self._out = options.out
        torch.manual_seed(options.seed)
        self.vae = load_trained(options.start) if options.start else build_vae()
        self.vae.use_latents_as_they_come()
        self.vae.to(self._device)
        self._order = torch.Generator().manual_seed(options.seed)
        forms = forms_within(options.pixels)
        self._weights = torch.tensor([form.weight for form in forms])
        self._reels = [
            Reel(form, options.store_pixels, (options.seed * 64 + index) * 10**7, self._device)
            for index, form in enumerate(forms)
        ]
        num_measured = max(2, min(64, options.pixels // 2**13))
        scenes = [held_out_scene(seed) for seed in range(num_measured)]
        self._held_out_BCTHW = render(scenes, 17, 64, 64, device=self._device)
        self._curve = Curve(
            options.out, "vae", ("loss", "frames_psnr", "psnr"), drawn=("psnr", "frames_psnr"), unit="dB"
        )
        self._num_steps, self._saved = 0, 0.0

    def learn_frames(self) -> None:
        """The 2D half."""
        trainer = self._trainer(self.vae.spatial_vae)

        def losses(x_BCTHW: Tensor) -> Tensor:
            return loss_of_frames(self.vae, x_BCTHW)[None]

        for rate in self._rates(FRAMES, trainer):
            reel = self._reels[self._choose()]
            size = (reel.form.height, reel.form.width)
            x_BCTHW = reel.sample_frames(self._count(FRAMES, size[0] * size[1]))
            trainer.step(size, losses, [x_BCTHW], rate)
            self._renew(reel)

    def learn_time(self) -> None:
        """The 3D half, on the 2D latents that the first stage makes of what there is."""
        trainer = self._trainer(self.vae.temporal_vae)
        latents = [self._latents(reel) for reel in self._reels]

        def losses(y_BCTHW: Tensor, num_frames: int) -> Tensor:
            return loss_of_time(self.vae, y_BCTHW, num_frames)[None]

        for rate in self._rates(TIME, trainer):
            index = self._choose()
            form, y_NCTHW = self._reels[index].form, latents[index]
            chosen_B = torch.randint(len(y_NCTHW), (self._count(TIME, form.chunk_pixels),), device=self._device)
            trainer.step(form.chunk_shape, partial(losses, num_frames=form.chunk_frames), [y_NCTHW[chosen_B]], rate)

    def learn_both(self) -> None:
        """Both halves, to the end of the run."""
        trainer = self._trainer(self.vae)

        def losses(x_BCTHW: Tensor) -> Tensor:
            return loss_of_all(self.vae, x_BCTHW)[None]

        for rate in self._rates(BOTH, trainer):
            reel = self._reels[self._choose()]
            x_BCTHW = reel.sample(self._count(BOTH, reel.form.chunk_pixels))
            trainer.step(reel.form.chunk_shape, losses, [x_BCTHW], rate)
            self._renew(reel)
        self._save(trainer)

    def _trainer(self, network: nn.Module) -> Trainer:
        return Trainer(network.parameters(), weight_decay=0.0, num_losses=1, device=self._device.type)

    def _rates(self, stage: Stage, trainer: Trainer) -> Iterator[float]:
        """The learning rate of each step of a stage; between them, steps are counted and weights saved."""
        for part in self.clock.stage(stage.until):
            yield learning_rate(trainer.num_steps, part, self._rate * stage.rate)
            self._num_steps += 1
            if self._num_steps % WAIT_EVERY == 0:
                if self._device.type == "cuda":
                    torch.cuda.synchronize()
                if self.clock.seconds > self._saved + CHECKPOINT_SECONDS:
                    self._save(trainer)

    def _choose(self) -> int:
        """The number of any form, by weight."""
        return int(torch.multinomial(self._weights, 1, generator=self._order))

    def _count(self, stage: Stage, pixels_each: int) -> int:
        """Of frames or chunks, in a step's batch."""
        return max(1, self._pixels * stage.pixels // pixels_each)

    def _renew(self, reel: Reel) -> None:
        if self._num_steps % _ADD_EVERY == 0:
            reel.add()

    @torch.no_grad()
    def _latents(self, reel: Reel) -> Tensor:
        """y_NCTHW, the 2D latents of all chunks, drawn from their posterior."""
        size = max(1, self._pixels * 4 // reel.form.chunk_pixels)
        return torch.cat([self.vae.encode_frames(x_NCTHW.float())[0] for x_NCTHW in torch.split(reel.all(), size)])

    def _save(self, trainer: Trainer) -> None:
        z_BCTHW = self.vae.means(self._held_out_BCTHW)
        save_weights(self._out, "vae", measured_weights(self.vae, z_BCTHW), self._num_steps)
        frames_psnr = psnr_of_frames(self.vae, self._held_out_BCTHW)
        whole_psnr = psnr(self.vae, self._held_out_BCTHW, z_BCTHW)
        self._curve.add(self.clock.seconds, self._num_steps, *trainer.mean_losses(), frames_psnr, whole_psnr)
        self._curve.write()
        self._saved = self.clock.seconds


def arguments() -> argparse.ArgumentParser:
    found = parser("vae", "Trains the autoencoder.", rate=4e-4)
    found.add_argument("--pixels", type=int, default=PIXELS, help="of one step's frames together, in the first stage")
    found.add_argument("--store-pixels", type=int, default=2**28, help="of each form's clips that are kept")
    return found


def main() -> None:
    options = arguments().parse_args()
    run = Run(options)
    if not options.start:
        run.learn_frames()
        run.learn_time()
    run.learn_both()


if __name__ == "__main__":
    main()
