"""What every page has around its content: head, style, script, and a policy that lets nothing else run or load."""

import base64
import hashlib

from videogen_runner.page.html import Html, joined, tag
from videogen_runner.page.look import SCRIPT, STYLE


def render_document(title: str, *body: str) -> str:
    """The whole file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    content = joined(*body, tag("script", Html(SCRIPT)), by="\n")
    return f"<!doctype html>\n{tag('html', head, tag('body', content), lang='en')}\n"


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# Pictures and videos are left out: browsers do not agree whether files beside a file are 'self'.
_POLICY = "; ".join(
    [
        f"script-src {_source(SCRIPT)}",
        f"style-src {_source(STYLE)}",
        *(f"{what}-src 'none'" for what in ("connect", "font", "frame", "object")),
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
