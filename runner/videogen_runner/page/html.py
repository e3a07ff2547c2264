"""HTML as values: text is escaped where it is put in, so that no prompt can become markup."""

from html import escape
from urllib.parse import quote

_VOID = frozenset({"meta", "img"})


class Html(str):
    """Markup that was built here; any other string is text."""

    __slots__ = ()


def tag(element: str, *children: str, **attributes: str | float | bool) -> Html:
    """An element. `class_` and `aria_label` stand for class and aria-label; True is an attribute without a value, False
    none at all."""
    start = "".join(_attribute(name, value) for name, value in attributes.items())
    return Html(f"<{element}{start}>" if element in _VOID else f"<{element}{start}>{joined(*children)}</{element}>")


def joined(*children: str, by: str = "") -> Html:
    """The children one after the other; those that are text are escaped."""
    return Html(by.join(child if isinstance(child, Html) else escape(child) for child in children))


def link(path: str) -> str:
    """A relative path as the value of href or src."""
    return quote(path)


def _attribute(name: str, value: str | float | bool) -> str:
    name = name.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    return f' {name}="{escape(str(value))}"'
