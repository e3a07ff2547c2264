"""Posts events (events.k8s.io/v1) from a thread of its own, so that a pass neither waits for one nor fails with it.

Equal events of one object become one event with a count, an object has a budget, and whatever does not fit is dropped
and counted: status is the record, events are a courtesy.
"""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self

from videogen_api import naming
from videogen_api.resource import Metadata
from videogen_operator.cluster.api_errors import ApiError, NotFound
from videogen_operator.cluster.resources import EVENTS, Object, Resource
from videogen_operator.core.events import EventNote

log = logging.getLogger("videogen")

CONTROLLER = f"{naming.GROUP}/operator"
"""Who reports, as `kubectl describe` shows it."""

MAX_WAITING = 1000
"""Events that wait to be posted; the next one is dropped."""
BURST = 20
"""Events that one object may have at once."""
REFILL_SECONDS = 60.0
"""After this long it may have one more."""
PER_SECOND = 5.0
"""Events posted in a second at most: a thousand new resources have more urgent things to ask of the API server."""
SERIES_SECONDS = 360.0
"""An event that comes again after this long is a new one; as with the event series of client-go."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_MAX_REMEMBERED = 4096
_MAX_NOTE_BYTES = 1024  # the API server refuses longer ones
_MAX_INSTANCE_CHARACTERS = 128
_DRAIN_SECONDS = 2.0


class EventWriter(Protocol):
    """What events need of cluster/client.py."""

    def create(self, resource: Resource, namespace: str, manifest: Object) -> Object: ...

    def patch(self, resource: Resource, namespace: str, name: str, merge_patch: Object) -> Object: ...


@dataclass(frozen=True)
class _Entry:
    """One note about one object."""

    about: Metadata
    note: EventNote
    seen: datetime


@dataclass
class _Series:
    """An event that was posted, and how often it has been seen."""

    name: str
    last: datetime
    count: int = 1


@dataclass
class _Bucket:
    tokens: float
    filled: datetime


class EventRecorder:
    """Records while its `with` block lasts; `instance` is the name of this pod."""

    def __init__(
        self,
        writer: EventWriter,
        instance: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        per_second: float = PER_SECOND,
    ) -> None:
        self._writer = writer
        self._instance = instance[:_MAX_INSTANCE_CHARACTERS]
        self._now = now
        self._pause_seconds = 1 / per_second
        self._ending = threading.Event()
        self._waiting: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._series: OrderedDict[tuple[str, EventNote], _Series] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._thread = threading.Thread(target=self._post_all, name="events", daemon=True)
        self._drop_lock = threading.Lock()
        self.num_posted = 0
        self.num_dropped = 0
        """For metrics: too many at once, over an object's budget, or refused by the API server."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._waiting.put(None)
        self._thread.join(_DRAIN_SECONDS)

    def record(self, about: Metadata, notes: Iterable[EventNote]) -> None:
        """Takes notes about a resource; never blocks and never raises. From any thread."""
        for note in notes:
            if self._waiting.qsize() >= MAX_WAITING:
                self._drop(f"{MAX_WAITING} others are waiting", note)
            else:
                self._waiting.put(_Entry(about, note, self._now()))

    def _post_all(self) -> None:
        while (entry := self._waiting.get()) is not None:
            if not self._take_token(entry):
                self._drop(f"{entry.about.namespace}/{entry.about.name} has had too many", entry.note)
                continue
            try:
                self._post(entry)
                self.num_posted += 1
            except ApiError as error:
                self._drop(str(error), entry.note)
            self._ending.wait(self._pause_seconds)

    def _take_token(self, entry: _Entry) -> bool:
        bucket = self._buckets.setdefault(entry.about.uid, _Bucket(BURST, entry.seen))
        _keep_newest(self._buckets, entry.about.uid)
        refilled = (entry.seen - bucket.filled).total_seconds() / REFILL_SECONDS
        bucket.tokens, bucket.filled = min(BURST, bucket.tokens + max(0.0, refilled)), entry.seen
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _post(self, entry: _Entry) -> None:
        key = (entry.about.uid, entry.note)
        series = self._series.get(key)
        if series is not None and (entry.seen - series.last).total_seconds() <= SERIES_SECONDS:
            try:
                self._count(entry, series)
            except NotFound:  # the API server keeps events for an hour only
                self._create(entry, key)
        else:
            self._create(entry, key)
        _keep_newest(self._series, key)

    def _count(self, entry: _Entry, series: _Series) -> None:
        patch = {"series": {"count": series.count + 1, "lastObservedTime": _micro_time(entry.seen)}}
        self._writer.patch(EVENTS, entry.about.namespace, series.name, patch)
        series.count, series.last = series.count + 1, entry.seen

    def _create(self, entry: _Entry, key: tuple[str, EventNote]) -> None:
        manifest = render_event(entry.about, entry.note, entry.seen, self._instance)
        self._writer.create(EVENTS, entry.about.namespace, manifest)
        self._series[key] = _Series(manifest["metadata"]["name"], entry.seen)

    def _drop(self, why: str, note: EventNote) -> None:
        with self._drop_lock:
            self.num_dropped += 1
        log.debug("event %s dropped: %s", note.reason, why)


def render_event(about: Metadata, note: EventNote, seen: datetime, instance: str) -> dict[str, Any]:
    """The event as it is posted; its name is unique in (object, note, time).

    `kubectl describe` shows events of this API in the order of their names: so these begin with the time.
    """
    moment = (seen - _EPOCH) // timedelta(microseconds=1)
    unique = f"{moment:013x}{naming.short_hash(about.uid, note.type, note.reason, note.note, length=8)}"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{about.name}.{unique}", "namespace": about.namespace},
        "eventTime": _micro_time(seen),
        "type": note.type.value,
        "reason": note.reason,
        "action": "Reconcile",
        "note": note.note.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore"),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": naming.API_VERSION,
            "kind": naming.KIND,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
    }


def _micro_time(time: datetime) -> str:
    """MicroTime of the Kubernetes API."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _keep_newest(remembered: "OrderedDict[Any, Any]", key: object) -> None:
    if key in remembered:
        remembered.move_to_end(key)
    while len(remembered) > _MAX_REMEMBERED:
        remembered.popitem(last=False)
