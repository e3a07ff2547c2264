"""The encode role: every text of the plan that has no embedding yet goes through the text encoder, once.

Each embedding is published as soon as it exists, so a stop or a crash loses the text at hand and nothing else.
"""

import logging
import re
from functools import partial

from videogen_api import keys
from videogen_api.architecture import architecture_of
from videogen_api.errors import ConfigInvalid, InvalidInput
from videogen_api.plan import Inputs
from videogen_api.records import ClipFailure
from videogen_api.report import EncodeReport, RunnerState
from videogen_runner.compute import ComputeThread
from videogen_runner.device import set_up_device, torch_dtype
from videogen_runner.embeddings import Embeddings
from videogen_runner.models.opensora.t5 import TextEncoder
from videogen_runner.models.opensora.text import check_caption, clean_caption
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.inputs import checked_weights, read_inputs
from videogen_runner.roles.parallel import map_in_threads
from videogen_runner.store.records import put_record
from videogen_runner.weights import Component
from videogen_runner.weights.loading import load_encoder

log = logging.getLogger("videogen")

# What `prompts.append_scores` adds: a text of nothing else says nothing.
_SCORES = re.compile(r"(?:aesthetic|motion) score: [\d.]+|camera motion: [\w ]+\.?")


def run(context: RoleContext) -> EncodeReport:
    """Encodes what is missing.

    Raises ConfigInvalid for a plan of several shards, WeightsMissing, WeightsInvalid, Interrupted at a stop,
    StoreUnavailable, StoreDenied.
    """
    plan = context.plan
    if plan.encoder.shards > 1:
        raise ConfigInvalid(
            f"the plan has encoder.shards = {plan.encoder.shards}, and this image encodes with one; "
            "set spec.encoder.shards to 1"
        )
    inputs = read_inputs(context)
    embeddings = Embeddings(context.store, plan, inputs)
    context.progress.update(state=RunnerState.CHECKING, total=len(plan.texts))
    is_stored = map_in_threads(context, embeddings.is_stored, plan.texts)
    cleaned = _clean(context, inputs, [text for text, there in zip(plan.texts, is_stored, strict=True) if not there])
    context.progress.update(done=sum(is_stored))
    if not cleaned:
        return EncodeReport(encoded=0, seconds=0.0, load_seconds=0.0)

    now = context.clock.monotonic
    compute = ComputeThread(context.stop)
    started = now()
    encoder = _load(context, inputs, compute)
    loaded = now()
    context.progress.update(state=RunnerState.ENCODING)
    warnings = []
    for count, (text, caption) in enumerate(cleaned.items(), start=sum(is_stored) + 1):
        embedding = compute.run(partial(encoder.encode, caption))
        embeddings.write(text, embedding.y_LC, embedding.num_dropped)
        if embedding.warning is not None:
            warnings.append(f"prompt {_prompt_name(context, text)}: {embedding.warning}")
            log.warning("%s", warnings[-1])
        context.progress.update(done=count)
    return EncodeReport(
        encoded=len(cleaned), seconds=now() - loaded, load_seconds=loaded - started, truncated=tuple(warnings)
    )


def _clean(context: RoleContext, inputs: Inputs, texts: list[str]) -> dict[str, str]:
    """Captions of the texts as the encoder sees them; a text that cannot be cleaned fails its clips, and no others."""
    captions: dict[str, str] = {}
    for text in texts:
        try:
            check_caption(_SCORES.sub("", text))
            captions[text] = clean_caption(text)
        except InvalidInput as error:
            log.error("%s", error)
            _fail_clips(context, inputs, text, error)
    return captions


def _fail_clips(context: RoleContext, inputs: Inputs, text: str, error: InvalidInput) -> None:
    plan = context.plan
    for clip in plan.work:
        if any(segment.text == text for segment in plan.prompts[clip.prompt].segments):
            clip_digest = plan.clip_digest(clip, inputs)
            failure = ClipFailure(
                clip=clip.name,
                clip_digest=clip_digest,
                reason=error.reason,
                message=str(error),
                runner=context.environment.pod,
            )
            put_record(context.store, keys.clip_failure(plan.run, clip_digest), failure)


def _load(context: RoleContext, inputs: Inputs, compute: ComputeThread) -> TextEncoder:
    plan = context.plan
    context.progress.update(state=RunnerState.LOADING)
    device = set_up_device(context.environment.device, plan.encoder.device)
    context.progress.update(device=str(device))

    def load() -> TextEncoder:
        weights = checked_weights(context, inputs, Component.ENCODER)
        return load_encoder(
            weights.folder(Component.ENCODER),
            device=device,
            dtype=torch_dtype(plan.encoder.dtype),
            architecture=architecture_of(plan.model.name),
        )

    return compute.run(load)


def _prompt_name(context: RoleContext, text: str) -> str:
    """The first prompt that says the text."""
    return next(p.name for p in context.plan.prompts if any(segment.text == text for segment in p.segments))
