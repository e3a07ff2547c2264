"""Builds versitygw, a real S3 server, once into the user's cache: `python tests/store/versitygw.py` prints where it is.

Needs Go. Without Go the tests that use it are skipped, with the reason; where CI is set they fail instead.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

MODULE = "github.com/versity/versitygw/cmd/versitygw"
VERSION = "v1.8.0"


def build() -> Path | None:
    """The program, built if this version is not there yet (about two minutes); None without Go."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "videogen" / f"versitygw-{VERSION}"
    program = folder / "versitygw"
    if program.exists():
        return program
    if shutil.which("go") is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there, so that a build cut short is never taken for the program.
    staging = folder / f"build-{os.getpid()}"
    subprocess.run(["go", "install", f"{MODULE}@{VERSION}"], check=True, env=os.environ | {"GOBIN": str(staging)})
    (staging / "versitygw").replace(program)
    staging.rmdir()
    return program


def main() -> int:
    program = build()
    if program is None:
        print("versitygw needs Go (https://go.dev/dl): its tests will be skipped", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    print(program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
