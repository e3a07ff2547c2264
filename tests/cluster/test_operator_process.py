"""The operator's process as the kubelet sees it: probes, signals, exit codes, log lines; alone and as one of two."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.cluster.control_plane import ControlPlane
from tests.cluster.lives import CONFIG, SPEC
from tests.cluster.mute_proxy import MuteProxy

from videogen_api import naming
from videogen_api.errors import ExitCode
from videogen_operator.cluster.api_errors import Conflict, NotLeader, TooManyRequests
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.metrics import OperatorMetrics
from videogen_operator.cluster.queue import Backoff, WorkQueue
from videogen_operator.cluster.reconciler import Blocked
from videogen_operator.cluster.resources import CONFIG_MAPS, JOBS, LEASES, VIDEO_GENERATIONS, Key, Object
from videogen_operator.cluster.workers import Workers

PATIENCE_SECONDS = 120.0
# As `videogen`, with a canary that is in a hurry.
IMPATIENT = """
import sys
from videogen_operator.cluster import canary
canary.INTERVAL_SECONDS, canary.SUSPICIOUS_INTERVAL_SECONDS, canary.DEAF_SECONDS = 0.5, 0.2, 5.0
from videogen_operator.cli.main import main
sys.exit(main())
"""
# As `videogen`, with a cache that takes in lists but no events.
FORGETFUL = """
import sys
from videogen_operator.cluster.cache import ClusterCache
def apply(*_):
    raise MemoryError("no room for it")
ClusterCache.apply = apply
from videogen_operator.cli.main import main
sys.exit(main())
"""


class Operator:
    """One process; `arguments` follow --config."""

    def __init__(
        self,
        folder: Path,
        namespace: str,
        kubeconfig: Path,
        *arguments: str,
        pod: str = "operator-0",
        program: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        config = folder / "operator.yaml"
        config.write_text(json.dumps({**CONFIG, "namespaces": [namespace]}))
        own = {"KUBECONFIG": str(kubeconfig), "POD_NAME": pod, "POD_NAMESPACE": namespace}
        start = ["-c", program] if program is not None else ["-m", "videogen_operator.cli.main"]
        ports = ["--health-port=0", "--metrics-port=0"]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *start, "operator", f"--config={config}", *ports, *arguments],
            env={**os.environ, **(own if environment is None else environment)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._changed = threading.Condition()
        self.lines: list[dict[str, Any]] = []
        self.plain_lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                if line.startswith("{"):
                    self.lines.append(json.loads(line))
                else:
                    self.plain_lines.append(line)
                self._changed.notify_all()

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines]

    def wait_for_message(self, pattern: str, seconds: float = PATIENCE_SECONDS) -> "re.Match[str]":
        def find() -> "re.Match[str] | None":
            return next((found for message in self.messages if (found := re.search(pattern, message))), None)

        with self._changed:
            found = self._changed.wait_for(find, seconds)
            assert found, (pattern, self.messages, self.plain_lines)
            return found

    def wait_until_it_works(self) -> None:
        self.wait_for_message("works on")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        exit_code = self.process.wait(seconds)
        self._reader.join(seconds)
        return exit_code

    def get(self, path: str) -> tuple[int, str]:
        ports = self.wait_for_message(r"health on port (\d+), metrics on port (\d+)")
        port = ports[2] if path == "/metrics" else ports[1]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a family's samples of that very name."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Place:
    """A namespace, and every operator that was started in it."""

    def __init__(self, plane: ControlPlane, client: KubernetesClient, folder: Path, namespace: str) -> None:
        self.plane = plane
        self.client = client
        self.folder = folder
        self.namespace = namespace
        self.operators: list[Operator] = []

    def start(self, *arguments: str, kubeconfig: Path | None = None, **options: Any) -> Operator:
        folder = self.folder / str(len(self.operators))
        folder.mkdir()
        operator = Operator(folder, self.namespace, kubeconfig or self.plane.kubeconfig, *arguments, **options)
        self.operators.append(operator)
        return operator

    def apply(self, name: str) -> None:
        manifest = {
            "apiVersion": naming.API_VERSION,
            "kind": naming.KIND,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": SPEC,
        }
        self.client.create(VIDEO_GENERATIONS, self.namespace, manifest)

    def jobs(self, name: str) -> int:
        selector = f"{naming.LABEL_NAME}={name}"
        return len(self.client.list_metadata(JOBS, self.namespace, label_selector=selector).items)

    def lease(self) -> Object:
        spec: Object = self.client.get(LEASES, self.namespace, naming.LEASE_NAME)["spec"]
        return spec


@pytest.fixture(scope="module")
def client(control_plane: ControlPlane) -> Iterator[KubernetesClient]:
    control_plane.install_crd()
    client = KubernetesClient.connect({"KUBECONFIG": str(control_plane.kubeconfig)}, threads=1)
    yield client
    client.close()


@pytest.fixture
def place(
    control_plane: ControlPlane, client: KubernetesClient, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Place]:
    namespace = naming.slug(f"op-{naming.short_hash(request.node.name)}")
    control_plane.kubectl("create", "namespace", namespace)
    place = Place(control_plane, client, tmp_path, namespace)
    yield place
    for operator in place.operators:
        operator.close()


def wait_until(is_so: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Looks again twenty times a second."""
    deadline, tick = time.monotonic() + seconds, threading.Event()
    while not is_so():
        assert time.monotonic() < deadline
        tick.wait(0.05)


def test_a_healthy_operator_says_so_works_and_ends_cleanly_at_sigterm(place: Place) -> None:
    operator = place.start()
    operator.wait_until_it_works()
    assert (operator.get("/livez"), operator.get("/readyz")) == ((200, "ok\n"), (200, "ok\n"))
    assert operator.metric("videogen_operator_leader") == 1

    place.apply("fox")
    wait_until(lambda: place.jobs("fox") == 1)
    wait_until(lambda: operator.metric("videogen_operator_passes_total") >= 1)
    assert operator.metric("videogen_operator_resources") == 1
    holder = place.lease()["holderIdentity"]
    began = time.monotonic()
    exit_code = operator.end()

    assert exit_code == 0
    assert time.monotonic() - began < 10
    assert operator.messages[-2:] == [
        "the process ends: SIGTERM received",
        f"leader election: {holder} has given the lease back",
    ]
    assert re.fullmatch(r"operator-0-[0-9a-f]{8}", holder)
    assert place.lease()["holderIdentity"] == ""
    assert operator.plain_lines == []
    assert {line["level"] for line in operator.lines} == {"info"}


def test_a_deleted_resource_leaves_the_operators_memory(place: Place) -> None:
    operator = place.start("--no-leader-election")
    operator.wait_until_it_works()
    place.apply("fox")
    wait_until(lambda: operator.metric("videogen_operator_resources") == 1)

    uid = place.client.get(VIDEO_GENERATIONS, place.namespace, "fox")["metadata"]["uid"]
    place.client.delete(VIDEO_GENERATIONS, place.namespace, "fox", uid)

    wait_until(lambda: operator.metric("videogen_operator_resources") == 0)


def test_a_second_replica_is_ready_but_does_not_work_until_the_first_one_ends(place: Place) -> None:
    first = place.start(pod="operator-a")
    first.wait_until_it_works()
    second = place.start(pod="operator-b")
    wait_until(lambda: second.get("/readyz") == (200, "ok\n"))
    place.apply("fox")
    wait_until(lambda: place.jobs("fox") == 1)
    wait_until(lambda: second.metric("videogen_operator_resources") == 1)
    assert second.metric("videogen_operator_leader") == 0
    assert second.metric("videogen_operator_passes_total") == 0

    assert first.end() == 0
    began = time.monotonic()
    second.wait_until_it_works()
    seconds = time.monotonic() - began

    assert seconds < 5
    place.apply("next")
    wait_until(lambda: place.jobs("next") == 1)
    # The new leader has looked at the resource of the old one too, and made nothing twice.
    assert place.jobs("fox") == 1
    assert place.lease()["leaseTransitions"] == 1


def test_a_killed_leader_is_replaced_within_its_lease_and_one_look(place: Place) -> None:
    first = place.start(pod="operator-a")
    first.wait_until_it_works()
    second = place.start(pod="operator-b")
    wait_until(lambda: second.get("/readyz") == (200, "ok\n"))

    first.end(signal.SIGKILL)
    began = time.monotonic()
    second.wait_until_it_works()

    assert time.monotonic() - began < 20


def test_a_leader_that_the_api_server_does_not_answer_ends_with_1_and_another_takes_over(place: Place) -> None:
    with MuteProxy(place.plane) as proxy:
        first = place.start(pod="operator-a", kubeconfig=proxy.write_kubeconfig(place.folder / "proxy"))
        first.wait_until_it_works()
        second = place.start(pod="operator-b")
        wait_until(lambda: second.get("/readyz") == (200, "ok\n"))

        proxy.mutes_all = True
        first.wait_for_message("the process ends: it leads no more", 15)
        assert second.metric("videogen_operator_leader") == 0
        assert first.wait() == 1
        second.wait_for_message("works on", 15)


def test_a_deaf_stream_is_found_and_ends_the_process_with_1(place: Place) -> None:
    with MuteProxy(place.plane) as proxy:
        operator = place.start(
            "--no-leader-election", kubeconfig=proxy.write_kubeconfig(place.folder / "proxy"), program=IMPATIENT
        )
        operator.wait_until_it_works()
        place.apply("heard")
        wait_until(lambda: place.jobs("heard") == 1)

        proxy.mutes_watches = True
        place.apply("unheard")

        assert operator.wait() == 1
    why = r"the process ends: a watch stream is deaf: no events of videogenerations(, jobs)?(, pods)? for more than 5 s"
    assert re.fullmatch(why, operator.messages[-1])


def test_an_event_that_cannot_be_taken_in_ends_the_process_with_1(place: Place) -> None:
    operator = place.start("--no-leader-election", program=FORGETFUL)
    operator.wait_until_it_works()

    place.apply("fox")

    assert operator.wait() == 1
    assert operator.messages[-1] == "the process ends: the watch streams ended: MemoryError('no room for it')"


def test_an_operator_without_a_namespace_for_its_lease_does_not_start(place: Place) -> None:
    operator = place.start(environment={"KUBECONFIG": str(place.plane.kubeconfig), "POD_NAMESPACE": ""})

    assert operator.wait() == ExitCode.CONFIG_INVALID
    assert "".join(operator.plain_lines) == (
        "error: environment key POD_NAMESPACE: left out; set it to where the Lease is to lie, "
        "or use --no-leader-election\n"
    )


def test_a_taken_port_ends_the_start_with_the_remedy(place: Place) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104 - as the operator itself listens
        port = taken.getsockname()[1]
        operator = place.start("--no-leader-election", f"--metrics-port={port}")

        assert operator.wait() == ExitCode.CONFIG_INVALID
    assert operator.plain_lines == [
        f"error: port {port} for /metrics: cannot listen (Address already in use); choose a free one, or 0\n"
    ]


def test_an_api_server_that_is_not_there_ends_the_start_with_1_and_its_address(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    config = json.loads(place.plane.kubectl("config", "view", "--raw", "-o", "json"))
    config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
    kubeconfig = place.folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))

    operator = place.start("--no-leader-election", kubeconfig=kubeconfig)

    assert operator.wait() == 1
    assert operator.messages[-1].startswith("the operator cannot begin: GET /apis/videogen.dev/v1alpha1/")
    assert "Connection refused" in operator.messages[-1]


def test_a_replica_that_does_not_lead_reads_and_never_writes(place: Place) -> None:
    leads = True
    client = KubernetesClient.connect({"KUBECONFIG": str(place.plane.kubeconfig)}, threads=1, may_write=lambda: leads)
    manifest: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"n": "1"}}
    try:
        uid = client.create(CONFIG_MAPS, place.namespace, manifest)["uid"]
        leads = False
        for write in (
            lambda: client.create(CONFIG_MAPS, place.namespace, {**manifest, "metadata": {"name": "b"}}),
            lambda: client.patch(CONFIG_MAPS, place.namespace, "a", {"data": {"n": "2"}}),
            lambda: client.delete(CONFIG_MAPS, place.namespace, "a", uid),
        ):
            with pytest.raises(NotLeader, match="not sent: this replica does not lead"):
                write()
        assert client.get(CONFIG_MAPS, place.namespace, "a")["data"] == {"n": "1"}
    finally:
        client.close()


# Workers, without a cluster.


@contextmanager
def working(reconcile: Callable[[Key], float | None]) -> Iterator[tuple[WorkQueue[Key], Workers, OperatorMetrics]]:
    queue, metrics = WorkQueue[Key](Backoff(first=0.001, most=0.01)), OperatorMetrics()
    workers = Workers(2, queue, reconcile, metrics)
    workers.start()
    yield queue, workers, metrics
    queue.shut_down()
    assert workers.join(PATIENCE_SECONDS)


BAD, GOOD = Key("team", "bad"), Key("team", "good")


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (Conflict("somebody was faster", code=409), "conflict"),
        (TooManyRequests("slow down", code=429, retry_after=0.01), "api-error"),
        (Blocked("quota"), "blocked"),
        (KeyError("nobody thought of this"), "bug"),
    ],
)
def test_a_pass_that_fails_is_made_again_and_does_not_hold_up_others(error: Exception, result: str) -> None:
    looks: dict[Key, int] = {BAD: 0, GOOD: 0}
    well = {BAD: threading.Event(), GOOD: threading.Event()}

    def reconcile(key: Key) -> float | None:
        looks[key] += 1
        if key == BAD and looks[BAD] <= 3:
            raise error
        well[key].set()
        return None

    with working(reconcile) as (queue, _, metrics):
        queue.wake(BAD)
        queue.wake(GOOD)
        assert well[BAD].wait(PATIENCE_SECONDS)
        assert well[GOOD].wait(PATIENCE_SECONDS)

    assert looks == {BAD: 4, GOOD: 1}
    counted = {
        sample.labels["result"]: sample.value
        for family in text_string_to_metric_families(metrics.render())
        for sample in family.samples
        if sample.name == "videogen_operator_passes_total"
    }
    assert counted == {result: 3, "ok": 2}


def test_a_pass_says_when_the_next_one_is_due() -> None:
    twice = threading.Event()
    looks: list[Key] = []

    def reconcile(key: Key) -> float | None:
        looks.append(key)
        if len(looks) == 2:
            twice.set()
            return None
        return 0.01

    with working(reconcile) as (queue, workers, _):
        queue.wake(GOOD)
        assert twice.wait(PATIENCE_SECONDS)
        assert workers.problem() is None

    assert looks == [GOOD, GOOD]


def test_a_pass_at_hand_may_finish_when_the_queue_is_shut_down() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def reconcile(_: Key) -> float | None:
        begun.set()
        may_end.wait(PATIENCE_SECONDS)
        ended.set()
        return None

    with working(reconcile) as (queue, workers, _):
        queue.wake(GOOD)
        assert begun.wait(PATIENCE_SECONDS)
        queue.shut_down()
        assert not workers.join(0.05)
        may_end.set()
        assert workers.join(PATIENCE_SECONDS)

    assert ended.is_set()
    assert workers.problem() == "worker-0, worker-1 ended"
