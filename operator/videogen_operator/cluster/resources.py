"""The kinds of objects that the operator talks about, and how the API server addresses them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from videogen_api import naming

Object = dict[str, Any]
"""One object of the API server as plain values; whoever did not make it only reads it."""


class Key(NamedTuple):
    """Which VideoGeneration something belongs to."""

    namespace: str
    name: str


@dataclass(frozen=True)
class ObjectList:
    """One whole list, and the resourceVersion at which it was true."""

    items: tuple[Object, ...]
    resource_version: str


@dataclass(frozen=True)
class Resource:
    """One kind; `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Path below the server's address; without a namespace it means all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root, *(("namespaces", namespace) if namespace is not None else ()), self.plural, name, subresource]
        return "/".join(part for part in parts if part is not None)


VIDEO_GENERATIONS = Resource(naming.GROUP, naming.VERSION, naming.PLURAL, naming.KIND)
JOBS = Resource("batch", "v1", "jobs", "Job")
PODS = Resource("", "v1", "pods", "Pod")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SERVICES = Resource("", "v1", "services", "Service")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
CORE_EVENTS = Resource("", "v1", "events", "Event")
"""The same events under their older name, where they can be selected by the object that they are about."""
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

BY_KIND = {
    (resource.group, resource.kind): resource
    for resource in (VIDEO_GENERATIONS, JOBS, PODS, CONFIG_MAPS, SERVICES, EVENTS, LEASES)
}
"""Which of them a rendered object is: by the group of its apiVersion and its kind."""


def resource_of(manifest: Object) -> Resource:
    """The resource that a manifest belongs to. Raises KeyError for a kind that the operator does not know."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return BY_KIND[group, manifest["kind"]]
