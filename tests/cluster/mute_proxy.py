"""A TCP proxy in front of the API server whose connections can go silent without breaking, as half-open ones do."""

import json
import select
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
            self._start(self._relay, client, upstream)

    def _relay(self, client: socket.socket, upstream: ssl.SSLSocket) -> None:
        """One thread for both directions: OpenSSL does not let one read a connection while another writes it."""
        watches = False
        with suppress(OSError):
            while True:
                ready = [upstream] if upstream.pending() else select.select([client, upstream], [], [])[0]
                if client in ready:
                    piece = client.recv(_PIECE)
                    if not piece:
                        break
                    if piece.startswith(b"GET "):
                        watches = b"watch=true" in piece.partition(b"\r\n")[0]
                    upstream.sendall(piece)
                if upstream in ready:
                    reply = _read_what_is_there(upstream)
                    if reply == b"":
                        break
                    if reply is not None and not (self.mutes_all or (self.mutes_watches and watches)):
                        client.sendall(reply)
        for one in (client, upstream):
            with suppress(OSError):  # the other side was first
                one.shutdown(socket.SHUT_RDWR)


def _read_what_is_there(upstream: ssl.SSLSocket) -> bytes | None:
    """None: it was a message of TLS itself, and waiting for the next one would hold up the other direction."""
    upstream.setblocking(False)
    try:
        return upstream.recv(_PIECE)
    except ssl.SSLWantReadError:
        return None
    finally:
        upstream.setblocking(True)
