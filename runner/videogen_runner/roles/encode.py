"""The encode role: every text of the plan that has no embedding yet goes through the text encoder, once.

Each embedding is published as soon as it exists, so a stop or a crash loses the texts at hand and nothing else.
"""

from functools import partial

from videogen_api.architecture import architecture_of
from videogen_api.plan import Inputs
from videogen_api.report import EncodeReport, RunnerState
from videogen_runner.compute import ComputeThread
from videogen_runner.device import check_dtypes, set_up_device, torch_dtype
from videogen_runner.models.opensora.t5 import TextEncoder
from videogen_runner.roles import encode_shards
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.inputs import checked_weights, read_inputs
from videogen_runner.roles.texts import Publisher, find_missing
from videogen_runner.weights import Component
from videogen_runner.weights.loading import load_encoder


def run(context: RoleContext) -> EncodeReport:
    """Encodes what is missing; alone, or as one shard of the plan's group.

    Raises WeightsMissing, WeightsInvalid, Interrupted at a stop, StoreUnavailable, StoreDenied; in a group also
    PeerLost, and ConfigInvalid for an environment that is no place in it.
    """
    inputs = read_inputs(context)
    if context.plan.encoder.shards > 1:
        return encode_shards.run(context, inputs)
    num_stored, captions = find_missing(context, inputs)
    context.progress.update(done=num_stored)
    if not captions:
        return EncodeReport(encoded=0, seconds=0.0, load_seconds=0.0)

    now = context.clock.monotonic
    compute = ComputeThread(context.stop)
    started = now()
    encoder = _load(context, inputs, compute)
    loaded = now()
    context.progress.update(state=RunnerState.ENCODING)
    publisher = Publisher(context, inputs, num_stored)
    for text, caption in captions.items():
        publisher.publish(text, compute.run(partial(encoder.encode, caption)))
    return EncodeReport(
        encoded=publisher.num_written,
        seconds=now() - loaded,
        load_seconds=loaded - started,
        truncated=tuple(publisher.warnings),
        relative_error=encoder.shard.first_error,
        exact_runs=encoder.shard.num_exact_runs,
    )


def _load(context: RoleContext, inputs: Inputs, compute: ComputeThread) -> TextEncoder:
    plan = context.plan
    context.progress.update(state=RunnerState.LOADING)
    device = set_up_device(context.environment.device, plan.encoder.device, plan.encoder.card_bytes)
    check_dtypes(device, plan.encoder.dtype)
    context.progress.update(device=str(device))

    def load() -> TextEncoder:
        return load_encoder(
            checked_weights(context, inputs, Component.ENCODER),
            device=device,
            dtype=torch_dtype(plan.encoder.dtype),
            architecture=architecture_of(plan.model.name),
            spread=context.environment.device is None,
        )

    return compute.run(load)
