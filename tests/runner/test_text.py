import subprocess
import sys

import pytest

from videogen_api.errors import InvalidInput
from videogen_runner.models.opensora.text import check_caption, clean_caption, clean_once


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A Red FOX", "a red fox"),
        ("a fox by @painter_1 on www.art.com", "a fox by on"),
        ("a fox, see https://fox.org/red-fox", "a fox, see"),
        ("<i>a fox</i> &amp; <b>a hare</b>", "a fox a hare"),
        ("a fox \u72d0\u72f8 in snow", "a fox in snow"),
        ("a fox \u2013 in \u2014 snow", "a fox - in - snow"),
        ("a \u201cred\u201d fox\u2019s tail", 'a "red" fox\'s tail'),
        ("server 10.0.0.1 room", "server room"),
        ("a fox at 8:30 ", "a fox at 8:30"),
        ("a fox #12 and #123456", "a fox and"),
        ("fox_01.png in the snow", "in the snow"),
        ("a fox... runs", "a fox runs"),
        ("***a fox***", "a fox"),
        ("a-red-fox-in-snow", "a red fox in snow"),
        ("a red-brown fox", "a red-brown fox"),
        ("a fox, 1920x1080", "a fox"),
        ("a fox free shipping", "a fox"),
        ("click for more of a fox", "of a fox"),
        ("free download a fox", "a fox"),
        ("a fox on page 12", "a fox on"),
        ("item jc6640 is a fox", "item is a fox"),
        ("a fox,a hare/a bird", "a fox, a hare a bird"),
        ('"a fox in snow"', "a fox in snow"),
        ("a fox -", "a fox"),
        ("a+fox%21", "a fox!"),
        ("ﬁre fox", "fire fox"),
    ],
)
def test_a_caption_is_cleaned_by_the_rules_of_the_training(text: str, cleaned: str) -> None:
    assert clean_caption(text) == cleaned


def test_the_second_application_removes_what_the_first_uncovers() -> None:
    once = clean_once("1920x1080 video 3.5x2.5")
    assert clean_once(once) == clean_caption("1920x1080 video 3.5x2.5") != once


@pytest.mark.parametrize("text", ["photo.jpg", "/var/lib/fox.txt", "http://fox.org", "<?xml version='1.0'?><a>fox</a>"])
def test_a_caption_that_looks_like_a_path_or_xml_gives_no_warning(text: str) -> None:
    assert isinstance(clean_caption(text), str)  # warnings are errors in these tests


def test_a_caption_of_which_nothing_is_left_is_refused() -> None:
    check_caption("a fox")
    with pytest.raises(InvalidInput, match=r"'一只狐狸' is empty once cleaned.*describe the video in English"):
        check_caption("一只狐狸")


def test_markup_that_cannot_be_parsed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="holds markup that cannot be parsed"):
        clean_caption("<![fox in snow")


def test_cleaning_needs_no_torch() -> None:
    code = "import sys, videogen_runner.models.opensora.text; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert result.stdout == "False\n"
