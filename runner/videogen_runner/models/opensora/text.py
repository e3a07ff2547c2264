"""Caption cleaning: what a prompt looks like when the text encoder sees it. No torch: preflight imports this too.

Open-Sora v1.2 was trained on captions cleaned by the rules of the DeepFloyd IF family (also PixArt's), which were made
for alt texts of web pages, and cleaned twice. A prompt must go through the same rules, oddities included: a rule that
looks wrong is what the weights expect. The rules are tables, applied from top to bottom; tests/parity holds recorded
results. Segments, scores and `{json}` are taken apart before this, in videogen_api/prompts.py.
"""

import html
import re
import warnings
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning
from bs4.exceptions import ParserRejectedMarkup

from videogen_api.errors import InvalidInput

# Part of the key of a stored embedding: raise it with any change of what `clean_caption` returns.
CLEANER_VERSION = 1

_HOST_AND_PATH = r"[a-zA-Z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_DASHES = (
    r"\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    r"\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_FILE_TYPE = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"

_Rule = tuple[re.Pattern[str], str]


def _rules(*rules: tuple[str, str]) -> tuple[_Rule, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


# On the lower-cased text, before markup is removed.
_LINKS = _rules(
    (r"<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_HOST_AND_PATH})", ""),
    # A second pass over hosts: removing a link can put a new one together.
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_HOST_AND_PATH})", ""),
)

_SYMBOLS = _rules(
    (r"@\w+\b", ""),  # handles
    # CJK: strokes, phonetic extensions, enclosed letters, compatibility, ideographs A, hexagrams, unified ideographs.
    (r"[\u31c0-\u31ef\u31f0-\u31ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u4dff\u4e00-\u9fff]+", ""),
    (rf"[{_DASHES}]+", "-"),
    (r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    (r"[\u2018\u2019]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),  # article numbers
    (r"\\n", " "),  # a line break written out
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.{_FILE_TYPE}", ""),  # file names
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    # # ® • © ™ & @ · º ½ ¾ ¿ ¡ § ~ and brackets, bars, slashes, stars
    (r"[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~)(\]\[}{|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)

# Names like this-is-my-cute-cat: with more joints than this, joints become spaces.
_JOINT = re.compile(r"[-_]")
_MAX_JOINTS = 3

_CODES_AND_PHRASES = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_FILE_TYPE}(\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),  # 640x480, also with a Cyrillic x or a multiplication sign
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"'](.+)[\"']$", r"\1"),  # quotes around the whole
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(text: str) -> str:
    """The text as the encoder's training saw it: the rules applied twice.

    May be empty: see `check_caption`. Raises InvalidInput for markup that cannot be parsed.
    """
    return clean_once(clean_once(text))


def check_caption(text: str) -> None:
    """Raises InvalidInput for a text, without its scores, of which cleaning leaves nothing for the model."""
    if not clean_caption(text):
        raise InvalidInput(
            f"prompt {text!r} is empty once cleaned: links, file names, long numbers and CJK ideographs are removed; "
            "describe the video in English words"
        )


def clean_once(text: str) -> str:
    """One application of the rules; the second one finds what the first has uncovered."""
    text = _apply(_LINKS, unquote_plus(text).strip().lower())
    text = _apply(_SYMBOLS, _without_markup(text))
    if len(_JOINT.findall(text)) > _MAX_JOINTS:
        text = _JOINT.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _apply(_CODES_AND_PHRASES, text).strip()


def _apply(rules: tuple[_Rule, ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _without_markup(text: str) -> str:
    with warnings.catch_warnings():
        # A prompt may well look like a file name, a URL or XML to the parser; that is no mistake of the caller.
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        try:
            return BeautifulSoup(text, features="html.parser").text
        except ParserRejectedMarkup as error:
            raise InvalidInput(f"prompt {text!r} holds markup that cannot be parsed; remove its <! sequence") from error
