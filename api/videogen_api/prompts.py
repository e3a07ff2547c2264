"""The grammar of Open-Sora prompts, without any cleaning: `{json}` suffixes, `|0|..|n|` segments, score suffixes.

`A fox |1| ...` is not a segmented prompt: only a text that starts with `|0|` is. `{"reference_path": ..,
"mask_strategy": ..}` at the end of a prompt carries its conditioning. The syntax is that of hpcaitech/Open-Sora, branch
opensora/v1.2.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from videogen_api.errors import InvalidInput

_FIRST_SEGMENT = "|0|"
_JSON_KEYS = ("reference_path", "mask_strategy")
_STRATEGY_FIELDS = 6


@dataclass(frozen=True)
class MaskStrategy:
    """One placement of a reference, in latent frames; negative positions count from the end."""

    loop: int = 0
    reference: int = 0
    reference_start: int = 0
    target_start: int = 0
    length: int = 1
    edit_ratio: float = 0.0


def split_conditioning(text: str, reference_path: str = "", mask_strategy: str = "") -> tuple[str, str, str]:
    """The prompt before a `{json}` suffix, its reference path and its mask strategy (the given ones where it has none).

    Raises InvalidInput when the braces hold no JSON object, or one with other keys.
    """
    start = text.find("{")
    if start < 0:
        return text, reference_path, mask_strategy
    if text.count("{") > 1:
        raise InvalidInput("the prompt has more than one opening brace; one flat JSON object may stand at its end")
    try:
        conditioning = json.loads(text[start:])
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f'the braces in the prompt hold no JSON ({error.msg}); write {{"reference_path": ".."}} or drop the braces'
        ) from error
    unknown = sorted(set(conditioning) - set(_JSON_KEYS))
    if unknown:
        raise InvalidInput(f"{unknown[0]!r} in the prompt's braces is unknown; use {' or '.join(_JSON_KEYS)}")
    for key, value in conditioning.items():
        if not isinstance(value, str):
            raise InvalidInput(f"{key!r} in the prompt's braces is {value!r}; want a text")
    return (
        text[:start],
        conditioning.get("reference_path", reference_path),
        conditioning.get("mask_strategy", mask_strategy),
    )


def split_reference_path(reference_path: str) -> tuple[str, ...]:
    """Paths of several references, separated by semicolons."""
    return tuple(reference_path.split(";")) if reference_path else ()


def parse_mask_strategy(text: str | None) -> tuple[MaskStrategy, ...]:
    """Placements out of `loop,reference,reference_start,target_start,length,edit_ratio;...`; later ones may be absent.

    Raises InvalidInput for more than six values, or values that are no numbers.
    """
    return tuple(_parse_placement(part) for part in text.split(";")) if text else ()


def _parse_placement(text: str) -> MaskStrategy:
    values = text.split(",")
    if len(values) > _STRATEGY_FIELDS:
        raise InvalidInput(f"mask strategy {text!r} has {len(values)} values; at most {_STRATEGY_FIELDS} are allowed")
    try:
        integers = [int(value) for value in values[: _STRATEGY_FIELDS - 1]]
        edit_ratio = [float(value) for value in values[_STRATEGY_FIELDS - 1 :]]
    except ValueError as error:
        raise InvalidInput(f"mask strategy {text!r} is no list of numbers such as 0,0,0,0,1,0.0") from error
    return MaskStrategy(*integers, *edit_ratio)


def split_segments(text: str) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """Texts of a `|0|..|n|..` prompt and the loops at which they start; one text and None for any other prompt.

    Raises InvalidInput where a loop is no number or has no text.
    """
    if not text.startswith(_FIRST_SEGMENT):
        return (text,), None
    segments = _segments(text)
    return tuple(segment.strip() for _, segment in segments), tuple(loop for loop, _ in segments)


def _segments(text: str) -> list[tuple[int, str]]:
    """Loops and texts of a `|0|..|n|..` prompt, as they stand."""
    parts = text.split("|")[1:]
    if len(parts) % 2:
        raise InvalidInput(f"the prompt ends after loop {parts[-1]!r}; write a text after it, or drop the last bar")
    return [(_loop_number(loop), segment) for loop, segment in zip(parts[::2], parts[1::2], strict=True)]


def _loop_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInput(
            f"{text!r} between bars in the prompt is no loop number; write |0| first |1| second"
        ) from error


def merge_segments(segments: Sequence[str], loops: Sequence[int] | None) -> str:
    """The opposite of `split_segments`."""
    if loops is None:
        return segments[0]
    return "".join(f"|{loop}|{segment}" for loop, segment in zip(loops, segments, strict=True))


def segment_of_loop(text: str, loop: int) -> str:
    """What a prompt says for one loop, unstripped; a loop without a text of its own takes the last one before it.

    Raises InvalidInput where a loop is no number, has no text, or cannot be reached.
    """
    if not text.startswith(_FIRST_SEGMENT):
        return text
    segments = _segments(text)
    ends = [start for start, _ in segments[1:]] + [loop + 1]
    # As the reference counts, which shows where loops stand out of order: each text holds for (end - start) loops.
    before = loop
    for (start, segment), end in zip(segments, ends, strict=True):
        if before < end - start:
            return segment
        before -= max(0, end - start)
    raise InvalidInput(f"the prompt has no text for loop {loop}; write its loops in rising order")


def append_scores(
    text: str, aesthetic_score: float | None, motion_score: float | None, camera_motion: str | None
) -> str:
    """The prompt with the suffixes that the model was trained on, each only where its label is not there already."""
    if aesthetic_score is not None and "aesthetic score:" not in text:
        text = f"{text} aesthetic score: {aesthetic_score:.1f}."
    if motion_score is not None and "motion score:" not in text:
        text = f"{text} motion score: {motion_score:.1f}."
    if camera_motion is not None and "camera motion:" not in text:
        text = f"{text} camera motion: {camera_motion}."
    return text
