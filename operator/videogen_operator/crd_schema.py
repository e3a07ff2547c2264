"""Structural schemas, as the API server wants them, out of pydantic models.

Structural means: no references, no null beside a type, no default. Descriptions are the docstrings of models and
fields. A pattern's words become a CEL rule beside it, wherever that rule is cheap enough.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from videogen_api.bounds import INT_OR_STRING, WANT
from videogen_api.spec import VideoGenerationSpec
from videogen_api.status import VideoGenerationStatus
from videogen_operator.crd_rules import RULES, Rule, literal
from videogen_operator.docstrings import field_docs

Schema = dict[str, Any]

# What a structural schema and a model's schema spell alike, in the order in which they are written.
_KEPT = (
    "type", "format", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "multipleOf", "minItems",
    "maxItems", "maxProperties", "required",
)  # fmt: skip

# What the two spell differently, or what only people read.
_TRANSLATED = frozenset({
    "$defs", "$ref", "additionalProperties", "anyOf", "default", "description", "items", "patternProperties",
    "properties", "propertyNames", "title", INT_OR_STRING, WANT,
})  # fmt: skip

# Fields that are lists of objects with a key; every other list is replaced as a whole.
_LIST_KEYS: Mapping[tuple[type[BaseModel], str], str] = {
    (VideoGenerationSpec, "runners"): "name",
    (VideoGenerationStatus, "conditions"): "type",
}

# The API server's own limit is ten million for one rule and a hundred million for all of a schema.
_MAX_RULE_COST = 5_000_000

_MAX_INT32 = 2**31 - 1


def model_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of one model and all that it holds."""
    raw = model.model_json_schema(by_alias=True)
    models = {kind.__name__: kind for kind in _reachable(model)}
    return _Structure(raw.get("$defs", {}), models).of_model(model, raw, 1)


class _Structure:
    """Turns pydantic's JSON schema into a structural one; `count` is how often a value may occur in an object."""

    def __init__(self, definitions: Mapping[str, Schema], models: Mapping[str, type[BaseModel]]) -> None:
        self._definitions = definitions
        self._models = models

    def of_model(self, model: type[BaseModel], raw: Schema, count: int) -> Schema:
        rules = RULES.get(model, ())
        documents = field_docs(model)
        properties: Schema = {}
        for name, field in model.model_fields.items():
            alias = field.alias or name
            schema = self.of_value(raw["properties"][alias], count)
            if key := _LIST_KEYS.get((model, alias)):
                schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
            _add_rules(schema, [rule for rule in rules if rule.field == alias])
            if name in documents:
                schema["description"] = documents[name] + _form(raw["properties"][alias])
            properties[alias] = _in_order(schema)
        structure = _kept(raw) | {"properties": properties}
        _add_rules(structure, [rule for rule in rules if rule.field is None])
        return _in_order(structure | {"description": " ".join((inspect.getdoc(model) or "").split())})

    def of_value(self, raw: Schema, count: int) -> Schema:
        raw = _without_null(raw)
        if "$ref" in raw:
            name = raw["$ref"].rsplit("/", 1)[1]
            if name in self._models:
                return self.of_model(self._models[name], self._definitions[name], count)
            raw = self._definitions[name]
        schema = _kept(raw)
        if schema.get("type") == "integer":
            schema["format"] = "int32" if schema.get("maximum", _MAX_INT32 + 1) <= _MAX_INT32 else "int64"
        if raw.get(INT_OR_STRING):
            del schema["type"]
            schema |= {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                INT_OR_STRING: True,
                "minimum": raw["minimum"],
            }
            matches = f"type(self) == int || string(self).matches({literal(raw['pattern'])})"
            _add_rules(schema, [Rule(matches, f"want {raw[WANT]}")])
        elif WANT in raw:
            _add_rules(schema, _pattern_rules(schema, raw[WANT], count))
        if "items" in raw:
            schema["items"] = self.of_value(raw["items"], count * schema.get("maxItems", 1))
            schema["x-kubernetes-list-type"] = "atomic"
        if (values := _values_of_map(raw)) is not None:
            schema["additionalProperties"] = self.of_value(values, count * schema.get("maxProperties", 1))
            _add_rules(schema, _key_rules(raw))
        return schema


def _without_null(raw: Schema) -> Schema:
    """A field that may be left out: None in Python, no type of its own in a structural schema."""
    if "anyOf" not in raw:
        return raw
    (schema,) = (option for option in raw["anyOf"] if option.get("type") != "null")
    return dict(schema)


def _form(raw: Schema) -> str:
    """A pattern in words."""
    want = _without_null(raw).get(WANT)
    return f" Form: {want}." if want is not None else ""


def _in_order(schema: Schema) -> Schema:
    """The description first, for readers of the file."""
    return {"description": schema["description"], **schema} if "description" in schema else schema


def _kept(raw: Schema) -> Schema:
    if unknown := raw.keys() - _TRANSLATED - set(_KEPT):
        raise ValueError(f"a bound that no structural schema can hold: {', '.join(sorted(unknown))}")
    return {key: raw[key] for key in _KEPT if key in raw}


def _add_rules(schema: Schema, rules: list[Rule]) -> None:
    if rules:
        schema["x-kubernetes-validations"] = [
            *schema.get("x-kubernetes-validations", ()),
            *(rule.to_dict() for rule in rules),
        ]


def _pattern_rules(schema: Schema, want: str, count: int) -> list[Rule]:
    """A pattern's words, where they are cheap: a tenth of the bytes, times a quarter of the pattern's letters."""
    pattern = schema["pattern"]
    cost = count * (schema["maxLength"] * 4 // 10 + 1) * (len(pattern) // 4 + 1)
    return [Rule(f"self.matches({literal(pattern)})", f"want {want}")] if cost <= _MAX_RULE_COST else []


def _values_of_map(raw: Schema) -> Schema | None:
    """The schema of a map's values; pydantic puts a pattern of the keys in front of it."""
    for values in raw.get("patternProperties", {}).values():
        return dict(values)
    values = raw.get("additionalProperties")
    return values if isinstance(values, dict) else None


def _key_rules(raw: Schema) -> list[Rule]:
    """Structural schemas bound the values of a map, never its keys."""
    names = raw.get("propertyNames", {})
    rules = []
    if "maxLength" in names:
        longest = names["maxLength"]
        rules.append(Rule(f"self.all(key, key.size() <= {longest})", f"keys: want at most {longest} characters"))
    for pattern in raw.get("patternProperties", ()):
        matches = f"key.matches({literal(pattern)})"
        rules.append(
            Rule(
                f"self.all(key, {matches})",
                f"keys: want {names[WANT]}",
                f'"key " + self.filter(key, !{matches})[0] + " is not allowed: want {names[WANT]}"',
            )
        )
    return rules


def _reachable(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for kind in _models_of(field.annotation):
            yield from _reachable(kind)


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_of(argument)
