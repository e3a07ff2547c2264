"""How long a run will still take: by the measured speed of its runners, and before there is one by the share done."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from videogen_api.plan import Plan
from videogen_api.report import Progress
from videogen_api.status import ClipCounts


def estimate_completion(
    plan: Plan,
    runners: Sequence[Progress],
    clips: ClipCounts,
    start: datetime | None,
    progress: int,
    now: datetime,
) -> datetime | None:
    """When the run will end if it goes on as it does; `progress` in percent. None: nothing is known yet.

    Starting pods and encoding say nothing about how fast clips are made, so the share done counts only until a runner
    has measured its steps.
    """
    seconds = _seconds_left(plan, runners, clips)
    if seconds is None:
        if start is None or progress <= 0:
            return None
        seconds = (now - start).total_seconds() * (100 - progress) / progress
    return now + timedelta(seconds=seconds)


def _seconds_left(plan: Plan, runners: Sequence[Progress], clips: ClipCounts) -> float | None:
    """By the runners that are in a clip, at their pace or what it is in the mean where they have measured none yet;
    clips that nobody works on are shared among them."""
    steps = plan.sampling.steps * plan.video.loops
    at_work = [each for each in runners if each.clip is not None]
    paces = [each.seconds_per_step for each in at_work if each.seconds_per_step]
    if not paces:
        return None
    mean_pace = sum(paces) / len(paces)
    left = [
        max(0, steps - each.loop * plan.sampling.steps - each.step) * (each.seconds_per_step or mean_pace)
        for each in at_work
    ]
    open_clips = max(0, clips.total - clips.succeeded - clips.failed - clips.running)
    shared = (sum(left) + open_clips * steps * mean_pace) / len(at_work)
    return max(*left, shared) * _share_of_the_rest(plan)


def _share_of_the_rest(plan: Plan) -> float:
    """A clip's seconds for each second of denoising: decoding and writing come on top."""
    pool = next(pool for pool in plan.pools if not pool.unfit)
    denoising = plan.video.loops * plan.sampling.steps * pool.seconds_per_step
    return max(1.0, pool.cost.seconds / denoising) if denoising > 0 else 1.0
