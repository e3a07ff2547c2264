"""The random draws of a recorded run of the script, handed to one prompt at a time.

Shape suffixes: B prompts of a batch, N frames of all prompts in one row, C channels, T latent frames, H W rows and
columns.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from cases_vae import RecordedPosteriorDraws
from torch import Tensor

from videogen_runner.models.opensora.generation import ClipRequest


@dataclass(frozen=True)
class RecordedDraws:
    """One prompt's rows of the draws of its batch."""

    starts_CTHW: list[Tensor]  # by loop
    steps_CTHW: list[list[Tensor]]  # by loop and step
    posteriors: dict[tuple[int, int], RecordedPosteriorDraws]  # by loop and reference

    def start(self, loop: int, shape: tuple[int, ...]) -> Tensor:
        return self.starts_CTHW[loop].reshape(shape)

    def step(self, loop: int, step: int, shape: tuple[int, ...]) -> Tensor:
        return self.steps_CTHW[loop][step].reshape(shape)

    def posterior(self, loop: int, reference: int) -> RecordedPosteriorDraws:
        return self.posteriors[loop, reference]


def draws_in_order(inputs: Mapping[str, Tensor]) -> Iterator[Tensor]:
    draws = {name: draw for name, draw in inputs.items() if name.startswith("draw_")}
    return iter([draws[name] for name in sorted(draws, key=lambda name: int(name.removeprefix("draw_")))])


def take_posterior(draws: Iterator[Tensor], batch: int, frames: int, chunk: int | None) -> tuple[Tensor, Tensor]:
    """The noise of one encoding, noise_NCHW and noise_BCTHW: the frames in slices, then the temporal chunks."""
    spatial: list[Tensor] = []
    while sum(map(len, spatial)) < batch * frames:
        spatial.append(next(draws))
    temporal = [next(draws) for _ in range(math.ceil(frames / (chunk or frames)))]
    return torch.cat(spatial), torch.cat(temporal, dim=2)


def take_draws(
    draws: Iterator[Tensor], reference_frames: Sequence[Sequence[int]], request: ClipRequest, chunk: int | None
) -> list[RecordedDraws]:
    """The draws of one batch in the order of the script: all references, then loop by loop.

    `reference_frames` are the frames of each prompt's references.
    """
    batch, frames = len(reference_frames), request.num_frames
    rows = [RecordedDraws([], [], {}) for _ in range(batch)]
    for row, own_frames in zip(rows, reference_frames, strict=True):
        for index, count in enumerate(own_frames):
            row.posteriors[0, index] = RecordedPosteriorDraws(*take_posterior(draws, 1, count, chunk))
    for loop in range(request.num_loops):
        if loop > 0:
            spatial_NCHW, temporal_BCTHW = take_posterior(draws, batch, frames, chunk)
            for b, row in enumerate(rows):
                own_NCHW = spatial_NCHW[b * frames : (b + 1) * frames]
                row.posteriors[loop, 0] = RecordedPosteriorDraws(own_NCHW, temporal_BCTHW[b : b + 1])
        start_BCTHW = next(draws)
        steps_BCTHW = [next(draws) for _ in range(request.num_steps)]
        for b, row in enumerate(rows):
            row.starts_CTHW.append(start_BCTHW[b])
            row.steps_CTHW.append([noise_BCTHW[b] for noise_BCTHW in steps_BCTHW])
    return rows
