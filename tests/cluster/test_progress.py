"""The progress poller against real HTTP servers, most of which misbehave."""

import asyncio
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from socketserver import BaseRequestHandler, TCPServer, ThreadingMixIn
from typing import Any

import pytest

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.report import Progress, RunnerState
from videogen_operator.cluster.progress import AnswerRefused, Pace, ProgressPoller, Target, ask, target_of

PATIENCE_SECONDS = 120.0
SAID = Progress(
    stage=Stage.GENERATE, pool="t4", index=1, attempt=2, pod="fox-gen-2-1", device="cpu", state=RunnerState.DENOISING
)
QUICK = Pace(interval_seconds=0.02, deadline_seconds=0.5, publish_seconds=0.2, forget_seconds=0.3)


@dataclass
class Pod:
    """A pod's side of the conversation: `talk` gets the connection after the request has been read."""

    talk: Callable[[socket.socket], None]
    requests: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    port: int = 0

    @property
    def target(self) -> Target:
        return Target("uid-1", "127.0.0.1", Stage.GENERATE, "t4", 1, 2, "fox-gen-2-1", port=self.port)


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The poller hangs up on most of these; the server has nothing to say about it."""


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[Pod]:
    pod = Pod(talk)

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += self.request.recv(1024)
            pod.times.append(time.monotonic())
            pod.requests.append(request)
            pod.talk(self.request)

    with _Server(("127.0.0.1", 0), Handler) as server:
        pod.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield pod
        server.shutdown()
        thread.join()


def reply(body: bytes, status: str = "200 OK", *headers: str) -> Callable[[socket.socket], None]:
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers))
    return lambda connection: connection.sendall(head.encode() + b"\r\n\r\n" + body)


def tell(progress: Progress) -> Callable[[socket.socket], None]:
    return reply(progress.model_dump_json(by_alias=True).encode())


def ask_pod(pod: Pod, deadline_seconds: float = 5.0) -> Progress:
    return asyncio.run(ask(pod.target, deadline_seconds))


def test_a_pod_that_tells_its_progress_is_believed() -> None:
    with listening(tell(SAID)) as pod:
        assert ask_pod(pod) == SAID
    assert pod.requests == [f"GET /progress HTTP/1.0\r\nHost: 127.0.0.1:{pod.port}\r\n\r\n".encode()]


def test_a_redirect_is_not_followed() -> None:
    with listening(tell(SAID)) as elsewhere:
        location = f"Location: http://127.0.0.1:{elsewhere.port}/progress"
        with listening(reply(b"", "302 Found", location)) as pod, pytest.raises(AnswerRefused, match="302 Found"):
            ask_pod(pod)
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        (reply(b"no", "500 Internal Server Error"), "want status 200"),
        (reply(b"\x00\xff garbage"), "no progress report"),
        (reply(b"[]"), "no progress report"),
        (reply(b"{}"), "no progress report: 6 fields are wrong"),
        (lambda connection: connection.sendall(b"\x16\x03\x01 not HTTP"), "want status 200"),
        (lambda connection: connection.close(), "want status 200"),
        (reply(SAID.model_dump_json(by_alias=True).encode()[:-20]), "no progress report"),
        (reply(b'{"stage": "generate"' + b" " * 65_536), "more than 65536 bytes"),
        (reply(SAID.model_dump_json(by_alias=True).replace('"step":0', '"step":NaN').encode()), "1 fields are wrong"),
    ],
    ids=["500", "bytes", "list", "empty", "not-http", "hang-up", "cut", "too-long", "not-a-number"],
)
def test_an_answer_that_is_no_progress_is_refused(talk: Callable[[socket.socket], None], message: str) -> None:
    with listening(talk) as pod, pytest.raises(AnswerRefused, match=message):
        ask_pod(pod)


@pytest.mark.parametrize(
    "changes", [{"pod": "other"}, {"index": 0}, {"attempt": 1}, {"pool": None}, {"stage": Stage.ENCODE}], ids=str
)
def test_a_pod_cannot_speak_for_another(changes: dict[str, Any]) -> None:
    name = next(iter(changes))
    with (
        listening(tell(SAID.model_copy(update=changes))) as pod,
        pytest.raises(AnswerRefused, match=f"speaks of {name}"),
    ):
        ask_pod(pod)


def test_an_endless_answer_is_cut_at_64_kib() -> None:
    sent = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 4096)
            sent.append(4096)

    with listening(talk) as pod, pytest.raises(AnswerRefused, match="more than 65536 bytes"):
        ask_pod(pod)


def test_a_slow_drip_of_a_body_ends_at_the_deadline_of_the_whole_question() -> None:
    hung_up = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
        connection.settimeout(0.02)
        try:
            while True:
                connection.sendall(b" ")
                with_pause(connection)
        except ConnectionError:
            hung_up.set()

    with listening(talk) as pod:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            ask_pod(pod, deadline_seconds=0.3)
        assert 0.3 <= time.monotonic() - began < 2
        assert hung_up.wait(PATIENCE_SECONDS)


def with_pause(connection: socket.socket) -> None:
    """Waits as long as the connection's timeout for the other side to hang up."""
    try:
        if not connection.recv(1):
            raise ConnectionResetError
    except TimeoutError:
        return


def test_a_pod_that_accepts_and_says_nothing_costs_the_deadline() -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(1)

    with listening(talk) as pod, pytest.raises(TimeoutError):
        ask_pod(pod, deadline_seconds=0.2)


def running_pod(**changes: Any) -> dict[str, Any]:
    metadata = {
        "name": "fox-gen-2-1",
        "uid": "uid-1",
        "labels": {naming.LABEL_STAGE: "generate", naming.LABEL_POOL: "t4", naming.LABEL_ATTEMPT: "2"},
        "annotations": {"batch.kubernetes.io/job-completion-index": "1"},
        "ownerReferences": [{"kind": "Job", "uid": "job-1", "controller": True}],
        **changes.get("metadata", {}),
    }
    return {
        "metadata": metadata,
        "spec": changes.get("spec", {}),
        "status": {"phase": "Running", "podIP": "10.88.0.7", **changes.get("status", {})},
    }


def test_a_running_pod_of_our_job_is_asked_at_its_own_address() -> None:
    assert target_of(running_pod(), "job-1") == Target(
        "uid-1", "10.88.0.7", Stage.GENERATE, "t4", 1, 2, "fox-gen-2-1", port=8080
    )
    v6 = target_of(running_pod(status={"podIP": "fd00::7"}), "job-1")
    assert v6 is not None
    assert v6.address == "fd00::7"


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"ownerReferences": [{"kind": "Job", "uid": "job-2", "controller": True}]}},
        {"metadata": {"ownerReferences": [{"kind": "Job", "uid": "job-1"}]}},
        {"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "uid": "job-1", "controller": True}]}},
        {"metadata": {"ownerReferences": []}},
        {"metadata": {"deletionTimestamp": "2026-11-24T12:00:00Z"}},
        {"metadata": {"labels": {naming.LABEL_STAGE: "mine-bitcoin", naming.LABEL_ATTEMPT: "1"}}},
        {"metadata": {"annotations": {}}},
        {"spec": {"hostNetwork": True}},
        {"status": {"phase": "Pending"}},
        {"status": {"podIP": ""}},
        {"status": {"podIP": "metadata.internal"}},
        {"status": {"podIP": "169.254.169.254"}},
        {"status": {"podIP": "127.0.0.1"}},
        {"status": {"podIP": "0.0.0.0"}},  # noqa: S104 - nothing is bound to it
        {"status": {"podIP": "::ffff:127.0.0.1"}},
    ],
    ids=str,
)
def test_a_pod_that_is_not_surely_ours_is_not_asked(changes: dict[str, Any]) -> None:
    assert target_of(running_pod(**changes), "job-1") is None


@contextmanager
def polling(pace: Pace = QUICK) -> Iterator[tuple[ProgressPoller[str], "queue.Queue[str]"]]:
    wakes: queue.Queue[str] = queue.Queue()
    with ProgressPoller[str](wakes.put, pace) as poller:
        yield poller, wakes


def test_news_is_published_with_a_wake_of_its_resource() -> None:
    with listening(tell(SAID)) as pod, polling() as (poller, wakes):
        assert poller.latest("uid-1") is None
        poller.follow("fox", [pod.target])
        assert wakes.get(timeout=PATIENCE_SECONDS) == "fox"
        assert poller.latest("uid-1") == SAID


def test_a_resource_is_woken_at_most_once_in_a_while_and_sees_nothing_new_in_between() -> None:
    steps = iter(range(1, 100_000))

    def talk(connection: socket.socket) -> None:
        tell(SAID.model_copy(update={"step": next(steps)}))(connection)

    with listening(talk) as pod, polling() as (poller, wakes):
        poller.follow("fox", [pod.target])
        seen, times = [], []
        for _ in range(4):
            wakes.get(timeout=PATIENCE_SECONDS)
            times.append(time.monotonic())
            seen.append(poller.latest("uid-1"))
            asked = len(pod.requests)
            wait_until(lambda asked=asked: len(pod.requests) >= asked + 2)
            assert poller.latest("uid-1") == seen[-1]
        published = [progress.step for progress in seen if progress is not None]
        assert published == sorted(set(published))
        assert len(published) == 4
        assert times[-1] - times[0] >= 3 * QUICK.publish_seconds * 0.9


def test_an_unchanged_answer_wakes_nobody_and_memory_alone_is_no_change() -> None:
    sizes = iter(range(1, 100_000))

    def talk(connection: socket.socket) -> None:
        tell(SAID.model_copy(update={"memory_bytes": next(sizes)}))(connection)

    with listening(talk) as pod, polling(replace(QUICK, publish_seconds=0.01)) as (poller, wakes):
        poller.follow("fox", [pod.target])
        assert wakes.get(timeout=PATIENCE_SECONDS) == "fox"
        wait_until(lambda: len(pod.requests) > 10)
        assert wakes.empty()


def test_a_pod_is_asked_no_faster_than_the_interval() -> None:
    pace = replace(QUICK, interval_seconds=0.1)
    with listening(tell(SAID)) as pod, polling(pace) as (poller, _):
        for _ in range(5):
            poller.follow("fox", [pod.target])  # every pass says it again
        wait_until(lambda: len(pod.times) >= 4)
        gaps = [later - earlier for earlier, later in zip(pod.times, pod.times[1:], strict=False)]
        assert min(gaps) >= 0.09


def test_a_pod_that_is_followed_no_longer_is_neither_asked_nor_known() -> None:
    with listening(tell(SAID)) as pod, listening(tell(SAID)) as other, polling() as (poller, wakes):
        poller.follow("fox", [pod.target, replace(other.target, pod_uid="uid-2")])
        wakes.get(timeout=PATIENCE_SECONDS)
        wait_until(lambda: poller.latest("uid-1") == poller.latest("uid-2") == SAID)
        poller.follow("fox", [replace(other.target, pod_uid="uid-2")])
        wait_until(lambda: poller.latest("uid-1") is None)
        asked, others = len(pod.requests), len(other.requests)
        wait_until(lambda: len(other.requests) > others + 5)
        assert len(pod.requests) <= asked + 1
        assert poller.latest("uid-2") == SAID


def test_a_pod_that_falls_silent_is_forgotten_with_a_wake() -> None:
    with polling() as (poller, wakes):
        with listening(tell(SAID)) as pod:
            poller.follow("fox", [pod.target])
            wakes.get(timeout=PATIENCE_SECONDS)
        assert wakes.get(timeout=PATIENCE_SECONDS) == "fox"
        assert poller.latest("uid-1") is None


def test_one_that_hangs_does_not_hold_up_the_others_and_no_more_than_the_bound_are_asked_at_once() -> None:
    hanging = threading.Semaphore(0)

    def hang(connection: socket.socket) -> None:
        hanging.release()
        connection.recv(1)

    pace = replace(QUICK, parallel=3, deadline_seconds=0.2)
    with listening(hang) as bad, listening(tell(SAID)) as good, polling(pace) as (poller, wakes):
        poller.follow("bad", [replace(bad.target, pod_uid=f"bad-{number}") for number in range(9)])
        poller.follow("good", [good.target])
        assert wakes.get(timeout=PATIENCE_SECONDS) == "good"
        wait_until(lambda: len(bad.times) >= 9)
        # Nine questions of 0.2 s each, three at a time.
        assert bad.times[8] - bad.times[0] >= 2 * 0.2 * 0.9


def wait_until(is_so: Callable[[], bool]) -> None:
    """Returns when it is so; fails when it is not so after a while."""
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not is_so():
        assert time.monotonic() < deadline
        pause.wait(0.005)
