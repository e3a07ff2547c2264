"""A cluster as its user sees it: a kubeconfig and kubectl."""

import base64
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

CRD = Path(__file__).parents[2] / "crds" / "videogenerations.videogen.dev.yaml"


class KubectlError(RuntimeError):
    """kubectl said no; the text is what it wrote to stderr."""


@dataclass(frozen=True)
class Cluster:
    kubeconfig: Path
    kube: Path
    """The multi-call program of binaries.kube()."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What it prints, e.g. `kubectl("apply", "-f", "-", stdin=manifest)`.

        Raises:
            KubectlError: It ended with anything but 0.
        """
        done = subprocess.run(
            [self.kube, "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={"KUBECACHEDIR": str(self.kubeconfig.with_suffix(".cache")), "PATH": "/usr/bin:/bin"},
        )
        if done.returncode != 0:
            raise KubectlError(done.stderr.strip())
        return done.stdout

    def install_crd(self) -> None:
        """Returns when the API server has taken in the new kind."""
        self.kubectl("apply", "--server-side", "--filename", str(CRD))
        # `--for=condition` fails on one that has no conditions yet.
        established = "jsonpath={.status.conditions[?(@.type=='Established')].status}=True"
        self.kubectl("wait", "--filename", str(CRD), f"--for={established}", "--timeout=300s")


def write_kubeconfig(path: Path, server: str, certificate_authority: Path, token: str) -> Path:
    """A kubeconfig that needs no file beside it, for one user of one cluster."""
    authority = base64.b64encode(certificate_authority.read_bytes()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
    return path
