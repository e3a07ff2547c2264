"""Latents to train on, kept on the device: clips that the frozen autoencoder has encoded, several times used.

Encoding a clip costs about ten times what one step costs for it, so clips are used again, with new noise, time and
wording, while new ones replace the oldest as fast as a fixed share of the time allows.

Shape suffixes: N clips of the bank, B of a batch, C channels, T H W latent frames, rows, columns; K captions of each
clip, L tokens, Q colours; two labels a colour.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.autoencoder import TrainedVae
from training.examples import Examples, Makers
from training.rendering import draw
from videogen_api.video import latent_size, num_tokens

ENCODING_SHARE, FIRST_SECONDS = 0.15, 20.0
"""Of the time, and what comes before that is asked for."""

MAX_CLIPS = 512
"""Of a batch: the captions of more small ones would cost more than their frames."""

MAX_CHUNK_CLIPS = 256
"""Encoded together: captions of more take a process too long."""


@dataclass(frozen=True)
class Bucket:
    """Clips of one form. `weight`: of its steps among all; `capacity`: clips that are kept."""

    num_frames: int
    height: int
    width: int
    weight: float
    capacity: int


BUCKETS = (
    Bucket(1, 64, 64, 0.04, 4096),
    Bucket(17, 64, 64, 0.12, 8192),
    Bucket(34, 64, 64, 0.08, 8192),
    Bucket(51, 64, 64, 0.24, 16384),
    Bucket(51, 64, 112, 0.06, 4096),
    Bucket(1, 96, 96, 0.02, 2048),
    Bucket(17, 96, 96, 0.06, 4096),
    Bucket(51, 96, 96, 0.14, 8192),
    Bucket(34, 96, 160, 0.04, 4096),
    Bucket(51, 96, 160, 0.08, 4096),
    Bucket(51, 128, 128, 0.03, 2048),
    Bucket(1, 144, 256, 0.02, 2048),
    Bucket(17, 144, 256, 0.03, 2048),
    Bucket(51, 144, 256, 0.04, 2048),
)


@dataclass(frozen=True)
class Batch:
    bucket: Bucket
    z_BCTHW: Tensor  # mean 0, variance 1
    still_BCHW: Tensor  # the first frame, encoded alone, as a reference image is
    ids_BL: Tensor
    labels_BQ2: Tensor


class Shelf:
    """The clips of one bucket; the oldest make room."""

    def __init__(self, bucket: Bucket, new: Iterator[Examples]) -> None:
        self.bucket = bucket
        self.num_added = 0
        self._new = new
        self._rows: tuple[Tensor, ...] = ()

    def add(self, vae: TrainedVae, device: torch.device) -> None:
        """Draws and encodes the next examples."""
        examples = next(self._new)
        video_BCTHW = draw(examples.drawing, self.bucket.height, self.bucket.width, device=device)
        fresh = (
            encode(vae, video_BCTHW),
            encode(vae, video_BCTHW[:, :, :1])[:, :, 0],
            examples.ids_BKL.to(device),
            examples.labels_BQ2.to(device),
        )
        if not self._rows:
            self._rows = tuple(rows.new_empty(self.bucket.capacity, *rows.shape[1:]) for rows in fresh)
        count = len(fresh[0])
        places = (self.num_added + torch.arange(count, device=device)) % self.bucket.capacity
        for kept, rows in zip(self._rows, fresh, strict=True):
            kept[places] = rows
        self.num_added += count

    def sample(self, size: int) -> Batch:
        """`size` clips, each with one of its captions. Only after `add`."""
        z_NCTHW, still_NCHW, ids_NKL, labels_NQ2 = self._rows
        device = z_NCTHW.device
        chosen_B = torch.randint(min(self.num_added, self.bucket.capacity), (size,), device=device)
        wording_B = torch.randint(ids_NKL.shape[1], (size,), device=device)
        ids_BL = ids_NKL[chosen_B, wording_B].long()
        return Batch(self.bucket, z_NCTHW[chosen_B], still_NCHW[chosen_B], ids_BL, labels_NQ2[chosen_B])


class Bank:
    """All shelves. Encoding stays within its share of the time."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        vae: TrainedVae,
        makers: Makers,
        tokenizer: Path,
        *,
        seed: int,
        chunk_pixels: int,
        device: torch.device,
    ) -> None:
        self._vae = vae
        self._device = device
        self._weights = torch.tensor([bucket.weight for bucket in buckets])
        self._order = torch.Generator().manual_seed(seed)
        self._seconds = 0.0
        self._shelves = []
        for index, bucket in enumerate(buckets):
            pixels = bucket.num_frames * bucket.height * bucket.width
            count = min(bucket.capacity, MAX_CHUNK_CLIPS, max(1, chunk_pixels // pixels))
            new = makers.examples(tokenizer, (seed * 64 + index) * 10**7, count, bucket.num_frames)
            self._shelves.append(Shelf(bucket, new))
        for shelf in self._shelves:
            self._add(shelf)

    @property
    def num_clips(self) -> int:
        """Encoded so far."""
        return sum(shelf.num_added for shelf in self._shelves)

    def refresh(self, elapsed_seconds: float) -> None:
        """Encodes new clips until the share of the time is used."""
        while self._seconds < FIRST_SECONDS + ENCODING_SHARE * elapsed_seconds:
            self._add(self._choose())

    def sample(self, tokens: int) -> Batch:
        """A batch of one bucket: about so many patches of 2 x 2 latents, and at most MAX_CLIPS clips."""
        shelf = self._choose()
        bucket = shelf.bucket
        patches = num_tokens(latent_size(bucket.num_frames, bucket.height, bucket.width))
        return shelf.sample(max(1, min(MAX_CLIPS, tokens // patches)))

    def _choose(self) -> Shelf:
        return self._shelves[int(torch.multinomial(self._weights, 1, generator=self._order))]

    def _add(self, shelf: Shelf) -> None:
        begin = time.monotonic()
        shelf.add(self._vae, self._device)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds += time.monotonic() - begin


@torch.no_grad()
def encode(vae: TrainedVae, x_BCTHW: Tensor) -> Tensor:
    """Pixels -> the latents that are most likely, shifted and scaled as the sampler sees them."""
    with torch.autocast(x_BCTHW.device.type, torch.bfloat16, enabled=x_BCTHW.device.type == "cuda"):
        means_BCTHW = vae.means(x_BCTHW)
    return (means_BCTHW - vae.shift) / vae.scale
