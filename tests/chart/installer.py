"""helm and kubectl for one real API server."""

import json
import subprocess
from dataclasses import dataclass

from tests.chart.chart import CHART, Chart, Manifest, Values
from tests.cluster.control_plane import ControlPlane

CRD = "customresourcedefinition/videogenerations.videogen.dev"


@dataclass(frozen=True)
class Installer:
    chart: Chart
    cluster: ControlPlane

    def install(self, release: str, namespace: str, values: Values, *options: str) -> None:
        self.helm("install", release, str(CHART), "--namespace", namespace, *options, values=values)

    def upgrade(self, release: str, namespace: str, values: Values) -> None:
        self.helm("upgrade", release, str(CHART), "--namespace", namespace, values=values)

    def uninstall(self, release: str, namespace: str) -> None:
        self.helm("uninstall", release, "--namespace", namespace, "--wait")

    def helm(self, *arguments: str, values: Values | None = None) -> None:
        """Raises AssertionError with what helm says where it fails."""
        try:
            self.chart.run(*arguments, f"--kubeconfig={self.cluster.kubeconfig}", values=values)
        except subprocess.CalledProcessError as error:
            raise AssertionError(f"helm {' '.join(arguments)}: {error.stderr}") from error

    def get(self, *arguments: str) -> Manifest:
        """What `kubectl get` finds."""
        found: Manifest = json.loads(self.cluster.kubectl("get", *arguments, "--output", "json"))
        return found

    def names(self, *arguments: str) -> list[str]:
        """Kind and name of everything that `kubectl get` finds."""
        return self.cluster.kubectl("get", *arguments, "--output", "name").split()
