"""One half-started encoder group at a time on cards of one kind.

Two groups that each hold some of the cards that both need would wait for each other for ever.
"""

import threading
from collections.abc import Iterable
from typing import NamedTuple

from videogen_api.naming import Stage
from videogen_api.plan import Device
from videogen_api.spec import VideoGenerationSpec
from videogen_operator.cluster.plans import FrozenPlan
from videogen_operator.cluster.resources import Key
from videogen_operator.core.defaults import resolve_encoder, resolve_pools
from videogen_operator.core.observed import GroupState, Observed, ObservedGroup, WaitingReason


class Cards(NamedTuple):
    """What the pods of an encoder compete for with those of others: a resource, on the nodes that they select."""

    resource: str | None
    node_selector: frozenset[tuple[str, str]]


def cards_of(spec: VideoGenerationSpec, frozen: FrozenPlan) -> Cards | None:
    """None for an encoder that is one process, or runs on the CPU: it cannot hold some cards and wait for others."""
    placed = frozen.plan.encoder
    if placed.shards == 1 or placed.device != Device.CUDA:
        return None
    defaults = frozen.defaults
    encoder = resolve_encoder(spec.encoder, resolve_pools(spec.runners, defaults), defaults)
    selector = encoder.pod.node_selector if encoder.pod is not None else None
    return Cards(encoder.gpu.resource if encoder.gpu is not None else None, frozenset((selector or {}).items()))


class EncoderGate:
    """Who holds the gate of which cards. Until every resource has been looked at once nobody may start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unseen: set[Key] = set()
        self._holder: dict[Cards, Key] = {}

    def begin(self, keys: Iterable[Key]) -> None:
        """These resources exist; each may have an encoder group that is starting."""
        with self._lock:
            self._unseen = set(keys)
            self._holder = {}

    def look(self, key: Key, cards: Cards | None, observed: Observed) -> bool:
        """Takes in what was seen of a resource; returns whether its encoder may start now."""
        starting = cards is not None and any(_is_starting(group) for group in observed.groups)
        with self._lock:
            self._unseen.discard(key)
            # An edit may have sent it to other cards.
            self._release(key, but=cards if starting else None)
            if cards is None:
                return True
            if starting:
                self._holder.setdefault(cards, key)
            return not self._unseen and self._holder.get(cards, key) == key

    def take(self, key: Key, cards: Cards) -> bool:
        """Holds the gate for a group that is about to be made; False where another was faster."""
        with self._lock:
            return self._holder.setdefault(cards, key) == key

    def pass_over(self, key: Key) -> None:
        """A look at the resource has ended, perhaps before it came to the gate; nobody need wait for the next one."""
        with self._lock:
            self._unseen.discard(key)

    def refused(self, key: Key, observed: Observed) -> None:
        """The cluster refused something of the resource: a group that was not made holds no gate."""
        with self._lock:
            if not any(_is_starting(group) for group in observed.groups):
                self._release(key, but=None)

    def forget(self, key: Key) -> None:
        """The resource is finished or gone."""
        with self._lock:
            self._unseen.discard(key)
            self._release(key, but=None)

    def _release(self, key: Key, *, but: Cards | None) -> None:
        self._holder = {cards: holder for cards, holder in self._holder.items() if holder != key or cards == but}


def _is_starting(group: ObservedGroup) -> bool:
    """Whoever waits in a queue holds no card."""
    queued = group.waiting is not None and group.waiting.reason == WaitingReason.QUEUED
    running = group.stage == Stage.ENCODE and group.state == GroupState.RUNNING
    return running and not queued and group.size > 1 and group.unstarted > 0
