"""One half-started encoder group at a time on cards of one kind.

Two groups that each hold some of the cards that both need would wait for each other for ever.
"""

import threading
from collections.abc import Iterable

from videogen_api.naming import Stage
from videogen_api.resource import VideoGeneration
from videogen_operator.cluster.resources import Key
from videogen_operator.core.asked import cards_digest
from videogen_operator.core.observed import GroupState, Observed


class EncoderGate:
    """Who holds the gate of which cards. Until every resource has been looked at once nobody may start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unseen: set[Key] = set()
        self._holder: dict[str, Key] = {}

    def begin(self, keys: Iterable[Key]) -> None:
        """These resources exist; each may have an encoder group that is starting."""
        with self._lock:
            self._unseen = set(keys)
            self._holder = {}

    def look(self, key: Key, resource: VideoGeneration, observed: Observed) -> bool:
        """Takes in what was seen of a resource; returns whether its encoder may start now."""
        cards = cards_digest(resource.spec)
        starting = any(
            group.stage == Stage.ENCODE and group.state == GroupState.RUNNING and group.size > 1 and group.unstarted
            for group in observed.groups
        )
        with self._lock:
            self._unseen.discard(key)
            holder = self._holder.get(cards)
            if starting and holder is None:
                self._holder[cards] = key
            if not starting and holder == key:
                del self._holder[cards]
            return not self._unseen and self._holder.get(cards, key) == key

    def take(self, key: Key, resource: VideoGeneration) -> bool:
        """Holds the gate for a group that is about to be made; False where another was faster."""
        with self._lock:
            return self._holder.setdefault(cards_digest(resource.spec), key) == key

    def forget(self, key: Key) -> None:
        """The resource is finished or gone."""
        with self._lock:
            self._unseen.discard(key)
            self._holder = {cards: holder for cards, holder in self._holder.items() if holder != key}
