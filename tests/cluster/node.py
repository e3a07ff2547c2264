"""A real Kubernetes node: containerd, kubelet, kube-proxy and DNS on a machine of their own, with pretended GPUs."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.cluster import Cluster, write_kubeconfig
from tests.cluster.containers import Containers
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.leftovers import wait_until_ended
from tests.cluster.machines import BRIDGE, HOST, PODS, Machine, bridge, bridge_exists, machine

GPU = "nvidia.com/gpu"
READY_SECONDS = 300.0


@dataclass(frozen=True)
class Node(Cluster):
    """A cluster of one node."""

    plane: ControlPlane
    machine: Machine
    containers: Containers
    host_address: str
    """Where pods reach servers of this machine: let those listen there."""

    def load_image(self, tag: str) -> str:
        """Makes an image of buildah's store ready for pods and returns the name that they use: it is never pulled."""
        return self.containers.load(tag)


@contextmanager
def node(*, gpus: int = 8) -> Iterator[Node]:
    """Ready for pods. Another process of this user that wants one at the same time waits for the end of this one.

    Raises:
        RuntimeError: Something did not start: the text ends with its log. Or something is left at the end: it is named.
    """
    home = binaries.cache() / "node"
    with binaries.locked(binaries.cache() / "node.lock"):
        with ExitStack() as stack:
            # What it holds was written by an earlier one, which has ended: its lock was free.
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            stack.callback(shutil.rmtree, home)
            stack.enter_context(bridge())
            plane = stack.enter_context(control_plane(address=str(HOST), nodes=["node1"], scheduler=True))
            cgroup = stack.enter_context(_cgroup("node1"))
            host = stack.enter_context(machine(1, "node1", home))
            containers = Containers(host, binaries.cache() / "containerd")
            yield _start(plane, host, containers, cgroup, gpus)
        left = _leftovers(home)
        if left:
            raise RuntimeError(f"the node has ended, but this is left: {', '.join(left)}")


def _start(plane: ControlPlane, host: Machine, containers: Containers, cgroup: str, gpus: int) -> Node:
    containers.start()
    _start_kubelet(plane, host, containers, cgroup)
    _start_network(plane, host)
    _wait_until_ready(plane, host)
    _pretend_gpus(plane, host, gpus)
    return Node(plane.kubeconfig, plane.kube, plane, host, containers, str(HOST))


def _leftovers(home: Path) -> list[str]:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
    folders = [str(folder) for folder in (home, *_cgroup_folders("node1")) if folder.exists()]
    return [*wait_until_ended(home), *mounts, *folders, *([BRIDGE] if bridge_exists() else [])]


def _start_kubelet(plane: ControlPlane, host: Machine, containers: Containers, cgroup: str) -> None:
    signals = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree")
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "clusterDNS": [str(host.address)],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{containers.socket}",
        "failCgroupV1": False,
        "failSwapOn": False,
        # The disk is this machine's: how full it is says nothing about the tests.
        "evictionHard": dict.fromkeys(signals, "0%"),
        "imageGCHighThresholdPercent": 100,
    }
    configuration = host.folder / "kubelet.json"
    configuration.write_text(json.dumps(settings))
    identity = write_kubeconfig(
        host.folder / "kubelet.kubeconfig", plane.server, plane.ca_file, plane.node_tokens[host.name]
    )
    host.start(
        "kubelet",
        plane.kube,
        "kubelet",
        f"--config={configuration}",
        f"--kubeconfig={identity}",
        f"--hostname-override={host.name}",
        f"--node-ip={host.address}",
        f"--root-dir={host.folder / 'kubelet'}",
        f"--cert-dir={host.folder / 'certificates'}",
    )


def _start_network(plane: ControlPlane, host: Machine) -> None:
    """Service addresses and names."""
    host.start(
        "kube-proxy",
        plane.kube,
        "kube-proxy",
        f"--kubeconfig={plane.kubeconfig}",
        f"--hostname-override={host.name}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={PODS}",
        # Its default is a setting of the whole machine.
        "--conntrack-max-per-core=0",
    )
    corefile = host.folder / "Corefile"
    corefile.write_text(f"""
        .:53 {{
            bind {host.address}
            errors
            kubernetes cluster.local in-addr.arpa {{
                kubeconfig {plane.kubeconfig}
            }}
        }}
    """)
    coredns = binaries.coredns()
    assert coredns is not None
    host.start("coredns", coredns, "-conf", corefile)


def _wait_until_ready(plane: ControlPlane, host: Machine) -> None:
    ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    host.processes.wait_until(
        lambda: plane.kubectl("get", "node", host.name, "--ignore-not-found", f"--output={ready}") == "True",
        f"{host.name} is ready",
        READY_SECONDS,
    )


def _pretend_gpus(plane: ControlPlane, host: Machine, gpus: int) -> None:
    """An extended resource: scheduling and quotas are real, while pods run on the processor."""
    escaped = GPU.replace("/", "~1")
    patch = [
        {"op": "add", "path": f"/status/{field}/{escaped}", "value": str(gpus)} for field in ("capacity", "allocatable")
    ]
    plane.kubectl("patch", "node", host.name, "--subresource=status", "--type=json", f"--patch={json.dumps(patch)}")


def _cgroup_folders(name: str) -> list[Path]:
    """Those of a node, one in every hierarchy."""
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [
        Path(left.split()[4]) / _cgroup_of(name) for left, right in mounts if right.split()[0] in {"cgroup", "cgroup2"}
    ]


def _cgroup_of(name: str) -> str:
    return f"videogen-{name}"


@contextmanager
def _cgroup(name: str) -> Iterator[str]:
    """One for all pods of a node; pods that were killed leave theirs behind in it."""
    for folder in _cgroup_folders(name):
        folder.mkdir(exist_ok=True)
    try:
        yield f"/{_cgroup_of(name)}"
    finally:
        for folder in _cgroup_folders(name):
            for path, _, _ in os.walk(folder, topdown=False):
                Path(path).rmdir()
