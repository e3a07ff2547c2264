"""The chart as `helm install` leaves it on a cluster, with the embedded store, and small resources for it."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.cluster import KubectlError
from tests.cluster.real import RealCluster

CHART = Path(__file__).parents[2] / "charts" / "videogen"
STORAGE_CLASS = "host-folder"
PATIENCE_SECONDS = 1200
"""A bound for what never comes: how long things take is measured in benchmarks/."""


@dataclass(frozen=True)
class Release:
    """The chart, installed in a namespace with the embedded store."""

    cluster: RealCluster
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def apply(self, manifest: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def wait(self, name: str, condition: str) -> dict[str, Any]:
        """The resource, as soon as `kubectl wait` has seen the condition, such as `condition=Ready`."""
        try:
            self.kubectl("wait", f"vg/{name}", f"--for={condition}", f"--timeout={PATIENCE_SECONDS}s")
        except KubectlError as error:
            everything = self.kubectl("get", "vg,jobs,pods,events", "--output=wide")
            raise AssertionError(f"{error}\n{everything}\n{self.kubectl('get', 'vg', name, '-o', 'yaml')}") from error
        found: dict[str, Any] = json.loads(self.kubectl("get", "vg", name, "--output=json"))
        return found

    def read_stored(self, url: str) -> bytes:
        """An object of the embedded store, which is a file of its pod."""
        path = url.replace("s3://", "/data/")
        return base64.b64decode(self.kubectl("exec", "deployment/videogen-store", "--", "base64", "--wrap=0", path))


def install(cluster: RealCluster, namespace: str, *settings: str) -> Release:
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    images = {"operator": cluster.operator_image, "runner": cluster.runner_image}
    values = [f"images.{image}.{part}" for image, name in images.items() for part in _parts(name)]
    values += [f"embeddedStore.image.{part}" for part in _parts(cluster.store_image)]
    flags = [f"--set-string={value}" for value in values] + [f"--set={setting}" for setting in settings]
    cluster.helm(
        *("install", "videogen", str(CHART), "--namespace", namespace, "--values", str(CHART / "tryout.yaml")),
        *("--wait", f"--timeout={PATIENCE_SECONDS}s", *flags),
    )
    return Release(cluster, namespace)


def create_volume(cluster: RealCluster, folder: Path) -> None:
    """A folder of the node's host, for one claim of STORAGE_CLASS."""
    folder.chmod(0o777)  # the store does not run as root, and the kubelet changes no owner in a hostPath
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": STORAGE_CLASS},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(folder), "type": "Directory"},
        },
    }
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(volume))


def _parts(image: str) -> tuple[str, str]:
    repository, _, tag = image.rpartition(":")
    return f"repository={repository}", f"tag={tag}"


def fox(name: str, **spec: Any) -> dict[str, Any]:
    """A small resource: one clip of 64 x 64 pixels in two steps."""
    return {
        "apiVersion": "videogen.dev/v1alpha1",
        "kind": "VideoGeneration",
        "metadata": {"name": name},
        "spec": {
            "prompts": [{"name": "fox", "text": f"A red fox runs through fresh snow, {name}", "seed": 1}],
            "video": {"size": {"width": 64, "height": 64}, "frames": 17},
            "sampling": {"steps": 2},
            **spec,
        },
    }
