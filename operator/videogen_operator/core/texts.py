"""From the prompts of a manifest to those of a plan: names, seeds, segments with their scores, placed references.

Everything that a manifest leaves open about its prompts is decided here, and every contradiction between a prompt and
the clip's length is refused with the field that has it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from pydantic import TypeAdapter, ValidationError

from videogen_api import naming, prompts
from videogen_api.errors import InvalidInput
from videogen_api.plan import PlannedPrompt, PlannedReference, PlannedVideo, Segment, seed_of_text
from videogen_api.prompts import MaskStrategy
from videogen_api.spec import Prompt, Reference, Sampling, Url
from videogen_operator.core import defaults

_URL: TypeAdapter[str] = TypeAdapter(Url)
_DEFAULT_PLACEMENT = MaskStrategy()


def resolve_prompt(position: int, prompt: Prompt, video: PlannedVideo, sampling: Sampling) -> PlannedPrompt:
    """One prompt of a plan. Raises InvalidInput that names the field."""
    path = f"spec.prompts[{position}]"
    text = prompt.text.strip()
    with _at_field(f"{path}.text"):
        spoken, reference_path, mask_strategy = prompts.split_conditioning(text)
        segments = _resolve_segments(spoken.strip(), video, sampling)
        in_text = _references_of_text(reference_path, mask_strategy)
        for reference in in_text:
            _check_placement(reference, video)
    in_spec = [_resolve_reference(reference) for reference in prompt.references or ()]
    for index, reference in enumerate(in_spec):
        with _at_field(f"{path}.references[{index}]"):
            _check_placement(reference, video)
    return PlannedPrompt(
        name=prompt.name or naming.prompt_name(position),
        text=text,
        seed=seed_of_text(text) if prompt.seed is None else prompt.seed,
        samples=prompt.samples or 1,
        segments=segments,
        references=(*in_spec, *in_text),
    )


@contextmanager
def _at_field(path: str) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def _resolve_segments(text: str, video: PlannedVideo, sampling: Sampling) -> tuple[Segment, ...]:
    texts, starts = prompts.split_segments(text)
    loops = (0,) if starts is None else starts
    for before, loop in pairwise(loops):
        if loop <= before:
            raise InvalidInput(f"loop {loop} stands after loop {before}; write the loops in rising order")
    if loops[-1] >= video.loops:
        raise InvalidInput(f"loop {loops[-1]} has a text, but spec.video.loops is {video.loops}; raise it, or drop it")
    for loop, segment in zip(loops, texts, strict=True):
        if not segment.strip():
            where = "the prompt" if starts is None else f"the text of loop {loop}"
            raise InvalidInput(f"{where} is empty; write what the video should show")
    score = defaults.AESTHETIC_SCORE if sampling.aesthetic_score is None else sampling.aesthetic_score
    return tuple(
        Segment(loop=loop, text=prompts.append_scores(segment, score, sampling.motion_score, sampling.camera_motion))
        for loop, segment in zip(loops, texts, strict=True)
    )


def _resolve_reference(reference: Reference) -> PlannedReference:
    return _place(
        reference.url,
        reference.sha256,
        MaskStrategy(
            loop=_or(reference.loop, _DEFAULT_PLACEMENT.loop),
            reference_start=_or(reference.start, _DEFAULT_PLACEMENT.reference_start),
            target_start=_or(reference.at, _DEFAULT_PLACEMENT.target_start),
            length=_or(reference.length, _DEFAULT_PLACEMENT.length),
            edit_ratio=_DEFAULT_PLACEMENT.edit_ratio if reference.edit is None else reference.edit,
        ),
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _references_of_text(reference_path: str, mask_strategy: str) -> list[PlannedReference]:
    """References in a prompt's braces. A single one without a strategy goes where one of `references` would."""
    urls = prompts.split_reference_path(reference_path)
    for url in urls:
        try:
            _URL.validate_python(url)
        except ValidationError as error:
            raise InvalidInput(f"reference_path {url!r} is not allowed: want s3://bucket/path or a path") from error
    strategies = prompts.parse_mask_strategy(mask_strategy)
    if urls and not strategies:
        if len(urls) > 1:
            raise InvalidInput(f"{len(urls)} references in the braces, and no mask_strategy that says where they go")
        strategies = (_DEFAULT_PLACEMENT,)
    for strategy in strategies:
        if not 0 <= strategy.reference < len(urls):
            raise InvalidInput(
                f"the mask_strategy names reference {strategy.reference}, and reference_path holds {len(urls)}; "
                "they count from 0"
            )
    return [_place(urls[strategy.reference], None, strategy) for strategy in strategies]


def _place(url: str, sha256: str | None, placement: MaskStrategy) -> PlannedReference:
    return PlannedReference(
        url=url,
        sha256=sha256,
        loop=placement.loop,
        start=placement.reference_start,
        at=placement.target_start,
        length=placement.length,
        edit=float(placement.edit_ratio),
    )


def _check_placement(reference: PlannedReference, video: PlannedVideo) -> None:
    frames = video.latent.frames
    if not 0 <= reference.loop < video.loops:
        raise InvalidInput(
            f"{reference.url} goes into loop {reference.loop}, but spec.video.loops is {video.loops}; they count from 0"
        )
    if not -frames <= reference.at < frames:
        raise InvalidInput(
            f"{reference.url} goes to latent frame {reference.at}, but a loop has {frames} of them; they count from 0"
        )
    if reference.length < 1:
        raise InvalidInput(f"{reference.url} has length {reference.length}; want at least 1 latent frame")
    if not 0 <= reference.edit <= 1:
        raise InvalidInput(f"{reference.url} has edit ratio {reference.edit}; want 0 (kept) to 1 (free)")
