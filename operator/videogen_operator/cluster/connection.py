"""The way to the API server: which cluster, with whose token, one HTTP request at a time. Nothing is ever sent twice.

The only module that imports `kubernetes`. It takes from that package what is hard (kubeconfig files, exec plug-ins,
rotating tokens, TLS) and leaves its models, which cost 80 MB of memory.
"""

import time
from collections.abc import Callable, Mapping

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
from videogen_operator.cluster.api_errors import NotLeader, Unavailable, error_of_reply
from videogen_operator.cluster.resources import Resource

CallRecorder = Callable[[str, str, int, float], None]
"""Told of every call: verb, plural name of the resource, HTTP status (0: no answer), seconds."""

REPLY_SECONDS = 30.0
"""How long the server may be silent, where nobody says otherwise."""

_CONNECT_SECONDS = 5.0
_TOKEN_SECONDS = 10.0


class Connection:
    """To one cluster; safe to use from many threads. `threads` is how many calls at once keep their connection.

    Raises ConfigInvalid where `environment` leads to no cluster: that of KUBECONFIG, of the pod that this is, or of
    ~/.kube/config, in this order.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        threads: int,
        record_call: CallRecorder | None,
        may_write: Callable[[], bool] | None,
        timeout_seconds: float,
    ) -> None:
        self._configuration = configuration = _find_cluster(environment)
        configuration.connection_pool_maxsize = threads
        # urllib3 would send a write again after a broken connection, without knowing whether it was carried out.
        configuration.retries = urllib3.Retry(total=False, redirect=False, status=False)
        address = urllib3.util.parse_url(configuration.host)
        self._base_path = (address.path or "").rstrip("/")
        # Straight to the one host's connections: the way through the manager looks them up again at every call.
        self._pool = RESTClientObject(configuration).pool_manager.connection_from_url(configuration.host)
        self._record_call = record_call
        self._may_write = may_write
        self._timeout = urllib3.Timeout(connect=min(_CONNECT_SECONDS, timeout_seconds), read=timeout_seconds)
        self._token: str | None = None
        self._token_until = 0.0

    def close(self) -> None:
        self._pool.close()

    def call(
        self, method: str, resource: Resource, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> bytes:
        """The body of the reply; `path` is below the server's address. Raises a subclass of ApiError."""
        sent = {**headers, "User-Agent": naming.FIELD_MANAGER}
        token = self._bearer_token()
        if token is not None:
            sent["Authorization"] = token
        asked = f"{method} {path.partition('?')[0]}"
        if method != "GET" and self._may_write is not None and not self._may_write():
            raise NotLeader(f"{asked}: not sent: this replica does not lead", code=0)
        code = 0
        started = time.perf_counter()
        try:
            reply = self._pool.request(
                method, self._base_path + path, body=content, headers=sent, timeout=self._timeout, redirect=False
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


def _find_cluster(environment: Mapping[str, str]) -> Configuration:
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
    return configuration
