"""The API server, as few small methods on plain values.

Replies to writes are asked for as metadata only: everything else in them is what was sent. Safe to use from many
threads.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from videogen_api import naming
from videogen_operator.cluster.api_errors import Conflict, Gone, NotFound
from videogen_operator.cluster.connection import REPLY_SECONDS, CallRecorder, Connection
from videogen_operator.cluster.resources import CORE_EVENTS, Object, ObjectList, Resource

PAGE_SIZE = 500
"""Objects that the server is asked for at once."""

_JSON = "application/json"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
# A server that cannot give metadata alone answers with the whole object, which holds its metadata in the same place.
_METADATA = f"{_JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,{_JSON}"
_METADATA_LIST = f"{_JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def _keep_all(found: Object) -> Object:
    return found


class KubernetesClient:
    """Every method raises a subclass of ApiError (api_errors.py); nothing is ever sent twice."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    def connect(
        cls,
        environment: Mapping[str, str],
        *,
        threads: int,
        record_call: CallRecorder | None = None,
        may_write: Callable[[], bool] | None = None,
        timeout_seconds: float = REPLY_SECONDS,
    ) -> "KubernetesClient":
        """A client for the cluster of KUBECONFIG, of the pod that this is, or of ~/.kube/config, in this order.

        `threads` is how many calls at once keep their connection, `timeout_seconds` how long the server may be silent.
        Where `may_write` says no, every write raises NotLeader. Raises ConfigInvalid where no cluster is configured.
        """
        return cls(
            Connection(
                environment,
                threads=threads,
                record_call=record_call,
                may_write=may_write,
                timeout_seconds=timeout_seconds,
            )
        )

    def close(self) -> None:
        self._connection.close()

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        return _load(self._call("GET", resource, resource.path(namespace, name)))

    def list(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        keep: Callable[[Object], Object] = _keep_all,
    ) -> ObjectList:
        """Everything there is, in one namespace or in all of them.

        `keep` makes of each object what the caller wants to keep of it, page by page, so that a long list never lies
        in memory whole.
        """
        return self._list(_JSON, resource, namespace, label_selector, field_selector, keep)

    def list_metadata(
        self, resource: Resource, namespace: str | None, *, label_selector: str | None = None
    ) -> ObjectList:
        """As `list`, but each object holds nothing but uid and resourceVersion of its metadata."""
        return self._list(_METADATA_LIST, resource, namespace, label_selector, None, _keep_version)

    def list_failed_creates(self, namespace: str) -> tuple[Object, ...]:
        """The core/v1 events that say why the Job controller could not create pods, of all Jobs of the namespace.

        The server looks through all events for each such question, so it is better asked once than for each Job.
        """
        selector = "involvedObject.kind=Job,reason=FailedCreate"
        return self.list(CORE_EVENTS, namespace, field_selector=selector, keep=_keep_event).items

    def create(self, resource: Resource, namespace: str, manifest: Object) -> Object:
        """Returns the new object's metadata."""
        path = f"{resource.path(namespace)}?fieldManager={naming.FIELD_MANAGER}"
        return _load_metadata(self._call("POST", resource, path, manifest))

    def try_create(self, resource: Resource, namespace: str, manifest: Object) -> None:
        """Raises what `create` would raise, and creates nothing."""
        self._call("POST", resource, f"{resource.path(namespace)}?dryRun=All", manifest)

    def replace(self, resource: Resource, namespace: str, name: str, manifest: Object) -> Object:
        """Puts `manifest` in the place of an object; Conflict unless its resourceVersion is the object's own.

        Returns the new metadata.
        """
        path = f"{resource.path(namespace, name)}?fieldManager={naming.FIELD_MANAGER}"
        return _load_metadata(self._call("PUT", resource, path, manifest))

    def patch(self, resource: Resource, namespace: str, name: str, merge_patch: Object) -> Object:
        """Applies an RFC 7386 merge patch. Returns the new metadata."""
        path = f"{resource.path(namespace, name)}?fieldManager={naming.FIELD_MANAGER}"
        return _load_metadata(self._call("PATCH", resource, path, merge_patch, _MERGE_PATCH))

    def patch_status(
        self, resource: Resource, namespace: str, name: str, resource_version: str, status: Object
    ) -> Object:
        """Replaces the status of an object that is still as it was at `resource_version`; Conflict where it is not.

        Returns the new metadata.
        """
        path = f"{resource.path(namespace, name, 'status')}?fieldManager={naming.FIELD_MANAGER}"
        operations = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "add", "path": "/status", "value": status},
        ]
        return _load_metadata(self._call("PATCH", resource, path, operations, _JSON_PATCH))

    def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Deletes the object that has this uid, and in the background what it owns; fine where it is gone already."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # Without it the pods of a deleted Job keep running.
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        path = resource.path(namespace, name)
        try:
            self._call("DELETE", resource, path, options)
        except NotFound:
            return
        except Conflict:
            if self._has_uid(resource, namespace, name, uid):
                raise

    def _has_uid(self, resource: Resource, namespace: str, name: str, uid: str) -> bool:
        try:
            return bool(self.get(resource, namespace, name)["metadata"]["uid"] == uid)
        except NotFound:
            return False

    def _list(
        self,
        accept: str,
        resource: Resource,
        namespace: str | None,
        label_selector: str | None,
        field_selector: str | None,
        keep: Callable[[Object], Object],
    ) -> ObjectList:
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        query: dict[str, Any] = {key: value for key, value in selectors.items() if value is not None}
        path = resource.path(namespace)
        items: list[Object] = []
        page: dict[str, Any] = {"limit": PAGE_SIZE}
        while True:
            try:
                reply = self._call("GET", resource, f"{path}?{urlencode({**query, **page})}", accept=accept)
            except Gone:
                if not page:
                    raise
                # The server has forgotten where the list began: once more, in one piece.
                items, page = [], {}
                continue
            found = _load(reply)
            # A list of metadata that is empty has null in its place.
            items += [keep(item) for item in found["items"] or ()]
            metadata = found["metadata"]
            if not metadata.get("continue"):
                return ObjectList(tuple(items), metadata["resourceVersion"])
            page = {"limit": PAGE_SIZE, "continue": metadata["continue"]}

    def _call(
        self,
        method: str,
        resource: Resource,
        path: str,
        body: object = None,
        content_type: str = _JSON,
        accept: str | None = None,
    ) -> bytes:
        headers = {"Accept": accept or (_JSON if method == "GET" else _METADATA)}
        content = None
        if body is not None:
            headers["Content-Type"] = content_type
            content = json.dumps(body, separators=(",", ":")).encode()
        return self._connection.call(method, resource, path, content, headers)


def _keep_version(found: Object) -> Object:
    metadata = found["metadata"]
    return {"metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}}


def _keep_event(found: Object) -> Object:
    return {
        key: found.get(key) for key in ("involvedObject", "message", "firstTimestamp", "lastTimestamp", "eventTime")
    }


def _load(content: bytes) -> Object:
    loaded: Object = json.loads(content)
    return loaded


def _load_metadata(content: bytes) -> Object:
    metadata: Object = json.loads(content)["metadata"]
    return metadata
