import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videogen_api import keys
from videogen_api.records import StoredFile
from videogen_runner.checkpoint import CheckpointInterval, Checkpoints
from videogen_runner.models.opensora.generation import ClipState
from videogen_runner.store import DirectoryStore, Store

CLIP = "c" * 64


def build_state(loop: int, next_step: int, value: float = 1.0) -> ClipState:
    """A state whose tensors all differ, in loop 1 with a piece before it."""
    z_BCTHW = torch.arange(24.0).reshape(1, 4, 3, 2, 1) * value + next_step
    picture_CTHW = torch.full((4, 1, 2, 1), 0.25)
    return ClipState(
        loop=loop,
        next_step=next_step,
        z_BCTHW=z_BCTHW,
        mask_BT=torch.tensor([[0.0, 0.5, 1.0]]),
        references=(picture_CTHW, *[picture_CTHW + 1] * loop),
        finished=(z_BCTHW[0] - 3,) * loop,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return DirectoryStore(tmp_path)


@pytest.fixture
def checkpoints(store: Store) -> Checkpoints:
    return Checkpoints(store, CLIP, 1)


def assert_same_state(one: ClipState | None, other: ClipState) -> None:
    assert one is not None
    assert (one.loop, one.next_step) == (other.loop, other.next_step)
    assert torch.equal(one.z_BCTHW, other.z_BCTHW)
    assert torch.equal(one.mask_BT, other.mask_BT)
    for tensors, others in ((one.references, other.references), (one.finished, other.finished)):
        assert [tensor.tolist() for tensor in tensors] == [tensor.tolist() for tensor in others]


def damage(store: Store, file: StoredFile) -> None:
    """Flips the last bit of the object."""
    body = bytearray(store.get(file.key).body)
    body[-1] ^= 1
    store.put(file.key, bytes(body))


def test_a_clip_without_checkpoints_has_no_furthest_one(checkpoints: Checkpoints) -> None:
    assert checkpoints.furthest() is None


@pytest.mark.parametrize("loop", [0, 1])
def test_a_state_comes_back_as_it_was_saved(checkpoints: Checkpoints, loop: int) -> None:
    state = build_state(loop, 3)
    checkpoints.save(state, epoch=1)
    assert_same_state(checkpoints.furthest(), state)


def test_more_than_ten_references_come_back_in_their_order(checkpoints: Checkpoints) -> None:
    references = tuple(torch.full((4, 1, 2, 1), float(number)) for number in range(12))
    state = replace(build_state(0, 1), references=references)
    checkpoints.save(state, epoch=1)
    assert_same_state(checkpoints.furthest(), state)


def test_the_key_names_epoch_loop_step_and_digest(store: Store, checkpoints: Checkpoints) -> None:
    file = checkpoints.save(build_state(1, 3), epoch=7)
    assert file.key == f"clips/{CLIP}/latents/7-1-3-{file.sha256}.safetensors"
    assert len(store.get(file.key, file.sha256).body) == file.bytes


def test_equal_states_give_equal_objects_whatever_the_epoch(checkpoints: Checkpoints) -> None:
    one, other = (checkpoints.save(build_state(1, 3), epoch=epoch) for epoch in (1, 2))
    assert (one.bytes, one.sha256) == (other.bytes, other.sha256)


def test_the_furthest_is_the_last_loop_and_then_the_last_step_whoever_wrote_it(checkpoints: Checkpoints) -> None:
    for loop, step, epoch in ((0, 9, 5), (1, 10, 1), (1, 9, 4)):
        checkpoints.save(build_state(loop, step), epoch)
    assert_same_state(checkpoints.furthest(), build_state(1, 10))


def test_a_runner_keeps_its_last_two_and_removes_nobody_elses(store: Store, checkpoints: Checkpoints) -> None:
    other = Checkpoints(store, CLIP, 1).save(build_state(0, 1), epoch=1)
    files = [checkpoints.save(build_state(0, step), epoch=2) for step in range(2, 6)]
    kept = [entry.key for entry in store.list(keys.checkpoint_prefix(CLIP))]
    assert sorted(kept) == sorted([other.key, files[-2].key, files[-1].key])


def test_a_damaged_checkpoint_is_passed_over_with_a_line_in_the_log(
    store: Store, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(build_state(0, 2), epoch=1)
    damaged = checkpoints.save(build_state(0, 5), epoch=1)
    damage(store, damaged)
    with caplog.at_level(logging.WARNING):
        assert_same_state(checkpoints.furthest(), build_state(0, 2))
    [line] = caplog.messages
    assert damaged.key in line
    assert damaged.sha256 in line


def test_a_checkpoint_that_was_cut_short_is_passed_over(store: Store, checkpoints: Checkpoints) -> None:
    file = checkpoints.save(build_state(0, 5), epoch=1)
    store.put(file.key, store.get(file.key).body[:-7])
    assert checkpoints.furthest() is None


@pytest.mark.parametrize("other", [("d" * 64, 1), (CLIP, 2)])
def test_a_checkpoint_of_another_clip_or_numerics_version_is_passed_over(store: Store, other: tuple[str, int]) -> None:
    file = Checkpoints(store, CLIP, 1).save(build_state(0, 5), epoch=1)
    clip, numerics = other
    key = file.key.replace(CLIP, clip)
    store.put(key, store.get(file.key).body)
    assert Checkpoints(store, clip, numerics).furthest() is None


def test_an_object_of_another_name_among_the_checkpoints_is_passed_over(
    store: Store, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(build_state(0, 2), epoch=1)
    store.put(f"{keys.checkpoint_prefix(CLIP)}notes.txt", b"mine")
    with caplog.at_level(logging.WARNING):
        assert_same_state(checkpoints.furthest(), build_state(0, 2))
    assert "notes.txt is no checkpoint's key" in caplog.text


def test_the_first_checkpoint_is_due_after_a_second_of_work() -> None:
    interval = CheckpointInterval(now=10.0)
    assert not interval.is_due(10.9)
    assert interval.is_due(11.0)


@pytest.mark.parametrize(("write_seconds", "pause"), [(0.001, 1.0), (0.5, 50.0), (3.0, 300.0)])
def test_a_write_is_followed_by_a_hundred_times_its_duration_of_work(write_seconds: float, pause: float) -> None:
    interval = CheckpointInterval(now=0.0)
    ended = 100.0 + write_seconds
    interval.written(100.0, ended)
    assert not interval.is_due(ended + pause - 0.01)
    assert interval.is_due(ended + pause + 0.01)


def test_the_next_clip_knows_what_a_write_costs() -> None:
    interval = CheckpointInterval(now=0.0)
    interval.written(10.0, 11.0)
    interval.begin(12.0)
    assert not interval.is_due(110.9)
    assert interval.is_due(111.0)
    interval.begin(200.0)
    assert not interval.is_due(200.9)
    assert interval.is_due(201.0)


class SlowStore(DirectoryStore):
    """Each put takes some time of the test's clock."""

    def __init__(self, root: Path, put_seconds: float) -> None:
        super().__init__(root)
        self.now = 0.0
        self._put_seconds = put_seconds

    def put(self, key: str, body: bytes) -> None:
        self.now += self._put_seconds
        super().put(key, body)


@pytest.mark.parametrize("put_seconds", [0.001, 0.03, 0.5, 4.0])
@pytest.mark.parametrize("step_seconds", [0.2, 3.0, 45.0])
def test_checkpoints_cost_less_than_a_hundredth_of_the_time_however_slow_the_store_is(
    tmp_path: Path, put_seconds: float, step_seconds: float
) -> None:
    store = SlowStore(tmp_path, put_seconds)
    interval, worked, num_written = CheckpointInterval(store.now), 0.0, 0
    while worked < max(8.0, 800 * put_seconds, 25 * step_seconds):
        checkpoints = Checkpoints(store, CLIP, 1)
        interval.begin(store.now)
        for step in range(30):
            store.now += step_seconds
            worked += step_seconds
            if interval.is_due(store.now):
                started = store.now
                checkpoints.save(build_state(0, step), epoch=1)
                interval.written(started, store.now)
                num_written += 1
    assert num_written > 1
    # The first write is the only one whose cost nobody could know.
    assert (num_written - 1) * put_seconds < 0.01 * worked


def test_one_write_into_a_store_in_trouble_puts_no_hours_of_work_at_stake() -> None:
    interval = CheckpointInterval(now=0.0)
    interval.written(started=10.0, ended=70.0)
    assert not interval.is_due(70.0 + 599.0)
    assert interval.is_due(70.0 + 600.0)
