"""One fixture for each store under test; servers are started once a session, every test has a place of its own."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import store_backends
import versitygw
from store_backends import Backend
from store_proxy import Proxy

S3_KINDS = ["moto", "versitygw"]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Servers"]:
    with ExitStack() as running:
        yield Servers(running, tmp_path_factory)


class Servers:
    """Starts each kind of store when it is first asked for."""

    def __init__(self, running: ExitStack, folders: pytest.TempPathFactory) -> None:
        self._running = running
        self._folders = folders
        self._started: dict[str, Backend] = {}
        self._proxies: dict[str, Proxy] = {}

    def place(self, kind: str) -> Backend:
        if kind not in self._started:
            self._started[kind] = self._start(kind)
        return self._started[kind].elsewhere()

    def proxy(self, backend: Backend) -> Proxy:
        """One for each server, so that its address, and with it the clients, can be used again."""
        if backend.kind not in self._proxies:
            assert backend.endpoint is not None
            proxy = Proxy(int(backend.endpoint.rpartition(":")[2]))
            self._proxies[backend.kind] = self._running.enter_context(proxy)
        return self._proxies[backend.kind]

    def _start(self, kind: str) -> Backend:
        if kind == "directory":
            return self._running.enter_context(store_backends.directory(self._folders.mktemp("store")))
        if kind == "moto":
            return self._running.enter_context(store_backends.moto())
        program = versitygw.build()
        if program is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("versitygw needs Go: https://go.dev/dl")
        return self._running.enter_context(store_backends.real_s3(program))


@pytest.fixture(params=["directory", *S3_KINDS])
def backend(request: pytest.FixtureRequest, servers: Servers) -> Backend:
    """A fresh place in each kind of store."""
    return servers.place(request.param)


@pytest.fixture(params=S3_KINDS)
def s3(request: pytest.FixtureRequest, servers: Servers) -> Backend:
    """A fresh prefix in each S3 server."""
    return servers.place(request.param)


@pytest.fixture
def versity(servers: Servers) -> Backend:
    """A fresh prefix in the server that checks credentials."""
    return servers.place("versitygw")


@pytest.fixture
def proxy(s3: Backend, servers: Servers) -> Iterator[Proxy]:
    """A proxy in front of the server of `s3`; every planned fault must have happened by the end."""
    proxy = servers.proxy(s3)
    yield proxy
    assert proxy.reset() == {}
