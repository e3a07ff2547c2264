"""The matmuls and attentions of one denoising step, from the architecture: numbers alone, no device.

What stays the same through all steps (text projection, keys and values of the text, frame-rate embedding) is no part of
a step; everything between the products (norms, gates, activations) is no part of this list.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from videogen_api.architecture import DenoiserShape
from videogen_api.video import LatentSize, num_tokens


@dataclass(frozen=True)
class Matmul:
    """[m, k] by [k, n], `count` times a step."""

    name: str
    m: int
    n: int
    k: int
    count: int

    @property
    def flops(self) -> int:
        """Of all `count`; a multiplication and an addition count as two, here and below."""
        return 2 * self.m * self.n * self.k * self.count


@dataclass(frozen=True)
class Attention:
    """`batch` sequences of `queries` and `keys` tokens in `heads` heads, `count` times a step."""

    name: str
    batch: int
    heads: int
    queries: int
    keys: int
    head_size: int
    count: int

    @property
    def flops(self) -> int:
        return 4 * self.batch * self.heads * self.queries * self.keys * self.head_size * self.count


def step_matmuls(shape: DenoiserShape, latent: LatentSize, batch: int) -> tuple[Matmul, ...]:
    """Every linear layer; those of equal sizes are one entry."""
    hidden, blocks = shape.hidden_size, 2 * shape.depth
    tokens = batch * num_tokens(latent, shape.patch_size)
    patch = math.prod(shape.patch_size)
    return (
        Matmul("qkv", tokens, 3 * hidden, hidden, blocks),
        Matmul("attention output, text query, text output", tokens, hidden, hidden, 3 * blocks),
        Matmul("MLP in", tokens, shape.mlp_ratio * hidden, hidden, blocks),
        Matmul("MLP out", tokens, hidden, shape.mlp_ratio * hidden, blocks),
        Matmul("patches in", tokens, hidden, patch * shape.in_channels, 1),
        Matmul("patches out", tokens, 2 * patch * shape.in_channels, hidden, 1),
        Matmul("timestep in", batch, hidden, shape.frequency_size, 1),
        Matmul("timestep out", batch, hidden, hidden, 1),
        Matmul("modulation", batch, 6 * hidden, hidden, 1),
    )


def step_attentions(shape: DenoiserShape, latent: LatentSize, text_lengths: Sequence[int]) -> tuple[Attention, ...]:
    """Attention over space, over time, and to the text; `text_lengths` has one entry for each sample of the batch."""
    batch, frames, tokens = len(text_lengths), latent.frames, num_tokens(latent, shape.patch_size)
    heads, head_size = shape.num_heads, shape.head_dim
    spatial = tokens // frames
    return (
        Attention("space", batch * frames, heads, spatial, spatial, head_size, shape.depth),
        Attention("time", batch * spatial, heads, frames, frames, head_size, shape.depth),
        *(
            Attention(f"text of {length}", samples, heads, tokens, length, head_size, 2 * shape.depth)
            for length, samples in Counter(text_lengths).items()
        ),
    )
