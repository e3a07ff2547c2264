"""Bounds on single values that pydantic has no constraint for; each one says the same in the JSON schema.

The API server reads patterns as RE2 and Python as `re`, so every pattern keeps to what both read alike: no lookaround,
and whitespace is spelt `\\s\\v`, because `\\s` leaves the vertical tab out in RE2.
"""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

WANT = "x-want"
"""Key of a JSON schema: what a value must look like, in words."""

DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""A regular expression: one part of a DNS name (RFC 1123)."""

_MAX_INT64 = 2**63 - 1  # what the API server reads as a whole number

INT_OR_STRING = "x-kubernetes-int-or-string"


@dataclass(frozen=True)
class Pattern:
    """Takes only what `regex` matches whole, and says `want` in words where it does not."""

    regex: str
    want: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        compiled = re.compile(self.regex, re.ASCII)

        def check(text: str) -> str:
            if not compiled.fullmatch(text):
                raise ValueError(f"want {self.want}")
            return text

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^({self.regex})$", WANT: self.want}


@dataclass(frozen=True)
class OneOf:
    """Takes only the strings that are listed, and lists them where it refuses one."""

    values: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def check(text: str) -> str:
            if text not in self.values:
                raise ValueError(f"want one of {', '.join(self.values)}")
            return text

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self.values)}


@dataclass(frozen=True)
class IntOrString:
    """Takes a whole number where a string is wanted, as Kubernetes does for quantities: `cpu: 4`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def spell(value: object) -> object:
            if isinstance(value, bool) or not isinstance(value, int) or value > _MAX_INT64:
                return value
            return str(value)

        return core_schema.no_info_before_validator_function(spell, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), INT_OR_STRING: True, "minimum": 0}
