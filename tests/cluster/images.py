"""Container images for the test cluster, built by buildah from the project's own Dockerfiles on a base by debootstrap.

`python -m tests.cluster.images` builds them. Needs root and the packages of `make cluster-deps`. buildah keeps every
layer in the user's cache, so that a change of the sources builds the last layer only.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.cluster import packages
from tests.cluster.binaries import NEEDS_GO, cache, locked
from tests.store import versitygw

REPOSITORY = Path(__file__).parents[2]
OPERATOR = "localhost/videogen-operator"
RUNNER = "localhost/videogen-runner"
STORE = "localhost/versitygw"
DOCKERFILES = {
    OPERATOR: REPOSITORY / "operator" / "Dockerfile",
    RUNNER: REPOSITORY / "runner" / "Dockerfile",
    STORE: REPOSITORY / "tests" / "cluster" / "store" / "Dockerfile",
}

# Both Dockerfiles copy them; `make builtin-weights` makes the same.
BUILTIN_WEIGHTS = REPOSITORY / "build" / "weights" / "open-sora-v1.2-tiny"

DEBIAN = "bookworm"
BASE_PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
# The number changes with what build_base() makes.
BASE = "localhost/videogen-base:1"
CERTIFICATES = Path("/etc/ssl/certs")
# What of this machine's pip configuration a package installer in the container needs to know.
INDEX_OPTIONS = {"index-url", "extra-index-url", "trusted-host", "timeout", "retries", "proxy"}


def build_base() -> str:
    """Stands for python:3.11-slim-bookworm, which no registry is asked for; two minutes once."""
    if not _exists(BASE):
        root = cache() / "debootstrap"
        # Of a build that was cut short: whatever wrote to it has ended, and so have its mounts.
        shutil.rmtree(root, ignore_errors=True)
        _run_private(
            *("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", DEBIAN, str(root), _mirror()),
            output=sys.stderr,
        )
        _shape_like_python_image(root)
        container = _buildah("from", "scratch").strip()
        _buildah("add", "--quiet", container, str(root), "/")
        _buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        _buildah("config", "--cmd", "python3", container)
        _buildah("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(root)
    return BASE


def build_image(dockerfile: Path, tag: str, context: Path = REPOSITORY, build_args: Mapping[str, str] = {}) -> str:
    """The image's id. Layers that exist are taken as they are, so that an unchanged image takes seconds."""
    arguments = [f"--build-arg={key}={value}" for key, value in build_args.items()]
    with _installer_configuration() as mounts:
        _buildah(
            "bud",
            "--layers",
            "--pull=never",
            "--isolation=chroot",
            "--network=host",
            f"--file={dockerfile}",
            f"--tag={tag}",
            *[f"--volume={host}:{container}" for host, container in mounts.items()],
            *arguments,
            str(context),
            output=sys.stderr,
        )
    return image_id(tag)


def build(tag: str) -> str:
    """One of DOCKERFILES, as the sources are now; returns the image's id."""
    context = REPOSITORY
    if tag == STORE:
        program = versitygw.build()
        if program is None:
            raise RuntimeError(NEEDS_GO)
        context = program.parent
    with locked(cache() / "images.lock"):
        if not BUILTIN_WEIGHTS.is_dir():
            make = ["weights", "random", "--preset", "tiny", "--out", str(BUILTIN_WEIGHTS)]
            subprocess.run([sys.executable, "-m", "videogen_operator.cli.main", *make], check=True, stdout=sys.stderr)
        base = build_base()
        older = image_id(tag) if _exists(tag) else None
        image = build_image(DOCKERFILES[tag], tag, context, build_args={"BASE": base})
        if older is not None and older != image:
            _forget(older)
        return image


def _forget(image: str) -> None:
    """Removes an image that has lost its tag, and the stages of builds before it; what newer ones share stays."""
    unnamed = ["--filter=dangling=true", f"--filter=before={image}"]
    # By force: a build that was cut short has left a container.
    _buildah("rmi", "--force", image, *_buildah("images", "--quiet", *unnamed).split())


def image_id(tag: str) -> str:
    return _buildah("inspect", "--type=image", "--format={{.FromImageID}}", tag).strip()


def export(image: str, name: str, present: Mapping[str, int], target: IO[bytes]) -> None:
    """Writes an OCI archive without the layers that its reader has.

    Args:
        image: Tag or id in buildah's store.
        name: What the reader shall call it, with tag.
        present: Bytes of each blob that the reader has, by digest ("sha256:..").
        target: Where the archive goes, from first to last byte.
    """
    with tempfile.TemporaryDirectory(prefix="layout-", dir=cache()) as folder:
        layout = Path(folder)
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        # A blob that is there is not written again. Only names and sizes are looked at, so holes in files will do.
        for digest, size in present.items():
            with (blobs / digest.removeprefix("sha256:")).open("wb") as file:
                file.truncate(size)
        # Not `buildah push`: it compresses every layer before it looks whether it is there.
        source = f"containers-storage:[overlay@{_store()}+{_store_run()}]{image}"
        _run_private(
            "skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, f"oci:{layout}:{name}"
        )
        with tarfile.open(fileobj=target, mode="w|") as tar:
            for path in sorted(layout.rglob("*")):
                if path.is_file() and f"sha256:{path.name}" not in present:
                    tar.add(path, path.relative_to(layout))


def _exists(name: str) -> bool:
    return (name if ":" in name else f"{name}:latest") in _buildah("images", "--format={{.Name}}:{{.Tag}}").split()


def _mirror() -> str:
    """The one that this machine installs from, where it is a Debian of that release."""
    targets = ["apt-get", "indextargets", "--format=$(REPO_URI)", "Created-By: Packages", f"Codename: {DEBIAN}"]
    found = subprocess.run(targets, check=True, capture_output=True, text=True).stdout.split()
    return found[0] if found else "http://deb.debian.org/debian"


def _shape_like_python_image(root: Path) -> None:
    """`python` and `pip` by those names, and free to install packages beside Debian's."""
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    (root / "usr/local/bin/python3").symlink_to("/usr/bin/python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


@contextmanager
def _installer_configuration() -> Iterator[dict[str, str]]:
    """Mounts that let pip and uv in a container reach the package index as this machine does; no layer keeps them."""
    with tempfile.TemporaryDirectory(prefix="installers-") as name:
        folder = Path(name)
        options = _pip_options()
        bundle = CERTIFICATES / "ca-certificates.crt"
        pip = [f"{key} = {value}" for key, value in options.items()]
        (folder / "pip.conf").write_text("\n".join(["[global]", f"cert = {bundle}", *pip]) + "\n")
        index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or options.get("index-url")
        uv = ["system-certs = true", *([f"index-url = {json.dumps(index)}"] if index else [])]
        (folder / "uv.toml").write_text("\n".join(uv) + "\n")
        yield {
            str(CERTIFICATES): f"{CERTIFICATES}:ro",
            str(folder / "pip.conf"): "/etc/pip.conf:ro",
            str(folder / "uv.toml"): "/etc/uv/uv.toml:ro",
        }


def _pip_options() -> dict[str, str]:
    """Of pip's configuration files and environment, the latter last, without what only means something here."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        option = key.rpartition(".")[2]
        if option in INDEX_OPTIONS:
            found[option] = value.strip("'\"")
    return found


def _store() -> Path:
    return cache() / "buildah"


def _store_run() -> Path:
    return cache() / "buildah-run"


def _buildah(*arguments: str, output: object = subprocess.PIPE) -> str:
    store = ("--root", str(_store()), "--runroot", str(_store_run()), "--storage-driver", "overlay")
    return _run_private("buildah", *store, *arguments, output=output)


def _run_private(*command: str, output: object = subprocess.PIPE) -> str:
    """With processes and mounts of its own: when it ends, or is cut short, or we are, nothing of it goes on or stays.

    debootstrap leaves /proc mounted where it is cut short, and buildah its layers; who tidied up would walk into them.
    """
    for folder in (_store(), _store_run()):
        folder.mkdir(parents=True, exist_ok=True)
    namespaces = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
    # The store's notes of what is mounted go with the mounts.
    notes = ["sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"', str(_store_run())]
    private = ["setpriv", "--pdeathsig", "KILL", *namespaces, *notes]
    done = subprocess.run([*private, *command], check=False, stdout=output, stderr=sys.stderr, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}")
    return done.stdout or ""


def main() -> int:
    reason = packages.why_no_node()
    if reason is not None:
        print(f"{reason}; its tests will be skipped", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    for tag in DOCKERFILES:
        print(tag, build(tag))
    return 0


if __name__ == "__main__":
    sys.exit(main())
