"""One truth: what the API server takes, Python takes and reads the same, and the other way round.

Three differences are wanted. The API server reads 1.0 as 1 and drops entries of maps that are null, before anything
else sees them; Python, which reads files as people wrote them, refuses both. And of a prompt of nothing but the control
characters U+001C to U+001F Python says that it is empty; past the API server the operator says so.
"""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.cluster.crd_api import Api, Refused, api
from tests.manifests import GOOD, REMOVED

from videogen_api.resource import ManifestInvalid, parse_resource

__all__ = ["api"]

_MAPS = {"nodeSelector", "labels", "requests", "limits"}


def mended(value: Any, key: str = "") -> Any:
    """What the API server makes of a document before it looks at it: 1.0 is 1, and null in a map is no entry."""
    if isinstance(value, dict):
        entries = {name: mended(item, name) for name, item in value.items()}
        return {name: item for name, item in entries.items() if item is not None or key not in _MAPS}
    if isinstance(value, list):
        return [mended(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def paths_of(value: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*before, key)
        yield from paths_of(child, (*before, key))


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1c\x1d\x1e\x1f"), max_size=70)
WORDS = st.sampled_from([
    "", "a", "A", "0", "-", "a-", "a.b", "a..b", "a b", "a\n", "a\v", "a\x00", " ", "\u00a0", "\ufeff", "\u200b",
    "\U0001d11e" * 63, "x" * 63, "x" * 64, "x" * 317, "x" * 318, "s3://", "s3://b", "s3://b/k\v", "s3:/", "S3://b",
    "pvc://c", "file:///x", "file://x", "http://x", "http://x:1/", "a:b", "/a:b", "//x", "builtin", "p000", "p001",
    "p999", "p1000", "snow", "t4", "16Gi", "1e3", "+1", "-1", "500m", "1.5", "1.", "16gi", "nvidia.com/gpu", "True",
    "rank", "Path", "xAWS_", "aws_", "http_Proxy", "Exists", "Equal", "NoSchedule", "NoExecute", "exact", "Auto",
    "480p", "16:9", "pan left",
])  # fmt: skip
NUMBERS = st.integers() | st.sampled_from(
    [0, -1, 1, 1.0, 1.5, 2, 16, 17, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 1e30, True, False]
)
OTHERS = st.sampled_from([
    None, REMOVED, [], {}, [None], {"a": None}, {"a": "b"}, {"a": 1}, {"": ""}, {"a/b/c": ""},
    {"x.kubernetes.io/a": ""}, {"KUBERNETES.IO/a": ""}, {"job-name": ""}, [{"text": "a"}], [{"name": "a"}],
    {"cpu": 4}, {"cpu": "4"}, {"cpu": True},
])  # fmt: skip
CHANGES = st.lists(
    st.tuples(
        st.sampled_from([path for path in paths_of(GOOD) if path[0] == "spec"]), WORDS | NUMBERS | TEXTS | OTHERS
    ),
    min_size=1,
    max_size=3,
)


def change(document: dict[str, Any], path: tuple[str | int, ...], value: object) -> None:
    """Sets one field, unless an earlier change has taken its parent away."""
    *parents, last = path
    target: Any = document
    for part in parents:
        try:
            target = target[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(target, list) and isinstance(last, int) and last >= len(target):
        return
    if not isinstance(target, dict | list) or isinstance(target, dict) != isinstance(last, str):
        return
    if value is REMOVED:
        if last in target or isinstance(target, list):
            del target[last]
    else:
        target[last] = copy.deepcopy(value)


def spec_taken_by_python(document: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return parse_resource(document).spec.model_dump()
    except ManifestInvalid:
        return None


def spec_taken_by(api: Api, document: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return parse_resource(api.create(document)).spec.model_dump()
    except Refused:
        return None


@settings(max_examples=500, deadline=None)
@given(changes=CHANGES)
@example(changes=[(("spec", "encoder", "shards"), 1.0)])
@example(changes=[(("spec", "runners", 0, "pod", "labels", "cost-centre"), None)])
@example(changes=[(("spec", "runners", 0, "pod", "resources", "requests", "memory"), 2**63)])
@example(changes=[(("spec", "prompts", 0, "name"), "p001")])
def test_python_and_the_api_server_take_the_same_and_read_the_same(
    api: Api, changes: list[tuple[tuple[str | int, ...], object]]
) -> None:
    document = copy.deepcopy(GOOD)
    for path, value in changes:
        change(document, path, value)

    assert spec_taken_by(api, document) == spec_taken_by_python(mended(document))
