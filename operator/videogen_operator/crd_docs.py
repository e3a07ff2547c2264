"""The reference of the resource in Markdown: every field of spec and status with its type, bounds and meaning."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from videogen_operator.crd_schema import Schema

_HEAD = """\
# The resource, field by field

This file is generated from the models in `api/videogen_api` by `make generate`. The same bounds stand in the CRD, so
what breaks one is refused by `kubectl apply` and by `videogen validate` alike, with a message that names the field.
`kubectl explain videogeneration.spec` shows the same texts.

Every field of `spec` may be left out unless it says **required**. Defaults are the cluster's (Helm values), then those
named here; they are never written into the object. `metadata.name` has at most 63 characters.

Before it looks at an object, the API server reads `1.0` as 1 where a whole number is wanted, and drops entries of maps
that are null. `videogen validate` reads a file as it was written, and refuses both.
"""


def to_markdown(crd: Mapping[str, Any]) -> str:
    """The whole reference. Objects that occur twice, such as pod, are described once and linked."""
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    seen: dict[str, str] = {}
    sections = [line for name in ("spec", "status") for line in _sections(name, properties[name], seen)]
    return "\n".join([_HEAD, *sections])


def _sections(path: str, schema: Schema, seen: dict[str, str]) -> Iterator[str]:
    """The section of one object, then those of the objects in it that no other section describes."""
    required = schema.get("required", ())
    yield f"## {path}\n"
    yield f"{schema['description']}\n"
    yield "| field | type | bounds | meaning |\n|---|---|---|---|"
    inner = []
    for name, field in schema["properties"].items():
        child, target = _object_of(f"{path}.{name}", field)
        bounds = list(_bounds(field))
        if name in required:
            bounds.insert(0, "**required**")
        kind = _type_of(field)
        if target is not None:
            content = json.dumps({key: target[key] for key in target if key != "description"})
            where = seen.setdefault(content, child)
            if where == child:
                inner.append((child, target))
            kind = f"[{kind}](#{_anchor(where)})"
        cells = (f"`{name}`", kind, "; ".join(bounds), field.get("description", ""))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""
    if rules := list(_rules(schema)):
        yield "\n".join(["Refused too:", "", *(f"- {rule}." for rule in rules), ""])
    for child, target in inner:
        yield from _sections(child, target, seen)


def _rules(schema: Schema) -> Iterator[str]:
    """The rules of an object and of its plain fields; a pattern's words stand in the field's description."""
    for rule in schema.get("x-kubernetes-validations", ()):
        field = rule.get("fieldPath", "").removeprefix(".")
        yield f"`{field}`: {rule['message']}" if field else rule["message"]
    for name, field in schema["properties"].items():
        if "properties" not in field:
            rules = (rule["message"] for rule in field.get("x-kubernetes-validations", ()))
            yield from (
                f"`{name}`: {message}"
                for message in rules
                if message.removeprefix("want ") not in field.get("description", "")
            )


def _object_of(path: str, field: Schema) -> tuple[str, Schema | None]:
    """The object that a field is, or that its items are."""
    if "properties" in field:
        return path, field
    if "properties" in field.get("items", {}):
        return f"{path}[]", field["items"]
    return path, None


def _anchor(path: str) -> str:
    """As GitHub makes it of a heading."""
    return "".join(letter for letter in path.lower() if letter.isalnum() or letter in "-_")


def _type_of(field: Schema) -> str:
    if "items" in field:
        return f"list of {_type_of(field['items'])}s"
    if "additionalProperties" in field:
        return f"map of {_type_of(field['additionalProperties'])}s"
    if "anyOf" in field:
        return "quantity"
    if field.get("format") == "date-time":
        return "time"
    return str(field["type"])


def _bounds(field: Schema) -> Iterator[str]:
    if "enum" in field:
        yield "one of " + ", ".join(f"`{value}`" for value in field["enum"])
    elif "pattern" in field:
        yield f"form `{field['pattern']}`"
    yield from _range(field, "minimum", "maximum", "")
    yield from _range(field, "minLength", "maxLength", " characters")
    yield from _range(field, "minItems", "maxItems", " items")
    yield from _range(field, "minProperties", "maxProperties", " entries")
    if "multipleOf" in field:
        yield f"multiple of {field['multipleOf']}"


def _range(field: Schema, low: str, high: str, unit: str) -> Iterator[str]:
    if low in field and high in field:
        yield f"{field[low]:,} to {field[high]:,}{unit}"
    elif high in field and "enum" not in field:
        yield f"at most {field[high]:,}{unit}"
    elif low in field:
        yield f"at least {field[low]:,}{unit}"
