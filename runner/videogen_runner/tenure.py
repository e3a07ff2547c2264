"""A claim while its clip is worked on: renewed from a thread of its own, and lost where another runner has taken it.

Everything that is written to the claim from its taking to its end goes through here, because each write needs the ETag
of the one before.
"""

import logging
import threading
from types import TracebackType
from typing import Any, Self

from videogen_api.errors import StoreUnavailable
from videogen_api.records import ClaimState
from videogen_runner.claims import Claims, Held

log = logging.getLogger("videogen")

# A lease has four of them: one that comes late, or finds the store away, is no reason to lose the clip.
HEARTBEAT_SECONDS = 15.0


class Tenure:
    """One runner's work on one clip. A context manager: while it is open, the claim is renewed."""

    def __init__(self, claims: Claims, held: Held, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._claims = claims
        self._held = held
        self._heartbeat_seconds = heartbeat_seconds
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._error: Exception | None = None
        self._told: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._renew_until_ended, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # Not joined: it may wait for a store that does not answer, and after `_ended` it writes no more.

    @property
    def held(self) -> Held:
        """The claim as last written."""
        return self._held

    def tell(self, *, left: float, pace: float | None) -> None:
        """What the next renewal says of the work; see `records.Claim`."""
        self._told = {"left": left, "pace": pace}

    def is_lost(self) -> bool:
        """Whether another runner has the clip, as far as is known. Raises what the thread could not cope with."""
        if self._error is not None:
            raise self._error
        return self._lost.is_set()

    def renew(self) -> bool:
        """Renews the claim now; False where it is lost. Raises StoreUnavailable and StoreDenied."""
        with self._lock:
            return self._write()

    def hand_back(self, *, unclean: bool = False, too_small: bool = False) -> bool:
        """Lets another runner go on; False where the claim was lost before.

        `unclean` counts against the clip, `too_small` keeps the owner's pool from taking it again.
        """
        claim = self._held.claim
        pools = (*claim.too_small, claim.pool) if too_small else claim.too_small
        return self._end(state=ClaimState.OPEN, unclean_ends=claim.unclean_ends + unclean, too_small=pools)

    def settle(self, state: ClaimState) -> bool:
        """Ends the work: DONE or FAILED. False where the claim was lost before."""
        return self._end(state=state)

    def _end(self, **changes: Any) -> bool:
        with self._lock:
            self._ended.set()
            return self._write(**changes)

    def _write(self, **changes: Any) -> bool:
        if self._lost.is_set():
            return False
        held = self._claims.change(self._held, **self._told, **changes)
        if held is None:
            self._lost.set()
            return False
        self._held = held
        return True

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(self._heartbeat_seconds):
            with self._lock:
                if self._ended.is_set():
                    return
                try:
                    if not self._write():
                        return
                except StoreUnavailable as error:
                    log.warning("a claim could not be renewed, and is tried again: %s", error)
                except Exception as error:  # noqa: BLE001 - the main thread raises it
                    self._error = error
                    return
