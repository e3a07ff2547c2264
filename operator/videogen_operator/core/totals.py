"""A whole plan in a few numbers: work, card time and wall time. Starting pods and loading weights are not in them."""

from collections.abc import Mapping
from heapq import heapreplace
from typing import NamedTuple

from videogen_api.plan import Device, Plan
from videogen_api.spec import Model, Strategy


class Totals(Model):
    """Predictions for one run, if nothing of it exists yet."""

    flops: float
    gpu_seconds: float
    seconds: float
    """Wall time: encoding, and all clips, each taken by the runner that would finish it first."""
    peak_memory_bytes: int
    """Of the process that needs most."""


class Schedule(NamedTuple):
    """Who makes how many clips, and when the last one is done."""

    clips: tuple[int, ...]
    """By pool, in the order of the plan."""
    seconds: float


def totals_of(plan: Plan) -> Totals:
    schedule = schedule_of(plan, plan.strategy)
    encoder = plan.encoder
    encoder_gpus = encoder.shards if encoder.device == Device.CUDA else 0
    work = list(zip(plan.pools, schedule.clips, strict=True))
    at_work = [pool.cost.peak_memory_bytes for pool in plan.pools if pool.replicas]
    return Totals(
        flops=encoder.shards * encoder.cost.flops + sum(count * pool.cost.flops for pool, count in work),
        gpu_seconds=encoder_gpus * encoder.cost.seconds
        + sum(pool.gpus * count * pool.cost.seconds for pool, count in work),
        seconds=schedule.seconds,
        peak_memory_bytes=max(encoder.cost.peak_memory_bytes, *at_work),
    )


def schedule_of(plan: Plan, strategy: Strategy, *, start_seconds: float = 0.0) -> Schedule:
    """The run as the strategy plays it. `start_seconds`: from creating a pod to its first operation."""
    encode_seconds, texts = plan.encoder.cost.seconds, len(plan.texts)
    if strategy == Strategy.OVERLAPPED:
        ready = [start_seconds + encode_seconds * (last + 1) / texts for last in last_texts(plan)]
        return _deal(plan, start_seconds, ready)
    return _deal(plan, start_seconds + encode_seconds + start_seconds, [0.0] * len(plan.work))


def _deal(plan: Plan, free: float, ready: list[float]) -> Schedule:
    """Each clip goes to the runner that would finish it first; all are free from `free` on, clip by clip is `ready`."""
    runners = [[free] * pool.replicas for pool in plan.pools]
    at_work = [(position, pool.cost.seconds) for position, pool in enumerate(plan.pools) if pool.replicas]
    counts, latest = [0] * len(plan.pools), free
    for clip_ready in ready:
        end, position = min((max(runners[pool][0], clip_ready) + seconds, pool) for pool, seconds in at_work)
        heapreplace(runners[position], end)
        counts[position] += 1
        latest = max(latest, end)
    return Schedule(tuple(counts), latest)


def least_seconds(plan: Plan, speeds: Mapping[str, float]) -> float:
    """What no order of clips could beat: encoding, then all work shared out without rest, or one clip at its fastest.

    `speeds` are multiples of what the plan predicts, by pool.
    """
    seconds = [(pool.replicas, pool.cost.seconds / speeds.get(pool.name, 1.0)) for pool in plan.pools if pool.replicas]
    generate = max(len(plan.work) / sum(count / each for count, each in seconds), min(each for _, each in seconds))
    return generate + (plan.encoder.cost.seconds if plan.strategy == Strategy.SEQUENTIAL else 0.0)


def last_texts(plan: Plan) -> tuple[int, ...]:
    """For each clip of `plan.work`, the position of the last one of its texts to be encoded."""
    position = {text: index for index, text in enumerate(plan.texts)}
    last = [max(position[segment.text] for segment in prompt.segments) for prompt in plan.prompts]
    return tuple(last[clip.prompt] for clip in plan.work)
