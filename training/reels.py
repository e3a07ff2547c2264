"""Chunks of clips to train the autoencoder on, drawn on the device and kept there.

The autoencoder codes chunks of 17 frames that know nothing of each other: a clip of 51 frames gives three, with slower
motions than one of 17. New clips take the places of the oldest.

Shape suffixes: N chunks, B of a batch, C channels, T frames, H height, W width.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from training.rendering import render
from training.scenes import training_scene
from videogen_api.video import CHUNK_FRAMES

CLIPS_AT_ONCE = 64
"""Drawn together."""

MAX_CLIPS = 8192
"""Of a reel: inventing more scenes would take too long."""


@dataclass(frozen=True)
class ReelForm:
    """Of clips. `weight`: of its steps among those of all forms."""

    num_frames: int
    height: int
    width: int
    weight: float

    @property
    def chunk_frames(self) -> int:
        return min(self.num_frames, CHUNK_FRAMES)

    @property
    def chunk_shape(self) -> tuple[int, int, int]:
        return self.chunk_frames, self.height, self.width

    @property
    def num_chunks(self) -> int:
        return self.num_frames // self.chunk_frames

    @property
    def chunk_pixels(self) -> int:
        return self.chunk_frames * self.height * self.width


FORMS = (
    ReelForm(1, 64, 64, 0.05),
    ReelForm(17, 64, 64, 0.35),
    ReelForm(34, 64, 64, 0.1),
    ReelForm(51, 64, 64, 0.15),
    ReelForm(17, 96, 96, 0.1),
    ReelForm(51, 96, 160, 0.1),
    ReelForm(1, 144, 256, 0.05),
    ReelForm(17, 144, 256, 0.1),
)


class Reel:
    """Chunks of clips of one form, as many as have `max_pixels`; `first_scene` and those after it are drawn."""

    def __init__(self, form: ReelForm, max_pixels: int, first_scene: int, device: torch.device) -> None:
        self.form = form
        self._next_scene = first_scene
        self._device = device
        self._num_clips = max(1, min(MAX_CLIPS, max_pixels // (form.num_chunks * form.chunk_pixels)))
        # Half precision is finer than what a display shows.
        shape = (self._num_clips * form.num_chunks, 3, *form.chunk_shape)
        self._kept_NCTHW = torch.empty(shape, dtype=torch.float16, device=device)
        self._num_added = 0
        while self._num_added < len(self):
            self.add()

    def __len__(self) -> int:
        return len(self._kept_NCTHW)

    def add(self) -> None:
        """Draws new clips in place of the oldest."""
        count = min(CLIPS_AT_ONCE, self._num_clips)
        scenes = [training_scene(self._next_scene + index) for index in range(count)]
        self._next_scene += count
        form = self.form
        x_BCTHW = render(scenes, form.num_frames, form.height, form.width, device=self._device)
        x_NCTHW = rearrange(x_BCTHW, "b c (n t) h w -> (b n) c t h w", t=form.chunk_frames)
        places_N = (self._num_added + torch.arange(len(x_NCTHW), device=self._device)) % len(self)
        self._kept_NCTHW[places_N] = x_NCTHW.half()
        self._num_added += len(x_NCTHW)

    def sample(self, count: int) -> Tensor:
        """x_BCTHW, any chunks."""
        return self._kept_NCTHW[self._any(count)].float()

    def sample_frames(self, count: int) -> Tensor:
        """x_BC1HW, any frames of any chunks: neighbours are so alike that a batch of them teaches little."""
        frames_B = torch.randint(self.form.chunk_frames, (count,), device=self._device)
        return self._kept_NCTHW[self._any(count), :, frames_B].float()[:, :, None]

    def all(self) -> Tensor:
        """x_NCTHW, every chunk, in half precision; `add` changes it."""
        return self._kept_NCTHW

    def _any(self, count: int) -> Tensor:
        return torch.randint(len(self), (count,), device=self._device)
