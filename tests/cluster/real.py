"""The real cluster that tests and people get: one node of our own, or whatever `KUBECONFIG` leads to.

`python -m tests.cluster.real` starts one of our own for use by hand.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.cluster import binaries, images, packages
from tests.cluster.cluster import Cluster
from tests.cluster.containers import PAUSE
from tests.cluster.node import node

VARIABLES = {
    images.OPERATOR: "VIDEOGEN_OPERATOR_IMAGE",
    images.RUNNER: "VIDEOGEN_RUNNER_IMAGE",
    images.STORE: "VIDEOGEN_STORE_IMAGE",
}


@dataclass(frozen=True)
class RealCluster(Cluster):
    """Pods run; images are ready once they have been asked for. Use them with imagePullPolicy IfNotPresent."""

    helm_program: Path
    host_address: str | None
    """Where pods reach servers that the tests start, if these listen there; None where the cluster is elsewhere."""
    busybox_image: str
    load_image: Callable[[str], str]

    @cached_property
    def operator_image(self) -> str:
        return self.load_image(images.OPERATOR)

    @cached_property
    def runner_image(self) -> str:
        return self.load_image(images.RUNNER)

    @cached_property
    def store_image(self) -> str:
        """versitygw, for the chart's embedded store."""
        return self.load_image(images.STORE)

    def helm(self, *arguments: str) -> str:
        """What it prints.

        Raises:
            HelmError: It ended with anything but 0.
        """
        command = [self.helm_program, f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise HelmError(done.stderr.strip())
        return done.stdout


class HelmError(RuntimeError):
    """helm said no; the text is what it wrote to stderr."""


@contextmanager
def real_cluster() -> Iterator[RealCluster]:
    """Ends everything that it started. packages.why_no_node() says where none of our own can be started."""
    kube, helm = binaries.kube(), binaries.helm()
    if kube is None or helm is None:
        raise RuntimeError(binaries.NEEDS_GO)
    elsewhere = os.environ.get("KUBECONFIG")
    if elsewhere:
        yield RealCluster(Path(elsewhere), kube, helm, None, "busybox:stable", _published)
        return
    with node() as started:

        def load(tag: str) -> str:
            images.build(tag)
            return started.load_image(tag)

        yield RealCluster(started.kubeconfig, kube, helm, started.host_address, PAUSE, load)


def _published(tag: str) -> str:
    """Images of a cluster elsewhere must be where its nodes find them: their names are in VARIABLES."""
    name = os.environ.get(VARIABLES[tag])
    if name is None:
        raise RuntimeError(f"KUBECONFIG is set: name the image that its nodes shall run in {VARIABLES[tag]}")
    return name


def main() -> int:
    reason = packages.why_no_node()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), real_cluster() as cluster:
        print(f"export KUBECONFIG={cluster.kubeconfig}")
        print(f"# images: {cluster.operator_image} {cluster.runner_image} {cluster.store_image}")
        print(f"# kubectl: {cluster.kube} kubectl; helm: {cluster.helm_program}")
        print("# Ctrl-C ends it", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
