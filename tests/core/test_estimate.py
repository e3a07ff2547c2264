"""When a run will end."""

from datetime import timedelta

from tests.builders import NOW, after, build_plan

from videogen_api.naming import Stage
from videogen_api.report import Progress, RunnerState
from videogen_api.status import ClipCounts
from videogen_operator.core.estimate import estimate_completion

PLAN = build_plan()
STEPS = PLAN.sampling.steps
POOL = PLAN.pools[0]
# What decoding adds to denoising, by the plan.
REST = max(1.0, POOL.cost.seconds / (STEPS * POOL.seconds_per_step))


def runner(step: int, pace: float | None, clip: str | None = "fox-1") -> Progress:
    return Progress(
        stage=Stage.GENERATE,
        index=0,
        attempt=1,
        pod="fox-0",
        device="cpu",
        state=RunnerState.DENOISING,
        clip=clip,
        step=step,
        steps=STEPS,
        seconds_per_step=pace,
    )


def seconds_left(runners: list[Progress], clips: ClipCounts, progress: int = 10) -> float | None:
    end = estimate_completion(PLAN, runners, clips, after(-600), progress, NOW)
    return None if end is None else (end - NOW) / timedelta(seconds=1)


def test_before_any_runner_knows_its_pace_the_share_done_decides() -> None:
    assert seconds_left([], ClipCounts(total=2), progress=25) == 1800
    assert seconds_left([runner(0, None)], ClipCounts(total=2, running=1), progress=25) == 1800
    assert seconds_left([], ClipCounts(total=2), progress=0) is None


def test_the_last_clips_end_with_the_slowest_of_their_runners() -> None:
    clips = ClipCounts(total=2, running=2)
    assert seconds_left([runner(STEPS - 1, 2.0), runner(0, 5.0)], clips) == STEPS * 5.0 * REST


def test_clips_that_nobody_works_on_yet_are_shared_among_the_runners() -> None:
    clips = ClipCounts(total=6, running=2)
    assert seconds_left([runner(0, 2.0), runner(0, 2.0)], clips) == 3 * STEPS * 2.0 * REST


def test_a_runner_that_has_not_measured_its_pace_yet_has_that_of_the_others() -> None:
    clips = ClipCounts(total=6, running=2)
    assert seconds_left([runner(0, 2.0), runner(0, None)], clips) == 3 * STEPS * 2.0 * REST


def test_a_runner_between_two_clips_is_no_reason_to_forget_the_others() -> None:
    clips = ClipCounts(total=1, running=1)
    assert seconds_left([runner(0, 2.0, clip=None), runner(STEPS - 1, 3.0)], clips) == 3.0 * REST
