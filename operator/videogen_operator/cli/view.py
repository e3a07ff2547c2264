"""What a person sees while a run is at work: a live view on a terminal, plain lines elsewhere, nothing for scripts."""

import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol

from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_api.status import FINISHED_PHASES, Phase, RunnerStatus, VideoGenerationStatus

_STAGES = (Phase.PREFLIGHT, Phase.ENCODING, Phase.GENERATING, Phase.COLLECTING)
_GIB = 2**30
_LINE_EVERY_PERCENT = 10


class View(Protocol):
    def show(self, status: VideoGenerationStatus) -> None:
        """Called after every pass."""


class _Silent:
    def show(self, status: VideoGenerationStatus) -> None:
        """Scripts read the final status alone."""


class _Lines:
    """A line when the phase changes, and at every tenth of the work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown: tuple[Phase | None, int] = (None, 0)

    def show(self, status: VideoGenerationStatus) -> None:
        now = (status.phase, status.progress // _LINE_EVERY_PERCENT)
        if now != self._shown and status.phase not in FINISHED_PHASES:  # the command itself says how it ended
            self._shown = now
            left = describe_time_left(status, datetime.now(UTC))
            print(
                f"{self._name}: {status.phase}: {status.message} ({status.progress} %{left})",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def open_view(resource: VideoGeneration, plan: Plan, *, json_output: bool) -> Iterator[View]:
    """The view that fits where stderr goes."""
    if json_output:
        yield _Silent()
    elif not sys.stderr.isatty():
        yield _Lines(resource.metadata.name)
    else:
        from videogen_operator.cli.live import open_live_view

        with open_live_view(resource, plan) as view:
            yield view


def describe_time_left(status: VideoGenerationStatus, now: datetime) -> str:
    """`, 2 min left`, or nothing where it is not known."""
    if status.estimated_completion_time is None:
        return ""
    seconds = max(0.0, (status.estimated_completion_time - now).total_seconds())
    return f", {describe_seconds(seconds)} left"


def describe_seconds(seconds: float) -> str:
    """Two digits of a duration, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def describe_runner(runner: RunnerStatus) -> tuple[str, str, str, str, str]:
    """Name, state or clip, step, seconds per step, memory."""
    step = f"{runner.step}/{runner.steps}" if runner.step is not None else ""
    speed = f"{runner.seconds_per_step:.2f} s/step" if runner.seconds_per_step is not None else ""
    memory = f"{runner.memory_bytes / _GIB:.1f} GiB" if runner.memory_bytes else ""
    return runner.name, f"{runner.state} {runner.clip or ''}".strip(), step, speed, memory


def stage_marks(phase: Phase | None) -> tuple[tuple[Phase, str], ...]:
    """Each stage with `done`, `now` or `next`."""
    if phase not in _STAGES:
        return tuple((stage, "done" if phase == Phase.SUCCEEDED else "next") for stage in _STAGES)
    position = _STAGES.index(phase)
    return tuple(
        (stage, "done" if index < position else "now" if index == position else "next")
        for index, stage in enumerate(_STAGES)
    )
