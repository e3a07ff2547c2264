"""What is there before any work: store, weights, references, embeddings and clips. No torch.

Preflight writes `keys.inputs`: the digests that complete the clips' identity, frozen for the run when first written.
"""

import hashlib
import logging
import uuid
from collections.abc import Mapping

from videogen_api import keys
from videogen_api.errors import InvalidInput, WeightsInvalid
from videogen_api.plan import Clip, Inputs, Plan
from videogen_api.report import Bitmap, PreflightReport, RunnerState
from videogen_runner.compute import ComputeThread
from videogen_runner.done import look_for_marker
from videogen_runner.embeddings import Embeddings
from videogen_runner.probe import conditional_writes_work
from videogen_runner.references import fetch_reference
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.inputs import planned_weights
from videogen_runner.roles.parallel import map_in_threads
from videogen_runner.store import NotFound, Store
from videogen_runner.store.records import get_record, record_bytes

log = logging.getLogger("videogen")


def run(context: RoleContext) -> PreflightReport:
    """Checks everything that a run needs, cheapest first.

    Raises WeightsMissing, WeightsInvalid, InvalidInput for a reference, StoreUnavailable, StoreDenied, Interrupted.
    """
    return ComputeThread(context.stop).run(lambda: _check(context))


def _check(context: RoleContext) -> PreflightReport:
    plan, store = context.plan, context.store
    context.progress.update(state=RunnerState.CHECKING, total=len(plan.texts) + len(plan.work))
    claims = conditional_writes_work(store, keys.probe(plan.run, uuid.uuid4().hex))
    if not claims:
        log.warning(
            "the store's conditional writes (If-None-Match, If-Match) cannot be trusted: each runner has a fixed share "
            "of the clips, and none goes on with another's; a store that has them lets work move between runners"
        )
    context.raise_if_stopped()
    weights = planned_weights(context).digests()
    references = _reference_digests(context)
    inputs = freeze_inputs(store, plan.run, Inputs(weights=weights, references=references, claims=claims))
    embeddings = map_in_threads(context, Embeddings(store, plan, inputs).is_stored, plan.texts)
    clips = map_in_threads(context, lambda clip: _has_clip(store, plan, inputs, clip), plan.work)
    report = PreflightReport(
        weights=weights, embeddings=Bitmap.of(embeddings), clips=Bitmap.of(clips), claims=inputs.claims
    )
    log.info(
        "%d of %d embeddings and %d of %d clips are there",
        *(report.embeddings.count, report.embeddings.size, report.clips.count, report.clips.size),
    )
    return report


def _reference_digests(context: RoleContext) -> dict[str, str]:
    """sha256 by URL; a pinned one must be the content's."""
    plan = context.plan
    digests: dict[str, str] = {}
    for reference in (reference for prompt in plan.prompts for reference in prompt.references):
        context.raise_if_stopped()
        content = fetch_reference(reference.url, plan.storage, context.environment.credentials, reference.sha256)
        digests[reference.url] = hashlib.sha256(content).hexdigest()
    return digests


def freeze_inputs(store: Store, run: str, found: Inputs) -> Inputs:
    """The run's inputs: what was found, if this is the first look, else what the first one wrote.

    Raises WeightsInvalid or InvalidInput where weights or a reference have changed since.
    """
    key = keys.inputs(run)
    try:
        frozen = get_record(store, key, Inputs).record
    except NotFound:
        if not found.claims:
            store.put(key, record_bytes(found))
            return found
        if store.create(key, record_bytes(found)) is not None:
            return found
        frozen = get_record(store, key, Inputs).record
    _check_unchanged(frozen.weights.model_dump(), found.weights.model_dump())
    for url, digest in found.references.items():
        if frozen.references[url] != digest:
            raise InvalidInput(
                f"reference {url} had sha256 {frozen.references[url]} when the run began and has {digest} now; "
                "restore it, or give the new one another name"
            )
    return frozen


def _check_unchanged(frozen: Mapping[str, str], found: Mapping[str, str]) -> None:
    for part, digest in found.items():
        if frozen[part] != digest:
            raise WeightsInvalid(
                f"the {part}'s weights had digest {frozen[part]} when the run began and have {digest} now; "
                "restore them, or put the new ones under another path"
            )


def _has_clip(store: Store, plan: Plan, inputs: Inputs, clip: Clip) -> bool:
    """Whether the clip is done. Where it is not, an earlier failure is forgotten: this look begins another try."""
    clip_digest = plan.clip_digest(clip, inputs)
    seen = look_for_marker(store, clip_digest)
    if seen.marker is not None:
        return True
    if seen.etag is not None:
        log.warning(
            "clip %s is made again: its video is not the one that %s names", clip.name, keys.clip_done(clip_digest)
        )
    store.delete(keys.clip_failure(plan.run, clip_digest))
    return False
