"""Clusters for tests, each started once a session when first asked for, and ended with it.

Tests of a real node are in modules named test_real_*.py, which tests/conftest.py keeps on one worker.
"""

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
from tests.cluster import binaries, packages, real, releases
from tests.cluster import control_plane as control_planes


@pytest.fixture(scope="session")
def control_plane() -> Iterator[control_planes.ControlPlane]:
    """API server and controllers; no pod runs. Tests share it: take a namespace of your own."""
    if binaries.kube() is None:
        give_up(binaries.NEEDS_GO)
    with control_planes.control_plane() as plane:
        yield plane


@pytest.fixture(scope="session")
def real_node() -> Iterator[real.RealCluster]:
    """A cluster that runs pods. Tests share it: take a namespace of your own."""
    reason = None if os.environ.get("KUBECONFIG") else packages.why_no_node()
    if binaries.kube() is None:
        reason = binaries.NEEDS_GO
    if reason is not None:
        give_up(reason)
    with real.real_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def release(real_node: real.RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[releases.Release]:
    """The chart, cluster-wide, its store on a volume. Tests share it: take names of your own."""
    settings = ["embeddedStore.persistence.enabled=true"]
    if real_node.host_address is not None:  # a node of our own, which provisions nothing
        releases.create_volume(real_node, tmp_path_factory.mktemp("store"))
        settings.append(f"embeddedStore.persistence.storageClassName={releases.STORAGE_CLASS}")
    yield releases.install(real_node, "video", *settings)
    real_node.helm("uninstall", "videogen", "--namespace", "video", "--wait", "--timeout=300s")


def give_up(reason: str) -> NoReturn:
    """Skips the test, or fails it where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
