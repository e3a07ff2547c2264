"""Builds the cluster's programs from their Go modules, once, into the user's cache.

`python -m tests.cluster.binaries` builds what is missing and prints where it is: minutes when cold, no time when
nothing changed. Needs Go; without it every function returns None and the tests that use a cluster are skipped.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MODULES = Path(__file__).parent / "go"
KUBERNETES = "v1.36.3"
HELM = "v4.3.1"
NEEDS_GO = "the test cluster's programs need Go: https://go.dev/dl"


def cache() -> Path:
    """Where everything of the test cluster is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "videogen" / "cluster"


def kube() -> Path | None:
    """API server, controller manager, scheduler, kubelet, kube-proxy, kubectl and etcd in one program, by argument."""
    # Without a version in it the API server calls itself v0.0.0, which charts and clients then compare with theirs.
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    stamps = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    variables = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamps.items()]
    return _module("kube", ["-trimpath", "-ldflags", " ".join(["-s -w", *variables])])


def coredns() -> Path | None:
    return _module("coredns", ["-trimpath", "-ldflags", "-s -w"])


def helm() -> Path | None:
    program = cache() / f"helm-{HELM}" / "helm"
    return _built(program, ["go", "install", f"helm.sh/helm/v4/cmd/helm@{HELM}"])


def _module(name: str, flags: Sequence[str]) -> Path | None:
    """The program of one folder below `go/`, kept under the hash of what it is built from."""
    sources = sorted(path for path in (MODULES / name).rglob("*") if path.suffix in {".go", ".mod", ".sum"})
    content = hashlib.sha256("\0".join(flags).encode())
    for path in sources:
        content.update(path.read_bytes())
    program = cache() / f"{name}-{content.hexdigest()[:16]}" / name
    return _built(program, ["go", "-C", str(MODULES / name), "install", *flags, "."])


def _built(program: Path, command: Sequence[str]) -> Path | None:
    if program.exists():
        return program
    if shutil.which("go") is None:
        return None
    program.parent.mkdir(parents=True, exist_ok=True)
    with locked(program.parent / "lock"):
        if not program.exists():
            # Built beside its place and moved there, so that a build cut short is never taken for the program.
            staging = program.parent / "build"
            subprocess.run(command, check=True, env=os.environ | {"GOBIN": str(staging)})
            (staging / program.name).replace(program)
            staging.rmdir()
    return program


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock ends with its holder, however that ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that holds {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    for program in (kube(), coredns(), helm()):
        if program is None:
            print(f"{NEEDS_GO}; its tests will be skipped", file=sys.stderr)
            return 1 if os.environ.get("CI") else 0
        print(program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
