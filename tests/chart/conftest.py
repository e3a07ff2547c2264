"""helm itself, built once into the user's cache, and an API server that no other test installs anything into."""

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
from tests.chart.chart import Chart
from tests.chart.installer import Installer
from tests.cluster import binaries
from tests.cluster.control_plane import control_plane

NAMESPACES = ("video", "tenant", "team-a", "team-b", "elsewhere")


@pytest.fixture(scope="session")
def chart() -> Chart:
    helm = binaries.helm()
    if helm is None:
        _give_up()
    return Chart(helm)


@pytest.fixture(scope="session")
def installer(chart: Chart) -> Iterator[Installer]:
    """API server and controllers, with namespaces that admit nothing but restricted pods; no pod runs."""
    if binaries.kube() is None:
        _give_up()
    with control_plane() as plane, pytest.MonkeyPatch.context() as environment:
        # What helm and kubectl remember of a server that is soon gone.
        environment.setenv("KUBECACHEDIR", str(plane.folder / "cache"))
        for namespace in NAMESPACES:
            plane.kubectl("create", "namespace", namespace)
            plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        yield Installer(chart, plane)


def _give_up() -> NoReturn:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(binaries.NEEDS_GO)
    raise AssertionError
