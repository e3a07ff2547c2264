"""A TCP proxy in front of the API server whose connections can go silent without breaking, as half-open ones do."""

import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.cluster.watching import Server

_PIECE = 65_536


class MuteProxy:
    """Listens while its `with` block lasts; speaks plain HTTP to clients and TLS to the server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._context = ssl.create_default_context(cafile=str(server.ca_file))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.mutes_watches = False
        """Nothing of a watch stream reaches the client any more, of those that are open and of later ones."""
        self.mutes_all = False
        """Nothing reaches the client any more."""

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for one in (self._listener, *self._sockets):
                with suppress(OSError):  # the other side was first
                    one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def write_kubeconfig(self, path: Path) -> Path:
        """A kubeconfig with the server's own rights that leads here."""
        host, port = self._listener.getsockname()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": f"http://{host}:{port}"}}],
            "users": [{"name": "proxy", "user": {"token": self._server.token}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        }
        path.write_text(json.dumps(config))
        return path

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        address = urlsplit(self._server.server)
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            plain = socket.create_connection((str(address.hostname), address.port))
            upstream = self._context.wrap_socket(plain, server_hostname=address.hostname)
            with self._lock:
                self._sockets += [client, upstream]
            watches = threading.Event()
            self._start(self._send, client, upstream, watches)
            self._start(self._receive, upstream, client, watches)

    def _send(self, client: socket.socket, upstream: socket.socket, watches: threading.Event) -> None:
        with suppress(OSError):
            while piece := client.recv(_PIECE):
                if piece.startswith(b"GET "):
                    (watches.set if b"watch=true" in piece.partition(b"\r\n")[0] else watches.clear)()
                upstream.sendall(piece)
            upstream.shutdown(socket.SHUT_RDWR)

    def _receive(self, upstream: socket.socket, client: socket.socket, watches: threading.Event) -> None:
        with suppress(OSError):
            while piece := upstream.recv(_PIECE):
                if not (self.mutes_all or (self.mutes_watches and watches.is_set())):
                    client.sendall(piece)
            client.shutdown(socket.SHUT_RDWR)
