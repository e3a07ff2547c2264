"""An API server that answers what a test has prepared: faults that no healthy one shows."""

import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from videogen_operator.cluster.client import KubernetesClient


@dataclass
class Reply:
    code: int = 200
    body: object = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


RESET = Reply(0)
"""The connection breaks after the request has arrived."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class FaultyServer:
    """Answers one prepared reply after the other, and keeps what it was asked."""

    def __init__(self, kubeconfig: Path) -> None:
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.kubeconfig = kubeconfig
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                body = json.loads(self.rfile.read(length)) if length else None
                server.requests.append(Request(self.command, self.path, dict(self.headers), body))
                reply = server.replies.pop(0)
                if reply is RESET:
                    # Lingering for no time makes closing send a reset.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.code)
                for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class has it)
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.client = self.connect(self.address)

    def connect(self, address: str, **options: Any) -> KubernetesClient:
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": address}}],
                    "users": [{"name": "u", "user": {"token": "secret"}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return KubernetesClient.connect({"KUBECONFIG": str(self.kubeconfig)}, threads=2, **options)

    def close(self) -> None:
        self.client.close()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
