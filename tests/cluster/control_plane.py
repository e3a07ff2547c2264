"""etcd, API server and controller manager on free ports of this machine, thrown away afterwards.

Without a kubelet nothing runs pods: tests of the API alone set the status of pods themselves. node.py adds a real node.
"""

import http.client
import secrets
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import binaries
from tests.cluster.cluster import Cluster, write_kubeconfig
from tests.cluster.processes import Processes, free_port

SERVICES = "10.0.0.0/24"
READY_SECONDS = 300.0


@dataclass(frozen=True)
class ControlPlane(Cluster):
    server: str
    """https URL."""
    ca_file: Path
    token: str
    """A bearer token with every right (group system:masters)."""
    folder: Path
    """Logs (`etcd.log`, `kube-apiserver.log` ..) and everything else; gone afterwards."""
    node_tokens: dict[str, str]
    """By node name: the bearer token of its kubelet."""


@contextmanager
def control_plane(
    *, address: str = "127.0.0.1", nodes: Sequence[str] = (), scheduler: bool = False
) -> Iterator[ControlPlane]:
    """Ready when the API server answers and pods can be created in the default namespace.

    Args:
        address: Where the API server listens. Nodes and pods must reach it where there are any.
        nodes: Names of nodes whose kubelets will come.
        scheduler: Whether pods get a node.

    Raises:
        RuntimeError: No Go to build the programs with, or one of them did not start: the text ends with its log.
    """
    kube = binaries.kube()
    if kube is None:
        raise RuntimeError(binaries.NEEDS_GO)
    with tempfile.TemporaryDirectory(prefix="videogen-cluster-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        processes = Processes(folder)
        try:
            yield _start(processes, kube, folder, address, nodes, scheduler)
        finally:
            processes.end()


def _start(
    processes: Processes, kube: Path, folder: Path, address: str, nodes: Sequence[str], scheduler: bool
) -> ControlPlane:
    etcd, server = f"http://127.0.0.1:{free_port()}", f"https://{address}:{free_port(address)}"
    token, node_tokens = secrets.token_urlsafe(), {node: secrets.token_urlsafe() for node in nodes}
    key = folder / "service-accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    processes.start("etcd", _etcd(kube, folder, etcd))
    processes.start("kube-apiserver", _api_server(kube, folder, etcd, server, _users(folder, token, node_tokens)))
    # The certificate and its authority, both made by the API server; the key is the later of the two files.
    certificates = folder / "apiserver.crt"
    processes.wait_until((folder / "apiserver.key").exists, "the API server has a certificate", READY_SECONDS)
    config = write_kubeconfig(folder / "admin.kubeconfig", server, certificates, token)
    plane = ControlPlane(config, kube, server, certificates, token, folder, node_tokens)
    processes.wait_until(lambda: _answers(plane, "/readyz"), "the API server is ready", READY_SECONDS)
    processes.start("kube-controller-manager", _controller_manager(plane, key))
    if scheduler:
        leaderless = ["--leader-elect=false", "--secure-port=0"]
        processes.start("kube-scheduler", [kube, "kube-scheduler", f"--kubeconfig={config}", *leaderless])
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    processes.wait_until(lambda: _answers(plane, account), "pods can be created", READY_SECONDS)
    return plane


def _users(folder: Path, token: str, node_tokens: dict[str, str]) -> Path:
    rows = [f"{token},admin,admin,system:masters"]
    rows += [f"{token},system:node:{node},{node},system:nodes" for node, token in node_tokens.items()]
    path = folder / "tokens.csv"
    path.touch(mode=0o600)
    path.write_text("\n".join(rows) + "\n")
    return path


def _etcd(kube: Path, folder: Path, url: str) -> list[str | Path]:
    peers = f"http://127.0.0.1:{free_port()}"
    return [
        kube,
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
    ]


def _api_server(kube: Path, folder: Path, etcd: str, server: str, users: Path) -> list[str | Path]:
    address, port = server.removeprefix("https://").split(":")
    key = folder / "service-accounts.key"
    # The Service `kubernetes` may not lead to the loopback device, and without nodes nobody asks for it.
    endpoints = ["--endpoint-reconciler-type=none"] if address == "127.0.0.1" else []
    return [
        kube,
        "kube-apiserver",
        f"--etcd-servers={etcd}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--token-auth-file={users}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--service-cluster-ip-range={SERVICES}",
        "--kubelet-preferred-address-types=InternalIP",
        *endpoints,
    ]


def _controller_manager(plane: ControlPlane, key: Path) -> list[str | Path]:
    return [
        plane.kube,
        "kube-controller-manager",
        f"--kubeconfig={plane.kubeconfig}",
        "--use-service-account-credentials",
        f"--root-ca-file={plane.ca_file}",
        f"--service-account-private-key-file={key}",
        "--leader-elect=false",
        "--secure-port=0",
        # Its default of 20 requests a second would be what every test of many objects measures.
        "--kube-api-qps=1000",
        "--kube-api-burst=1000",
    ]


def _answers(plane: ControlPlane, path: str) -> bool:
    trusted = ssl.create_default_context(cafile=plane.ca_file)
    connection = http.client.HTTPSConnection(plane.server.removeprefix("https://"), context=trusted, timeout=5)
    with closing(connection):
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {plane.token}"})
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
