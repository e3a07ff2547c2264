"""Digests of what a manifest says, as written: what is to be made, and how the pods that make it are to look.

They are taken before any defaults, so that a change of the cluster's defaults touches only runs not yet started.
"""

from typing import Any

from videogen_api.naming import Stage, short_hash
from videogen_api.plan import canonical_json
from videogen_api.spec import Model, VideoGenerationSpec

_DIGEST_LENGTH = 16


def asked_digest(spec: VideoGenerationSpec) -> str:
    """Digest of what decides the clips and where they go; names of prompts, pools, deadlines and ttl do not."""
    prompts = [prompt.model_copy(update={"name": None}) for prompt in spec.prompts]
    return _digest(
        [_plain(prompt) for prompt in prompts],
        _plain(spec.video),
        _plain(spec.sampling),
        _plain(spec.model),
        _plain(spec.storage),
    )


def template_digest(spec: VideoGenerationSpec, stage: Stage, pool: str | None) -> str:
    """Digest of what the manifest says about one stage's pods, but for their number."""
    if stage == Stage.GENERATE:
        pools = [each.model_copy(update={"replicas": None}) for each in spec.runners or () if each.name == pool]
        said: list[Any] = [_plain(each) for each in pools]
    elif stage == Stage.ENCODE:
        said = [_plain(spec.encoder)]
    else:
        said = []
    return _digest(said, spec.schedule.queue if spec.schedule is not None else None)


def _plain(value: Model | None) -> Any:
    return value.model_dump(mode="json", exclude_none=True) if value is not None else None


def _digest(*parts: Any) -> str:
    return short_hash(*(canonical_json(part).decode() for part in parts), length=_DIGEST_LENGTH)
