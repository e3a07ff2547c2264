"""YAML documents as the API server would read them, and what is wrong with one, in sentences that name the field.

Knows no particular document: manifests (resource.py) and the operator's configuration are read with it.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_MAX_SHOWN_VALUE = 60


class Unreadable(ValueError):
    """A text that is not YAML, or holds what JSON cannot carry; the message says where or what."""


class _StrictLoader(yaml.SafeLoader):
    """YAML as the API server reads it: no repeated keys, dates are text, and so is 16:9 (base 60 in YAML 1.1)."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own class attribute)
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] not in {"int", "float", "timestamp"}
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"the key {key.value!r} stands twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+0123456789."),
)


def read_text(path: Path) -> str:
    """The text of a file. Raises Unreadable."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Unreadable("cannot be read: it is not UTF-8 text") from error


def parse_documents(text: str) -> list[object]:
    """Every document of a YAML text that holds anything. Raises Unreadable."""
    try:
        return [document for document in yaml.load_all(text, _StrictLoader) if document is not None]
    except yaml.YAMLError as error:
        raise Unreadable(f"not valid YAML: {_describe_yaml_error(error)}") from error


def to_json(document: object) -> str:
    """What the API server will see; bare NaN survives the way. Raises Unreadable."""
    try:
        return json.dumps(document)
    except (TypeError, ValueError) as error:
        raise Unreadable(f"holds a value that JSON cannot carry: {error}") from error


def _describe_yaml_error(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def describe_problems(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """One line for each thing that is wrong: field, value, what is allowed. `model` is what was to be read."""
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] == "too_short" and any(
            other["loc"][:-1][: len(detail["loc"])] == detail["loc"] for other in details
        ):
            continue  # pydantic counts the bad items of a list as missing; they are reported themselves
        path = _field_path(detail["loc"])
        if detail["type"] == "extra_forbidden":
            yield f"{path}: unknown field{_suggest(model, detail['loc'])}"
        elif detail["type"] == "missing":
            yield f"{path}: missing; it is required"
        elif isinstance(detail["input"], Mapping):
            # A rule between fields stands at their parent, and may begin with the name of the one it is about.
            allowed = _describe_allowed(detail)
            field, colon, _ = allowed.partition(": ")
            yield f"{path}.{allowed}" if colon and field in detail["input"] else f"{path}: {allowed}"
        else:
            found = detail["input"]
            shown = f"{len(found)} items are" if isinstance(found, list) else f"{show(found)} is"
            yield f"{path}: {shown} not allowed: {_describe_allowed(detail)}"


def _describe_allowed(detail: ErrorDetails) -> str:
    limits = detail.get("ctx", {})
    unit = " characters" if detail["type"].startswith("string") else ""
    if detail["type"].endswith("too_long"):
        return f"want at most {limits['max_length']}{unit}"
    if detail["type"].endswith("too_short"):
        return f"want at least {limits['min_length']}{unit}"
    allowed = detail["msg"].removeprefix("Value error, ").replace("Input should be ", "want ")
    return _lower_first(allowed.replace("a valid array", "a list"))


def _field_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if part == "[key]":  # pydantic's word for a map's key, which stands before it
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "document"


def _suggest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Names the fields that may stand where an unknown one was found, the nearest first."""
    parent: type[BaseModel] | None = model
    for part in location[:-1]:
        if isinstance(part, str) and parent is not None:
            parent = _model_of_field(parent, part)
    if parent is None:
        return ""
    names = [field.alias or name for name, field in parent.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; want one of {', '.join(names)}"


def _model_of_field(model: type[BaseModel], alias: str) -> type[BaseModel] | None:
    for field in model.model_fields.values():
        if field.alias == alias:
            return _find_model(field.annotation)
    return None


def _find_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _find_model(argument)) is not None), None)


def show(value: object) -> str:
    """A value as JSON, short enough for a message."""
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= _MAX_SHOWN_VALUE else f"{shown[: _MAX_SHOWN_VALUE - 1]}…"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
