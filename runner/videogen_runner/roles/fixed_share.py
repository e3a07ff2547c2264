"""Which clips a runner makes where nothing can be claimed: divided beforehand, by the pools' predicted speeds."""

from collections.abc import Iterable

from videogen_api.balancing import OpenClip, Worker, share_out
from videogen_api.plan import Plan
from videogen_runner.claims import Owner


def rank_of(plan: Plan, owner: Owner) -> int:
    """The runner's place among those of all pools."""
    names = [pool.name for pool in plan.pools]
    return sum(pool.replicas for pool in plan.pools[: names.index(owner.pool)]) + owner.index


def fixed_share(plan: Plan, clip_digests: Iterable[str], rank: int) -> frozenset[str]:
    """The clips of the runner of that rank."""
    seconds = {pool.name: pool.cost.seconds for pool in plan.pools}
    workers = [Worker(pool.name) for pool in plan.pools for _ in range(pool.replicas)]
    shares = share_out([OpenClip(clip_digest, seconds) for clip_digest in clip_digests], workers)
    return frozenset(clip.key for clip in shares[rank]) if rank < len(shares) else frozenset()
