"""Whether the encoder finishes before the first runner starts, or both work at once.

Overlapped needs cards for both: where they compete, a few runners could keep the encoder from starting, and wait for
it. A manifest names kinds of cards and how many pods use them; what a cluster has beyond that nobody knows here.
"""

from videogen_api.plan import Device, Plan
from videogen_api.spec import Encoder, RunnerPool, Schedule, Strategy
from videogen_operator.core.totals import schedule_of

# About what it takes to start a pod and load weights.
_START_SECONDS = 60.0
# Runners that wait for embeddings hold cards for nothing: a smaller share of the whole time is not worth that.
_WORTH_OVERLAPPING = 0.05


def choose_strategy(
    schedule: Schedule | None, encoder: Encoder, pools: tuple[RunnerPool, ...], plan: Plan
) -> tuple[Strategy, str]:
    """The strategy and, in one sentence with its numbers, why. `plan` is complete but for these two."""
    asked = schedule.strategy if schedule is not None else None
    if asked not in (None, Strategy.AUTO):
        return asked, f"{asked} is what spec.schedule.strategy asks for."
    if schedule is not None and schedule.queue is not None:
        return Strategy.SEQUENTIAL, "Stages wait in a queue, so the encoder gives its quota back before runners ask."
    if not _suffice(encoder, pools, plan):
        return Strategy.SEQUENTIAL, _why_not_at_once(plan)
    sequential = schedule_of(plan, Strategy.SEQUENTIAL, start_seconds=_START_SECONDS).seconds
    overlapped = schedule_of(plan, Strategy.OVERLAPPED, start_seconds=_START_SECONDS).seconds
    both = f"Overlapped should take about {overlapped:.0f} s and Sequential {sequential:.0f} s, starts of pods included"
    if overlapped <= (1 - _WORTH_OVERLAPPING) * sequential:
        return Strategy.OVERLAPPED, f"{both}, and there are cards for both at once."
    return Strategy.SEQUENTIAL, f"{both}: too little for runners to hold cards while they wait for embeddings."


def shares_cards(encoder: Encoder, pool: RunnerPool) -> bool:
    """Whether the encoder's pods and a pool's compete for the same cards, or for the CPUs."""
    ours, theirs = encoder.gpu, pool.gpu
    if ours is None or not ours.count:
        return theirs is None or not theirs.count
    if theirs is None or not theirs.count:
        return False
    # Whoever names no product may get any card of the resource.
    alike = ours.product == theirs.product or ours.product is None or theirs.product is None
    return ours.resource == theirs.resource and alike


def _suffice(encoder: Encoder, pools: tuple[RunnerPool, ...], plan: Plan) -> bool:
    """Whether the cards that the manifest speaks of are enough for encoder and runners at once."""
    if plan.encoder.device == Device.CPU:
        return not all(pool.device == Device.CPU for pool in plan.pools if pool.replicas)
    if not any(pool.replicas and pool.shares_encoder_cards for pool in plan.pools):
        return True
    free = sum(
        ((asked.replicas or 0) - planned.replicas) * planned.gpus
        for asked, planned in zip(pools, plan.pools, strict=True)
        if planned.shares_encoder_cards and not planned.unfit
    )
    gpus = (encoder.gpu.count or 0) if encoder.gpu is not None else 0
    return free >= plan.encoder.shards * gpus


def _why_not_at_once(plan: Plan) -> str:
    if plan.encoder.device == Device.CPU:
        return "The encoder and the runners use CPUs, so the encoder finishes first and leaves room for them."
    cards = sum(pool.replicas * pool.gpus for pool in plan.pools if pool.shares_encoder_cards)
    pods = plan.encoder.shards
    who = f"The encoder ({pods} pod{'s' if pods > 1 else ''}) and the runners ({cards} card{'s' if cards > 1 else ''})"
    return f"{who} use the same cards, so the encoder finishes first and leaves room for them."
