"""Where every random number of a clip comes from.

A draw is addressed, not taken from a stream: what it is for, which loop, which frame and which step decide its value,
together with the clip's seed. So no slice size, batch form, crash or resume can change what a frame gets, and a draw
that is not needed costs nothing. Numbers are made on the host in fp32 (a card's own generator depends on the card) and
cast by whoever uses them.

Shape suffixes: C channels, T latent frames, H W latent rows and columns.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from videogen_runner.models.opensora.vae import PosteriorDraws


class Draws(Protocol):
    """The standard normal draws of one clip, fp32 on the host; `shape` is [C, T, H, W]."""

    def start(self, loop: int, shape: tuple[int, ...]) -> Tensor:
        """The noise that a loop's denoising starts from."""
        ...

    def step(self, loop: int, step: int, shape: tuple[int, ...]) -> Tensor:
        """What frames that join at a step are mixed with."""
        ...

    def posterior(self, loop: int, reference: int) -> PosteriorDraws:
        """What encoding one video needs: reference `reference` before loop 0, or the clip that a loop continues."""
        ...


@dataclass(frozen=True)
class SeededDraws:
    """Counter-based draws: Philox with key sha256(seed, purpose, loop, frame, step), one key per frame."""

    seed: int

    def start(self, loop: int, shape: tuple[int, ...]) -> Tensor:
        return self._frames("start", loop, 0, shape)

    def step(self, loop: int, step: int, shape: tuple[int, ...]) -> Tensor:
        return self._frames("step", loop, step, shape)

    def posterior(self, loop: int, reference: int) -> "SeededPosteriorDraws":
        return SeededPosteriorDraws(self.seed, loop, reference)

    def _frames(self, purpose: str, loop: int, step: int, shape: tuple[int, ...]) -> Tensor:
        channels, num_frames, height, width = shape
        frame_shape = (channels, height, width)
        frames = (normal(self.seed, purpose, loop, frame, step, frame_shape) for frame in range(num_frames))
        return torch.stack(tuple(frames), dim=1)


@dataclass(frozen=True)
class SeededPosteriorDraws:
    """The draws of one encoding; the reference number takes the place of the step in the key."""

    seed: int
    loop: int
    reference: int

    def posterior_spatial(self, frame: int, shape: tuple[int, ...]) -> Tensor:
        return normal(self.seed, "posterior-spatial", self.loop, frame, self.reference, shape)

    def posterior_temporal(self, frame: int, shape: tuple[int, ...]) -> Tensor:
        return normal(self.seed, "posterior-temporal", self.loop, frame, self.reference, shape)


def normal(seed: int, purpose: str, loop: int, frame: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal fp32 numbers on the host, a function of the arguments alone."""
    address = f"{seed}/{purpose}/{loop}/{frame}/{step}".encode()
    # Philox4x64 takes a key of 128 bits.
    key = int.from_bytes(hashlib.sha256(address).digest()[:16], "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
