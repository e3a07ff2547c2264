"""Asks running pods how far they are, at a bounded rate, and trusts none of them.

One event loop in one thread asks every followed pod; `latest` answers from memory, so a pass never waits for a pod.
What it answers changes at most every 10 s for one resource, together with a wake-up: passes in between see the same
values and have no new status to write.
"""

import asyncio
import ipaddress
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, Self, TypeVar

from pydantic import ValidationError

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.report import Progress
from videogen_operator.cluster.slim import INDEX_ANNOTATION

log = logging.getLogger("videogen")

_MAX_REPLY_BYTES = 65_536
_HEAD_END = b"\r\n\r\n"
_SLOWEST = 4
"""A pod that never answers is asked this many times less often."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Target:
    """A running pod, where it listens, and what it must say of itself."""

    pod_uid: str
    address: str
    """An IP literal: nothing is looked up."""
    stage: Stage
    pool: str | None
    index: int
    attempt: int
    pod: str
    port: int = naming.DEFAULT_PORT


@dataclass(frozen=True)
class Pace:
    """How often and how long pods are asked; in seconds where it says so."""

    interval_seconds: float = 5.0
    """Between two questions to one pod; one that does not answer is asked less often."""
    deadline_seconds: float = 5.0
    """For a whole question, from connecting to the last byte."""
    publish_seconds: float = 10.0
    """Between two changes of what `latest` says of one resource's pods."""
    forget_seconds: float = 60.0
    """After this long without an answer nothing is known of a pod any more."""
    parallel: int = 64
    """Questions at the same time."""


class AnswerRefused(Exception):
    """A pod answered something that cannot be used; the message says what."""


def target_of(pod: Mapping[str, Any], job_uid: str) -> Target | None:
    """Where to ask a pod, as the API server gives it; None for one that must not be asked.

    Asked are running pods whose controller is the Job with `job_uid`, and never on the host's network: there the port
    may belong to anybody. Loopback, link-local and multicast addresses are no pod's either.
    """
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    controller = next((owner for owner in metadata.get("ownerReferences", ()) if owner.get("controller")), None)
    if controller is None or controller["kind"] != "Job" or controller["uid"] != job_uid:
        return None
    if status.get("phase") != "Running" or "deletionTimestamp" in metadata or spec.get("hostNetwork"):
        return None
    labels, index = metadata.get("labels", {}), metadata.get("annotations", {}).get(INDEX_ANNOTATION, "")
    try:
        address = ipaddress.ip_address(status.get("podIP", ""))
        stage, attempt = Stage(labels.get(naming.LABEL_STAGE)), int(labels.get(naming.LABEL_ATTEMPT, ""))
        completion_index = int(index)
    except ValueError:
        return None
    if not _is_pods(address):
        return None
    return Target(
        pod_uid=metadata["uid"],
        address=str(address),
        stage=stage,
        pool=labels.get(naming.LABEL_POOL),
        index=completion_index,
        attempt=attempt,
        pod=metadata["name"],
    )


def _is_pods(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a pod may have it; an IPv4 address in the clothes of IPv6 hides what it is."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


async def ask(target: Target, deadline_seconds: float) -> Progress:
    """One question to one pod.

    Raises AnswerRefused for anything but its own progress (redirects too), TimeoutError after `deadline_seconds`
    however slowly bytes arrive, and OSError where nobody listens.
    """
    async with asyncio.timeout(deadline_seconds):
        reader, writer = await asyncio.open_connection(target.address, target.port, limit=_MAX_REPLY_BYTES)
        try:
            # HTTP/1.0: the reply ends with the connection, and there are no chunks to put together.
            host = f"[{target.address}]" if ":" in target.address else target.address
            writer.write(f"GET /progress HTTP/1.0\r\nHost: {host}:{target.port}\r\n\r\n".encode())
            reply = await _read_all(reader)
        finally:
            writer.transport.abort()
    return _check(target, reply)


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    reply = b""
    while chunk := await reader.read(_MAX_REPLY_BYTES + 1 - len(reply)):
        reply += chunk
        if len(reply) > _MAX_REPLY_BYTES:
            raise AnswerRefused(f"more than {_MAX_REPLY_BYTES} bytes")
    return reply


def _check(target: Target, reply: bytes) -> Progress:
    head, _, body = reply.partition(_HEAD_END)
    protocol, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    if not protocol.startswith(b"HTTP/1.") or rest.partition(b" ")[0] != str(HTTPStatus.OK.value).encode():
        raise AnswerRefused(f"want status 200, got {head[:60]!r}")
    try:
        progress = Progress.model_validate_json(body)
    except ValidationError as error:
        raise AnswerRefused(f"no progress report: {error.error_count()} fields are wrong") from error
    for name in ("stage", "pool", "index", "attempt", "pod"):
        # Otherwise a confused or hostile pod could speak for another.
        if (said := getattr(progress, name)) != (want := getattr(target, name)):
            raise AnswerRefused(f"speaks of {name} {said!r}, but is {want!r}")
    return progress


@dataclass
class _Resource:
    """The pods of one resource that are followed."""

    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    fresh: dict[str, Progress] = field(default_factory=dict)
    """What they said, by the pod's UID; published when the time has come."""
    timer: asyncio.TimerHandle | None = None
    """Runs for as long as nothing may be published."""


class ProgressPoller(Generic[Key]):
    """Asks while its `with` block lasts; `wake` is called in its thread with the key of a resource that has news."""

    def __init__(self, wake: Callable[[Key], None], pace: Pace | None = None) -> None:
        self._wake = wake
        self._pace = pace or Pace()
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(self._pace.parallel)
        self._resources: dict[Key, _Resource] = {}
        self._followed: set[Key] = set()
        self._published: dict[str, Progress] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def follow(self, key: Key, targets: Iterable[Target]) -> None:
        """From now on exactly these pods of the resource are asked; with none it is forgotten. From any thread."""
        wanted = {target.pod_uid: target for target in targets}
        if not wanted and key not in self._followed:
            return  # most passes: the loop need not turn for them
        (self._followed.add if wanted else self._followed.discard)(key)
        self._loop.call_soon_threadsafe(self._follow, key, wanted)

    def latest(self, pod_uid: str) -> Progress | None:
        """What the pod said last, as far as it is published; None where nothing recent is known. From any thread."""
        return self._published.get(pod_uid)

    def _follow(self, key: Key, targets: Mapping[str, Target]) -> None:
        resource = self._resources.setdefault(key, _Resource())
        for pod_uid in resource.tasks.keys() - targets.keys():
            resource.tasks.pop(pod_uid).cancel()
            resource.fresh.pop(pod_uid, None)
            self._published.pop(pod_uid, None)
        for pod_uid in targets.keys() - resource.tasks.keys():
            resource.tasks[pod_uid] = self._loop.create_task(self._ask_for_ever(resource, key, targets[pod_uid]))
        if not targets:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        resource = self._resources.pop(key)
        if resource.timer is not None:
            resource.timer.cancel()

    async def _ask_for_ever(self, resource: _Resource, key: Key, target: Target) -> None:
        silent_since, interval = self._loop.time(), self._pace.interval_seconds
        while True:
            try:
                async with self._slots:
                    resource.fresh[target.pod_uid] = await ask(target, self._pace.deadline_seconds)
                silent_since, interval = self._loop.time(), self._pace.interval_seconds
            except (AnswerRefused, OSError) as error:  # TimeoutError is an OSError
                log.debug("no progress of pod %s at %s: %r", target.pod, target.address, error)
                interval = min(2 * interval, _SLOWEST * self._pace.interval_seconds)
                if self._loop.time() - silent_since > self._pace.forget_seconds:
                    resource.fresh.pop(target.pod_uid, None)
            self._publish(resource, key)
            await asyncio.sleep(interval)

    def _publish(self, resource: _Resource, key: Key) -> None:
        """Makes what is fresh the latest, now or when the time has come."""
        if resource.timer is not None or not self._has_news(resource):
            return
        for pod_uid in resource.tasks:
            if pod_uid in resource.fresh:
                self._published[pod_uid] = resource.fresh[pod_uid]
            else:
                self._published.pop(pod_uid, None)
        resource.timer = self._loop.call_later(self._pace.publish_seconds, self._allow_publishing, resource, key)
        self._wake(key)

    def _allow_publishing(self, resource: _Resource, key: Key) -> None:
        resource.timer = None
        self._publish(resource, key)

    def _has_news(self, resource: _Resource) -> bool:
        return any(
            _without_memory(resource.fresh.get(uid)) != _without_memory(self._published.get(uid))
            for uid in resource.tasks
        )

    async def _cancel_all(self) -> None:
        tasks = [task for resource in self._resources.values() for task in resource.tasks.values()]
        for key in tuple(self._resources):
            self._forget(key)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _without_memory(progress: Progress | None) -> Progress | None:
    """Memory never stands still: on its own it is no news."""
    return progress.model_copy(update={"memory_bytes": 0}) if progress is not None else None
