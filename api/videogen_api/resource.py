"""A whole VideoGeneration, and how one is read from YAML with errors that name the field.

`load_manifests` reads a file of one or many documents. Every problem of every document is reported at once, one line
each: the field's path, the value found, and what is allowed.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from videogen_api import naming
from videogen_api.bounds import DNS_LABEL, Pattern
from videogen_api.errors import InvalidInput
from videogen_api.spec import Model, VideoGenerationSpec
from videogen_api.status import VideoGenerationStatus

_MAX_SHOWN_VALUE = 60


class Metadata(BaseModel):
    """The part of ObjectMeta that decisions look at; the rest of it is Kubernetes' own and passes unread."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    name: Annotated[
        str,
        StringConstraints(
            min_length=1,
            max_length=naming.MAX_NAME_LENGTH,
        ),
        Pattern(rf"{DNS_LABEL}(\.{DNS_LABEL})*", "lower-case letters, digits, dashes and dots, as in my-clip"),
    ]
    namespace: str = "default"
    uid: str = ""
    resource_version: str = ""
    """The state of the object that decisions were made on: a status is written only while it still holds."""
    generation: int = 1
    deletion_timestamp: str | None = None


class VideoGeneration(Model):
    """One resource: what is asked for, and what is known of it."""

    api_version: Literal["videogen.dev/v1alpha1"] = Field(default="videogen.dev/v1alpha1")
    kind: Literal["VideoGeneration"] = Field(default="VideoGeneration")
    metadata: Metadata
    spec: VideoGenerationSpec
    status: VideoGenerationStatus = VideoGenerationStatus()


class ManifestInvalid(InvalidInput):
    """A manifest cannot be used; `problems` has one line for each thing that is wrong with it."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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


def load_manifests(path: Path) -> tuple[VideoGeneration, ...]:
    """Every VideoGeneration of a file.

    Raises ManifestInvalid when the file cannot be read, does not parse, or holds anything that is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ManifestInvalid((f"{path}: cannot be read: {detail}",)) from error
    return parse_manifests(text, str(path))


def parse_manifests(text: str, source: str) -> tuple[VideoGeneration, ...]:
    """Every VideoGeneration of a YAML text; `source` names it in errors."""
    try:
        documents = [document for document in yaml.load_all(text, _StrictLoader) if document is not None]
    except yaml.YAMLError as error:
        raise ManifestInvalid((f"{source}: not valid YAML: {_describe_yaml_error(error)}",)) from error
    if not documents:
        raise ManifestInvalid((f"{source}: holds no document; write a VideoGeneration",))
    resources: list[VideoGeneration] = []
    problems: list[str] = []
    for position, document in enumerate(documents):
        where = f"{source}: " if len(documents) == 1 else f"{source}, document {position + 1}: "
        try:
            resources.append(parse_resource(document))
        except ManifestInvalid as error:
            problems += [f"{where}{problem}" for problem in error.problems]
    identities = [(resource.metadata.namespace, resource.metadata.name) for resource in resources]
    problems += [
        f"{source}: two documents are named {namespace}/{name}; names must be unique"
        for namespace, name in sorted({identity for identity in identities if identities.count(identity) > 1})
    ]
    if problems:
        raise ManifestInvalid(tuple(problems))
    return tuple(resources)


def parse_resource(document: object) -> VideoGeneration:
    """One resource from plain values, as YAML or the API server gives them. Raises ManifestInvalid."""
    if not isinstance(document, Mapping):
        raise ManifestInvalid((f"want a VideoGeneration, found {_show(document)}",))
    for key, want in (("apiVersion", naming.API_VERSION), ("kind", naming.KIND)):
        if document.get(key) != want:
            found = _show(document[key]) if key in document else "nothing"
            raise ManifestInvalid((f"{key}: {found} is not allowed: want {want}",))
    try:
        # Through JSON, because that is what the API server will see; bare NaN survives the way and is refused there.
        return VideoGeneration.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise ManifestInvalid(tuple(_describe_all(error))) from error
    except (TypeError, ValueError) as error:
        raise ManifestInvalid((f"holds a value that JSON cannot carry: {error}",)) from error


def _describe_yaml_error(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _describe_all(error: ValidationError) -> Iterator[str]:
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] == "too_short" and any(
            other["loc"][:-1][: len(detail["loc"])] == detail["loc"] for other in details
        ):
            continue  # pydantic counts the bad items of a list as missing; they are reported themselves
        path = _field_path(detail["loc"])
        if detail["type"] == "extra_forbidden":
            yield f"{path}: unknown field{_suggest(detail['loc'])}"
        elif detail["type"] == "missing":
            yield f"{path}: missing; it is required"
        elif isinstance(detail["input"], Mapping):
            # A rule between fields stands at their parent, and may begin with the name of the one it is about.
            allowed = _describe_allowed(detail)
            field, colon, _ = allowed.partition(": ")
            yield f"{path}.{allowed}" if colon and field in detail["input"] else f"{path}: {allowed}"
        else:
            found = detail["input"]
            shown = f"{len(found)} items are" if isinstance(found, list) else f"{_show(found)} is"
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


def _suggest(location: tuple[int | str, ...]) -> str:
    """Names the fields that may stand where an unknown one was found, the nearest first."""
    model: type[BaseModel] | None = VideoGeneration
    for part in location[:-1]:
        if isinstance(part, str) and model is not None:
            model = _model_of_field(model, part)
    if model is None:
        return ""
    names = [field.alias or name for name, field in model.model_fields.items()]
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


def _show(value: object) -> str:
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= _MAX_SHOWN_VALUE else f"{shown[: _MAX_SHOWN_VALUE - 1]}…"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
