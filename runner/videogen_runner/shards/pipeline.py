"""The order of work in a group: prompts flow from the first shard to the last, one after another.

Each is a micro-batch of its own, at its own length, so that no embedding depends on its neighbours. While a shard
works on one prompt, the shard before it is at the next. Pure: what sends and receives is passed in.

Shape suffixes: L tokens, C channels.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Parcel:
    """One text on its way through the shards."""

    position: int
    """In `Plan.texts`."""
    num_dropped: int
    """Tokens beyond the limit."""
    x_LC: Tensor


class EncoderShard(Protocol):
    """The blocks of one shard."""

    def embed(self, ids: list[int]) -> Tensor:
        """Token ids -> x_LC; the first shard only."""
        ...

    def run_blocks(self, x_LC: Tensor) -> Tensor:
        """Through this shard's blocks."""
        ...

    def finish(self, x_LC: Tensor) -> Tensor:
        """x_LC -> y_LC, fp32 on the host; the last shard only."""
        ...


@dataclass(frozen=True)
class Tokens:
    """One text as the first shard takes it."""

    position: int
    num_dropped: int
    ids: list[int]


def embed_texts(texts: Iterable[Tokens], shard: EncoderShard) -> Iterator[Parcel]:
    """What the first shard has instead of a shard before it."""
    for text in texts:
        yield Parcel(text.position, text.num_dropped, shard.embed(text.ids))


def run_shard(parcels: Iterable[Parcel], shard: EncoderShard, deliver: Callable[[Parcel], None]) -> None:
    """Takes parcels through this shard's blocks as they come; `deliver` hands each on before the next is taken."""
    for parcel in parcels:
        deliver(replace(parcel, x_LC=shard.run_blocks(parcel.x_LC)))
