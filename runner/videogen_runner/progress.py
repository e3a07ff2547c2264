"""A running process as others see it: `/progress` (JSON), `/metrics` (Prometheus text) and `/healthz` on one port.

The exposition is written by hand: preflight and collect run in an image without prometheus_client. Its format:
https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from videogen_api.errors import ConfigInvalid
from videogen_api.naming import Env
from videogen_api.report import Progress, RunnerState
from videogen_runner.environment import Environment
from videogen_runner.memory import MemorySample, sample_memory
from videogen_runner.monitor import MemoryMonitor, watch_memory

log = logging.getLogger("videogen")

_REQUEST_SECONDS = 5.0
_POLL_SECONDS = 0.05


class ProgressHolder:
    """The progress of this process; a role updates it, the server reads it from other threads.

    `device` stays `cpu` until the role says what it runs on: `memory` watches that device.
    """

    def __init__(
        self,
        initial: Progress,
        probe: Callable[[str], MemorySample] = sample_memory,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._progress = initial
        self.memory = MemoryMonitor(probe, lambda: self.snapshot().device, now)

    @classmethod
    def starting(cls, environment: Environment) -> "ProgressHolder":
        return cls(
            Progress(
                stage=environment.stage,
                pool=environment.pool,
                index=environment.index,
                attempt=environment.attempt,
                pod=environment.pod,
                node=environment.node,
                device="cpu",
                state=RunnerState.STARTING,
            )
        )

    def update(self, **changes: Any) -> None:
        """Replaces fields of `report.Progress`. Raises pydantic's ValidationError for a field or value that is none."""
        with self._lock:
            self._progress = Progress(**{**dict(self._progress), **changes})

    def snapshot(self) -> Progress:
        """The progress as last updated; the server adds what was last seen of the memory."""
        with self._lock:
            return self._progress


@contextmanager
def serve_progress(holder: ProgressHolder, environment: Environment) -> Iterator[str]:
    """Serves, and watches the memory, until the block ends; yields host:port, which is also in the address file where
    one is asked for; no host stands for every address.

    Raises ConfigInvalid where the port is taken or the address file cannot be written.
    """
    # Only a local process writes its address down, and nobody but this machine should ask it.
    host = "127.0.0.1" if environment.address_file is not None else ""
    try:
        server = (_Server if host else _PodServer)((host, environment.port), _handler_of(holder))
    except OSError as error:
        raise ConfigInvalid(
            f"environment key {Env.PORT}: cannot listen on port {environment.port} ({error.strerror}); "
            "set it to a free port, or to 0"
        ) from error
    with server, watch_memory(holder.memory):
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="progress", daemon=True)
        thread.start()
        try:
            address = f"{host}:{server.server_address[1]}"
            if environment.address_file is not None:
                _write_address(environment.address_file, address)
            yield address
        finally:
            server.shutdown()
            thread.join()


def _write_address(path: Path, address: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(address)
        partial.replace(path)
    except OSError as error:
        raise ConfigInvalid(f"environment key {Env.ADDRESS_FILE}: cannot write {path}: {error.strerror}") from error


class _Server(ThreadingMixIn, TCPServer):
    """Not http.server.HTTPServer: that one asks DNS for its own name when it starts."""

    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class passes it
        log.warning("a request to /progress or /metrics failed: %r", sys.exception())


class _PodServer(_Server):
    """On every address, for a pod is asked from outside; a cluster's pods may have IPv4 addresses, IPv6, or both."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def _handler_of(holder: ProgressHolder) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS
        wbufsize = -1  # head and body leave together: nobody gets half an answer from a process that ends

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/progress":
                    self._reply(HTTPStatus.OK, "application/json", _look(holder).model_dump_json(by_alias=True))
                case "/metrics":
                    self._reply(HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", metrics(_look(holder)))
                case "/healthz":
                    self._reply(HTTPStatus.OK, "text/plain; charset=utf-8", "ok\n")
                case _:
                    self._reply(
                        HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "ask for /progress, /metrics or /healthz\n"
                    )

        def _reply(self, status: HTTPStatus, content_type: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """Nothing: a poll every second would bury what the role says."""

    return Handler


def _look(holder: ProgressHolder) -> Progress:
    progress = holder.snapshot()
    memory = holder.memory.last()
    return progress.model_copy(
        update={
            "memory_bytes": memory.used,
            "memory_peak_bytes": memory.peak,
            "memory_total_bytes": memory.total,
        }
    )


def metrics(progress: Progress) -> str:
    """The progress in Prometheus's text format; only `info` has labels, the scraper knows the pod."""
    info = {
        "stage": progress.stage,
        "pool": progress.pool or "",
        "index": str(progress.index),
        "attempt": str(progress.attempt),
        "pod": progress.pod,
        "node": progress.node or "",
        "device": progress.device,
    }
    gauges: list[tuple[str, str, float | None]] = [
        ("done", "Texts encoded, or clips finished, by this process.", progress.done),
        ("total", "Texts or clips that this process knows of.", progress.total),
        ("loop", "Loop of the clip at hand, counted from 0.", progress.loop),
        ("loops", "Loops of the clip at hand.", progress.loops),
        ("step", "Denoising steps done of the loop at hand.", progress.step),
        ("steps", "Denoising steps of a loop.", progress.steps),
        ("seconds_per_step", "Seconds that a denoising step takes.", progress.seconds_per_step),
        ("memory_bytes", "Memory held on the device.", progress.memory_bytes),
        ("memory_peak_bytes", "Memory held on the device at most.", progress.memory_peak_bytes),
        ("memory_total_bytes", "Memory of the device.", progress.memory_total_bytes),
        ("guidance_batch", "Branches of guidance in one forward pass.", progress.guidance_batch),
        ("decode_batch_frames", "Frames that are decoded at once.", progress.decode_batch_frames),
        ("host_blocks", "Blocks of the denoiser whose weights wait on the host.", progress.host_blocks),
    ]
    lines = [*_family("info", "What this process is."), _sample("info", info, 1)]
    lines += _family("state", "1 for what this process does right now.")
    lines += [_sample("state", {"state": state}, state is progress.state) for state in RunnerState]
    for name, text, value in gauges:
        if value is not None:
            lines += [*_family(name, text), _sample(name, {}, value)]
    return "\n".join(lines) + "\n"


def _family(name: str, text: str) -> list[str]:
    return [f"# HELP videogen_runner_{name} {text}", f"# TYPE videogen_runner_{name} gauge"]


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"videogen_runner_{name}{f'{{{pairs}}}' if pairs else ''} {float(value)!r}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
