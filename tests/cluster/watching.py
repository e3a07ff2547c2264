"""A watch of the API server with nothing but the standard library: every event of a kind, in order."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import quote, urlsplit

from videogen_operator.cluster.resources import Object, Resource


class Server(Protocol):
    """Where to watch: what tests/cluster/control_plane.py offers."""

    @property
    def server(self) -> str: ...

    @property
    def ca_file(self) -> Path: ...

    @property
    def token(self) -> str: ...


class NotYetServed(Exception):
    """A kind whose definition is new is unknown for a moment, and then too busy."""


class Watch:
    """Tells `on_event` of every object of a kind, from the beginning on, while its `with` block lasts.

    Where the stream breaks off, everything is told once more as ADDED.
    """

    def __init__(
        self,
        server: Server,
        resource: Resource,
        on_event: Callable[[str, Object], None],
        *,
        namespace: str | None = None,
        label_selector: str = "",
    ) -> None:
        self._address = urlsplit(server.server)
        self._context = ssl.create_default_context(cafile=str(server.ca_file))
        self._headers = {"Authorization": f"Bearer {server.token}", "Accept": "application/json"}
        self._path = f"{resource.path(namespace)}?labelSelector={quote(label_selector)}"
        self._on_event = on_event
        self._stopping = threading.Event()
        self._socket: socket.socket | None = None
        self.error: Exception | None = None
        """Why it ended before its time."""
        self._thread = threading.Thread(target=self._run, name=f"watch {resource.plural}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._socket is not None:
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        host, port = self._address.hostname, self._address.port
        while not self._stopping.is_set():
            with closing(http.client.HTTPSConnection(str(host), port, context=self._context)) as connection:
                try:
                    connection.connect()
                    self._socket = connection.sock
                    self._follow(connection)
                except NotYetServed:
                    self._stopping.wait(0.1)
                except Exception as error:  # noqa: BLE001 - raised where the block ends
                    if not self._stopping.is_set():
                        self.error = error
                        return

    def _follow(self, connection: http.client.HTTPSConnection) -> None:
        """Until the server ends the stream, or no longer knows where it began."""
        with self._get(connection, self._path) as reply:
            found = json.load(reply)
        for item in found["items"]:
            self._on_event("ADDED", item)
        version = found["metadata"]["resourceVersion"]
        with self._get(connection, f"{self._path}&watch=1&resourceVersion={version}") as reply:
            for line in reply:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                self._on_event(event["type"], event["object"])

    def _get(self, connection: http.client.HTTPSConnection, path: str) -> http.client.HTTPResponse:
        connection.request("GET", path, headers=self._headers)
        reply = connection.getresponse()
        if reply.status in (http.client.NOT_FOUND, http.client.TOO_MANY_REQUESTS):
            reply.close()
            raise NotYetServed(path)
        if reply.status != http.client.OK:
            with reply:
                raise http.client.HTTPException(f"{path}: {reply.status}: {reply.read()[:500]!r}")
        return reply
