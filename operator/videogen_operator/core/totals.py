"""A whole plan in a few numbers: work, card time and wall time. Starting pods and loading weights are not in them."""

from heapq import heapify, heapreplace

from videogen_api.plan import Device, Plan
from videogen_api.spec import Model


class Totals(Model):
    """Predictions for one run, if nothing of it exists yet."""

    flops: float
    gpu_seconds: float
    seconds: float
    """Wall time: encoding, then all clips, each taken by the runner that is free first."""
    peak_memory_bytes: int
    """Of the process that needs most."""


def totals_of(plan: Plan) -> Totals:
    clips = _clips_by_pool(plan)
    encoder = plan.encoder
    encoder_gpus = encoder.shards if encoder.device == Device.CUDA else 0
    return Totals(
        flops=encoder.shards * encoder.cost.flops
        + sum(count * pool.cost.flops for pool, count in zip(plan.pools, clips, strict=True)),
        gpu_seconds=encoder_gpus * encoder.cost.seconds
        + sum(pool.gpus * count * pool.cost.seconds for pool, count in zip(plan.pools, clips, strict=True)),
        seconds=encoder.cost.seconds + max(pool_seconds(plan).values()),
        peak_memory_bytes=max(encoder.cost.peak_memory_bytes, *(p.cost.peak_memory_bytes for p in plan.pools)),
    )


def pool_seconds(plan: Plan) -> dict[str, float]:
    """How long each pool is at work, by its name."""
    return {
        pool.name: -(-count // pool.replicas) * pool.cost.seconds if count else 0.0
        for pool, count in zip(plan.pools, _clips_by_pool(plan), strict=True)
    }


def _clips_by_pool(plan: Plan) -> list[int]:
    """How many clips each pool makes when every runner takes the next one as soon as it is free."""
    counts = [0] * len(plan.pools)
    runners = [(pool.cost.seconds, position) for position, pool in enumerate(plan.pools) for _ in range(pool.replicas)]
    heapify(runners)
    for _ in plan.work:
        ends, position = runners[0]
        counts[position] += 1
        heapreplace(runners, (ends + plan.pools[position].cost.seconds, position))
    return counts
