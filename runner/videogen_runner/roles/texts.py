"""The texts of a plan on their way to embeddings: which are missing, what the encoder reads of them, what is stored."""

import logging
import re

from videogen_api import keys
from videogen_api.errors import InvalidInput
from videogen_api.plan import Inputs
from videogen_api.records import ClipFailure
from videogen_api.report import RunnerState
from videogen_runner.embeddings import Embeddings
from videogen_runner.models.opensora.t5 import TextEmbedding
from videogen_runner.models.opensora.text import check_caption, clean_caption
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.parallel import map_in_threads
from videogen_runner.store.records import put_record

log = logging.getLogger("videogen")

Captions = dict[str, str]
"""Texts of the plan, and what the encoder sees of each."""

# What `prompts.append_scores` adds: a text of nothing else says nothing.
_SCORES = re.compile(r"(?:aesthetic|motion) score: [\d.]+|camera motion: [\w ]+\.?")


def find_missing(context: RoleContext, inputs: Inputs) -> tuple[int, Captions]:
    """How many texts have an embedding, and the captions of the others.

    A text that cannot be cleaned fails its clips, and no others: it is in neither.
    """
    texts = context.plan.texts
    context.progress.update(state=RunnerState.CHECKING, total=len(texts))
    is_stored = map_in_threads(context, Embeddings(context.store, context.plan, inputs).is_stored, texts)
    missing = [text for text, there in zip(texts, is_stored, strict=True) if not there]
    return sum(is_stored), _clean(context, inputs, missing)


class Publisher:
    """Stores embeddings as they come, and counts them in the progress."""

    def __init__(self, context: RoleContext, inputs: Inputs, num_stored: int) -> None:
        """`num_stored` embeddings are there already."""
        self._context = context
        self._embeddings = Embeddings(context.store, context.plan, inputs)
        self._num_stored = num_stored
        self.num_written = 0
        self.warnings: list[str] = []

    def publish(self, text: str, embedding: TextEmbedding) -> None:
        """Raises StoreUnavailable and StoreDenied."""
        self._embeddings.write(text, embedding.y_LC, embedding.num_dropped)
        self.num_written += 1
        if embedding.warning is not None:
            self.warnings.append(f"prompt {self._prompt_name(text)}: {embedding.warning}")
            log.warning("%s", self.warnings[-1])
        self._context.progress.update(done=self._num_stored + self.num_written)

    def _prompt_name(self, text: str) -> str:
        """The first prompt that says the text."""
        prompts = self._context.plan.prompts
        return next(p.name for p in prompts if any(segment.text == text for segment in p.segments))


def _clean(context: RoleContext, inputs: Inputs, texts: list[str]) -> Captions:
    captions: Captions = {}
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
