"""Which form the next piece of work runs in, so that it fits its device: decisions on numbers of bytes, nothing else.

A *form* is how a clip is computed. The first is the plan's; a smaller one needs less memory and more time. The ladder
goes down in this order, each only as far as the work at hand has something to gain from it:

    decoding:   fewer frames at once (4, 3, 2, 1)     then blocks of the denoiser on the host
    denoising:  guidance in two passes (2, 1)         then blocks of the denoiser on the host

It goes down *before* a piece of work whose predicted bytes do not fit, and after one that has failed for want of
memory. It goes up one rung at a time, blocks first, once there has been ample room for a while: what has failed is
tried again only with more room than it failed in. The predictions are the plan's (`FormBytes`).

Callers: adaptation.py, which measures the room and carries the decisions out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil

# Blocks move to the host by quarters of all.
_HOST_SHARES = 4

# Going up asks for this much more than the larger form needs ...
_HEADROOM_PERCENT = 10
# ... at so many pieces of work in a row.
_CALM_LOOKS = 3

# Weights of so many blocks are on their way to the device, or in use there, while others wait on the host.
STREAM_BUFFERS = 2


class Work(StrEnum):
    """A piece of work that is computed in one go, and again as a whole where it fails."""

    DENOISE = "denoising"
    """One step."""
    DECODE = "decoding"
    """One loop, from latents to pixels or back."""


@dataclass(frozen=True)
class Form:
    """How a clip is computed; `host_blocks` changes no bit of it, the others round differently."""

    guidance_batch: int
    decode_batch_frames: int
    host_blocks: int = 0


@dataclass(frozen=True)
class Needs:
    """Bytes on the device that each form takes."""

    fixed: int
    """Held by the process whatever the form: weights that stay, and on a CPU everything else too."""
    block: int
    """Weights of one block that can wait on the host."""
    host_block: int
    """What these take there."""
    num_blocks: int
    """How many there are; 0 where the host is no other place than the device."""
    denoise: Mapping[int, int]
    """Activations by guidance batch."""
    decode: Mapping[int, int]
    """Activations by frames decoded at once."""

    def of(self, work: Work, form: Form) -> int:
        """Bytes of the process while it does this work in this form."""
        here = self.num_blocks - form.host_blocks + (STREAM_BUFFERS if form.host_blocks else 0)
        return self.fixed + here * self.block + self.activations(work)[_size(work, form)]

    def activations(self, work: Work) -> Mapping[int, int]:
        return self.denoise if work is Work.DENOISE else self.decode


@dataclass(frozen=True)
class Room:
    """Bytes that a process may hold: on its device altogether, on the host beside what it holds there."""

    device: int
    host: int


@dataclass(frozen=True)
class Failure:
    """A form that the work at hand did not fit in, and the room it had."""

    work: Work
    form: Form
    room: int

    def forbids(self, work: Work, form: Form, room: int) -> bool:
        """Whether this form, no smaller than the one that failed, would have no more room than that."""
        is_no_smaller = _size(work, form) >= _size(work, self.form) and form.host_blocks <= self.form.host_blocks
        return work is self.work and is_no_smaller and room <= _with_headroom(self.room)


@dataclass(frozen=True)
class Ladder:
    """Where a process stands: an immutable value, every decision gives the next one."""

    planned: Form
    needs: Needs
    form: Form
    calm_looks: int = 0
    failures: tuple[Failure, ...] = ()

    @classmethod
    def of_plan(cls, planned: Form, needs: Needs) -> "Ladder":
        """At its top."""
        return cls(planned, needs, planned)

    def before(self, work: Work, room: Room) -> "Ladder":
        """The form for the next piece of work: the first on the way down that fits, the last where none does; or, after
        enough calm, the next one up."""
        forms = [*self._down(work, room.host)]
        down = next((form for form in forms if self._fits(work, form, room.device)), forms[-1])
        if down != self.form:
            return replace(self, form=down, calm_looks=0)
        up = self._up(work)
        if up is None or not self._has_ample_room(work, up, room.device):
            return replace(self, calm_looks=0)
        if self.calm_looks + 1 < _CALM_LOOKS:
            return replace(self, calm_looks=self.calm_looks + 1)
        return replace(self, form=up, calm_looks=0)

    def after_failure(self, work: Work, room: Room) -> "Ladder | None":
        """The form to try the same work in again, after an allocation failed; None at the end of the ladder."""
        _, *below = self._down(work, room.host)
        if not below:
            return None
        form = next((form for form in below if self._fits(work, form, room.device)), below[-1])
        failures = (*self.failures, Failure(work, self.form, room.device))
        return replace(self, form=form, calm_looks=0, failures=failures)

    def back_to(self, form: Form, work: Work, room: Room) -> "Ladder":
        """The form before this one, where there was no memory to take this one up for the work."""
        failures = (*self.failures, Failure(work, self.form, room.device))
        return replace(self, form=form, calm_looks=0, failures=failures)

    def is_adapted(self, work: Work) -> bool:
        """Whether the work as done now may differ from the plan's in its last bits."""
        return _size(work, self.form) != _size(work, self.planned)

    def _down(self, work: Work, host_room: int) -> Iterator[Form]:
        """This form, and the smaller ones in order, as far as the host can take the blocks."""
        smallest = self.form
        yield smallest
        for size in sorted(self.needs.activations(work), reverse=True):
            if size < _size(work, self.form):
                smallest = _with_size(work, self.form, size)
                yield smallest
        for share in range(1, _HOST_SHARES + 1):
            host_blocks = ceil(self.needs.num_blocks * share / _HOST_SHARES)
            if smallest.host_blocks < host_blocks <= self.form.host_blocks + host_room // max(1, self.needs.host_block):
                smallest = replace(smallest, host_blocks=host_blocks)
                yield smallest

    def _up(self, work: Work) -> Form | None:
        """The next larger form, or None at the plan's."""
        if self.form.host_blocks:
            shares = [ceil(self.needs.num_blocks * share / _HOST_SHARES) for share in range(_HOST_SHARES)]
            return replace(self.form, host_blocks=max(n for n in shares if n < self.form.host_blocks))
        planned = _size(work, self.planned)
        larger = [size for size in self.needs.activations(work) if _size(work, self.form) < size <= planned]
        return _with_size(work, self.form, min(larger)) if larger else None

    def _fits(self, work: Work, form: Form, room: int) -> bool:
        if any(failure.forbids(work, form, room) for failure in self.failures):
            return False
        return self.needs.of(work, form) <= room

    def _has_ample_room(self, work: Work, form: Form, room: int) -> bool:
        """For blocks that come back from the host every kind of work must have it: they would soon go again."""
        works = Work if form.host_blocks != self.form.host_blocks else (work,)
        return all(_with_headroom(self.needs.of(each, form)) <= room and self._fits(each, form, room) for each in works)


def _size(work: Work, form: Form) -> int:
    return form.guidance_batch if work is Work.DENOISE else form.decode_batch_frames


def _with_size(work: Work, form: Form, size: int) -> Form:
    if work is Work.DENOISE:
        return replace(form, guidance_batch=size)
    return replace(form, decode_batch_frames=size)


def _with_headroom(num_bytes: int) -> int:
    return num_bytes + num_bytes * _HEADROOM_PERCENT // 100
