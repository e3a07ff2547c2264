"""How much memory a process or its card holds, and has held at most. Torch is asked only about a card.

Nothing samples in the background: the kernel (VmHWM) and torch's allocator keep the peaks themselves.
"""

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")
_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes held now, and how many there are."""

    used: int
    total: int


def memory_usage(device: str) -> MemoryUsage:
    """Of the host for `cpu` (resident set, limit of the container), of the card for `cuda...`."""
    if device.startswith("cuda"):
        import torch

        return MemoryUsage(
            used=torch.cuda.memory_reserved(device), total=torch.cuda.get_device_properties(device).total_memory
        )
    return MemoryUsage(used=_resident(), total=_host_total())


def peak_memory(device: str) -> int:
    """Bytes held at most since the process began, its imports included; on a card, since torch's last reset."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_reserved(device)
    return _resident_peak()


def cgroup_limit(root: Path, membership: str) -> int | None:
    """The smallest memory limit from this process's control group up to the root, or None where there is none.

    `membership` is the content of /proc/self/cgroup: `0::/path` for version 2, `N:memory:/path` for version 1; see
    https://docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    limits: list[int] = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / controllers
        group = base / path.lstrip("/")
        # Inside a container the path can be the host's: then only the root is there, and it is the container's own.
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                limits += _limits_in(folder)
    return min(limits, default=None)


def _limits_in(folder: Path) -> list[int]:
    texts = [(folder / name).read_text().strip() for name in _LIMIT_FILES if (folder / name).is_file()]
    return [int(text) for text in texts if text != "max"]


def _host_total() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not _CGROUP_MEMBERSHIP.is_file():
        return physical
    limit = cgroup_limit(_CGROUP_ROOT, _CGROUP_MEMBERSHIP.read_text())
    return physical if limit is None else min(limit, physical)


def _resident() -> int:
    return _status_bytes("VmRSS") if _STATUS.is_file() else _rusage_peak()


def _resident_peak() -> int:
    # Not ru_maxrss: Linux keeps it across exec, so that a small process would report the size of its parent.
    return _status_bytes("VmHWM") if _STATUS.is_file() else _rusage_peak()


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{_STATUS} has no {field}")


def _rusage_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
