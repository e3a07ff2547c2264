"""An HTTP proxy in front of the API server that counts an operator's writes, and kills it at a chosen one.

The operator speaks plain HTTP to it through a kubeconfig of its own; the proxy speaks TLS to the API server. Requests
and streams pass unchanged.
"""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Self
from urllib.parse import urlsplit

from tests.cluster.watching import Server

_APART = ("leases", "events")
"""Resources whose writes are not counted: who leads, and what is told to people."""
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})


class When(StrEnum):
    """Where the operator is killed, seen from the write."""

    BEFORE = "before the API server has seen it"
    AFTER = "after the API server has carried it out, before the reply"


@dataclass(frozen=True)
class Write:
    """One request that was to change something; `code` is the HTTP status, None where it was never sent on."""

    method: str
    path: str
    code: int | None

    @property
    def what(self) -> str:
        """The resource that is written, with its subresource: `videogenerations/status`."""
        return resource_of_path(self.path)


@dataclass(frozen=True)
class Crash:
    """At which write, counted from 1, and how."""

    number: int
    when: When
    kill: Callable[[], None]


def resource_of_path(path: str) -> str:
    """`videogenerations/status` of /apis/videogen.dev/v1alpha1/namespaces/a/videogenerations/fox/status?x=y."""
    parts = path.partition("?")[0].strip("/").split("/")
    parts = parts[3:] if parts[0] == "apis" else parts[2:]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    return "/".join([parts[0], *parts[2:]])


def is_counted(method: str, path: str) -> bool:
    return method not in ("GET", "HEAD", "OPTIONS") and resource_of_path(path).split("/")[0] not in _APART


class CrashProxy:
    """Listens while its `with` block lasts. End the operator before the block ends."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._context = ssl.create_default_context(cafile=str(server.ca_file))
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = _Listener(self)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        self._num_writes = 0
        self.crash: Crash | None = None
        self.writes: list[Write] = []
        """In the order in which they were answered."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._thread.join()
        with self._lock:
            # Streams end only with their connections.
            for one in self._sockets:
                with suppress(OSError):  # the other side was first
                    one.shutdown(socket.SHUT_RDWR)
        self._listener.server_close()

    def write_kubeconfig(self, path: Path) -> Path:
        """A kubeconfig with the server's own rights that leads here."""
        host, port = self._listener.server_address[:2]
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": f"http://{host!s}:{port}"}}],
            "users": [{"name": "proxy", "user": {"token": self._server.token}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        }
        path.write_text(json.dumps(config))
        return path

    def connect(self) -> http.client.HTTPSConnection:
        """A connection of its own to the API server."""
        address = urlsplit(self._server.server)
        connection = http.client.HTTPSConnection(str(address.hostname), address.port, context=self._context)
        connection.connect()
        return connection

    def remember(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets |= set(sockets)

    def forget(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets -= set(sockets)

    def begin_write(self) -> Crash | None:
        """Counts a write; returns the crash that is due at it."""
        with self._lock:
            self._num_writes += 1
            return self.crash if self.crash is not None and self.crash.number == self._num_writes else None

    def record(self, write: Write) -> None:
        with self._lock:
            self.writes.append(write)


class _Listener(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = False  # joined when the listener is closed

    def __init__(self, proxy: CrashProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever is killed in the middle of a request leaves a broken connection; that is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of the operator, with one of its own to the API server."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    def setup(self) -> None:
        super().setup()
        self._upstream = self.server.proxy.connect()
        self._sockets = (self.connection, self._upstream.sock)
        self.server.proxy.remember(*self._sockets)

    def finish(self) -> None:
        self.server.proxy.forget(*self._sockets)
        self._upstream.close()
        super().finish()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not is_counted(self.command, self.path):
            self._answer(self._ask(body))
            return
        crash = self.server.proxy.begin_write()
        if crash is not None and crash.when == When.BEFORE:
            self.server.proxy.record(Write(self.command, self.path, None))
            self._die(crash)
            return
        reply = self._ask(body)
        self.server.proxy.record(Write(self.command, self.path, reply.status))
        if crash is None:
            self._answer(reply)
        else:
            reply.read()
            self._die(crash)

    def _die(self, crash: Crash) -> None:
        crash.kill()
        self.close_connection = True

    def _ask(self, body: bytes) -> http.client.HTTPResponse:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        self._upstream.request(self.command, self.path, body or None, headers)
        return self._upstream.getresponse()

    def _answer(self, reply: http.client.HTTPResponse) -> None:
        with reply:
            self.send_response_only(reply.status, reply.reason)
            for name, value in reply.getheaders():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            if not reply.chunked:
                self.end_headers()
                self.wfile.write(reply.read())
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while piece := reply.read1(65_536):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Nothing."""
