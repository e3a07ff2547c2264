"""Groups as Jobs: observes through the cache, acts through the client, and tells the cache what it did."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.plan import Plan
from videogen_api.report import Progress
from videogen_api.resource import Metadata, VideoGeneration
from videogen_api.status import VideoGenerationStatus
from videogen_operator.cluster.api_errors import AlreadyExists, Forbidden, NamespaceTerminating, NotFound
from videogen_operator.cluster.cache import ClusterCache
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.observe import (
    REREAD_AFTER,
    Family,
    changes_at,
    find_refused,
    is_abandoned,
    observe,
)
from videogen_operator.cluster.ownership import NameTaken, check_owner
from videogen_operator.cluster.render import render_group
from videogen_operator.cluster.resources import CONFIG_MAPS, JOBS, SERVICES, VIDEO_GENERATIONS, Key, Object, resource_of
from videogen_operator.cluster.views import Job
from videogen_operator.config import OperatorConfig
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.observed import Group, Observed, ObservedGroup

log = logging.getLogger("videogen")

# A Job of this age has been tried: what was read before knows nothing of it.
_FIRST_TRY = timedelta(seconds=2)
_NEVER = datetime.min.replace(tzinfo=UTC)
_IDENTITY = (naming.LABEL_RUN, naming.LABEL_STAGE, naming.LABEL_POOL, naming.LABEL_ATTEMPT)


class ClusterBackend:
    """Implements `sync.Backend`; safe to use from many threads. Every method may raise an ApiError.

    `progress` says what the pod of a uid said last. Groups are created from the placement of `revision`, which is the
    one that `on_plan` was told of.
    """

    def __init__(
        self,
        client: KubernetesClient,
        cache: ClusterCache,
        config: OperatorConfig,
        revision: int = 0,
        *,
        progress: Callable[[str], Progress | None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._cache = cache
        self._config = config
        self._progress = progress
        self._clock = clock
        self._refusals = _Refusals(client)
        self._revision = revision

    def on_plan(self, revision: int, defaults: Defaults) -> "ClusterBackend":
        """The same backend, creating groups from one frozen placement; `defaults` are those it was made with."""
        config = self._config.model_copy(update={"defaults": defaults})
        return ClusterBackend(self._client, self._cache, config, revision, progress=self._progress, clock=self._clock)

    def observe(self, resource: VideoGeneration) -> Observed:
        return self.observe_key(_key(resource.metadata))

    def observe_key(self, key: Key) -> Observed:
        """As `observe`, for a resource that cannot be read."""
        now, family = self._clock(), self._family(key)
        failed_creates = self._refusals.read(find_refused(family, now), now)
        return observe(family, failed_creates, self._progress, now)

    def changes_at(self, key: Key) -> datetime | None:
        """When `observe` may next say something else although the cache stays as it is; None: never."""
        return changes_at(self._family(key), self._clock())

    def check_namespace(self, key: Key) -> None:
        """Raises NamespaceTerminating where that is why a Job of the resource has no pods any more.

        Kubernetes deletes a namespace's pods before its Jobs, and a Job that counts failures by index keeps its last
        failed pod until there is another one: each waits for the other, until somebody deletes the Job. The operator
        has no right to look at namespaces, but what may be created in one tells it as well.
        """
        if not is_abandoned(self._family(key), self._clock()):
            return
        probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": f"{naming.FIELD_MANAGER}-"}}
        try:
            self._client.try_create(CONFIG_MAPS, key.namespace, probe)
        except NamespaceTerminating:
            raise
        except Forbidden as error:
            log.debug("%s: a quota says nothing of its end: %s", key.namespace, error)

    def _family(self, key: Key) -> Family:
        children = self._cache.children(key)
        return Family.read(children.jobs, children.pods)

    def write_status(self, resource: VideoGeneration, status: VideoGenerationStatus) -> None:
        self.write(resource.metadata, status)

    def write(self, metadata: Metadata, status: VideoGenerationStatus) -> None:
        """As `write_status`, for a resource that cannot be read. Raises Conflict where it has changed meanwhile."""
        key = _key(metadata)
        before = self._cache.get(key)
        written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        after = self._client.patch_status(
            VIDEO_GENERATIONS, metadata.namespace, metadata.name, metadata.resource_version, written
        )
        if before is not None and before["metadata"]["resourceVersion"] == metadata.resource_version:
            # The next pass must not go by the older status, and the stream may take a while to bring this one.
            self._cache.apply(VIDEO_GENERATIONS, None, {**before, "metadata": after, "status": written})

    def create(self, resource: VideoGeneration, plan: Plan, group: Group) -> None:
        """Raises NameTaken where an object of that name is not this group's."""
        for manifest in render_group(resource, plan, self._revision, group, self._config):
            kind, metadata = resource_of(manifest), manifest["metadata"]
            try:
                created = {**manifest, "metadata": self._client.create(kind, metadata["namespace"], manifest)}
            except AlreadyExists:
                # Of a pass that was cut off after the write, or whose reply was lost.
                created = self._client.get(kind, metadata["namespace"], metadata["name"])
                check_owner(resource, kind, created)
                _check_labels(manifest, created)
            if kind == JOBS:
                self._cache.apply(JOBS, None, created)

    def scale(self, group: ObservedGroup, processes: int) -> None:
        """Kubernetes lets an Indexed Job change both numbers if they stay equal (elastic Indexed Jobs)."""
        job = self._cache.find(JOBS, group.uid)
        if job is None:
            return
        metadata, spec = job["metadata"], {"completions": processes, "parallelism": processes}
        changed = self._client.patch(JOBS, metadata["namespace"], metadata["name"], {"spec": spec})
        self._cache.apply(JOBS, None, {**job, "metadata": changed, "spec": {**job["spec"], **spec}})

    def delete(self, group: ObservedGroup) -> None:
        job = self._cache.find(JOBS, group.uid)
        if job is None:
            return
        metadata = job["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if group.stage == Stage.ENCODE:
            # Before the Job: after a crash in between, the Job is still there to be deleted once more.
            self._delete_service(namespace, name, metadata["ownerReferences"])
        self._client.delete(JOBS, namespace, name, group.uid)
        self._cache.forget(JOBS, group.uid)

    def _delete_service(self, namespace: str, name: str, owners: Iterable[Object]) -> None:
        try:
            found = self._client.get(SERVICES, namespace, name)["metadata"]
        except NotFound:
            return
        uids = {owner["uid"] for owner in owners}
        if any(owner["uid"] in uids for owner in found.get("ownerReferences", ())):
            self._client.delete(SERVICES, namespace, name, found["uid"])


class _Refusals:
    """Why the pods of Jobs are refused: the FailedCreate events of a namespace, read now and then for all its Jobs."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._namespaces: dict[str, _Namespace] = {}

    def read(self, jobs: Sequence[Job], now: datetime) -> Mapping[str, Sequence[Object]]:
        """The events of these Jobs of one namespace, by uid."""
        if not jobs:
            return {}
        name = jobs[0].metadata.namespace
        with self._lock:
            known = self._namespaces.setdefault(name, _Namespace())
        # Whoever comes while another one reads waits for what that one finds.
        with known.lock:
            made = max(job.metadata.creation_timestamp for job in jobs)
            if now - known.read_at >= REREAD_AFTER or known.read_at - made < _FIRST_TRY:
                events: dict[str, list[Object]] = defaultdict(list)
                for event in self._client.list_failed_creates(name):
                    events[event["involvedObject"]["uid"]].append(event)
                known.events, known.read_at = events, now
            return {job.metadata.uid: known.events.get(job.metadata.uid, ()) for job in jobs}


@dataclass
class _Namespace:
    lock: threading.Lock = field(default_factory=threading.Lock)
    read_at: datetime = _NEVER
    events: Mapping[str, Sequence[Object]] = field(default_factory=dict)


def _check_labels(manifest: Object, found: Object) -> None:
    want, have = manifest["metadata"]["labels"], found["metadata"].get("labels") or {}
    if any(want.get(label) != have.get(label) for label in _IDENTITY):
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        raise NameTaken(f"{name} exists with other labels than it is made with; delete it")


def _key(metadata: Metadata) -> Key:
    return Key(metadata.namespace, metadata.name)
