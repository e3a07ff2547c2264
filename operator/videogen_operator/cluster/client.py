"""The API server, as few small methods on plain values: the only module that imports `kubernetes`.

It takes from that package what is hard (kubeconfig files, exec plug-ins, rotating tokens, TLS) and leaves its models,
which cost 80 MB of memory. Replies to writes are asked for as metadata only: everything else in them is what was sent.
Safe to use from many threads.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client.configuration import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)
from kubernetes.config.kube_config import load_kube_config

from videogen_api import naming
from videogen_api.errors import ConfigInvalid
from videogen_operator.cluster.api_errors import Conflict, Gone, NotFound, NotLeader, Unavailable, error_of_reply
from videogen_operator.cluster.resources import CORE_EVENTS, Object, ObjectList, Resource

PAGE_SIZE = 500
"""Objects that the server is asked for at once."""

CallRecorder = Callable[[str, str, int, float], None]
"""Told of every call: verb, plural name of the resource, HTTP status (0: no answer), seconds."""

_CONNECT_SECONDS = 5.0
_REPLY_SECONDS = 30.0
_TOKEN_SECONDS = 10.0
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

    def __init__(
        self,
        configuration: Configuration,
        *,
        threads: int,
        record_call: CallRecorder | None = None,
        may_write: Callable[[], bool] | None = None,
        timeout_seconds: float = _REPLY_SECONDS,
    ) -> None:
        configuration.connection_pool_maxsize = threads
        # urllib3 would send a write again after a broken connection, without knowing whether it was carried out.
        configuration.retries = urllib3.Retry(total=False, redirect=False, status=False)
        self._configuration = configuration
        address = urllib3.util.parse_url(configuration.host)
        self._base_path = (address.path or "").rstrip("/")
        # Straight to the one host's connections: the way through the manager looks them up again at every call.
        self._pool = RESTClientObject(configuration).pool_manager.connection_from_url(configuration.host)
        self._record_call = record_call
        self._may_write = may_write
        self._timeout = urllib3.Timeout(connect=min(_CONNECT_SECONDS, timeout_seconds), read=timeout_seconds)
        self._token: str | None = None
        self._token_until = 0.0

    @classmethod
    def connect(
        cls,
        environment: Mapping[str, str],
        *,
        threads: int,
        record_call: CallRecorder | None = None,
        may_write: Callable[[], bool] | None = None,
        timeout_seconds: float = _REPLY_SECONDS,
    ) -> "KubernetesClient":
        """A client for the cluster of KUBECONFIG, of the pod that this is, or of ~/.kube/config, in this order.

        `threads` is how many calls at once keep their connection, `timeout_seconds` how long the server may be silent.
        Where `may_write` says no, every write raises NotLeader. Raises ConfigInvalid where no cluster is configured.
        """
        configuration = Configuration()
        file = environment.get("KUBECONFIG")
        try:
            if file is None and SERVICE_HOST_ENV_NAME in environment:
                # Reads its token file again every minute.
                loader = InClusterConfigLoader(SERVICE_TOKEN_FILENAME, SERVICE_CERT_FILENAME, environ=environment)
                loader.load_and_set(configuration)
            else:
                load_kube_config(file, client_configuration=configuration)
        except (ConfigException, OSError) as error:
            raise ConfigInvalid(
                f"no cluster to talk to: {error}; run in a pod with a service account, or set KUBECONFIG"
            ) from error
        return cls(
            configuration,
            threads=threads,
            record_call=record_call,
            may_write=may_write,
            timeout_seconds=timeout_seconds,
        )

    def close(self) -> None:
        self._pool.close()

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
        headers = {"Accept": accept or (_JSON if method == "GET" else _METADATA), "User-Agent": naming.FIELD_MANAGER}
        content = None
        if body is not None:
            headers["Content-Type"] = content_type
            content = json.dumps(body, separators=(",", ":")).encode()
        token = self._bearer_token()
        if token is not None:
            headers["Authorization"] = token
        asked = f"{method} {path.partition('?')[0]}"
        if method != "GET" and self._may_write is not None and not self._may_write():
            raise NotLeader(f"{asked}: not sent: this replica does not lead", code=0)
        code = 0
        started = time.perf_counter()
        try:
            reply = self._pool.request(
                method, self._base_path + path, body=content, headers=headers, timeout=self._timeout, redirect=False
            )
            code = reply.status
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{asked}: no answer: {error}", code=0) from error
        finally:
            if self._record_call is not None:
                self._record_call(method, resource.plural, code, time.perf_counter() - started)
        if not 200 <= code < 300:
            raise error_of_reply(asked, code, reply.headers, reply.data)
        return reply.data

    def _bearer_token(self) -> str | None:
        """The configuration's, which comes from a file that is renewed, or from a plug-in; asking it takes a while."""
        now = time.monotonic()
        if now >= self._token_until:
            self._token = self._configuration.get_api_key_with_prefix("BearerToken")
            self._token_until = now + _TOKEN_SECONDS
        return self._token


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
