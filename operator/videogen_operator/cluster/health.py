"""Pages of plain text for probes and scrapers, and what /livez and /readyz say.

A probe answers what it knows by itself: it never calls the API server, or one that is slow would have every operator
restarted.
"""

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from videogen_api.errors import ConfigInvalid

log = logging.getLogger("videogen")

Check = Callable[[], str | None]
"""What is wrong, in a few words; None: nothing."""

_REQUEST_SECONDS = 5.0
_POLL_SECONDS = 0.1
_PLAIN = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Page:
    status: HTTPStatus
    content_type: str
    text: str


def check_page(checks: Mapping[str, Check]) -> Page:
    """200 where nothing is wrong, else 503 with a line for each thing that is."""
    found = [f"{name}: {problem}\n" for name, check in checks.items() if (problem := check()) is not None]
    if found:
        return Page(HTTPStatus.SERVICE_UNAVAILABLE, _PLAIN, "".join(found))
    return Page(HTTPStatus.OK, _PLAIN, "ok\n")


def metrics_page(text: str) -> Page:
    return Page(HTTPStatus.OK, _METRICS, text)


@contextmanager
def serve(port: int, pages: Mapping[str, Callable[[], Page]]) -> Iterator[int]:
    """Serves the pages by their paths until the block ends; yields the port (0 asks for any free one).

    Raises ConfigInvalid where the port is taken.
    """
    try:
        server = _Server(("", port), _handler_of(pages))  # every address: the kubelet asks from outside
    except OSError as error:
        paths = ", ".join(pages)
        raise ConfigInvalid(
            f"port {port} for {paths}: cannot listen ({error.strerror}); choose a free one, or 0"
        ) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="pages", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingMixIn, TCPServer):
    """Not http.server.HTTPServer: that one asks DNS for its own name when it starts.

    A cluster's pods may have IPv4 addresses, IPv6 addresses, or both.
    """

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  (the base class passes it)
        log.warning("a request of a probe or scraper failed: %r", sys.exception())


def _handler_of(pages: Mapping[str, Callable[[], Page]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS

        def do_GET(self) -> None:
            make = pages.get(self.path.partition("?")[0])
            page = make() if make is not None else Page(HTTPStatus.NOT_FOUND, _PLAIN, f"ask for {', '.join(pages)}\n")
            body = page.text.encode()
            self.send_response(page.status)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class names it so)
            """Nothing: probes would bury everything else."""

    return Handler
