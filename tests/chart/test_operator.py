"""The operator itself, with the token of the account that the chart makes and the configuration that it renders.

Pods are simulated; every call to the API server is real, so that a right that is missing shows.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chart.chart import NAMESPACED, ROOT, TRYOUT, Values
from tests.chart.installer import CRD, Installer
from tests.cluster.cluster import KubectlError, write_kubeconfig
from tests.cluster.simulator import PodSimulator

from videogen_operator.cluster.client import KubernetesClient

OPERATOR = (sys.executable, "-m", "videogen_operator.cli.main", "operator", "--health-port=0", "--metrics-port=0")
END_SECONDS = 30


def fox(text: str, ttl_seconds: int) -> str:
    spec = {"prompts": [{"name": "fox", "text": text}], "ttlSecondsAfterFinished": ttl_seconds}
    kind = {"apiVersion": "videogen.dev/v1alpha1", "kind": "VideoGeneration"}
    return json.dumps({**kind, "metadata": {"name": "fox", "namespace": "team-a"}, "spec": spec})


@contextmanager
def running(installer: Installer, release: str, namespace: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The operator of a release; its log is operator.log in the folder."""
    plane = installer.cluster
    name = f"{release}-videogen"
    config = folder / "operator.yaml"
    config.write_text(installer.get("configmap", name, "-n", namespace)["data"]["operator.yaml"], encoding="utf-8")
    token = plane.kubectl("create", "token", name, "-n", namespace).strip()
    kubeconfig = write_kubeconfig(folder / "kubeconfig", plane.server, plane.ca_file, token)
    environment = os.environ | {"KUBECONFIG": str(kubeconfig), "POD_NAME": f"{name}-0", "POD_NAMESPACE": namespace}
    with (folder / "operator.log").open("wb") as log:
        process = subprocess.Popen([*OPERATOR, f"--config={config}"], env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait(installer: Installer, folder: Path, *arguments: str) -> None:
    try:
        installer.cluster.kubectl("wait", "-n", "team-a", *arguments, "--timeout=300s")
    except KubectlError as error:
        found = installer.cluster.kubectl("get", "vg,jobs,pods", "-n", "team-a", "-o", "yaml")
        log = (folder / "operator.log").read_text(encoding="utf-8")
        raise AssertionError(f"{error}\n{found}\n{log}") from error


@pytest.mark.parametrize(
    ("release", "namespace", "values"),
    [("vg", "video", TRYOUT), ("tenant", "tenant", TRYOUT | NAMESPACED)],
    ids=["cluster", "namespaced"],
)
def test_the_operator_lives_with_the_rights_that_the_chart_gives(
    installer: Installer, tmp_path: Path, release: str, namespace: str, values: Values
) -> None:
    kubectl = installer.cluster.kubectl
    if "namespaces" in values:
        kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "videogenerations.videogen.dev.yaml"))
    installer.install(release, namespace, values)
    kubectl("wait", CRD, "--for=jsonpath={.status.conditions[?(@.type=='Established')].status}=True", "--timeout=300s")
    client = KubernetesClient.connect({"KUBECONFIG": str(installer.cluster.kubeconfig)}, threads=4)
    with PodSimulator(installer.cluster, client), running(installer, release, namespace, tmp_path) as operator:
        # A run; another one, for which the children of the first are removed; and the removal of all of them.
        for text, ttl_seconds in (("A red fox", 3600), ("A red fox in snow", 3600), ("A red fox in snow", 1)):
            kubectl("apply", "-f", "-", stdin=fox(text, ttl_seconds))
            wait(installer, tmp_path, "vg/fox", "--for=condition=Ready")
        wait(installer, tmp_path, "jobs", "--all", "--for=delete")
        operator.send_signal(signal.SIGTERM)
        assert operator.wait(END_SECONDS) == 0, (tmp_path / "operator.log").read_text(encoding="utf-8")
    log = (tmp_path / "operator.log").read_text(encoding="utf-8")
    assert [line for line in log.splitlines() if "403" in line or "forbidden" in line.lower()] == []
    events = installer.get("events.events.k8s.io", "-n", "team-a")["items"]
    told = {event["reason"] for event in events if event["regarding"]["kind"] == "VideoGeneration"}
    assert {"Started", "Succeeded"} <= told
    kubectl("delete", "vg/fox", "-n", "team-a")
    kubectl("delete", "events", "--all", "-n", "team-a")
    installer.uninstall(release, namespace)
    kubectl("delete", CRD)
