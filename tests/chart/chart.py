"""The chart as its users see it: values in, manifests or a refusal out, by a real helm and without a cluster."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "videogen"
RELEASE = "vg"
NAMESPACE = "video"
FULL_NAME = "vg-videogen"

Values = dict[str, Any]
Manifest = dict[str, Any]

NAMESPACED: Values = {"namespaces": ["team-a", "team-b"], "crds": {"enabled": False}}
"""What a tenant without any right on the cluster installs."""
EMBEDDED: Values = {"embeddedStore": {"enabled": True, "persistence": {"enabled": True}}}
TRYOUT: Values = yaml.safe_load((CHART / "tryout.yaml").read_text(encoding="utf-8"))
EVERYTHING: Values = EMBEDDED | {
    "images": {
        "operator": {"repository": "example.com/operator", "tag": "", "digest": f"sha256:{'a' * 64}"},
        "runner": {"repository": "example.com/runner", "tag": "1.2.3", "digest": ""},
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "pull"}],
    },
    "defaults": {
        "model": {"name": "open-sora-v1.2", "weights": "pvc://weights/open-sora-v1.2"},
        "encoder": {"shards": 4, "gpu": {"count": 1, "memory": "16Gi"}},
        "runners": [
            {
                "name": "t4",
                "replicas": 4,
                "gpu": {"resource": "nvidia.com/gpu", "count": 1, "memory": "16Gi", "product": "Tesla-T4"},
                "pod": {
                    "tolerations": [
                        {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 31_536_000}
                    ],
                    "resources": {"requests": {"cpu": 4, "memory": "8Gi"}},
                },
            }
        ],
    },
    "allowed": {"serviceAccounts": ["video"], "priorityClasses": ["low"], "endpoints": ["https://s3.example.com"]},
    "operator": {
        "podLabels": {"team": "media"},
        "podAnnotations": {"example.com/scrape": "true"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "control-plane", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "serviceAccount": {"name": "operator", "annotations": {"example.com/role": "video"}},
    "metrics": {"service": {"annotations": {"prometheus.io/scrape": "true"}}},
    "networkPolicy": {"workload": {"extraEgress": [{"ports": [{"port": 3128}]}]}},
}
"""Every value that changes what is made, at once."""


@dataclass(frozen=True)
class Chart:
    helm: Path

    def lint(self, values: Values) -> str:
        """What `helm lint --strict` says; raises CalledProcessError where it finds fault."""
        return self.run("lint", "--strict", str(CHART), values=values).stdout

    def render(self, values: Values | None = None) -> list[Manifest]:
        """All manifests of a release, as `helm install` would send them."""
        reply = self.run("template", RELEASE, str(CHART), "--namespace", NAMESPACE, values=values or {})
        return [manifest for manifest in yaml.safe_load_all(reply.stdout) if manifest]

    def refuse(self, values: Values) -> str:
        """Why the values are refused; raises AssertionError where they are not."""
        try:
            self.run("template", RELEASE, str(CHART), "--namespace", NAMESPACE, values=values)
        except subprocess.CalledProcessError as error:
            return str(error.stderr)
        raise AssertionError(f"these values should be refused: {values}")

    def notes(self, values: Values | None = None) -> str:
        """What a person reads after `helm install`."""
        reply = self.run(
            "install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", values=values or {}
        )
        return reply.stdout.partition("NOTES:\n")[2]

    def run(self, *arguments: str, values: Values | None = None) -> subprocess.CompletedProcess[str]:
        """One helm command, with values where it takes any; raises CalledProcessError where it fails."""
        return subprocess.run(
            [str(self.helm), *arguments, *([] if values is None else ["--values", "-"])],
            input=None if values is None else json.dumps(values),
            capture_output=True,
            text=True,
            check=True,
        )


def of_kind(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    """The manifests of some kinds by `namespace/name`, or by name where they have no namespace."""
    found = {}
    for manifest in manifests:
        if manifest["kind"] in kinds:
            metadata = manifest["metadata"]
            found["/".join(filter(None, (metadata.get("namespace"), metadata["name"])))] = manifest
    return found


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod spec of everything that makes pods."""
    for name, manifest in of_kind(manifests, "Deployment", "StatefulSet", "DaemonSet", "Job").items():
        yield name, manifest["spec"]["template"]["spec"]
    for name, manifest in of_kind(manifests, "Pod").items():
        yield name, manifest["spec"]


def operator_yaml(manifests: list[Manifest]) -> str:
    """The operator's configuration file."""
    content = of_kind(manifests, "ConfigMap")[f"{NAMESPACE}/{FULL_NAME}"]["data"]["operator.yaml"]
    assert isinstance(content, str)
    return content
