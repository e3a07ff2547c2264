"""How much memory a process or its card holds, has held at most, and may still take. Torch is asked only about a card.

Peaks are the kernel's (VmHWM) and those of torch's allocator: no sampling can miss them.
"""

import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")

# Names of a control group's files in version 2 and 1: limit, use, and the line of memory.stat that counts file pages
# which the kernel gives up before it kills anyone.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)

# What torch's CPU allocator says in a plain RuntimeError.
_HOST_ALLOCATOR_FAILED = "DefaultCPUAllocator: "

# While another thread allocates, the two numbers of a card may be from before and after it.
_LOOKS = 3


@dataclass(frozen=True)
class MemorySample:
    """One look at the memory of a device, in bytes."""

    used: int
    """Held by this process."""
    peak: int
    """Held by this process at most: since it began, its imports included; on a card, since torch's last reset."""
    free: int
    """What this process may still take: nobody holds it, and no limit of the process or its container forbids it."""
    total: int
    """Of the card; of the host or container."""

    @property
    def room(self) -> int:
        """What this process may hold altogether."""
        return self.used + self.free


def sample_memory(device: str) -> MemorySample:
    """Of the host for `cpu` (resident set, limits of the container), of the card for `cuda...`."""
    return _sample_card(device) if device.startswith("cuda") else sample_host()


def sample_host() -> MemorySample:
    """Resident set of this process, and what the machine and its control groups leave it."""
    limits = _own_cgroup_limits()
    return MemorySample(
        used=_resident(),
        peak=_resident_peak(),
        free=max(0, min([_available(), *(limit - held for limit, held in limits)])),
        total=min([_physical(), *(limit for limit, _ in limits)]),
    )


def peak_memory(device: str) -> int:
    """`MemorySample.peak` alone."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_reserved(device)
    return _resident_peak()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a card or on the host."""
    if isinstance(error, MemoryError):
        return True
    # Whoever raises one of torch's errors has imported it.
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _HOST_ALLOCATOR_FAILED in str(error)
    )


def cgroup_limits(root: Path, membership: str) -> list[tuple[int, int]]:
    """Limit and use of each control group with a memory limit, from this process's own up to the root.

    Use is without the file pages that the kernel gives up on demand. `membership` is the content of /proc/self/cgroup:
    `0::/path` for version 2, `N:memory:/path` for version 1; see
    https://docs.kernel.org/admin-guide/cgroup-v2.html.
    """
    found: list[tuple[int, int]] = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / controllers
        group = base / path.lstrip("/")
        # Inside a container the path can be the host's: then only the root is there, and it is the container's own.
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                found += _limits_in(folder)
    return found


def _limits_in(folder: Path) -> Iterator[tuple[int, int]]:
    for limit_name, use_name, reclaimable in _CGROUP_FILES:
        if not (folder / limit_name).is_file() or not (folder / use_name).is_file():
            continue
        limit = (folder / limit_name).read_text().strip()
        if limit != "max":
            use = int((folder / use_name).read_text())
            yield int(limit), max(0, use - _stat_of(folder, reclaimable))


def _stat_of(folder: Path, name: str) -> int:
    if not (folder / "memory.stat").is_file():
        return 0
    for line in (folder / "memory.stat").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _sample_card(device: str) -> MemorySample:
    import torch

    allowed = torch.cuda.get_per_process_memory_fraction(device)
    for _ in range(_LOOKS):
        used = torch.cuda.memory_reserved(device)
        free, total = torch.cuda.mem_get_info(device)
        if torch.cuda.memory_reserved(device) == used:
            break
    return MemorySample(
        used=used,
        peak=torch.cuda.max_memory_reserved(device),
        free=max(0, min(free, int(total * allowed) - used)),
        total=total,
    )


def _own_cgroup_limits() -> list[tuple[int, int]]:
    if not _CGROUP_MEMBERSHIP.is_file():
        return []
    return cgroup_limits(_CGROUP_ROOT, _CGROUP_MEMBERSHIP.read_text())


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _available() -> int:
    return _field_bytes(_MEMINFO, "MemAvailable") if _MEMINFO.is_file() else _physical() - _rusage_peak()


def _resident() -> int:
    return _field_bytes(_STATUS, "VmRSS") if _STATUS.is_file() else _rusage_peak()


def _resident_peak() -> int:
    # Not ru_maxrss: Linux keeps it across exec, so that a small process would report the size of its parent.
    return _field_bytes(_STATUS, "VmHWM") if _STATUS.is_file() else _rusage_peak()


def _field_bytes(file: Path, field: str) -> int:
    for line in file.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{file} has no {field}")


def _rusage_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
