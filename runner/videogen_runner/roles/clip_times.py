"""How long a clip's steps take, how they compare with the plan's prediction, and how much of the clip is left."""

import statistics
from collections import deque

from videogen_api.plan import Plan, PlannedPool

_STEPS_OF_MEDIAN = 9


class ClipTimes:
    """Of one clip in one process; seconds."""

    def __init__(self, plan: Plan, pool: PlannedPool) -> None:
        self.count = 0
        self.total = 0.0
        self._last: deque[float] = deque(maxlen=_STEPS_OF_MEDIAN)
        self._seconds_per_step = pool.seconds_per_step
        self._seconds_of_loop = pool.cost.seconds / plan.video.loops
        self._seconds = pool.cost.seconds

    def add(self, seconds: float) -> None:
        """A denoising step that this process has computed."""
        self.count += 1
        self.total += seconds
        self._last.append(seconds)

    @property
    def median(self) -> float | None:
        """Of the last few steps."""
        return statistics.median(self._last) if self._last else None

    @property
    def pace(self) -> float | None:
        """Measured seconds for each predicted one; None before the first step."""
        return self.median / self._seconds_per_step if self.median is not None else None

    def left(self, loop: int, next_step: int) -> float:
        """The share of the clip's predicted seconds that lies behind this step, its decoding included."""
        done = loop * self._seconds_of_loop + next_step * self._seconds_per_step
        return max(0.0, 1.0 - done / self._seconds)
