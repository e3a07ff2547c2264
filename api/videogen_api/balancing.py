"""Who takes which clip: the rules by which runners claim clips, and by which a simulator plays them.

Values and functions alone: no store, clock or process. Clips are in the order of `longest_first`, clips of equal
length next to each other; seconds are predictions of the plan, which each runner's measured pace corrects.

The rule is list scheduling on cards of different speed: clip after clip, longest first, goes to whoever would finish it
first. A runner that is free asks what falls to itself when the clips that nobody works on are dealt out like this. So a
slow card leaves a long clip to a fast one that will be free soon, and nobody has to agree with anybody.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import groupby


@dataclass(frozen=True)
class OpenClip:
    """A clip that nobody works on."""

    key: str
    seconds: Mapping[str, float]
    """Predicted for what is left of it, by pool; a pool whose cards it does not fit is absent."""


@dataclass(frozen=True)
class Worker:
    """A runner that is alive."""

    pool: str
    pace: float = 1.0
    """Seconds of its work for each predicted one, as measured."""
    free_in: float = 0.0
    """Seconds until it has finished the clip that it works on; 0 for one that is free. A runner that has waited in vain
    counts that as negative, so that nobody waits longer for a faster card than the clip takes on its own."""

    def seconds_for(self, clip: OpenClip) -> float:
        """How long the clip takes here; infinite where it does not fit."""
        return self.pace * clip.seconds.get(self.pool, math.inf)


def longest_first(clips: Iterable[OpenClip]) -> list[OpenClip]:
    """By the time on the pool that is fastest for a clip; clips of equal length stay in their order."""
    return sorted(clips, key=lambda clip: min(clip.seconds.values(), default=0.0), reverse=True)


def choose(worker: Worker, clips: Iterable[OpenClip], others: Iterable[Worker]) -> OpenClip | None:
    """What a runner that is free takes now; None where others, free later, would finish every clip sooner.

    `others` are the runners that work on something now. One of them that has died must be left out: then what was left
    to it falls to who is there.
    """
    for clip, position in _deal(clips, [worker, *others]):
        if position == 0:
            return clip
    return None


def share_out(clips: Iterable[OpenClip], workers: Sequence[Worker]) -> tuple[tuple[OpenClip, ...], ...]:
    """Fixed shares, one for each worker, for runners that cannot claim: by predicted speed, longest clip first."""
    shares: list[list[OpenClip]] = [[] for _ in workers]
    for clip, position in _deal(clips, workers):
        shares[position].append(clip)
    return tuple(tuple(share) for share in shares)


def _deal(clips: Iterable[OpenClip], workers: Sequence[Worker]) -> Iterator[tuple[OpenClip, int]]:
    """Each clip with the position of who would finish it first, the first of equals; one that fits nobody is left out.

    Clips of one length share a heap: thousands of them cost no more than the logarithm of the runners each.
    """
    free_in = [worker.free_in for worker in workers]
    for _, equal in groupby(clips, key=lambda clip: clip.seconds):
        alike = list(equal)
        seconds = [worker.seconds_for(alike[0]) for worker in workers]
        ends = [(free_in[position] + seconds[position], position) for position in range(len(workers))]
        heapify(ends)
        for clip in alike:
            end, position = ends[0]
            if math.isinf(end):
                break
            free_in[position] = end
            heapreplace(ends, (end + seconds[position], position))
            yield clip, position
