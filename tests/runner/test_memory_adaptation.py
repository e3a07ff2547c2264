"""Clips on devices with too little room: forms that change on the way, allocations that fail, and nothing lost."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.builders import build_pool
from tests.runner.small_models import CONDITIONED, PICTURES, PLAIN, Workshop, build_denoiser, build_vae
from torch import Tensor, nn

from videogen_api.errors import OutOfMemory
from videogen_api.naming import Stage
from videogen_api.plan import FormBytes
from videogen_api.report import Progress, RunnerState
from videogen_runner.adaptation import Adaptation, AdaptiveClip, NoMemory, attempt
from videogen_runner.ladder import Form, Ladder, Needs, Work
from videogen_runner.memory import MemorySample
from videogen_runner.models.opensora.generation import ClipRequest, ClipState, Placement
from videogen_runner.progress import ProgressHolder

PLANNED = Form(guidance_batch=2, decode_batch_frames=4)
POOL = build_pool("local", 1).model_copy(
    update={"form_bytes": FormBytes(denoise={2: 200, 1: 100}, decode={4: 400, 3: 300, 2: 200, 1: 100})}
)
HELD = 1000
AMPLE = HELD + 10_000


class Machine:
    """The small models on a CPU whose room a test sets; `fail_above` makes allocations fail."""

    def __init__(self, room: int = AMPLE) -> None:
        self.room = room
        self.seconds = 0.0
        self.models = Workshop(build_denoiser(), build_vae())
        initial = Progress(stage=Stage.GENERATE, index=0, attempt=1, pod="p", device="cpu", state=RunnerState.STARTING)
        self.progress = ProgressHolder(initial, self._sample, lambda: self.seconds)
        self.adaptation = Adaptation(POOL, self.models.denoiser, self.models.vae, self.progress)

    def _sample(self, device: str) -> MemorySample:
        assert device == "cpu"
        return MemorySample(used=HELD, peak=HELD, free=self.room - HELD, total=AMPLE)

    def set_room(self, room: int) -> None:
        """From now on, and long enough for what was before to be forgotten."""
        self.room = room
        self.seconds += 3600

    def clip(self, request: ClipRequest) -> AdaptiveClip:
        return AdaptiveClip(self.models.build(request), self.adaptation)

    @contextmanager
    def failing(self, module: nn.Module, most_rows: int) -> Iterator[list[int]]:
        """The module has memory for so many rows at once; yields how many it was given, each time."""
        given: list[int] = []

        def check(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            given.append(len(arguments[0]))
            if given[-1] > most_rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        handle = module.register_forward_pre_hook(check)
        yield given
        handle.remove()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture(scope="module")
def expected() -> list[ClipState]:
    """Every state of the clip in the plan's form."""
    return Workshop(build_denoiser(), build_vae()).run(PLAIN)


def run(clip: AdaptiveClip) -> list[ClipState]:
    first = clip.start()
    return [first, *clip.states(first)]


def assert_close(states: list[ClipState], expected: list[ClipState]) -> None:
    assert [(s.loop, s.next_step) for s in states] == [(s.loop, s.next_step) for s in expected]
    for one, other in zip(states, expected, strict=True):
        torch.testing.assert_close(one.z_BCTHW, other.z_BCTHW, rtol=1e-4, atol=1e-4)


def test_with_ample_room_a_clip_is_the_generators_bit_for_bit(machine: Machine) -> None:
    plain = machine.models.build(CONDITIONED)
    first = plain.start(PICTURES)
    states = [first, *plain.states(first)]
    clip = machine.clip(CONDITIONED)
    adaptive = clip.start(PICTURES)
    all_states = [adaptive, *clip.states(adaptive)]
    assert all(torch.equal(a.z_BCTHW, b.z_BCTHW) for a, b in zip(all_states, states, strict=True))
    assert torch.equal(clip.frames(all_states[-1]), plain.frames(states[-1]))
    assert not clip.is_adapted
    assert not any(state.is_adapted for state in all_states)


def test_a_step_that_would_not_fit_runs_guidance_in_two_passes(machine: Machine, expected: list[ClipState]) -> None:
    machine.set_room(HELD + 199)
    with machine.failing(machine.models.denoiser, most_rows=1) as rows:
        states = run(machine.clip(PLAIN))
    assert rows == [1] * 2 * PLAIN.num_steps  # nothing was tried that fails
    assert_close(states, expected)
    assert [state.is_adapted for state in states] == [False] + [True] * PLAIN.num_steps
    assert machine.adaptation.form == Form(1, 4)
    progress = machine.progress.snapshot()
    assert (progress.guidance_batch, progress.decode_batch_frames, progress.host_blocks) == (1, 4, 0)


def test_a_step_that_fails_is_computed_again_from_the_one_before(
    machine: Machine, expected: list[ClipState], caplog: pytest.LogCaptureFixture
) -> None:
    clip = machine.clip(PLAIN)
    first = clip.start()
    steps = clip.states(first)
    states = [first, next(steps), next(steps)]
    with caplog.at_level(logging.WARNING), machine.failing(machine.models.denoiser, most_rows=1) as rows:
        states += steps
    assert rows == [2, *[1] * 2 * (PLAIN.num_steps - 2)]
    assert_close(states, expected)
    assert [state.is_adapted for state in states] == [False, False, False, True, True]
    assert caplog.messages == [
        (
            "memory: denoising goes on with guidance in a batch of 1, 4 frames decoded at once, 0 blocks on the host "
            "(CUDA out of memory. Tried to allocate 2.00 GiB.)"
        )
    ]


def test_decoding_that_would_not_fit_takes_fewer_frames_at_once(machine: Machine, expected: list[ClipState]) -> None:
    machine.set_room(HELD + 250)
    clip = machine.clip(PLAIN)
    with machine.failing(machine.models.vae.spatial_vae.module.decoder, most_rows=2) as rows:
        frames_CFHW = clip.frames(expected[-1])
    assert rows == [2] * (PLAIN.num_frames // 2)
    whole_CFHW = machine.models.build(PLAIN).frames(expected[-1])
    torch.testing.assert_close(frames_CFHW, whole_CFHW, rtol=1e-4, atol=1e-4)
    assert clip.is_adapted


def test_decoding_that_fails_is_done_again_with_fewer_frames_at_once(
    machine: Machine, expected: list[ClipState]
) -> None:
    clip = machine.clip(PLAIN)
    with machine.failing(machine.models.vae.spatial_vae.module.decoder, most_rows=1) as rows:
        frames_CFHW = clip.frames(expected[-1])
    assert rows[:3] == [4, 3, 2]
    assert rows[3:] == [1] * PLAIN.num_frames
    whole_CFHW = machine.models.build(PLAIN).frames(expected[-1])
    torch.testing.assert_close(frames_CFHW, whole_CFHW, rtol=1e-4, atol=1e-4)
    assert clip.is_adapted


def test_a_clip_of_several_loops_decodes_and_encodes_on_the_way_in_what_room_there_is(machine: Machine) -> None:
    plain = machine.models.run(CONDITIONED, PICTURES)
    machine.set_room(HELD + 200)
    clip = machine.clip(CONDITIONED)
    with (
        machine.failing(machine.models.vae.spatial_vae.module.decoder, most_rows=2),
        machine.failing(machine.models.vae.spatial_vae.module.encoder, most_rows=2),
    ):
        first = clip.start(PICTURES)
        states = [first, *clip.states(first)]
        frames_CFHW = clip.frames(states[-1])
    assert_close(states, plain)
    torch.testing.assert_close(frames_CFHW, machine.models.build(CONDITIONED).frames(plain[-1]), rtol=1e-3, atol=1e-3)
    assert machine.adaptation.form == Form(2, 2)


def test_at_the_end_of_the_ladder_the_steps_made_so_far_are_kept_and_the_remedy_is_named(
    machine: Machine, expected: list[ClipState]
) -> None:
    clip = machine.clip(PLAIN)
    first = clip.start()
    steps = clip.states(first)
    states = [first, next(steps)]
    with (
        machine.failing(machine.models.denoiser, most_rows=0),
        pytest.raises(OutOfMemory, match=r"denoising does not fit cpu in any form, .* name a card with more memory"),
    ):
        next(steps)
    # A larger machine goes on from there.
    larger = Machine()
    states += larger.clip(PLAIN).states(states[-1])
    assert all(torch.equal(a.z_BCTHW, b.z_BCTHW) for a, b in zip(states, expected, strict=True))


def test_blocks_for_which_there_is_no_memory_after_all_go_back_to_the_host(
    machine: Machine, expected: list[ClipState], monkeypatch: pytest.MonkeyPatch
) -> None:
    adaptation = machine.adaptation
    streaming, on_host = adaptation._streaming, Form(2, 4, 2)
    needs = Needs(fixed=HELD, block=1, host_block=1, num_blocks=streaming.num_blocks, denoise={2: 200}, decode={4: 400})
    adaptation._ladder = Ladder(planned=PLANNED, needs=needs, form=on_host)
    streaming.keep_on_host(2)
    bring_back, failed = streaming._bring_back, []

    def fail_once(index: int) -> None:
        if not failed:
            failed.append(index)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        bring_back(index)

    monkeypatch.setattr(streaming, "_bring_back", fail_once)
    states = run(machine.clip(PLAIN))

    assert len(failed) == 1
    assert (adaptation.form, streaming.host_blocks) == (on_host, 2)
    assert all(torch.equal(a.z_BCTHW, b.z_BCTHW) for a, b in zip(states, expected, strict=True))


def test_room_that_comes_back_gives_the_planned_form_back(machine: Machine) -> None:
    request = replace(PLAIN, num_steps=8)
    clip = machine.clip(request)
    forms = []
    for state in clip.states(clip.start()):
        forms.append(machine.adaptation.form.guidance_batch)
        if state.next_step in (1, 3):
            machine.set_room(HELD + 150 if state.next_step == 1 else AMPLE)
    assert forms == [2, 1, 1, 1, 1, 2, 2, 2]
    assert clip.is_adapted


def test_the_next_clip_begins_in_the_form_that_the_one_before_ended_in(
    machine: Machine, expected: list[ClipState]
) -> None:
    machine.set_room(HELD + 199)
    run(machine.clip(PLAIN))
    with machine.failing(machine.models.denoiser, most_rows=1):
        assert_close(run(machine.clip(PLAIN)), expected)


def test_a_clip_that_was_adapted_before_it_was_taken_over_stays_so(machine: Machine, expected: list[ClipState]) -> None:
    clip = machine.clip(PLAIN)
    states = [*clip.states(replace(expected[1], is_adapted=True))]
    assert [state.is_adapted for state in states] == [True] * 3
    assert clip.is_adapted
    other = machine.clip(PLAIN)
    other.frames(replace(expected[-1], is_adapted=True))
    assert other.is_adapted


def test_another_error_than_missing_memory_is_not_adapted_to(machine: Machine) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    machine.models.denoiser.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(machine.clip(PLAIN))
    assert machine.adaptation.form == PLANNED


def test_less_memory_than_the_plan_says_is_told_when_the_models_are_loaded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        Machine(room=HELD + 399)
    assert caplog.messages == [
        "cpu has room for 0.00 GiB, and the planned form needs 0.00 GiB: a smaller one will be taken"
    ]


def test_what_a_failed_piece_held_is_free_before_the_next_try() -> None:
    alive: list[Callable[[], object]] = []

    def piece() -> None:
        import weakref

        tensor = torch.zeros(8)
        alive.append(weakref.ref(tensor))
        raise MemoryError

    assert attempt(piece) == NoMemory("MemoryError")
    assert alive[0]() is None


# ---- A process that really has no more memory ----


def test_a_process_at_its_limit_decodes_with_fewer_frames_at_once() -> None:
    """RLIMIT_AS makes torch's allocator fail for real; the planner's form takes more than is left."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.runner.out_of_address_space"],
        cwd=Path(__file__).parents[2],
        env=os.environ
        # Large blocks of their own, so that what is given back does not stay in the heap.
        | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "equal within rounding, adapted"
    assert "frames decoded at once" in result.stderr


def test_placements_of_a_form_are_what_the_generator_is_given(machine: Machine) -> None:
    machine.set_room(HELD + 200)
    generator = machine.models.build(PLAIN)
    clip = AdaptiveClip(generator, machine.adaptation)
    [*clip.states(clip.start())]
    assert generator.placement == Placement(2, 4, 4)
    machine.adaptation.prepare(Work.DECODE)
    assert machine.adaptation.form == Form(2, 2)
