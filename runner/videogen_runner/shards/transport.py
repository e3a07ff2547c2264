"""Hidden states from each shard to the next, by torch.distributed. A process has one transport at a time.

Small messages always travel by gloo. Hidden states go from card to card by NCCL where each shard has a card of its own,
which NCCL insists on, and through the host's memory by gloo otherwise. Nothing here has a time limit: a shard may wait
for an hour until another has loaded its blocks; whether that one lives is the heartbeat's question.

Shape suffixes: L tokens, C channels.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, but not marked as exported

from videogen_api.errors import PeerLost
from videogen_runner.shards.pipeline import Parcel

GroupStore = TCPStore
"""By which the processes of torch.distributed find each other."""

_NO_LIMIT = timedelta(days=365)
_END = -1
_HEADER_TAG, _STATES_TAG = 0, 1
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_HEADER_LENGTH = 5  # position, dropped tokens, L, C, dtype

MAX_IN_FLIGHT = 2
"""Parcels that a shard may have computed before the next one takes them."""


class ConnectionBroke(PeerLost):
    """A call into torch.distributed failed; what the shard at the other end died of, the heartbeat knows."""


def host_store() -> GroupStore:
    """Shard 0's store, by which the others connect; on any free port."""
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=_NO_LIMIT)


def join_store(host: str, port: int) -> GroupStore:
    """The store that shard 0 hosts. Raises ConnectionBroke."""
    with _connection(0):
        return TCPStore(host, port, is_master=False, timeout=_NO_LIMIT)


def has_card_each(cards: Sequence[str | None]) -> bool:
    """Whether NCCL can connect them."""
    return None not in cards and len(set(cards)) == len(cards)


class Transport:
    """This shard's place in the chain. Methods raise ConnectionBroke."""

    def __init__(
        self, store: GroupStore, shard: int, cards: Sequence[str | None], device: torch.device, group: str
    ) -> None:
        """`cards` has the UUID of each shard's card, in order; `device` is where this shard takes hidden states."""
        self._shard = shard
        self._last = len(cards) - 1
        self._device = device
        self._in_flight: deque[tuple[list[Any], list[Tensor]]] = deque()
        with _connection(shard):
            dist.init_process_group(
                "gloo",
                store=PrefixStore(group, store),
                rank=shard,
                world_size=len(cards),
                timeout=_NO_LIMIT,
            )
            self._by_nccl = has_card_each(cards)
            self._states_group = None
            if self._by_nccl:
                torch.cuda.set_device(device.index or 0)
                self._states_group = dist.new_group(backend="nccl", timeout=_NO_LIMIT)
        # Where a shard is spread over several cards, hidden states come and go by the first.
        self._wire = torch.device("cuda", device.index or 0) if self._by_nccl else torch.device("cpu")

    @property
    def backend(self) -> str:
        """What carries the hidden states."""
        return "nccl" if self._by_nccl else "gloo"

    def broadcast(self, values: Sequence[int]) -> list[int]:
        """Shard 0's values, to all; elsewhere only their number counts."""
        message = torch.tensor(values, dtype=torch.int64)
        with _connection(0):
            dist.broadcast(message, src=0)
        received: list[int] = message.tolist()
        return received

    def send(self, parcel: Parcel) -> None:
        """To the next shard. Returns at once while few parcels are on their way, so that computing goes on."""
        x_LC = parcel.x_LC.to(self._wire).contiguous()
        length, channels = x_LC.shape
        self._post([parcel.position, parcel.num_dropped, length, channels, _DTYPES.index(x_LC.dtype)], x_LC)
        while len(self._in_flight) > MAX_IN_FLIGHT:
            self._wait_for_oldest()

    def end(self) -> None:
        """Tells the next shard that there are no more, and returns when it has taken all."""
        self._post([_END] + [0] * (_HEADER_LENGTH - 1), None)
        while self._in_flight:
            self._wait_for_oldest()

    def receive_all(self) -> Iterator[Parcel]:
        """Parcels of the shard before, until it ends."""
        before = self._shard - 1
        while True:
            header = torch.empty(_HEADER_LENGTH, dtype=torch.int64)
            with _connection(before):
                dist.recv(header, before, tag=_HEADER_TAG)
            position, num_dropped, length, channels, dtype = header.tolist()
            if position == _END:
                return
            x_LC = torch.empty(length, channels, dtype=_DTYPES[dtype], device=self._wire)
            with _connection(before):
                dist.recv(x_LC, before, group=self._states_group, tag=_STATES_TAG)
            yield Parcel(position, num_dropped, x_LC.to(self._device))

    def close(self) -> None:
        """To be called when all shards have ended well; otherwise the end of the process is what closes it."""
        dist.destroy_process_group()

    def _post(self, header: list[int], x_LC: Tensor | None) -> None:
        after = self._shard + 1
        tensors = [torch.tensor(header, dtype=torch.int64)]
        with _connection(after):
            works = [dist.isend(tensors[0], after, tag=_HEADER_TAG)]
            if x_LC is not None:
                tensors.append(x_LC)
                works.append(dist.isend(x_LC, after, group=self._states_group, tag=_STATES_TAG))
        # A tensor must live until it is sent.
        self._in_flight.append((works, tensors))

    def _wait_for_oldest(self) -> None:
        works, _ = self._in_flight[0]
        with _connection(self._shard + 1):
            for work in works:
                work.wait()
            if self._by_nccl:
                # There, to wait is to have the card's own queue wait.
                torch.cuda.current_stream().synchronize()
        self._in_flight.popleft()


@contextmanager
def _connection(peer: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionBroke(f"the connection to shard {peer} broke: {str(error).partition(chr(10))[0]}") from error
