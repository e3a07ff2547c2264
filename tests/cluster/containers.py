"""containerd on a machine: its images stay in the user's cache, everything else goes with the machine."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import busybox, images
from tests.cluster.machines import Machine

PAUSE = "localhost/busybox:test"
NAMESPACE = "k8s.io"
CNI_PLUGINS = Path("/usr/lib/cni")
READY_SECONDS = 300.0


@dataclass(frozen=True)
class Containers:
    machine: Machine
    root: Path
    """Image content and unpacked layers; one containerd at a time."""

    @property
    def socket(self) -> Path:
        return self.machine.folder / "containerd.sock"

    def start(self) -> None:
        """Returns when containers can be run."""
        (self.machine.folder / "containerd.toml").write_text(self._configuration())
        (self.machine.folder / "cni").mkdir()
        (self.machine.folder / "cni" / "pods.conflist").write_text(json.dumps(self._network()))
        self._start()
        if self._forget_containers():
            # It has read them already, and would report them to the kubelet.
            self.machine.processes.end("containerd")
            self._start()
        if PAUSE not in self.images():
            archive = self.machine.folder / "busybox.tar"
            busybox.write_archive(archive, PAUSE)
            self.ctr("images", "import", str(archive))

    def ctr(self, *arguments: str) -> str:
        done = subprocess.run([*self._ctr(), *arguments], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _ctr(self) -> list[str]:
        return ["ctr", f"--address={self.socket}", f"--namespace={NAMESPACE}"]

    def images(self) -> list[str]:
        return self.ctr("images", "list", "--quiet").split()

    def load(self, tag: str) -> str:
        """Takes an image of buildah's store and gives the name for pods, which changes with its content.

        Only layers that are not here yet are copied. Older contents of the same tag are removed.
        """
        image = images.image_id(tag)
        name = f"{tag}:{image.removeprefix('sha256:')[:12]}"
        if name not in self.images():
            command = [*self._ctr(), "images", "import", "-"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as importer:
                assert importer.stdin is not None
                images.export(image, name, self._blobs(), importer.stdin)
                importer.stdin.close()
            if importer.returncode != 0:
                raise RuntimeError(f"ctr images import of {tag} ended with {importer.returncode}")
            self._remove_older(tag, name)
        return name

    def _remove_older(self, tag: str, name: str) -> None:
        """Also the second name, the digest of its configuration, by which the kubelet's side knows each image."""
        digests = {row.split()[0]: row.split()[2] for row in self.ctr("images", "list").splitlines()[1:]}
        older = {each for each in digests if each.startswith(f"{tag}:") and each != name}
        kept = {digest for each, digest in digests.items() if each not in older and not each.startswith("sha256:")}
        older |= {each for each, digest in digests.items() if digest not in kept}
        if older:
            self.ctr("images", "remove", "--sync", *sorted(older))

    def _blobs(self) -> dict[str, int]:
        folder = self.root / "io.containerd.content.v1.content" / "blobs" / "sha256"
        return {f"sha256:{blob.name}": blob.stat().st_size for blob in folder.iterdir()} if folder.exists() else {}

    def _start(self) -> None:
        self.machine.start("containerd", "containerd", "--config", self.machine.folder / "containerd.toml")
        self.machine.processes.wait_until(self._answers, "containerd answers", READY_SECONDS)

    def _answers(self) -> bool:
        command = ["ctr", f"--address={self.socket}", "--connect-timeout=1s", "plugins", "list"]
        plugins = subprocess.run(command, check=False, capture_output=True, text=True)
        return any(line.split()[1::2] == ["cri", "ok"] for line in plugins.stdout.splitlines())

    def _forget_containers(self) -> bool:
        """Those of a machine that has ended: nothing of them runs any more."""
        old = self.ctr("containers", "list", "--quiet").split()
        if old:
            self.ctr("containers", "remove", *old)
        return bool(old)

    def _configuration(self) -> str:
        # restrict_oom_score_adj: where root lacks CAP_SYS_RESOURCE no container may be safer than containerd itself.
        return f"""
            version = 2
            root = "{self.root}"
            state = "{self.machine.folder / "containerd"}"
            [grpc]
            address = "{self.socket}"
            [plugins."io.containerd.internal.v1.opt"]
            path = "{self.machine.folder / "opt"}"
            [plugins."io.containerd.grpc.v1.cri"]
            sandbox_image = "{PAUSE}"
            restrict_oom_score_adj = true
            [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "{CNI_PLUGINS}"
            conf_dir = "{self.machine.folder / "cni"}"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
            runtime_type = "io.containerd.runc.v2"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            SystemdCgroup = false
        """

    def _network(self) -> dict[str, object]:
        """A link of its own for each pod: on a bridge, Service addresses would need the kernel's br_netfilter."""
        addresses = {
            "type": "host-local",
            "dataDir": str(self.machine.folder / "addresses"),
            "subnet": str(self.machine.pods),
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": addresses}]}
