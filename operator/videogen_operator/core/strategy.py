"""Whether the encoder finishes before the first runner starts, or both work at once."""

from videogen_api.plan import Device, PlannedEncoder
from videogen_api.spec import Encoder, RunnerPool, Schedule, Strategy

# About what it takes to start a pod and load weights; a shorter wait is not worth overlapping.
_SHORT_ENCODE_SECONDS = 60.0


def choose_strategy(
    schedule: Schedule | None, encoder: Encoder, pools: tuple[RunnerPool, ...], planned: PlannedEncoder
) -> tuple[Strategy, str]:
    """The strategy and, in one sentence, why."""
    asked = schedule.strategy if schedule is not None else None
    if asked not in (None, Strategy.AUTO):
        return asked, f"{asked} is what spec.schedule.strategy asks for."
    if _shares_cards(encoder, pools):
        where = "the same cards" if planned.device == Device.CUDA else "CPUs"
        return (
            Strategy.SEQUENTIAL,
            f"The encoder and the runners use {where}, so the encoder finishes first and leaves room for them.",
        )
    if planned.cost.seconds <= _SHORT_ENCODE_SECONDS:
        return (
            Strategy.SEQUENTIAL,
            f"Encoding takes about {planned.cost.seconds:.1f} s, so waiting for it costs less than overlapping.",
        )
    return (
        Strategy.OVERLAPPED,
        f"The encoder has cards of its own and takes about {planned.cost.seconds:.0f} s, so runners need not wait.",
    )


def _shares_cards(encoder: Encoder, pools: tuple[RunnerPool, ...]) -> bool:
    gpu = encoder.gpu
    if gpu is None or gpu.count == 0:
        return all(pool.gpu is None or pool.gpu.count == 0 for pool in pools)
    return any(
        pool.gpu is not None and pool.gpu.count and (pool.gpu.resource, pool.gpu.product) == (gpu.resource, gpu.product)
        for pool in pools
    )
