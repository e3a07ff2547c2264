"""The grammar of prompts. What it means for a clip is in tests/parity, against the reference's own answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videogen_api.errors import InvalidInput
from videogen_api.prompts import (
    MaskStrategy,
    append_scores,
    merge_segments,
    parse_mask_strategy,
    segment_of_loop,
    split_conditioning,
    split_reference_path,
    split_segments,
)


def test_conditioning_stands_in_braces_at_the_end() -> None:
    text = 'a fox {"reference_path": "a.png;b.mp4", "mask_strategy": "0;0,1,0,-1,1"}'

    assert split_conditioning(text) == ("a fox ", "a.png;b.mp4", "0;0,1,0,-1,1")
    assert split_conditioning("a fox", "given.png", "0") == ("a fox", "given.png", "0")
    assert split_reference_path("a.png;b.mp4") == ("a.png", "b.mp4")
    assert split_reference_path("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a {x",
            (
                "the braces in the prompt hold no JSON (Expecting property name enclosed in double quotes); write "
                '{"reference_path": ".."} or drop the braces'
            ),
        ),
        ('a {"b": {}}', "the prompt has more than one opening brace; one flat JSON object may stand at its end"),
        ('a {"path": "x"}', "'path' in the prompt's braces is unknown; use reference_path or mask_strategy"),
        ('a {"reference_path": 3}', "'reference_path' in the prompt's braces is 3; want a text"),
    ],
)
def test_braces_that_hold_anything_else_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        split_conditioning(text)
    assert str(caught.value) == message


def test_a_mask_strategy_may_leave_out_its_last_values() -> None:
    assert parse_mask_strategy("0;1,2;0,1,2,3,4,0.5") == (
        MaskStrategy(),
        MaskStrategy(loop=1, reference=2),
        MaskStrategy(0, 1, 2, 3, 4, 0.5),
    )
    assert parse_mask_strategy(None) == parse_mask_strategy("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,2,3,4,5,6", "mask strategy '0,1,2,3,4,5,6' has 7 values; at most 6 are allowed"),
        ("0,x", "mask strategy '0,x' is no list of numbers such as 0,0,0,0,1,0.0"),
        ("0;", "mask strategy '' is no list of numbers such as 0,0,0,0,1,0.0"),
    ],
)
def test_a_mask_strategy_of_another_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_mask_strategy(text)
    assert str(caught.value) == message


def test_only_a_prompt_that_starts_with_loop_0_has_segments() -> None:
    assert split_segments("|0| a fox |2| a hen") == (("a fox", "a hen"), (0, 2))
    assert split_segments("a fox |1| a hen") == (("a fox |1| a hen",), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|0| a fox |1", "the prompt ends after loop '1'; write a text after it, or drop the last bar"),
        ("|0| a fox |x| a hen", "'x' between bars in the prompt is no loop number; write |0| first |1| second"),
    ],
)
def test_a_segment_without_loop_or_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        split_segments(text)
    assert str(caught.value) == message


_TEXTS = st.text(st.characters(exclude_characters="|", exclude_categories=("Cs",))).map(str.strip)


@given(st.lists(_TEXTS, min_size=1, max_size=5))
def test_segments_that_are_merged_are_split_again(texts: list[str]) -> None:
    loops = tuple(range(len(texts)))

    assert split_segments(merge_segments(texts, loops)) == (tuple(texts), loops)


def test_a_loop_without_a_text_takes_the_one_before_it() -> None:
    text = "|0|a fox|2|a hen"

    assert [segment_of_loop(text, loop) for loop in range(4)] == ["a fox", "a fox", "a hen", "a hen"]


def test_scores_are_appended_where_their_label_is_not_there() -> None:
    assert (
        append_scores("a fox", 6.5, 5, "pan left")
        == "a fox aesthetic score: 6.5. motion score: 5.0. camera motion: pan left."
    )
    said = "a fox aesthetic score: 9. motion score: 1. camera motion: zoom."
    assert append_scores(said, 6.5, 5, "pan left") == said
    assert append_scores("a fox", None, None, None) == "a fox"
