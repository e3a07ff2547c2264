"""Writes charts/videogen/values.schema.json: `python charts/values_schema.py`.

The form of the values is in values.schema.yaml beside this file; what a VideoGeneration's spec has too (storage, model,
encoder, runners) and the allow-lists come from the contract, so that a bound is written down once.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from videogen_api.bounds import INT_OR_STRING, WANT
from videogen_api.spec import Encoder, ModelRef, RunnerPool, Storage
from videogen_operator.config import Allowed

FORM = Path(__file__).with_name("values.schema.yaml")
SCHEMA = Path(__file__).parent / "videogen" / "values.schema.json"
_NAMED = ("properties", "patternProperties")  # whose keys are names, and not words of the schema

MODELS = (Storage, ModelRef, Encoder, RunnerPool, Allowed)


def build_schema() -> str:
    """The schema as the text of its file."""
    form = yaml.safe_load(FORM.read_text(encoding="utf-8"))
    _, contract = models_json_schema([(model, "validation") for model in MODELS])
    form["$defs"] |= {name: _plain(schema) for name, schema in contract["$defs"].items()}
    return json.dumps(form, indent=2, ensure_ascii=False) + "\n"


def _plain(schema: Any) -> Any:
    """A schema of pydantic in the words of values: a field is there or not, never null; titles and defaults go."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    present = [part for part in schema.get("anyOf", []) if part != {"type": "null"}]
    if len(present) == 1:
        return _plain({**{key: value for key, value in schema.items() if key != "anyOf"}, **present[0]})
    if schema.get(INT_OR_STRING):
        schema = {**schema, "type": ["string", "integer"]}
    if "patternProperties" in schema:
        schema = {**schema, "additionalProperties": False}
    if WANT in schema:
        schema = {"description": f"Want {schema[WANT]}.", **schema}
    return {
        key: {name: _plain(part) for name, part in value.items()} if key in _NAMED else _plain(value)
        for key, value in schema.items()
        if key not in {"title", "default", WANT, INT_OR_STRING}
    }


if __name__ == "__main__":
    SCHEMA.write_text(build_schema(), encoding="utf-8")
