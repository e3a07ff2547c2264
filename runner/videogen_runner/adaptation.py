"""A clip that is made in whatever form its device has room for: ladder.py decides, this carries it out.

Before each piece of work the room is measured and the form chosen; where an allocation fails all the same, the piece is
computed again in a smaller form, from the last completed step. Everything here runs on the thread that computes.

Shape suffixes: C channels, F frames, H W rows and columns.
"""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from videogen_api.errors import OutOfMemory
from videogen_api.plan import PlannedPool
from videogen_runner.engine.streaming import BlockStreaming
from videogen_runner.ladder import Form, Ladder, Needs, Room, Work
from videogen_runner.memory import is_out_of_memory, sample_host
from videogen_runner.models.opensora.generation import ClipGenerator, ClipState, Placement
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.vae import VideoAutoencoder
from videogen_runner.progress import ProgressHolder

log = logging.getLogger("videogen")

T = TypeVar("T")

_GIB = 2**30

# What the caching allocator cannot use because no free block has the right size; the planner counts with as much.
_FRAGMENTATION_PERCENT = 4

# Steps of a tiny model take milliseconds, and looking at a container's memory can take as long.
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class NoMemory:
    """A piece of work that broke off because an allocation failed, and what the allocator said."""

    why: str


def attempt(piece: Callable[[], T]) -> T | NoMemory:
    """What the piece returns. Its tensors are gone where it fails: nothing holds the frames of the error any more."""
    try:
        return piece()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return NoMemory(str(error).partition("\n")[0] or type(error).__name__)


class Adaptation:
    """Where the models of a process stand on the memory ladder; one for all clips that they make."""

    def __init__(self, pool: PlannedPool, denoiser: STDiT3, vae: VideoAutoencoder, progress: ProgressHolder) -> None:
        """At the top: the plan's form, all weights on the device.

        Says in the log where the device has less room than that takes.
        """
        self._progress = progress
        self._streaming = BlockStreaming(denoiser)
        self._on_card = denoiser.device.type == "cuda"
        needs = self._needs(pool, denoiser, vae)
        self._ladder = Ladder.of_plan(Form(pool.guidance_batch, pool.decode_batch_frames), needs)
        self._tell()
        room, most = self._room(0.0).device, max(needs.of(work, self.form) for work in Work)
        if most > room:
            log.warning(
                "%s has room for %.2f GiB, and the planned form needs %.2f GiB: a smaller one will be taken",
                denoiser.device, room / _GIB, most / _GIB,
            )  # fmt: skip

    @property
    def form(self) -> Form:
        """What is computed in now."""
        return self._ladder.form

    def is_adapted(self, work: Work) -> bool:
        """Whether this kind of work is done in another form than the plan's; where weights are does not count."""
        return self._ladder.is_adapted(work)

    def prepare(self, work: Work) -> None:
        """Takes the form in which the work fits. Raises OutOfMemory where not even its weights can be moved."""
        self._follow(self._ladder.before(work, self._room(_LOOK_SECONDS)), work, "by prediction")

    def step_down(self, work: Work, why: str) -> None:
        """Takes a smaller form after the work has failed. Raises OutOfMemory at the ladder's end."""
        room = self._room_left()
        below = self._ladder.after_failure(work, room)
        if below is None:
            raise OutOfMemory(
                f"{work} does not fit {self._progress.snapshot().device} in any form, with room for "
                f"{room.device / _GIB:.2f} GiB ({why}); name a card with more memory in spec.runners, or lower "
                "spec.video.resolution or frames"
            )
        self._follow(below, work, why)

    def _follow(self, ladder: Ladder, work: Work, why: str) -> None:
        before, self._ladder = self.form, ladder
        if self.form != before:
            log.warning(
                "memory: %s goes on with guidance in a batch of %d, %d frames decoded at once, "
                "%d blocks on the host (%s)",
                work, self.form.guidance_batch, self.form.decode_batch_frames, self.form.host_blocks, why,
            )  # fmt: skip
            self._tell()
        # Also where the form is as before: the last one may have failed half-way.
        moved = attempt(partial(self._streaming.keep_on_host, self.form.host_blocks))
        if not isinstance(moved, NoMemory):
            return
        if self.form.host_blocks < before.host_blocks:
            self._follow(self._ladder.back_to(before, work, self._room_left()), work, moved.why)
        else:
            self.step_down(work, moved.why)

    def _room_left(self) -> Room:
        """After a failure, without what nobody uses any more."""
        gc.collect()
        if self._on_card:
            torch.cuda.empty_cache()
        return self._room(0.0)

    def _tell(self) -> None:
        self._progress.update(
            guidance_batch=self.form.guidance_batch,
            decode_batch_frames=self.form.decode_batch_frames,
            host_blocks=self.form.host_blocks,
        )

    def _room(self, at_most_seconds_ago: float) -> Room:
        room = self._progress.memory.room(at_most_seconds_ago)
        if not self._on_card:
            return Room(device=room, host=0)
        return Room(device=room - room * _FRAGMENTATION_PERCENT // 100, host=sample_host().free)

    def _needs(self, pool: PlannedPool, denoiser: STDiT3, vae: VideoAutoencoder) -> Needs:
        forms, streaming = pool.form_bytes, self._streaming
        if not self._on_card:
            # The resident set has the imports too; and the host is no other place to put a block in.
            fixed = self._progress.memory.look().used
            return Needs(fixed=fixed, block=0, host_block=0, num_blocks=0, denoise=forms.denoise, decode=forms.decode)
        movable = streaming.num_blocks * streaming.block_bytes
        return Needs(
            fixed=max(0, weight_bytes(denoiser) + weight_bytes(vae) - movable),
            block=streaming.block_bytes,
            host_block=streaming.host_block_bytes,
            num_blocks=streaming.num_blocks,
            denoise=forms.denoise,
            decode=forms.decode,
        )


def weight_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class AdaptiveClip:
    """One clip of a `ClipGenerator`, made by the same methods; all raise OutOfMemory at the ladder's end.

    `is_adapted` says whether any of it was computed in another form than the plan's.
    """

    def __init__(self, generator: ClipGenerator, adaptation: Adaptation) -> None:
        self.is_adapted = False
        self._generator = generator
        self._adaptation = adaptation

    def start(self, references_CFHW: Sequence[Tensor] = ()) -> ClipState:
        """The state before the first step."""
        if not references_CFHW:
            return self._generator.start()
        return self._marked(self._compute(Work.DECODE, lambda: self._generator.start(references_CFHW)))

    def states(self, state: ClipState) -> Iterator[ClipState]:
        """The states after this one; a step that fails is computed again, from the state before it."""
        self.is_adapted |= state.is_adapted
        steps: Iterator[ClipState] | None = None
        form = None
        while (work := self._next_work(state)) is not None:
            self._adaptation.prepare(work)
            if steps is None or form != self._adaptation.form:
                steps = None  # what was prepared for the other form goes first
                self._place()
                steps, form = self._generator.states(state), self._adaptation.form
            following = attempt(partial(next, steps))
            if isinstance(following, NoMemory):
                steps = None
                self._adaptation.step_down(work, following.why)
                continue
            self.is_adapted |= self._adaptation.is_adapted(work)
            state = self._marked(following)
            yield state

    def frames(self, state: ClipState) -> Tensor:
        """The decoded clip, x_CFHW."""
        self.is_adapted |= state.is_adapted
        return self._compute(Work.DECODE, lambda: self._generator.frames(state))

    def _compute(self, work: Work, piece: Callable[[], T]) -> T:
        self._adaptation.prepare(work)
        while True:
            self._place()
            result = attempt(piece)
            if not isinstance(result, NoMemory):
                self.is_adapted |= self._adaptation.is_adapted(work)
                return result
            self._adaptation.step_down(work, result.why)

    def _next_work(self, state: ClipState) -> Work | None:
        if state.next_step < self._generator.request.num_steps:
            return Work.DENOISE
        return Work.DECODE if state.loop + 1 < self._generator.request.num_loops else None

    def _marked(self, state: ClipState) -> ClipState:
        return replace(state, is_adapted=self.is_adapted)

    def _place(self) -> None:
        form = self._adaptation.form
        self._generator.placement = Placement(form.guidance_batch, form.decode_batch_frames, form.decode_batch_frames)
