"""What the operator knows of the cluster: every VideoGeneration, and the Jobs and pods that belong to one.

It is told by the watch streams, by full lists, and by the API server's replies to the operator's own writes. These come
in any order, some twice: the newest resourceVersion of an object wins, and what is deleted stays deleted. It does no
input or output; objects that it hands out are shared and must not be changed.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from videogen_api import naming
from videogen_operator.cluster.resources import JOBS, PODS, VIDEO_GENERATIONS, Key, Object, ObjectList, Resource
from videogen_operator.cluster.slim import slim

DELETED = "DELETED"
"""The type of the watch event that says that an object is gone."""

NOBODY: frozenset[Key] = frozenset()

_TOMBSTONE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    content: Object


@dataclass(frozen=True)
class _Owner:
    key: Key
    uid: str


@dataclass(frozen=True)
class Children:
    """What belongs to one VideoGeneration, of whatever run."""

    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    """Also those whose Job is gone already."""


@dataclass(frozen=True)
class Resync:
    """What a look at everything that exists has shown."""

    keys: frozenset[Key]
    """Those that lost something without the stream saying so."""
    is_behind: bool
    """Whether there is a newer object than the stream has delivered."""
    behind_seconds: float
    """How long there has been one, as seen by successive looks. Above 30 s the stream is deaf."""


class ClusterCache:
    """Safe to use from many threads. `clock` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[Resource, dict[str, _Entry]] = {VIDEO_GENERATIONS: {}, JOBS: {}, PODS: {}}
        self._behind: dict[Resource, dict[str, tuple[int, float]]] = {resource: {} for resource in self._entries}
        self._tombstones: dict[str, float] = {}
        self._uid_of_key: dict[Key, str] = {}
        # Owners of Jobs are remembered as long as a Job has pods: nothing else says whose those are.
        self._owner_of_job: dict[str, _Owner] = {}
        self._jobs_of_owner: dict[str, set[str]] = {}
        self._pods_of_job: dict[str, set[str]] = {}

    def apply(self, resource: Resource, event_type: str | None, found: Object) -> frozenset[Key]:
        """Takes in one event, or one object that the API server replied with. Returns the keys to look at."""
        with self._lock:
            if event_type == DELETED:
                return self._remove(resource, found["metadata"]["uid"], slim(resource, found))
            return self._put(resource, found)

    def forget(self, resource: Resource, uid: str) -> None:
        """Takes in that the operator itself has deleted an object."""
        with self._lock:
            self._remove(resource, uid, None)

    def prime(self, resource: Resource, found: ObjectList) -> frozenset[Key]:
        """Takes in a list of all objects: what is not in it, and is not newer, is gone."""
        with self._lock:
            woken = NOBODY.union(*(self._put(resource, item) for item in found.items))
            return woken | self._drop_missing(resource, found)

    def resync(self, resource: Resource, found: ObjectList) -> Resync:
        """Compares with a list of all objects' metadata, and drops what is gone."""
        now = self._clock()
        with self._lock:
            self._forget_tombstones(now)
            keys = self._drop_missing(resource, found)
            before, behind = self._behind[resource], {}
            for item in found.items:
                uid, version = item["metadata"]["uid"], _version_of(item)
                entry = self._entries[resource].get(uid)
                known = entry.version if entry is not None else -1
                if known < version and uid not in self._tombstones:
                    missed, since = before.get(uid, (version, now))
                    behind[uid] = (version, since if known < missed else now)
            self._behind[resource] = behind
        return Resync(keys, bool(behind), max((now - since for _, since in behind.values()), default=0.0))

    def keys(self) -> tuple[Key, ...]:
        """Every VideoGeneration that there is."""
        with self._lock:
            return tuple(self._uid_of_key)

    def get(self, key: Key) -> Object | None:
        """The VideoGeneration, with its resourceVersion; None when there is none."""
        with self._lock:
            uid = self._uid_of_key.get(key)
            entry = self._entries[VIDEO_GENERATIONS][uid] if uid is not None else None
        if entry is None:
            return None
        metadata = {**entry.content["metadata"], "resourceVersion": str(entry.version)}
        return {**entry.content, "metadata": metadata}

    def find(self, resource: Resource, uid: str) -> Object | None:
        """The object of that uid, without its resourceVersion; None when there is none."""
        with self._lock:
            entry = self._entries[resource].get(uid)
        return entry.content if entry is not None else None

    def children(self, key: Key) -> Children:
        """The Jobs that the VideoGeneration of today owns (not one of the same name before it), and their pods."""
        with self._lock:
            jobs = sorted(self._jobs_of_owner.get(self._uid_of_key.get(key, ""), ()))
            pods = sorted(pod for job in jobs for pod in self._pods_of_job.get(job, ()))
            return Children(
                tuple(self._entries[JOBS][uid].content for uid in jobs if uid in self._entries[JOBS]),
                tuple(self._entries[PODS][uid].content for uid in pods),
            )

    def _put(self, resource: Resource, found: Object) -> frozenset[Key]:
        uid, version = found["metadata"]["uid"], _version_of(found)
        before = self._entries[resource].get(uid)
        if uid in self._tombstones or (before is not None and before.version > version):
            return NOBODY
        content = slim(resource, found)
        self._entries[resource][uid] = _Entry(version, content)
        self._index(resource, uid, version, content)
        if before is not None and before.content == content:
            return NOBODY  # the echo of an own write, or a change of nothing that matters
        return self._keys_of(resource, content)

    def _index(self, resource: Resource, uid: str, version: int, content: Object) -> None:
        if resource == VIDEO_GENERATIONS:
            key = _key_of(content)
            newest = self._entries[resource].get(self._uid_of_key.get(key, ""))
            if newest is None or newest.version <= version:
                self._uid_of_key[key] = uid
        elif resource == JOBS:
            self._remember_owner(uid, content)
        elif (job := _job_of(content)) is not None:
            self._pods_of_job.setdefault(job, set()).add(uid)

    def _remember_owner(self, job_uid: str, job: Object) -> None:
        owner = _owner_of(job)
        if owner is not None:
            self._owner_of_job[job_uid] = owner
            self._jobs_of_owner.setdefault(owner.uid, set()).add(job_uid)

    def _remove(self, resource: Resource, uid: str, last_seen: Object | None) -> frozenset[Key]:
        self._tombstones[uid] = self._clock() + _TOMBSTONE_SECONDS
        entry = self._entries[resource].pop(uid, None)
        content = entry.content if entry is not None else last_seen
        if content is None:
            return NOBODY
        if resource == JOBS:
            self._remember_owner(uid, content)  # its pods may be heard of after it is gone
        keys = self._keys_of(resource, content)
        if resource == VIDEO_GENERATIONS and self._uid_of_key.get(_key_of(content)) == uid:
            del self._uid_of_key[_key_of(content)]
        if resource == PODS and (job := _job_of(content)) in self._pods_of_job:
            self._pods_of_job[job].discard(uid)
            if not self._pods_of_job[job]:
                del self._pods_of_job[job]
        return keys

    def _keys_of(self, resource: Resource, content: Object) -> frozenset[Key]:
        if resource == VIDEO_GENERATIONS:
            return frozenset({_key_of(content)})
        owner = _owner_of(content) if resource == JOBS else self._owner_of_job.get(_job_of(content) or "")
        return frozenset({owner.key}) if owner is not None else NOBODY

    def _drop_missing(self, resource: Resource, found: ObjectList) -> frozenset[Key]:
        listed = {item["metadata"]["uid"] for item in found.items}
        listed_at = int(found.resource_version)
        gone = [
            uid for uid, entry in self._entries[resource].items() if uid not in listed and entry.version <= listed_at
        ]
        return NOBODY.union(*(self._remove(resource, uid, None) for uid in gone))

    def _forget_tombstones(self, now: float) -> None:
        for uid in [uid for uid, until in self._tombstones.items() if until <= now]:
            if uid in self._pods_of_job:
                continue
            del self._tombstones[uid]
            owner = self._owner_of_job.pop(uid, None)
            if owner is not None:
                self._jobs_of_owner[owner.uid].discard(uid)
                if not self._jobs_of_owner[owner.uid]:
                    del self._jobs_of_owner[owner.uid]


def _version_of(found: Object) -> int:
    """Numbers of one sequence for the whole cluster (KEP-5504 makes comparing them legal)."""
    return int(found["metadata"]["resourceVersion"])


def _key_of(content: Object) -> Key:
    return Key(content["metadata"]["namespace"], content["metadata"]["name"])


def _owner_of(job: Object) -> _Owner | None:
    owner = _controller_of(job, naming.API_VERSION, naming.KIND)
    return _Owner(Key(job["metadata"]["namespace"], owner["name"]), owner["uid"]) if owner is not None else None


def _job_of(pod: Object) -> str | None:
    owner = _controller_of(pod, "batch/v1", "Job")
    return str(owner["uid"]) if owner is not None else None


def _controller_of(content: Object, api_version: str, kind: str) -> Object | None:
    owners: Iterable[Object] = content["metadata"]["ownerReferences"]
    return next((owner for owner in owners if (owner["apiVersion"], owner["kind"]) == (api_version, kind)), None)
