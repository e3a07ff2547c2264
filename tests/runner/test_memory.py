"""What is held, by process and device; one watcher for all who ask."""

import os
import threading
from pathlib import Path

import pytest
import torch

from videogen_runner.memory import (
    ControlGroup,
    MemorySample,
    is_out_of_memory,
    limited_groups,
    peak_memory,
    sample_host,
    sample_memory,
)
from videogen_runner.monitor import MemoryMonitor, watch_memory

MIB = 2**20


def test_memory_is_what_the_kernel_says() -> None:
    before = sample_memory("cpu")
    ballast = bytearray(os.urandom(MIB) * 64)
    during = sample_memory("cpu")
    assert len(ballast) <= during.used - before.used + 8 * MIB
    assert before.used + len(ballast) - 8 * MIB <= during.peak <= peak_memory("cpu")
    assert during.total == before.total
    assert 0 < during.free < during.total


@pytest.mark.parametrize(
    ("files", "membership", "limits"),
    [
        ({}, "0::/\n", []),
        ({"memory.max": "max", "memory.current": "5"}, "0::/\n", []),
        ({"memory.max": "1000", "memory.current": "600"}, "0::/\n", [(1000, 600)]),
        (
            {
                "pod/memory.max": "500", "pod/memory.current": "400", "pod/memory.stat": "anon 100\ninactive_file 250",
                "pod/app/memory.max": "max", "pod/app/memory.current": "300",
                "memory.max": "1000", "memory.current": "900",
            },
            "0::/pod/app\n",
            [(500, 150), (1000, 900)],
        ),
        ({"memory.max": str(2**63 - 4096), "memory.current": "7"}, "0::/\n", []),
        ({"other/memory.max": "1", "other/memory.current": "1"}, "0::/pod\n", []),
        ({"memory.max": "1000", "memory.current": "7"}, "0::/../../elsewhere\n", [(1000, 7)]),
        (
            {
                "memory/pod/memory.limit_in_bytes": "700", "memory/pod/memory.usage_in_bytes": "600",
                "memory/pod/memory.stat": "inactive_file 1\ntotal_inactive_file 50",
            },
            "9:cpu,cpuacct:/pod\n4:memory:/pod\n0::/\n",
            [(700, 550)],
        ),
    ],
)  # fmt: skip
def test_limits_of_control_groups_count_up_to_the_root_without_pages_that_can_be_given_up(
    tmp_path: Path, files: dict[str, str], membership: str, limits: list[tuple[int, int]]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    groups = limited_groups(tmp_path, membership, physical=10_000)
    assert [(group.limit(), group.held()) for group in groups] == limits


def test_the_container_bounds_what_a_process_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (limit, held) in {"a": (10 * MIB, 4 * MIB), "b": (9 * MIB, 8 * MIB)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.max").write_text(str(limit))
        (tmp_path / name / "memory.current").write_text(str(held))
    groups = [ControlGroup(tmp_path / name, ("memory.max", "memory.current", "inactive_file")) for name in ("a", "b")]
    monkeypatch.setattr("videogen_runner.memory._own_groups", lambda: groups)
    sample = sample_host()
    assert (sample.free, sample.total) == (1 * MIB, 9 * MIB)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shape mismatch"), False),
        (OSError("out of memory"), False),
    ],
)
def test_a_failed_allocation_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


class Card:
    """A device with numbers that a test sets, and a clock."""

    def __init__(self) -> None:
        self.used, self.free, self.seconds, self.looks = 10, 90, 0.0, 0
        self.name = "cuda:0"

    def sample(self, device: str) -> MemorySample:
        assert device == self.name
        self.looks += 1
        return MemorySample(used=self.used, peak=self.used, free=self.free, total=100)

    def monitor(self, window_seconds: float = 30.0) -> MemoryMonitor:
        return MemoryMonitor(self.sample, lambda: self.name, lambda: self.seconds, window_seconds)


def test_room_is_the_least_of_the_last_half_minute() -> None:
    card = Card()
    monitor = card.monitor()
    rooms = []
    # A neighbour takes 40 of the card from second 10 to second 19.
    for second in range(0, 60, 10):
        card.seconds = float(second)
        card.free = 50 if second == 10 else 90
        rooms.append(monitor.room())
    assert rooms == [100, 60, 60, 60, 60, 100]


def test_what_the_process_takes_itself_leaves_the_room_as_it_is() -> None:
    card = Card()
    monitor = card.monitor()
    assert monitor.room() == 100
    card.used, card.free = 95, 5
    assert monitor.room() == 100


def test_a_look_that_is_recent_enough_is_not_repeated() -> None:
    card = Card()
    monitor = card.monitor()
    looks = []
    for seconds in (0.0, 0.2, 0.3, 0.54, 0.56):
        card.seconds = seconds
        monitor.room(at_most_seconds_ago=0.25)
        looks.append(card.looks)
    assert looks == [1, 1, 2, 2, 3]


def test_many_who_ask_cost_one_look() -> None:
    card = Card()
    monitor = card.monitor()
    assert [monitor.last() for _ in range(50)] == [MemorySample(used=10, peak=10, free=90, total=100)] * 50
    assert card.looks == 1


def test_looks_at_another_device_are_forgotten_when_the_process_moves_to_its_own() -> None:
    card = Card()
    monitor = card.monitor()
    card.free = 0
    monitor.look()
    card.name, card.free = "cuda:1", 90
    assert monitor.last().free == 90
    assert monitor.room() == 100


def test_the_watcher_looks_until_its_block_ends() -> None:
    card = Card()
    seen = threading.Semaphore(0)

    def probe(device: str) -> MemorySample:
        seen.release()
        return card.sample(device)

    monitor = MemoryMonitor(probe, lambda: card.name, lambda: card.seconds)
    with watch_memory(monitor, interval_seconds=0.001):
        assert all(seen.acquire(timeout=30) for _ in range(3))
    assert "memory" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def broken() -> MemoryMonitor:
    def probe(device: str) -> MemorySample:
        raise RuntimeError(f"{device}: unspecified launch failure")

    return MemoryMonitor(probe, lambda: "cuda:0", lambda: 0.0)


def test_a_device_that_cannot_be_asked_is_named_once_and_left_alone(
    broken: MemoryMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    broken.run(threading.Event(), interval_seconds=0.0)
    assert caplog.messages == ["the memory of cuda:0 can no longer be watched: cuda:0: unspecified launch failure"]
