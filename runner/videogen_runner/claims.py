"""Who works on which clip: claims in the store, or fixed shares where the store cannot be trusted with claims.

A claim is one object per clip and run. It is created once, changed by compare-and-swap alone, and never deleted: a
late duplicate of the create could bring it back. Every write carries a fresh nonce, so that no two writes are equal,
and every take-over raises the epoch. Losing a race is an answer here (None, False), not an error.

A runner takes what nobody holds, and what its own pool's earlier attempts still seem to hold: their processes are
gone, and did not end cleanly. It takes nothing from a runner that may be alive.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from videogen_api import keys
from videogen_api.records import Claim, ClaimState
from videogen_runner.store import NotFound, Store
from videogen_runner.store.records import get_record, record_bytes


@dataclass(frozen=True)
class Owner:
    """A runner as claims name it."""

    name: str
    pool: str
    attempt: int


@dataclass(frozen=True)
class Sighting:
    """A clip's claim as it was seen; None where there was none yet."""

    clip_digest: str
    claim: Claim | None
    etag: str | None


@dataclass(frozen=True)
class Held:
    """A clip that this runner works on."""

    clip_digest: str
    claim: Claim
    etag: str


class Claims(Protocol):
    """What a runner does with claims. Every method raises StoreUnavailable and StoreDenied."""

    def look(self, clip_digest: str) -> Sighting:
        """The claim of a clip as it is now."""
        ...

    def take(self, seen: Sighting) -> Held | None:
        """Takes the clip; None where it is not ours to take, or another runner was faster.

        A clip that is done or failed is taken as well: the caller has found its outputs or its failure gone.
        """
        ...

    def heartbeat(self, held: Held) -> Held | None:
        """Says that the owner lives; None where the claim is no longer its own."""
        ...

    def hand_back(self, held: Held, *, unclean: bool = False) -> bool:
        """Lets another runner go on; `unclean` counts against the clip. False where the claim was lost before."""
        ...

    def settle(self, held: Held, state: ClaimState) -> bool:
        """Ends the work: DONE or FAILED. False where the claim was lost before."""
        ...


class StoredClaims:
    """Claims as objects of the store, under `keys.claim`."""

    def __init__(self, store: Store, run: str, owner: Owner, new_nonce: Callable[[], str]) -> None:
        self._store = store
        self._run = run
        self._owner = owner
        self._new_nonce = new_nonce

    def look(self, clip_digest: str) -> Sighting:
        try:
            stored = get_record(self._store, keys.claim(self._run, clip_digest), Claim)
        except NotFound:
            return Sighting(clip_digest, None, None)
        return Sighting(clip_digest, stored.record, stored.etag)

    def take(self, seen: Sighting) -> Held | None:
        if seen.claim is None:
            return self._write(seen.clip_digest, self._claim(epoch=1, unclean_ends=0), None)
        if not self._is_free(seen.claim):
            return None
        claim = self._claim(epoch=seen.claim.epoch + 1, unclean_ends=_unclean_ends_after(seen.claim))
        return self._write(seen.clip_digest, claim, seen.etag)

    def heartbeat(self, held: Held) -> Held | None:
        return self._change(held, ClaimState.HELD, held.claim.unclean_ends)

    def hand_back(self, held: Held, *, unclean: bool = False) -> bool:
        return self._change(held, ClaimState.OPEN, held.claim.unclean_ends + unclean) is not None

    def settle(self, held: Held, state: ClaimState) -> bool:
        return self._change(held, state, held.claim.unclean_ends) is not None

    def _is_free(self, claim: Claim) -> bool:
        if claim.state is not ClaimState.HELD:
            return True
        # Attempts are counted for each pool: those of another one say nothing about whether its runner lives.
        return claim.pool == self._owner.pool and claim.attempt < self._owner.attempt

    def _claim(self, *, epoch: int, unclean_ends: int, state: ClaimState = ClaimState.HELD) -> Claim:
        return Claim(
            epoch=epoch,
            owner=self._owner.name,
            pool=self._owner.pool,
            attempt=self._owner.attempt,
            nonce=self._new_nonce(),
            unclean_ends=unclean_ends,
            state=state,
        )

    def _change(self, held: Held, state: ClaimState, unclean_ends: int) -> Held | None:
        claim = self._claim(epoch=held.claim.epoch, unclean_ends=unclean_ends, state=state)
        return self._write(held.clip_digest, claim, held.etag)

    def _write(self, clip_digest: str, claim: Claim, etag: str | None) -> Held | None:
        key, body = keys.claim(self._run, clip_digest), record_bytes(claim)
        written = self._store.create(key, body) if etag is None else self._store.swap(key, body, etag)
        return None if written is None else Held(clip_digest, claim, written)


class FixedShare:
    """Clips divided beforehand, for a store whose conditional writes cannot be trusted: nothing is written.

    Epochs are attempts, which keeps the objects of a clip's successive owners apart.
    """

    def __init__(self, clip_digests: Collection[str], owner: Owner) -> None:
        self._clip_digests = clip_digests
        self._owner = owner

    def look(self, clip_digest: str) -> Sighting:
        return Sighting(clip_digest, None, None)

    def take(self, seen: Sighting) -> Held | None:
        if seen.clip_digest not in self._clip_digests:
            return None
        claim = Claim(
            epoch=self._owner.attempt,
            owner=self._owner.name,
            pool=self._owner.pool,
            attempt=self._owner.attempt,
            nonce="",
            unclean_ends=0,
            state=ClaimState.HELD,
        )
        return Held(seen.clip_digest, claim, "")

    def heartbeat(self, held: Held) -> Held | None:
        return held

    def hand_back(self, held: Held, *, unclean: bool = False) -> bool:  # noqa: ARG002 - Claims asks for them
        return True

    def settle(self, held: Held, state: ClaimState) -> bool:  # noqa: ARG002 - Claims asks for them
        return True


def _unclean_ends_after(claim: Claim) -> int:
    """How often owners of the clip ended uncleanly, if `claim` is taken over now."""
    if claim.state is ClaimState.HELD:
        return claim.unclean_ends + 1
    if claim.state is ClaimState.OPEN:
        return claim.unclean_ends
    return 0
