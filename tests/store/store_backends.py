"""The stores under test: a folder, moto's S3 server in this process, and versitygw, a real S3 server of its own."""

import logging
import shutil
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from videogen_runner.store import Store, open_store
from videogen_runner.store.s3 import S3Store, parse_url
from videogen_runner.store.s3_clients import Clients, Limits, connect

BUCKET = "videogen-test"
ENV = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "correct-horse"}
READY_SECONDS = 300.0
PATIENT = Limits()


@dataclass(frozen=True)
class Backend:
    """Where a store is; `url` is a folder or prefix that nothing else uses."""

    kind: str
    url: str
    endpoint: str | None = None

    def open(self) -> Store:
        return open_store(self.url, ENV) if self.endpoint is None else self.through(self.endpoint)

    def through(self, endpoint: str, limits: Limits = PATIENT) -> S3Store:
        """The same objects through another endpoint (a proxy), or with less patience."""
        return S3Store(_connect(endpoint, limits), *parse_url(self.url))

    def elsewhere(self) -> "Backend":
        """A fresh place in the same store."""
        base = self.url if self.endpoint is None else f"s3://{BUCKET}"
        return Backend(self.kind, f"{base}/{uuid.uuid4().hex}", self.endpoint)


@cache
def _connect(endpoint: str, limits: Limits) -> Clients:
    """Building boto3's clients takes longer than most tests."""
    return connect(ENV, endpoint, None, limits)


@contextmanager
def directory(folder: Path) -> Iterator[Backend]:
    yield Backend("directory", str(folder))


@contextmanager
def moto() -> Iterator[Backend]:
    """moto's server, one request at a time: it tests a condition and writes without a lock in between, so that under
    threads two creators can win (seen with 5.2.5: 3 of 80 races of 32, with a thread switch every 10 microseconds)."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def serve(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
        with turn:
            reply: Iterable[bytes] = application(environ, start_response)
            return reply

    server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield _with_bucket("moto", server.port)
    finally:
        server.shutdown()
        thread.join(READY_SECONDS)


@contextmanager
def real_s3(program: Path) -> Iterator[Backend]:
    """versitygw on a folder of its own; the port is free when it is chosen, and what answers there is our process."""
    folder = Path(tempfile.mkdtemp(prefix="versitygw-"))
    port = free_port()
    (folder / "data").mkdir()
    address = ["--port", f"127.0.0.1:{port}", "--quiet"]
    keys = ["--access", ENV["AWS_ACCESS_KEY_ID"], "--secret", ENV["AWS_SECRET_ACCESS_KEY"]]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *keys, *address, "posix", folder / "data"], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait_for_port(process, port, folder / "log")
            yield _with_bucket("versitygw", port)
        finally:
            process.kill()  # its orderly end waits for the connections that boto3 keeps
            process.wait(READY_SECONDS)
            shutil.rmtree(folder)


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    attempts = threading.Event()
    for _ in range(int(READY_SECONDS / 0.02)):
        if process.poll() is not None:
            raise RuntimeError(f"versitygw ended with {process.returncode}: {log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        attempts.wait(0.02)
    raise RuntimeError(f"versitygw does not listen after {READY_SECONDS} s: {log.read_text()}")


def _with_bucket(kind: str, port: int) -> Backend:
    endpoint = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ENV["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ENV["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
    return Backend(kind, f"s3://{BUCKET}/root", endpoint)
