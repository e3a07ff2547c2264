"""What a real node and a real browser take from the machine: system packages, which only `make cluster-deps` installs;
and for the node, root.

`python -m tests.cluster.packages` installs what is missing. Uses nothing but the standard library.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# By what is looked for, so that another package that brings the same (Docker's containerd) is left in place.
DEBIAN = {
    "/bin/busybox": "busybox-static",
    "/usr/bin/buildah": "buildah",
    "/usr/bin/containerd": "containerd",
    "/usr/bin/nsenter": "util-linux",
    "/usr/bin/openssl": "openssl",
    "/usr/bin/skopeo": "skopeo",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/usr/sbin/debootstrap": "debootstrap",
    "/usr/sbin/ip": "iproute2",
    "/usr/sbin/iptables": "iptables",
    "/usr/sbin/runc": "runc",
}
CHROMIUM, CHROMEDRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
BROWSER = {CHROMIUM: "chromium", CHROMEDRIVER: "chromium-driver"}


def missing() -> list[str]:
    """Names of packages that a node lacks."""
    return _missing_of(DEBIAN)


def why_no_node() -> str | None:
    """In one line; None where a node can be started."""
    if os.geteuid() != 0:
        return "a real node needs root, and `make cluster-deps` before"
    packages = missing()
    return f"a real node needs {', '.join(packages)}: run `make cluster-deps`" if packages else None


def why_no_browser() -> str | None:
    """In one line; None where the pages can be looked at."""
    packages = _missing_of(BROWSER)
    return f"a real browser needs {', '.join(packages)}: run `make cluster-deps`" if packages else None


def _missing_of(wanted: Mapping[str, str]) -> list[str]:
    return [package for path, package in wanted.items() if not Path(path).exists()]


def main() -> int:
    packages = [*missing(), *_missing_of(BROWSER)]
    if not packages:
        return 0
    if os.geteuid() != 0:
        print(f"run `make cluster-deps` as root: it installs {' '.join(packages)} with apt-get", file=sys.stderr)
        return 1
    subprocess.run(["apt-get", "update"], check=True)
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    subprocess.run(install, check=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
