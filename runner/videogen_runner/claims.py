"""Who works on which clip: claims in the store, or fixed shares where the store cannot be trusted with claims.

A claim is one object per clip and run. It is created once, changed by compare-and-swap alone, and never deleted: a
late duplicate of the create could bring it back. Every write carries a fresh nonce, so that no two writes are equal,
and every take-over raises the epoch. Losing a race is an answer here (None), not an error.

A runner takes what nobody holds, and what is held by nobody alive: by its own predecessors, whose processes are gone,
and by an owner that has not renewed its claim for a whole lease. No two clocks are ever compared: the lease is
measured by the one who takes, from when it first saw the claim's ETag. An owner that was robbed learns it with its next
write, so that a mistake costs work and never a clip. The times of day in a claim's stints are for people alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from videogen_api import keys
from videogen_api.errors import StoreUnavailable
from videogen_api.records import Claim, ClaimState, Stint
from videogen_runner.store import NotFound, Store
from videogen_runner.store.records import get_record, record_bytes

LEASE_SECONDS = 60.0
# A clip that is handed back again and again, by drained nodes, must not make its claim grow without end.
_STINTS_KEPT = 16


@dataclass(frozen=True)
class Owner:
    """A runner as claims name it; `index` is its place in the pool, which one process at a time has."""

    name: str
    pool: str
    attempt: int
    index: int


@dataclass(frozen=True)
class Sighting:
    """A clip's claim as it was seen; None where there was none yet."""

    clip_digest: str
    claim: Claim | None
    etag: str | None
    unchanged_seconds: float
    """How long this runner has known the claim as it is, by its own clock."""


@dataclass(frozen=True)
class Held:
    """A clip that this runner works on."""

    clip_digest: str
    claim: Claim
    etag: str


def _first_moment(owner: Owner, now: float) -> Stint:
    return Stint(runner=owner.name, began=now, ended=now)


class Claims(Protocol):
    """What a runner does with claims. Every method raises StoreUnavailable and StoreDenied."""

    def claimed(self) -> frozenset[str]:
        """The clips that somebody has ever claimed, in one request; `look` at them costs one each."""
        ...

    def look(self, clip_digest: str) -> Sighting:
        """The claim of a clip as it is now."""
        ...

    def may_take(self, seen: Sighting) -> bool:
        """Whether the clip is ours to take, as it was seen."""
        ...

    def take(self, seen: Sighting) -> Held | None:
        """Takes the clip; None where it is not ours to take, or another runner was faster.

        A clip that is done or failed is taken as well: the caller has found its outputs or its failure gone.
        """
        ...

    def change(self, held: Held, **changes: Any) -> Held | None:
        """Writes the claim anew with other fields, or with the same ones as a sign of life; None where it was lost.

        After StoreUnavailable, `held` is as good as before.
        """
        ...


class StoredClaims:
    """Claims as objects of the store, under `keys.claim`. Not for several threads at once."""

    def __init__(
        self,
        store: Store,
        run: str,
        owner: Owner,
        *,
        new_nonce: Callable[[], str],
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._store = store
        self._run = run
        self._owner = owner
        self._new_nonce = new_nonce
        self._monotonic = monotonic
        self._wall = wall
        self._lease_seconds = lease_seconds
        self._first_seen: dict[str, tuple[str, float]] = {}
        self._unsettled: dict[str, Held] = {}

    def claimed(self) -> frozenset[str]:
        prefix = keys.claim_prefix(self._run)
        return frozenset(entry.key.removeprefix(prefix) for entry in self._store.list(prefix))

    def look(self, clip_digest: str) -> Sighting:
        asked = self._monotonic()
        try:
            stored = get_record(self._store, keys.claim(self._run, clip_digest), Claim)
        except NotFound:
            return Sighting(clip_digest, None, None, 0.0)
        known_etag, first_seen = self._first_seen.get(clip_digest, (None, 0.0))
        if known_etag != stored.etag:
            # From the reply on, and to the next question: at no moment between was it another one.
            self._first_seen[clip_digest] = stored.etag, self._monotonic()
            return Sighting(clip_digest, stored.record, stored.etag, 0.0)
        return Sighting(clip_digest, stored.record, stored.etag, asked - first_seen)

    def may_take(self, seen: Sighting) -> bool:
        claim = seen.claim
        if claim is None or claim.state in (ClaimState.DONE, ClaimState.FAILED):
            return True
        if self._owner.pool in claim.too_small:
            return False
        return (
            claim.state is ClaimState.OPEN
            or self._is_of_a_predecessor(claim)
            or seen.unchanged_seconds >= self._lease_seconds
        )

    def take(self, seen: Sighting) -> Held | None:
        if not self.may_take(seen):
            return None
        return self._write(seen.clip_digest, self._claim_after(seen.claim), seen.etag)

    def change(self, held: Held, **changes: Any) -> Held | None:
        unsettled = self._unsettled.get(held.clip_digest)
        if unsettled is not None:
            # The write of which nobody knows whether it came through: the same again, so that it can only win once.
            settled = self._try_to_write(unsettled, unsettled.claim) or self._find(unsettled)
            del self._unsettled[held.clip_digest]
            if settled is None:
                return None
            held = settled
        stints = held.claim.stints_until(self._wall())
        claim = held.claim.model_copy(update={**changes, "stints": stints, "nonce": self._new_nonce()})
        return self._try_to_write(held, claim)

    def _is_of_a_predecessor(self, claim: Claim) -> bool:
        """Of a process that has ended: of an earlier attempt, or of this index's pod before this one.

        Attempts are counted for each pool: those of another one say nothing about whether its runner lives.
        """
        if claim.pool != self._owner.pool:
            return False
        if claim.attempt == self._owner.attempt:
            return claim.index == self._owner.index and claim.owner != self._owner.name
        return claim.attempt < self._owner.attempt

    def _claim_after(self, before: Claim | None) -> Claim:
        is_going_on = before is not None and before.state in (ClaimState.HELD, ClaimState.OPEN)
        return Claim(
            epoch=before.epoch + 1 if before is not None else 1,
            owner=self._owner.name,
            pool=self._owner.pool,
            attempt=self._owner.attempt,
            index=self._owner.index,
            nonce=self._new_nonce(),
            unclean_ends=before.unclean_ends + (before.state is ClaimState.HELD) if before and is_going_on else 0,
            state=ClaimState.HELD,
            left=before.left if before and is_going_on else 1.0,
            too_small=before.too_small if before and is_going_on else (),
            stints=(
                *(before.stints[1 - _STINTS_KEPT :] if before and is_going_on else ()),
                _first_moment(self._owner, self._wall()),
            ),
        )

    def _try_to_write(self, held: Held, claim: Claim) -> Held | None:
        try:
            return self._write(held.clip_digest, claim, held.etag)
        except StoreUnavailable:
            self._unsettled[held.clip_digest] = Held(held.clip_digest, claim, held.etag)
            raise

    def _find(self, written: Held) -> Held | None:
        """The write as it is in the store; None where another one is there. Its nonce tells."""
        seen = self.look(written.clip_digest)
        if seen.claim != written.claim or seen.etag is None:
            return None
        return Held(written.clip_digest, written.claim, seen.etag)

    def _write(self, clip_digest: str, claim: Claim, etag: str | None) -> Held | None:
        key, body = keys.claim(self._run, clip_digest), record_bytes(claim)
        written = self._store.create(key, body) if etag is None else self._store.swap(key, body, etag)
        return None if written is None else Held(clip_digest, claim, written)


class FixedShare:
    """Clips divided beforehand, for a store whose conditional writes cannot be trusted: nothing is written.

    The caller offers nothing but its own share. Epochs are attempts, which keeps the objects of a clip's successive
    owners apart.
    """

    def __init__(self, owner: Owner, *, wall: Callable[[], float]) -> None:
        self._owner = owner
        self._wall = wall

    def claimed(self) -> frozenset[str]:
        return frozenset()

    def look(self, clip_digest: str) -> Sighting:
        return Sighting(clip_digest, None, None, 0.0)

    def may_take(self, seen: Sighting) -> bool:  # noqa: ARG002 - Claims asks for it
        return True

    def take(self, seen: Sighting) -> Held | None:
        claim = Claim(
            epoch=self._owner.attempt,
            owner=self._owner.name,
            pool=self._owner.pool,
            attempt=self._owner.attempt,
            index=self._owner.index,
            nonce="",
            unclean_ends=0,
            state=ClaimState.HELD,
            stints=(_first_moment(self._owner, self._wall()),),
        )
        return Held(seen.clip_digest, claim, "")

    def change(self, held: Held, **changes: Any) -> Held | None:
        return Held(held.clip_digest, held.claim.model_copy(update=changes), "")
