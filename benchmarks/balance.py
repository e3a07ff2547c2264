"""How evenly the claim rule spreads a mixed set of clips over cards of different speed, one of which slows down.

    python -m benchmarks.balance [--sets 200]

Plays `videogen_api.balancing` as runners do: each looks when it is free, and sees of the others what their last
heartbeats said. Reports the end of each set against the ideal, and the fixed shares of a store without claims beside
it. The figures are in docs/benchmarks/balance.md.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import floor

from videogen_api.architecture import architecture_of
from videogen_api.balancing import OpenClip, Worker, choose, longest_first, share_out
from videogen_api.plan import PlannedVideo
from videogen_api.video import image_size_of_aspect
from videogen_operator.core import costs

RESOLUTIONS = ("240p", "360p", "480p", "720p")
FRAMES = (51, 102, 204)
CLIPS = 64
STEPS = 30
TOKENS = 60
FLOPS_PER_SECOND = 5e13  # of a card of speed 1
SPEEDS = {"plain": 1.0, "double": 2.0}
POOLS = ("plain", "plain", "plain", "double")
SLOWDOWN = 0.5
HEARTBEAT_SECONDS = 15.0
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Card:
    """A card that computes at its pool's speed, and from `slows_at` on at a part of it."""

    pool: str
    slows_at: float = float("inf")

    def ends(self, start: float, seconds: float) -> float:
        """When work of so many predicted seconds is done."""
        before = max(0.0, self.slows_at - start)
        return start + seconds if seconds <= before else start + before + (seconds - before) / SLOWDOWN

    def done(self, start: float, now: float) -> float:
        """Predicted seconds of work between two moments."""
        before = min(now, max(start, self.slows_at)) - start
        return before + max(0.0, now - start - before) * SLOWDOWN

    def pace(self, now: float) -> float:
        """Seconds for each predicted one, as measured then."""
        return 1.0 if now < self.slows_at else 1.0 / SLOWDOWN


@dataclass
class Runner:
    """A card, what it works on, and what it knows of itself."""

    card: Card
    clip: OpenClip | None = None
    taken: float = 0.0
    pace: float = 1.0
    idle_since: float = 0.0
    history: list[tuple[str, float, float]] = field(default_factory=list)

    def as_seen(self, now: float) -> Worker:
        """By the others: as of its last heartbeat."""
        if self.clip is None:
            raise ValueError("it works on nothing")
        heartbeat = self.taken + HEARTBEAT_SECONDS * floor((now - self.taken) / HEARTBEAT_SECONDS)
        left = self.clip.seconds[self.card.pool] - self.card.done(self.taken, heartbeat)
        pace = self.pace if heartbeat == self.taken else self.card.pace(heartbeat)
        return Worker(self.card.pool, pace, max(0.0, pace * left))


def build_clips(seed: int) -> list[OpenClip]:
    """A mixed set: any resolution, any length."""
    chance = random.Random(seed)  # noqa: S311 - no secrets here
    architecture = architecture_of("open-sora-v1.2")
    clips = []
    for number in range(CLIPS):
        height, width = image_size_of_aspect(chance.choice(RESOLUTIONS), "16:9")
        video = PlannedVideo(
            height=height, width=width, frames=chance.choice(FRAMES), fps=24, loops=1, condition_frames=17
        )
        flops = STEPS * 2 * costs.denoiser_flops(architecture.denoiser, video, TOKENS)
        seconds = (flops + costs.decoder_flops(architecture.vae, video)) / FLOPS_PER_SECOND
        clips.append(OpenClip(str(number), {pool: seconds / speed for pool, speed in SPEEDS.items()}))
    return clips


def ideal_end(clips: Sequence[OpenClip], cards: Sequence[Card]) -> float:
    """The later of: all work at all speeds together, and the longest clip on the fastest card."""
    work = sum(clip.seconds["plain"] for clip in clips)

    def by(now: float) -> float:
        return sum(card.done(0.0, now) * SPEEDS[card.pool] for card in cards)

    low, high = 0.0, work / SLOWDOWN
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if by(middle) < work else (low, middle)
    return max(high, *(min(clip.seconds.values()) for clip in clips))


def end_of_claims(clips: Sequence[OpenClip], cards: Sequence[Card]) -> float:
    """When the last clip is done if runners claim by the rule."""
    runners = [Runner(card) for card in cards]
    left = longest_first(clips)
    events: list[tuple[float, int]] = []
    for position in range(len(runners)):
        heappush(events, (0.0, position))
    end = 0.0
    while events:
        now, position = heappop(events)
        runner = runners[position]
        if runner.clip is not None:
            runner.pace, runner.clip, runner.idle_since = runner.card.pace(now), None, now
            end = max(end, now)
        busy = [other.as_seen(now) for other in runners if other.clip is not None]
        free = Worker(runner.card.pool, runner.pace, free_in=runner.idle_since - now)
        chosen = choose(free, left, busy)
        if chosen is not None:
            left.remove(chosen)
            runner.clip, runner.taken = chosen, now
            heappush(events, (runner.card.ends(now, chosen.seconds[runner.card.pool]), position))
        elif left:
            heappush(events, (now + POLL_SECONDS, position))
    if left:
        raise AssertionError(f"nobody takes {[clip.key for clip in left]}")
    return end


def end_of_shares(clips: Sequence[OpenClip], cards: Sequence[Card]) -> float:
    """When the last clip is done if each runner has a fixed share, by predicted speed."""
    shares = share_out(longest_first(clips), [Worker(card.pool) for card in cards])
    return max(
        card.ends(0.0, sum(clip.seconds[card.pool] for clip in share))
        for card, share in zip(cards, shares, strict=True)
    )


def over_ideal(seed: int, end_of: Callable[[Sequence[OpenClip], Sequence[Card]], float]) -> float:
    """By which share a set ends later than the ideal; the first card slows down half-way."""
    clips = build_clips(seed)
    steady = [Card(pool) for pool in POOLS]
    cards = [Card(POOLS[0], slows_at=ideal_end(clips, steady) / 2), *steady[1:]]
    return end_of(clips, cards) / ideal_end(clips, cards) - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=int, default=200)
    sets = parser.parse_args().sets
    print(f"{sets} sets of {CLIPS} clips on cards of speed 1:1:1:2, the first at half its speed from half-way on")
    for name, end_of in (("claims", end_of_claims), ("fixed shares", end_of_shares)):
        over = sorted(over_ideal(seed, end_of) for seed in range(sets))
        print(
            f"{name}: over the ideal by {statistics.median(over):.1%} (median), "
            f"{over[int(0.95 * sets)]:.1%} (95 %), {over[-1]:.1%} (most)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
