"""How fast, and in how much memory, the operator gives a thousand new resources their first children.

All against a real API server with the real Job controller, on one machine, one after the other in the same run:
absolute figures differ by half between machines, so what counts is the ratio to the named peers.

    python benchmarks/operator_scale.py --resources 1000 --rounds 3

- plain: Indexed Jobs posted directly, until each has its pod: the Job controller's own limit.
- kopf: a bare kopf handler that makes one Job for each resource (kopf_peer.py), until the last Job is there.
- videogen: the operator, until the last plan ConfigMap and the last preflight Job are there.

There is no node: pods are made and stay Pending, for all peers alike. Memory is the peak of the operator's resident set
(VmHWM).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import urllib3

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.cluster.control_plane import ControlPlane, control_plane  # noqa: E402 - found through the path above
from tests.cluster.lives import CONFIG, SPEC  # noqa: E402

from videogen_api import naming  # noqa: E402
from videogen_operator.cluster.api_errors import NotFound, TooManyRequests  # noqa: E402
from videogen_operator.cluster.client import KubernetesClient  # noqa: E402
from videogen_operator.cluster.resources import CONFIG_MAPS, JOBS, PODS, VIDEO_GENERATIONS, Object, Resource  # noqa: E402

MAX_SECONDS = 25.0
MAX_MEBIBYTES = 180.0
_NAMESPACE = "bench"
_GIVE_UP_SECONDS = 300.0
_POSTING_THREADS = 8


@dataclass(frozen=True)
class Result:
    """One peer in one round."""

    name: str
    seconds: float
    mebibytes: float | None


class Bench:
    """One API server with the CRD and an empty namespace."""

    def __init__(self, plane: ControlPlane, client: KubernetesClient, folder: Path, num_resources: int) -> None:
        self._plane = plane
        self._client = client
        self._folder = folder
        self._num = num_resources
        self._pool = urllib3.PoolManager(ca_certs=str(plane.ca_file))  # one connection: handshakes cost more than lists

    def wait_until_served(self) -> None:
        """An API server needs a moment to take in a new kind."""
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            try:
                self._client.list(VIDEO_GENERATIONS, _NAMESPACE)
            except (NotFound, TooManyRequests):
                time.sleep(0.1)
            else:
                return

    def plain(self, namespace: str) -> Result:
        container = {"name": "main", "image": "none"}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        spec = {"completions": 1, "parallelism": 1, "completionMode": "Indexed", "template": template}
        manifest = {"apiVersion": "batch/v1", "kind": "Job", "spec": spec}
        return Result("plain", self._time(namespace, JOBS, manifest, {PODS: self._num}), None)

    def kopf(self, namespace: str) -> Result:
        peer = Path(__file__).with_name("kopf_peer.py")
        command = [sys.executable, "-m", "kopf", "run", "--standalone", "--quiet", "-n", namespace, str(peer)]
        return self._time_operator("kopf", namespace, command, {JOBS: 1})

    def videogen(self, namespace: str) -> Result:
        config = self._folder / f"{namespace}.yaml"
        config.write_text(json.dumps({**CONFIG, "namespaces": [namespace]}))
        program = [sys.executable, "-m", "videogen_operator.cli.main", "operator"]
        command = [*program, f"--config={config}", "--no-leader-election", "--health-port=0", "--metrics-port=0"]
        return self._time_operator("videogen", namespace, command, {CONFIG_MAPS: 1, JOBS: 1})

    def _time_operator(
        self, name: str, namespace: str, command: Sequence[str], per_resource: dict[Resource, int]
    ) -> Result:
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._plane.kubeconfig),
            "POD_NAME": "operator-0",
            "POD_NAMESPACE": namespace,
        }
        manifest = {"apiVersion": naming.API_VERSION, "kind": naming.KIND, "spec": SPEC}
        # Every namespace has a ConfigMap of its own, with the cluster's certificate.
        there = {resource: self._count(namespace, resource) for resource in per_resource}

        def expect(num_resources: int) -> dict[Resource, int]:
            return {resource: there[resource] + each * num_resources for resource, each in per_resource.items()}

        with (self._folder / f"{namespace}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
        try:
            self._post(namespace, VIDEO_GENERATIONS, manifest, "first")
            self._wait(namespace, expect(1))  # it is at work
            seconds = self._time(namespace, VIDEO_GENERATIONS, manifest, expect(self._num + 1))
            return Result(name, seconds, _peak_mebibytes(process.pid))
        finally:
            process.kill()
            process.wait()

    def _time(self, namespace: str, resource: Resource, manifest: Object, children: dict[Resource, int]) -> float:
        """Seconds from the first post to the last child."""
        began = time.monotonic()
        with ThreadPoolExecutor(_POSTING_THREADS) as pool:
            names = [f"fox-{number}" for number in range(self._num)]
            list(pool.map(lambda name: self._post(namespace, resource, manifest, name), names))
        self._wait(namespace, children)
        return time.monotonic() - began

    def _post(self, namespace: str, resource: Resource, manifest: Object, name: str) -> None:
        metadata = {"name": name, "namespace": namespace}
        self._client.create(resource, namespace, {**manifest, "metadata": metadata})

    def _wait(self, namespace: str, children: dict[Resource, int]) -> None:
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while any(self._count(namespace, resource) < number for resource, number in children.items()):
            if time.monotonic() > deadline:
                counts = {resource.plural: self._count(namespace, resource) for resource in children}
                raise SystemExit(f"{namespace}: after {_GIVE_UP_SECONDS:g} s there are only {counts} of {children}")
            time.sleep(0.1)

    def _count(self, namespace: str, resource: Resource) -> int:
        """By a list of one, which says how many remain: next to no work for the API server."""
        address = f"{self._plane.server}{resource.path(namespace)}?limit=1"
        reply = self._pool.request("GET", address, headers={"Authorization": f"Bearer {self._plane.token}"})
        found = reply.json()
        return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))


def _peak_mebibytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory of its own any more")


def measure(num_resources: int, num_rounds: int) -> list[Result]:
    """Every peer once a round, so that a slow minute of the machine meets all of them.

    Each has an API server of its own, so that nobody pays for what another has left behind.
    """
    results: list[Result] = []
    for number in range(num_rounds):
        for peer in (Bench.plain, Bench.kopf, Bench.videogen):
            with tempfile.TemporaryDirectory() as name, control_plane() as plane:
                results.append(peer(_prepare(plane, Path(name), num_resources), _NAMESPACE))
            print(f"round {number + 1}: {results[-1]}", file=sys.stderr, flush=True)
    return results


def _prepare(plane: ControlPlane, folder: Path, num_resources: int) -> Bench:
    client = KubernetesClient.connect({"KUBECONFIG": str(plane.kubeconfig)}, threads=_POSTING_THREADS)
    plane.install_crd()
    plane.kubectl("create", "namespace", _NAMESPACE)
    plane.kubectl("wait", "--for=create", "configmap/kube-root-ca.crt", f"--namespace={_NAMESPACE}")
    bench = Bench(plane, client, folder, num_resources)
    bench.wait_until_served()
    return bench


def report(results: Sequence[Result]) -> tuple[str, bool]:
    """A table of medians and ratios, and whether the gates hold."""
    names = tuple(dict.fromkeys(result.name for result in results))
    seconds = {name: statistics.median(result.seconds for result in results if result.name == name) for name in names}
    memory = {name: [r.mebibytes for r in results if r.name == name and r.mebibytes is not None] for name in names}
    lines = [
        "| | seconds | against plain Jobs | against the bare handler | peak memory |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {seconds[name]:.1f} | {seconds[name] / seconds['plain']:.2f} "
            f"| {seconds[name] / seconds['kopf']:.2f} | {f'{max(memory[name]):.0f} MiB' if memory[name] else ''} |"
            for name in names
        ),
    ]
    holds = seconds["videogen"] < MAX_SECONDS and max(memory["videogen"]) < MAX_MEBIBYTES
    return "\n".join(lines), holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    table, holds = report(measure(arguments.resources, arguments.rounds))
    print(f"{arguments.resources} resources, median of {arguments.rounds} rounds, {os.cpu_count()} CPUs")
    print(table)
    if not holds:
        print(f"over the gate: {MAX_SECONDS:g} s, {MAX_MEBIBYTES:g} MiB", file=sys.stderr)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
