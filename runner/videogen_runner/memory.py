"""How much memory a process or its card holds, has held at most, and may still take. Torch is asked only about a card.

Peaks are the kernel's (VmHWM) and those of torch's allocator: no sampling can miss them.
"""

import os
import resource
import sys
from dataclasses import dataclass
from functools import cache
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

_NO_LIMIT = 2**63 - 1

# What torch's CPU allocator says in a plain RuntimeError.
_HOST_ALLOCATOR_FAILED = "DefaultCPUAllocator: "
# What CUDA and its libraries say where they take memory past torch's allocator: pinned on the host, or for themselves.
_CUDA_ALLOCATIONS_FAILED = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")

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
    limits = [(group.limit(), group.held()) for group in _own_groups()]
    used, peak = _resident()
    return MemorySample(
        used=used,
        peak=peak,
        free=max(0, min([_available(), *(limit - held for limit, held in limits)])),
        total=min([_physical(), *(limit for limit, _ in limits)]),
    )


def peak_memory(device: str) -> int:
    """`MemorySample.peak` alone."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_reserved(device)
    return _resident()[1]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a card or on the host."""
    if isinstance(error, MemoryError):
        return True
    # Whoever raises one of torch's errors has imported it.
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in (_HOST_ALLOCATOR_FAILED, *_CUDA_ALLOCATIONS_FAILED))
    )


@dataclass(frozen=True)
class ControlGroup:
    """A group with a memory limit, version 2 or 1; see https://docs.kernel.org/admin-guide/cgroup-v2.html."""

    folder: Path
    files: tuple[str, str, str]

    def limit(self) -> int:
        """Bytes; 2**63 or so where there is no limit."""
        text = (self.folder / self.files[0]).read_text().strip()
        return _NO_LIMIT if text == "max" else int(text)

    def held(self) -> int:
        """Bytes, without the file pages that the kernel gives up on demand."""
        _, use, reclaimable = self.files
        return max(0, int((self.folder / use).read_text()) - self._stat(reclaimable))

    def _stat(self, name: str) -> int:
        if not (self.folder / "memory.stat").is_file():
            return 0
        for line in (self.folder / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
        return 0


def limited_groups(root: Path, membership: str, physical: int) -> list[ControlGroup]:
    """This process's control group and those above it, as far as they allow less than the `physical` memory.

    `membership` is the content of /proc/self/cgroup: `0::/path` for version 2, `N:memory:/path` for version 1.
    """
    found: list[ControlGroup] = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / controllers
        group = base / path.lstrip("/")
        # Inside a container the path can be the host's: then only the root is there, and it is the container's own.
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                candidates = (ControlGroup(folder, files) for files in _CGROUP_FILES if _has(folder, files[:2]))
                found += (candidate for candidate in candidates if candidate.limit() < physical)
    return found


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_file() for name in names)


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


@cache
def _own_groups() -> list[ControlGroup]:
    # Once: files of control groups are slow to ask, and which groups have a limit does not change.
    if not _CGROUP_MEMBERSHIP.is_file():
        return []
    return limited_groups(_CGROUP_ROOT, _CGROUP_MEMBERSHIP.read_text(), _physical())


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _available() -> int:
    return _fields(_MEMINFO, "MemAvailable")[0] if _MEMINFO.is_file() else _physical() - _rusage_peak()


def _resident() -> tuple[int, int]:
    """Bytes now and at most."""
    # Not ru_maxrss: Linux keeps it across exec, so that a small process would report the size of its parent.
    if _STATUS.is_file():
        peak, now = _fields(_STATUS, "VmHWM", "VmRSS")
        return now, peak
    return _rusage_peak(), _rusage_peak()


def _fields(file: Path, *names: str) -> list[int]:
    """Bytes of lines such as `VmRSS: 1234 kB`."""
    values = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    return [int(values[name].split()[0]) * 1024 for name in names]


def _rusage_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
