"""The clips of a simulated run, and who works on them: what the claims in the store would say.

Who takes which clip is decided by the rule that runners use (videogen_api.balancing). Asking it about thousands of
equal clips and a thousand runners, thousands of times, would take minutes; where all open clips are alike, `_falls_to`
gives its answer by counting. Seconds are those of the simulated clock.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from videogen_api.balancing import OpenClip, Worker, choose, longest_first

_FEW = 64
"""Up to so many open clips the rule itself is asked."""


@dataclass(eq=False)
class Runner:
    """One runner pod, with all its successors."""

    pool: str
    index: int
    clip: int | None = None
    began: float = 0.0
    """When it took the clip."""
    left: float = 1.0
    """Share of the clip that was to be done then."""
    ends: float = 0.0
    """When it will have finished it."""
    alive: bool = False
    done: int = 0
    losses: int = 0
    life: int = 0
    """Counted up when it is lost or stopped: what was to happen to it before does not."""


@dataclass
class Workload:
    """Clips that are open, held or done. `seconds`: predicted for one clip, by pool; `last_texts` as in totals.py."""

    seconds: Mapping[str, float]
    paces: Mapping[str, float]
    """Seconds of work for each predicted one, by pool."""
    last_texts: Sequence[int]
    encoded: int = 0
    """Texts whose embedding is there, from the first one on."""
    holders: dict[int, Runner] = field(default_factory=dict)
    done: int = 0
    _holding: Counter[str] = field(default_factory=Counter)
    """Runners that hold a clip, by pool."""
    _unready: deque[int] = field(default_factory=deque)
    _fresh: deque[int] = field(default_factory=deque)
    _begun: dict[int, float] = field(default_factory=dict)
    """Open clips that somebody has begun, with the share that is left."""
    _left: dict[int, float] = field(default_factory=dict)

    _declined: set[str] = field(default_factory=set)
    """Pools whose cards are too slow for every open clip: they stay so while everybody else goes on as foreseen."""

    def __post_init__(self) -> None:
        self._unready.extend(sorted(range(len(self.last_texts)), key=lambda clip: self.last_texts[clip]))
        self.encode(self.encoded)

    @property
    def is_open(self) -> bool:
        """Whether a clip can be taken now."""
        return bool(self._fresh or self._begun)

    @property
    def waits_for_texts(self) -> bool:
        return bool(self._unready)

    def encode(self, texts: int) -> None:
        """So many texts have their embeddings now."""
        self.encoded = texts
        self._declined.clear()
        while self._unready and self.last_texts[self._unready[0]] < texts:
            self._fresh.append(self._unready.popleft())

    def take(self, runner: Runner, now: float) -> bool:
        """Gives the runner what falls to it, if anything does."""
        clip = self._of_predecessor(runner)
        if clip is None and runner.pool not in self._declined:
            clip = self._choose(runner, now)
        if clip is None:
            self._declined.add(runner.pool)
            return False
        left = self._left.get(clip, 1.0)
        self._begun.pop(clip, None)
        if self._fresh and self._fresh[0] == clip:
            self._fresh.popleft()
        if clip not in self.holders:
            self._holding[runner.pool] += 1
        self.holders[clip] = runner
        runner.clip, runner.began, runner.left = clip, now, left
        runner.ends = now + self._seconds_of(runner.pool) * left
        return True

    def finish(self, runner: Runner) -> None:
        if runner.clip is None:
            raise AssertionError("a runner without a clip has nothing to finish")
        del self.holders[runner.clip]
        self._holding[runner.pool] -= 1
        self._left.pop(runner.clip, None)
        runner.clip, runner.done = None, runner.done + 1
        self.done += 1

    def keep(self, runner: Runner, share: float) -> None:
        """Of the runner's clip, that share is left by its last checkpoint. The runner still holds it."""
        self._declined.clear()
        if runner.clip is not None:
            self._left[runner.clip] = share

    def reopen(self, clip: int) -> None:
        """The lease of its holder is over, or the holder has handed it back."""
        self._declined.clear()
        holder = self.holders.pop(clip)
        self._holding[holder.pool] -= 1
        holder.clip = None
        self._begun[clip] = self._left.get(clip, 1.0)

    def _of_predecessor(self, runner: Runner) -> int | None:
        """The clip that the pod held which this one replaces."""
        return runner.clip if runner.clip is not None and self.holders.get(runner.clip) is runner else None

    def _choose(self, runner: Runner, now: float) -> int | None:
        if len(self._fresh) > _FEW and self._falls_to(runner, now):
            return self._fresh[0]
        if not self._begun and len(self._fresh) > _FEW:
            return None
        clips = [OpenClip(str(clip), self.seconds) for clip in self._fresh]
        for clip, left in self._begun.items():
            clips.append(OpenClip(str(clip), {pool: seconds * left for pool, seconds in self.seconds.items()}))
        others = [
            Worker(other.pool, self.paces[other.pool], max(0.0, other.ends - now)) for other in self.holders.values()
        ]
        chosen = choose(Worker(runner.pool, self.paces[runner.pool]), longest_first(clips), others)
        if chosen is None:
            return None
        # Those that nobody has begun are alike: one is as good as another.
        return int(chosen.key) if int(chosen.key) in self._begun else self._fresh[0]

    def _falls_to(self, runner: Runner, now: float) -> bool:
        """Whether fewer of the clips that nobody has begun than there are go to others before one goes to the runner.

        Each of the others takes those that it would finish before the runner would finish its first.
        """
        end, room = self._seconds_of(runner.pool), len(self._fresh)
        seconds = {pool: self._seconds_of(pool) for pool in self.seconds}
        if room > sum(holding * ceil(end / seconds[pool]) for pool, holding in self._holding.items()):
            return True
        for other in self.holders.values():
            free_in = other.ends - now
            ahead = end - free_in if free_in > 0 else end
            room -= max(0, ceil(ahead / seconds[other.pool]) - 1)
            if room <= 0:
                return False
        return True

    def _seconds_of(self, pool: str) -> float:
        return self.paces[pool] * self.seconds[pool]
