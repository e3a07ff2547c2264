"""Looks at everything that exists, past the watch streams: to begin with, and to prove that they are not deaf.

A stream can be open and silent for ever (a half-open connection, a lost subscription). Once a minute a list of nothing
but metadata shows what the streams should have delivered; sooner again where something is missing, until it has come
or is overdue. The same look finds what was deleted unseen, and wakes whatever is unfinished.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from videogen_api.status import FINISHED_PHASES
from videogen_operator.cluster.api_errors import ApiError, NotFound
from videogen_operator.cluster.cache import ClusterCache
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.resources import Key, Object, ObjectList, Resource
from videogen_operator.cluster.slim import slim
from videogen_operator.cluster.watch import SELECTORS

log = logging.getLogger("videogen")

DEAF_SECONDS = 30.0
"""A stream that has not delivered what has been there for longer is deaf."""
INTERVAL_SECONDS = 60.0
SUSPICIOUS_INTERVAL_SECONDS = 11.0
FIRST_SECONDS = 3.0
"""The first look comes soon: what goes after the cache was filled and before a stream begins is in no event of it."""


class Canary:
    """`look` may be called from any thread, one at a time; `on_deaf` is called in the canary's thread, once."""

    def __init__(
        self,
        client: KubernetesClient,
        cache: ClusterCache,
        namespaces: tuple[str, ...] | None,
        *,
        wake: Callable[[Key], None],
        on_deaf: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._cache = cache
        self._namespaces: tuple[str | None, ...] = namespaces if namespaces is not None else (None,)
        self._wake = wake
        self._on_deaf = on_deaf
        self._clock = clock
        self._looking = threading.Lock()
        self._stop = threading.Event()
        self._started = False
        self._thread = threading.Thread(target=self._run, name="canary", daemon=True)
        self._behind_seconds: dict[Resource, float] = {}
        self._proved_at: dict[Resource, float] = {}

    def prime(self) -> None:
        """Fills the cache. Raises ApiError, with the remedy where the CRD is missing."""
        for resource, selector in SELECTORS.items():
            try:
                found = [
                    self._client.list(resource, namespace, label_selector=selector, keep=_slimmed(resource))
                    for namespace in self._namespaces
                ]
            except NotFound as error:
                raise NotFound(
                    f"the API server has no {resource.plural}.{resource.group}; apply the CRD (crds/) first: {error}",
                    code=error.code,
                ) from error
            self._cache.prime(resource, _join(found))
            self._proved_at[resource] = self._clock()

    def start(self) -> None:
        self._started = True
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> bool:
        """One look at every stream; whether something is missing in the cache. Raises ApiError."""
        with self._looking:
            are_behind = [self._look_at(resource, selector) for resource, selector in SELECTORS.items()]
        return any(are_behind)

    def wake_unfinished(self) -> None:
        keys = self._cache.keys()
        for key in keys:
            found = self._cache.get(key)
            if found is not None and not _is_finished(found):
                self._wake(key)

    def problem(self) -> str | None:
        """Why events may be lost; None: they are not, as far as is known. For /livez."""
        deaf = [resource.plural for resource, seconds in self._behind_seconds.items() if seconds > DEAF_SECONDS]
        if deaf:
            return f"no events of {', '.join(deaf)}"
        return "nobody checks them" if self._started and not self._thread.is_alive() else None

    def proof_ages(self) -> dict[tuple[str, ...], float]:
        """For each kind the seconds since its stream was last seen to have delivered everything. For metrics."""
        now = self._clock()
        return {(resource.plural,): now - proved_at for resource, proved_at in tuple(self._proved_at.items())}

    def _look_at(self, resource: Resource, selector: str | None) -> bool:
        lists = [
            self._client.list_metadata(resource, namespace, label_selector=selector) for namespace in self._namespaces
        ]
        found = self._cache.resync(resource, _join(lists))
        self._behind_seconds[resource] = found.behind_seconds
        if not found.is_behind:
            self._proved_at[resource] = self._clock()
        for key in found.keys:
            self._wake(key)
        return found.is_behind

    def _run(self) -> None:
        seconds = FIRST_SECONDS
        while not self._stop.wait(seconds):
            was_first, was_suspicious = seconds == FIRST_SECONDS, seconds < INTERVAL_SECONDS
            try:
                is_behind = self.look()
            except ApiError as error:
                # Says nothing about the streams; they have an error of their own then.
                log.warning("the look past the watch streams failed: %s", error)
                seconds = SUSPICIOUS_INTERVAL_SECONDS
                continue
            deaf = self.problem()
            if deaf is not None:
                self._on_deaf(f"{deaf} for more than {DEAF_SECONDS:g} s")
                return
            if not was_suspicious:
                self.wake_unfinished()
            seconds = SUSPICIOUS_INTERVAL_SECONDS if is_behind or was_first else INTERVAL_SECONDS


def _join(lists: list[ObjectList]) -> ObjectList:
    """One list of several namespaces: true at the earliest of their versions."""
    items = tuple(item for found in lists for item in found.items)
    return ObjectList(items, str(min(int(found.resource_version) for found in lists)))


def _slimmed(resource: Resource) -> Callable[[Object], Object]:
    """Makes of each listed object what the cache keeps of it, so that a long list never lies in memory whole."""

    def keep(found: Object) -> Object:
        slimmed = slim(resource, found)
        metadata: dict[str, Any] = {
            **slimmed["metadata"],
            "resourceVersion": found["metadata"]["resourceVersion"],
        }
        return {**slimmed, "metadata": metadata}

    return keep


def _is_finished(found: Object) -> bool:
    status = found.get("status") or {}
    seen = status.get("observedGeneration") == found["metadata"].get("generation")
    return bool(seen and status.get("phase") in FINISHED_PHASES)
