"""A whole plan in a few numbers: work, card time and wall time. Starting pods and loading weights are not in them."""

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
        free = start_seconds
        ready = [start_seconds + encode_seconds * (last + 1) / texts for last in last_texts(plan)]
    else:
        free = start_seconds + encode_seconds + start_seconds
        ready = [0.0] * len(plan.work)
    runners = [[free] * pool.replicas for pool in plan.pools]
    counts = [0] * len(plan.pools)
    end = free
    for runner_ready in ready:
        ends = [
            max(free_at[0], runner_ready) + pool.cost.seconds if free_at else float("inf")
            for free_at, pool in zip(runners, plan.pools, strict=True)
        ]
        first = min(ends)
        position = ends.index(first)
        counts[position] += 1
        end = max(end, first)
        heapreplace(runners[position], first)
    return Schedule(tuple(counts), end)


def pool_seconds(plan: Plan) -> dict[str, float]:
    """How long each pool is at work, by its name."""
    counts = schedule_of(plan, Strategy.SEQUENTIAL).clips
    return {
        pool.name: -(-count // pool.replicas) * pool.cost.seconds if count else 0.0
        for pool, count in zip(plan.pools, counts, strict=True)
    }


def last_texts(plan: Plan) -> tuple[int, ...]:
    """For each clip of `plan.work`, the position of the last one of its texts to be encoded."""
    position = {text: index for index, text in enumerate(plan.texts)}
    last = [max(position[segment.text] for segment in prompt.segments) for prompt in plan.prompts]
    return tuple(last[clip.prompt] for clip in plan.work)
