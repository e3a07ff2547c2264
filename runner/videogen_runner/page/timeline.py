"""Who did what when: lanes of workers, and an axis on which hours of nobody working take little room. Pure.

Times are seconds since 1970 by the clocks of the machines that the workers ran on.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from videogen_api.records import Manifest, ManifestClip, Stint, Timings
from videogen_runner.page.words import offset

# Of the busy time: a gap above it is cut, and takes this share of the drawing; all gaps together at most so much.
_GAP_SHARE = 0.5
_GAP_SECONDS = 60.0
_GAP_WIDTH = 0.04
_GAPS_WIDTH = 0.4
# What would read as 0.0 s.
_SHOWN_SECONDS = 0.05
_TICKS = 5
# On a phone.
_CHARACTER_WIDTH = 0.02
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


class Outcome(StrEnum):
    """What a worker's time with a clip came to."""

    FINISHED = "finished"
    LEFT = "left to another worker"
    FAILED = "failed"


@dataclass(frozen=True)
class StageTime:
    """A stage of a bar: name and seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Bar:
    """A worker's time with a clip; `position` is the clip's in the manifest."""

    position: int
    clip: str
    stint: Stint
    outcome: Outcome
    stages: tuple[StageTime, ...] = ()

    @property
    def seconds(self) -> float:
        """Never below 0, even where a clock was set back."""
        return max(0.0, self.stint.ended - self.stint.began)


@dataclass(frozen=True)
class Lane:
    """A worker, and its bars in order."""

    runner: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Span:
    """A stretch of time that is drawn whole, and where: `left` and `width` as shares of the drawing."""

    began: float
    ended: float
    left: float
    width: float


@dataclass(frozen=True)
class Tick:
    """A mark on the axis; `anchor` says which end of its words is at its place, as SVG names them."""

    place: float
    label: str
    anchor: str


@dataclass(frozen=True)
class Axis:
    """Spans in order; what lies between two of them is cut."""

    spans: tuple[Span, ...]

    @property
    def began(self) -> float:
        return self.spans[0].began

    @property
    def ended(self) -> float:
        return self.spans[-1].ended

    @property
    def busy_seconds(self) -> float:
        return sum(span.ended - span.began for span in self.spans)

    def place(self, moment: float) -> float:
        """Share of the drawing that lies before a moment."""
        span = next((span for span in self.spans if moment <= span.ended), self.spans[-1])
        share = (moment - span.began) / ((span.ended - span.began) or 1.0)
        return span.left + span.width * min(1.0, max(0.0, share))

    def ticks(self) -> Iterator[Tick]:
        """Round numbers and the beginnings of spans, as far as their words leave each other room on a phone."""
        step = next((step for step in _STEPS if self.busy_seconds / step <= _TICKS), _STEPS[-1])
        free = 0.0
        for span in self.spans:
            first = int((span.began - self.began) // step) + 1
            rounds = (number * step for number in range(first, int((span.ended - self.began) // step) + 1))
            for seconds in (span.began - self.began, *rounds):
                tick, left, right = _tick(self.place(self.began + seconds), seconds)
                if left >= free:
                    yield tick
                    free = right + _CHARACTER_WIDTH


def _tick(place: float, seconds: float) -> tuple[Tick, float, float]:
    """With the places of its words' left and right edges."""
    label = offset(seconds)
    width = _CHARACTER_WIDTH * len(label)
    if place < width / 2:
        return Tick(place, label, "start"), place, place + width
    if place > 1 - width / 2:
        return Tick(place, label, "end"), place - width, place
    return Tick(place, label, "middle"), place - width / 2, place + width / 2


def build_lanes(manifest: Manifest) -> tuple[Lane, ...]:
    """The workers in natural order of their names; empty where no times were recorded."""
    bars_by_runner: dict[str, list[Bar]] = {}
    for bar in _bars(manifest):
        bars_by_runner.setdefault(bar.stint.runner, []).append(bar)
    return tuple(
        Lane(runner, tuple(sorted(bars, key=lambda bar: (bar.stint.began, bar.position))))
        for runner, bars in sorted(bars_by_runner.items(), key=lambda item: _natural(item[0]))
    )


def build_axis(lanes: Iterable[Lane]) -> Axis:
    """The axis of at least one bar."""
    stretches = _merged([(bar.stint.began, bar.stint.began + bar.seconds) for lane in lanes for bar in lane.bars])
    busy = sum(ended - began for began, ended in stretches)
    longest_gap = max(_GAP_SECONDS, _GAP_SHARE * busy)
    kept = [stretches[0]]
    for began, ended in stretches[1:]:
        if began - kept[-1][1] > longest_gap:
            kept.append((began, ended))
        else:
            kept[-1] = (kept[-1][0], ended)
    gap = min(_GAP_WIDTH, _GAPS_WIDTH / max(1, len(kept) - 1))
    room = 1.0 - gap * (len(kept) - 1)
    total = sum(ended - began for began, ended in kept)
    spans, left = [], 0.0
    for began, ended in kept:
        width = room * (ended - began) / total if total else room / len(kept)
        spans.append(Span(began, ended, left, width))
        left += width + gap
    return Axis(tuple(spans))


def stages_of(timings: Timings) -> tuple[StageTime, ...]:
    """In the order of a clip's work, without what rounds to nothing, as encoding does where there is no reference."""
    stages = (
        StageTime("VAE encode", timings.encode),
        StageTime("denoise", timings.denoise),
        StageTime("VAE decode", timings.decode),
        StageTime("write", timings.write),
    )
    return tuple(stage for stage in stages if stage.seconds >= _SHOWN_SECONDS)


def _bars(manifest: Manifest) -> Iterator[Bar]:
    seen: set[str] = set()
    for position, clip in enumerate(manifest.clips):
        record = clip.sidecar.done if clip.sidecar is not None else clip.failure
        # Two names can stand for one clip, which was made once.
        if record is None or record.clip_digest in seen:
            continue
        seen.add(record.clip_digest)
        yield from _bars_of(clip, record.stints, position)


def _bars_of(clip: ManifestClip, stints: tuple[Stint, ...], position: int) -> Iterator[Bar]:
    for stint in stints[:-1]:
        yield Bar(position, clip.clip, stint, Outcome.LEFT)
    for stint in stints[-1:]:
        if clip.sidecar is not None:
            yield Bar(position, clip.clip, stint, Outcome.FINISHED, stages_of(clip.sidecar.done.timings))
        else:
            yield Bar(position, clip.clip, stint, Outcome.FAILED)


def _merged(stretches: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for began, ended in sorted(stretches):
        if merged and began <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], ended))
        else:
            merged.append((began, ended))
    return merged


def _natural(name: str) -> list[tuple[int, str]]:
    """gpu-10 after gpu-9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
