"""Leader election by a Lease: of several replicas one works, the others are ready to.

Clocks of two machines are never compared; the times in the Lease are for people. A candidate takes a lease that it has
seen unchanged for the lease's whole duration on its own monotonic clock. The leader stops writing when its own clock
says that it could not renew in time. It counts from before it sent the request and the candidate from after it saw the
result, so between the two there are always `lease - renew` seconds:

    leader      |sends a renewal ...... may_write() is False
    API server     |renewed
    candidate          |sees it ............................ may take it

What a request in flight at the deadline may still do is fenced by resourceVersions, UIDs and names that are never used
twice.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Protocol

from videogen_api import naming
from videogen_operator.cluster.api_errors import AlreadyExists, ApiError, Conflict, NotFound
from videogen_operator.cluster.resources import LEASES, Object, Resource

log = logging.getLogger("videogen")

_SHORTEST_SECONDS = 0.05


@dataclass(frozen=True)
class Timing:
    """Seconds; `retry` < `renew` < `lease`."""

    lease: int = 15
    """How long a candidate waits for a leader of whom nothing is heard."""
    renew: float = 10.0
    """How long a leader goes on without having renewed."""
    retry: float = 2.0
    """Between two looks of a candidate, and between two renewals of a leader."""


@dataclass(frozen=True)
class LeaseRecord:
    """A Lease as far as it matters here; times are RFC 3339 text that nobody reads back."""

    holder: str
    """Empty: nobody's."""
    duration: int
    transitions: int = 0
    acquire_time: str | None = None
    renew_time: str | None = None
    resource_version: str | None = None
    """None: not written yet."""

    @classmethod
    def of(cls, lease: Object, timing: Timing) -> "LeaseRecord":
        spec = lease.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration=spec.get("leaseDurationSeconds") or timing.lease,
            transitions=spec.get("leaseTransitions") or 0,
            acquire_time=spec.get("acquireTime"),
            renew_time=spec.get("renewTime"),
            resource_version=lease["metadata"]["resourceVersion"],
        )

    def manifest(self, namespace: str, name: str) -> Object:
        return {
            "apiVersion": f"{LEASES.group}/{LEASES.version}",
            "kind": LEASES.kind,
            "metadata": {
                "namespace": namespace,
                "name": name,
                **({"resourceVersion": self.resource_version} if self.resource_version is not None else {}),
            },
            "spec": {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": self.duration,
                "leaseTransitions": self.transitions,
                "acquireTime": self.acquire_time,
                "renewTime": self.renew_time,
            },
        }


class Action(Enum):
    CREATE = auto()
    """There is no lease."""
    ACQUIRE = auto()
    """It is nobody's, or its holder has been silent for its whole duration."""
    RENEW = auto()
    """It is this replica's."""
    WAIT = auto()


def decide(lease: LeaseRecord | None, identity: str, now: float, observed_at: float) -> Action:
    """What a replica does about a lease that has been as it is since `observed_at`, on the monotonic clock of `now`."""
    if lease is None:
        return Action.CREATE
    if lease.holder == identity:
        return Action.RENEW
    if not lease.holder or now >= observed_at + lease.duration:
        return Action.ACQUIRE
    return Action.WAIT


class LeaseApi(Protocol):
    """What is needed of client.py."""

    def get(self, resource: Resource, namespace: str, name: str) -> Object: ...

    def create(self, resource: Resource, namespace: str, manifest: Object) -> Object: ...

    def replace(self, resource: Resource, namespace: str, name: str, manifest: Object) -> Object: ...


class Elector:
    """One replica's part in the election: call `step`, wait as long as it says, call it again.

    `step` and `release` are for one thread; `may_write` and `lost` may be asked from any. Replicas that share a lease
    need different identities, also over restarts.
    """

    def __init__(
        self,
        api: LeaseApi,
        namespace: str,
        identity: str,
        timing: Timing | None = None,
        *,
        name: str = naming.LEASE_NAME,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing or Timing()
        self._clock = clock
        self._wall_clock = wall_clock
        self._lease: LeaseRecord | None = None
        self._observed_at = clock()
        self._is_current = False
        """Whether `_lease` is how this replica itself left it: then a renewal need not look first."""
        self._lock = threading.Lock()
        self._deadline: float | None = None
        """Until when it leads; None before it has led, and after it has given the lease back."""
        self._lost = False

    def may_write(self) -> bool:
        """Whether this replica leads now. Once it has led and does no more, it never will again."""
        with self._lock:
            return self._deadline is not None and not self._check_lost(self._deadline)

    @property
    def lost(self) -> bool:
        """It led and leads no more, without having given the lease back: the process has to end."""
        with self._lock:
            return self._deadline is not None and self._check_lost(self._deadline)

    def step(self) -> float:
        """One look at the lease and what follows from it; returns the seconds until the next one.

        An error of the API server is logged: it costs time, which is all that counts here.
        """
        try:
            if not self._is_current:
                self._look()
            action = Action.WAIT if self.lost else decide(self._lease, self._identity, self._clock(), self._observed_at)
            if action is Action.WAIT:
                return self._seconds_to_next()
            self._take(action)
        except (AlreadyExists, Conflict, NotFound) as error:
            # Another replica was faster, or an earlier request of this one was carried out after all.
            log.debug("leader election: %s", error)
            self._is_current = False
        except ApiError as error:
            log.warning("leader election: %s", error)
            self._is_current = False
        return self._timing.retry

    def release(self) -> None:
        """Gives the lease back where it is held, so that nobody has to wait for its end. Raises ApiError."""
        held = self.may_write()
        with self._lock:
            self._deadline = None
        if held and self._lease is not None:
            self._write(replace(self._lease, holder="", duration=1, renew_time=self._wall_time()))
            log.info("leader election: %s has given the lease back", self._identity)

    def _look(self) -> None:
        try:
            lease = LeaseRecord.of(self._api.get(LEASES, self._namespace, self._name), self._timing)
        except NotFound:
            lease = None
        if lease != self._lease:
            self._lease, self._observed_at = lease, self._clock()
        if lease is not None and lease.holder != self._identity:
            with self._lock:
                self._lost = self._deadline is not None

    def _take(self, action: Action) -> None:
        sent_at, now = self._clock(), self._wall_time()
        wanted = LeaseRecord(self._identity, self._timing.lease, acquire_time=now, renew_time=now)
        if self._lease is not None:
            wanted = replace(wanted, resource_version=self._lease.resource_version)
            if action is Action.ACQUIRE:
                wanted = replace(wanted, transitions=self._lease.transitions + 1)
            else:
                wanted = replace(
                    wanted, transitions=self._lease.transitions, acquire_time=self._lease.acquire_time or now
                )
        self._write(wanted)
        with self._lock:
            if self._deadline is None:
                log.info("leader election: %s leads", self._identity)
            elif self._check_lost(self._deadline):
                # The reply came too late: somebody may have acted upon the loss already.
                return
            self._deadline = sent_at + self._timing.renew

    def _write(self, wanted: LeaseRecord) -> None:
        self._is_current = False
        manifest = wanted.manifest(self._namespace, self._name)
        if wanted.resource_version is None:
            metadata = self._api.create(LEASES, self._namespace, manifest)
        else:
            metadata = self._api.replace(LEASES, self._namespace, self._name, manifest)
        self._lease, self._observed_at = replace(wanted, resource_version=metadata["resourceVersion"]), self._clock()
        self._is_current = True

    def _check_lost(self, deadline: float) -> bool:
        self._lost = self._lost or self._clock() >= deadline
        return self._lost

    def _seconds_to_next(self) -> float:
        """Of a candidate: as always, or until the lease that it has seen runs out."""
        if self._lease is None:
            return self._timing.retry
        left = self._observed_at + self._lease.duration - self._clock()
        return min(self._timing.retry, max(_SHORTEST_SECONDS, left))

    def _wall_time(self) -> str:
        return self._wall_clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
