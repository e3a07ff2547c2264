"""Which blocks of the text encoder each shard of a group owns: one rule for planner, runner and tests.

Beside its blocks every shard owns the table of relative positions, the first one the embedding, of which it reads the
rows of the tokens at hand, and the last one the final norm. None of these is large, so blocks alone are balanced.
"""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise

from videogen_api.errors import InvalidInput


def block_ranges(block_bytes: Sequence[int], shards: int) -> tuple[range, ...]:
    """The blocks of each shard: contiguous, none left out, at least one each; `block_bytes` is the size of each block.

    The largest shard is as small as it can be; among those partitions the sum of squared sizes is the smallest, so
    that the others are even too. Raises InvalidInput where there are more shards than blocks, or none.
    """
    num_blocks = len(block_bytes)
    if not 1 <= shards <= num_blocks:
        raise InvalidInput(
            f"spec.encoder.shards: {shards} is not allowed: the encoder has {num_blocks} blocks; "
            f"use a number from 1 to {num_blocks}"
        )
    before = [0, *accumulate(block_bytes)]

    @cache
    def smallest_maximum(blocks: int, parts: int) -> int:
        """Of the first blocks, over every way to cut them into that many parts."""
        if parts == 1:
            return before[blocks]
        return min(
            max(smallest_maximum(cut, parts - 1), before[blocks] - before[cut]) for cut in range(parts - 1, blocks)
        )

    largest = smallest_maximum(num_blocks, shards)

    @cache
    def evenest(blocks: int, parts: int) -> tuple[int, tuple[int, ...]] | None:
        """Sum of squares and cuts, the earliest ones where several do; None where a part would be too large."""
        if parts == 1:
            size = before[blocks]
            return (size**2, (0, blocks)) if size <= largest else None
        found = []
        for cut in range(parts - 1, blocks):
            size, rest = before[blocks] - before[cut], evenest(cut, parts - 1)
            if size <= largest and rest is not None:
                found.append((rest[0] + size**2, (*rest[1], blocks)))
        return min(found, default=None)

    best = evenest(num_blocks, shards)
    if best is None:
        raise AssertionError("the partition that gave the smallest maximum is one")
    return tuple(range(first, end) for first, end in pairwise(best[1]))
