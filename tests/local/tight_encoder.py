"""A runner process on a machine where the whole encoder does not fit: run in place of `videogen_runner.main`."""

import resource
import runpy
from pathlib import Path
from typing import Any

from videogen_runner.roles import encode

# What is left to the process, and what an encoder in one piece takes here beyond its real weights.
ROOM_BYTES, WHOLE_BYTES = 64 * 2**20, 512 * 2**20


def address_space() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    load_encoder = encode.load_encoder

    def load(*arguments: Any, **options: Any) -> Any:
        import torch

        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + ROOM_BYTES, limits[1]))
        try:
            torch.empty(WHOLE_BYTES, dtype=torch.uint8)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        return load_encoder(*arguments, **options)

    encode.load_encoder = load  # only one shard of one loads like this
    runpy.run_module("videogen_runner.main", run_name="__main__")


if __name__ == "__main__":
    main()
