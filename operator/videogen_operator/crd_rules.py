"""Rules between values, as CEL: what the model validators of `videogen_api.spec` check, for the API server.

A rule stands at a model, or at one of its fields. The API server bounds what rules may cost, estimated from the
schema's own bounds and counted while they run (a million units each): no rule here compares items with each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from videogen_api import video
from videogen_api.spec import (
    MAX_CLIPS,
    MAX_PROMPT_CHARACTERS,
    RESERVED_ENV,
    RESERVED_LABEL,
    EnvVar,
    Pod,
    Prompt,
    Resources,
    Toleration,
    Video,
    VideoGenerationSpec,
)


@dataclass(frozen=True)
class Rule:
    """One `x-kubernetes-validations` entry.

    A rule that fails to evaluate refuses status writes too: one that can may do so only on what it is there to refuse.
    """

    expression: str
    message: str
    message_expression: str | None = None
    """CEL that makes a message with the offending value; `message` stands in where it cannot."""
    field: str | None = None
    """Where the rule stands: this field of the model, or the model itself."""
    field_path: str | None = None
    """Field that the error names, for a rule at a model."""

    def to_dict(self) -> dict[str, str]:
        entry = {"rule": self.expression, "message": self.message}
        if self.message_expression is not None:
            entry["messageExpression"] = self.message_expression
        if self.field_path is not None:
            entry["fieldPath"] = self.field_path
        return entry


def literal(text: str) -> str:
    """A CEL raw string. Raises ValueError for a text that cannot be one."""
    if '"' in text or "\n" in text:
        raise ValueError(f"{text!r} cannot be a raw string")
    return f'r"{text}"'


# A prompt without a name is called by its position: p001. A name of that form is another's where that one has none.
_POSITION = "int(p.name.substring(1))"
_RESERVED_ENV = f"self.matches({literal(f'(?i)^({RESERVED_ENV})$')})"
_FITS = (
    "!(name in self.limits) || !isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) || "
    "quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0"
)
_RESERVED_LABEL = f"key.matches({literal(f'^({RESERVED_LABEL})$')})"

RULES: Mapping[type[BaseModel], tuple[Rule, ...]] = {
    VideoGenerationSpec: (
        Rule(
            # Only a map compares all names at a cost that grows with their number alone. It takes no key twice: that is
            # an error, which the API server shows in front of the message.
            "self.transformMapEntry(i, p, has(p.name), {p.name: i}).size() <= self.size()",
            "names of prompts must be unique; rename one",
            field="prompts",
        ),
        Rule(
            'self.all(p, !has(p.name) || !p.name.matches("^p[0-9]{3}$") || '
            f"{_POSITION} >= self.size() || has(self[{_POSITION}].name))",
            "a prompt without a name is called by its position, p000, p001 and so on, and another one has that name; "
            "names must be unique",
            field="prompts",
        ),
        Rule(
            f"self.map(p, size(p.text)).sum() <= {MAX_PROMPT_CHARACTERS}",
            f"at most {MAX_PROMPT_CHARACTERS} characters in all are allowed; use several VideoGenerations",
            field="prompts",
        ),
        Rule(
            f"self.map(p, has(p.samples) ? p.samples : 1).sum() <= {MAX_CLIPS}",
            f"at most {MAX_CLIPS} clips in all are allowed; use several VideoGenerations",
            field="prompts",
        ),
        Rule(
            "!has(self.runners) || self.runners.size() == 0 || (has(self.suspend) && self.suspend) || "
            "self.runners.exists(pool, !has(pool.replicas) || pool.replicas > 0)",
            "no pool has a replica, so nothing would run; raise replicas, or set spec.suspend to pause",
            field_path=".runners",
        ),
    ),
    Prompt: (
        Rule('self.trim() != ""', "the prompt is empty; write what the video should show", field="text"),
    ),
    Video: (
        Rule(
            "!has(self.size) || !(has(self.resolution) || has(self.aspectRatio))",
            "size and resolution exclude each other; drop size, or drop resolution and aspectRatio",
            field_path=".size",
        ),
        Rule(
            "!(has(self.loops) && has(self.conditionFrames) && has(self.frames)) || self.loops <= 1 || "
            "self.conditionFrames < self.frames",
            "conditionFrames must be less than frames, or a loop would have nothing of its own; lower it, raise "
            "frames, or set loops to 1",
            field_path=".conditionFrames",
        ),
        Rule(
            f"self == 1 || self >= {video.CHUNK_FRAMES}",
            f"want 1 (an image) or at least {video.CHUNK_FRAMES}; the model has no result in between",
            field="frames",
        ),
    ),
    Toleration: (
        Rule(
            '!has(self.value) || self.value == "" || !has(self.operator) || self.operator != "Exists"',
            "operator Exists takes any value; drop value, or use Equal",
            field_path=".value",
        ),
        Rule(
            'has(self.key) || (has(self.operator) && self.operator == "Exists")',
            "without a key every taint is tolerated, which only operator Exists may say; add one",
        ),
        Rule(
            '!has(self.tolerationSeconds) || (has(self.effect) && self.effect == "NoExecute")',
            "only a NoExecute taint evicts; drop tolerationSeconds, or set effect to NoExecute",
            field_path=".tolerationSeconds",
        ),
    ),
    Resources: (
        Rule(
            f"!has(self.requests) || !has(self.limits) || self.requests.all(name, {_FITS})",
            "a request is more than its limit; lower it, or raise the limit",
            f'self.requests.filter(name, !({_FITS}))[0] + ": the request is more than its limit; lower it, or raise '
            'the limit"',
            field_path=".requests",
        ),
    ),
    EnvVar: (
        Rule(
            f"!{_RESERVED_ENV}",
            "the name is reserved; remove it",
            '"the name " + self + " is reserved; remove it"',
            field="name",
        ),
    ),
    Pod: (
        Rule(
            f"self.all(key, !{_RESERVED_LABEL})",
            "a label is reserved; remove it",
            f'"label " + self.filter(key, {_RESERVED_LABEL})[0] + " is reserved; remove it"',
            field="labels",
        ),
    ),
}  # fmt: skip
