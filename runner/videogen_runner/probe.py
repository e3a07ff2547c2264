"""Whether a store keeps its promise on conditional writes, found out by racing for one key.

Some services take If-None-Match or If-Match and ignore it, or test and write in two steps. Then several processes can
hold one claim, and clips must be shared out by index instead.
"""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from videogen_runner.store import ConditionsUnsupported, Store

RACERS = 32
_START_SECONDS = 30.0


def conditional_writes_work(store: Store, key: str) -> bool:
    """Races creators, then swappers, for `key`, which must be free and is free again afterwards.

    True where each race has exactly one winner, and its body is the one that is stored. Raises StoreUnavailable and
    StoreDenied as the store does.
    """
    try:
        created = _race(lambda body: store.create(key, body))
        if not _won_by_one(store, key, created):
            return False
        etag = store.get(key).etag
        return _won_by_one(store, key, _race(lambda body: store.swap(key, body, etag)))
    except ConditionsUnsupported:
        return False
    finally:
        store.delete(key)


def _race(contend: Callable[[bytes], str | None]) -> list[bytes]:
    """Calls `contend` from many threads at one moment, each with a body of its own; the bodies of those who won."""
    start = threading.Barrier(RACERS)

    def run(body: bytes) -> bool:
        start.wait(_START_SECONDS)
        return contend(body) is not None

    bodies = [uuid.uuid4().hex.encode() for _ in range(RACERS)]
    with ThreadPoolExecutor(RACERS) as pool:
        return [body for body, won in zip(bodies, pool.map(run, bodies), strict=True) if won]


def _won_by_one(store: Store, key: str, winners: list[bytes]) -> bool:
    return winners == [store.get(key).body]
