"""The CustomResourceDefinition without a cluster: files up to date, nothing left out, bad manifests in Python."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field
from tests.manifests import BAD, GOOD, Bad

from videogen_api.resource import ManifestInvalid, parse_resource
from videogen_api.spec import Model, VideoGenerationSpec
from videogen_api.status import VideoGenerationStatus
from videogen_operator.cli.main import main
from videogen_operator.crd import build_crd
from videogen_operator.crd_rules import RULES
from videogen_operator.crd_schema import model_schema

ROOT = Path(__file__).parents[2]
GENERATED = {
    "yaml": "crds/videogenerations.videogen.dev.yaml",
    "helm": "charts/videogen/templates/crd.yaml",
    "markdown": "docs/api.md",
}
SCHEMA = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC, STATUS = SCHEMA["properties"]["spec"], SCHEMA["properties"]["status"]


def schemas(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, itself first."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from schemas(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from schemas(schema[key], f"{path}[]")


# ---- What is generated ----


@pytest.mark.parametrize(("output", "path"), GENERATED.items())
def test_generated_files_are_those_of_the_models(output: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crd", "--output", output]) == 0

    assert (ROOT / path).read_text() == capsys.readouterr().out, "run `make generate`"


def test_the_manifest_is_the_crd_and_small_enough_to_be_applied() -> None:
    text = (ROOT / GENERATED["yaml"]).read_text()

    assert yaml.safe_load(text) == build_crd()
    assert len(text.encode()) < 100_000


def test_the_template_is_the_crd_once_helm_has_taken_its_actions_away() -> None:
    text = (ROOT / GENERATED["helm"]).read_text()
    rendered = re.sub(r"(?m)^ *\{\{-.*\}\}\n", "", text).replace('{{ "{{" }}', "{{")
    template = yaml.safe_load(rendered)

    assert template["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert template == build_crd()


def test_the_reference_lists_the_fields_of_every_object_and_its_links_lead_somewhere() -> None:
    text = (ROOT / GENERATED["markdown"]).read_text()
    objects = {
        path: list(schema["properties"])
        for root, name in ((SPEC, "spec"), (STATUS, "status"))
        for path, schema in schemas(root, name)
        if "properties" in schema
    }
    sections = {
        heading: re.findall(r"(?m)^\| `(\w+)` \|", body)
        for heading, body in re.findall(r"(?ms)^## (\S+)$(.*?)(?=^## |\Z)", text)
    }

    assert sections == {path: objects[path] for path in sections}
    assert sorted(map(set, sections.values()), key=sorted) == [
        fields for fields, _ in groupby(sorted(map(set, objects.values()), key=sorted))
    ]
    anchors = {re.sub(r"[^a-z0-9_-]", "", heading.lower()) for heading in sections}
    assert set(re.findall(r"\(#([^)]*)\)", text)) <= anchors


# ---- What a schema says ----


def test_every_field_of_the_models_is_in_the_schema_with_a_description() -> None:
    without = [
        path
        for root, name in ((SPEC, "spec"), (STATUS, "status"))
        for path, schema in schemas(root, name)
        if "description" not in schema and not path.endswith("[]")
    ]

    assert without == []
    assert list(SPEC["properties"]) == [field.alias for field in VideoGenerationSpec.model_fields.values()]
    assert list(STATUS["properties"]) == [field.alias for field in VideoGenerationStatus.model_fields.values()]


def test_no_default_stands_under_spec_and_a_fresh_status_is_unobserved() -> None:
    assert [path for path, schema in schemas(SPEC, "spec") if "default" in schema] == []
    assert [(path, schema["default"]) for path, schema in schemas(STATUS, "status") if "default" in schema] == [
        ("status", {"observedGeneration": -1})
    ]


def test_every_string_list_and_map_under_spec_is_bounded() -> None:
    unbounded = [
        path
        for path, schema in schemas(SPEC, "spec")
        if (schema.get("type") == "string" and not {"maxLength", "enum"} & schema.keys())
        or (schema.get("type") == "array" and "maxItems" not in schema)
        or ("additionalProperties" in schema and "maxProperties" not in schema)
    ]

    assert unbounded == []


def test_every_pattern_is_anchored_and_read_alike_by_re2() -> None:
    patterns = {schema["pattern"] for _, schema in schemas(SPEC, "spec") if "pattern" in schema}

    assert patterns
    assert [pattern for pattern in patterns if not re.fullmatch(r"\^\(.*\)\$", pattern)] == []
    assert [pattern for pattern in patterns if re.search(r"\(\?|\\[dDwWbBZ1-9]|\\S", pattern)] == []


def test_lists_are_replaced_whole_but_pools_and_conditions_have_keys() -> None:
    lists = {
        path: (schema["x-kubernetes-list-type"], schema.get("x-kubernetes-list-map-keys"))
        for root, name in ((SPEC, "spec"), (STATUS, "status"))
        for path, schema in schemas(root, name)
        if schema.get("type") == "array"
    }

    assert {path: keys for path, keys in lists.items() if keys != ("atomic", None)} == {
        "spec.runners": ("map", ["name"]),
        "status.conditions": ("map", ["type"]),
    }


def test_every_rule_of_the_table_has_found_its_place() -> None:
    placed = {
        rule["rule"] for _, schema in schemas(SPEC, "spec") for rule in schema.get("x-kubernetes-validations", ())
    }

    assert {rule.expression for rules in RULES.values() for rule in rules} <= placed


def test_no_rule_stands_at_the_root() -> None:
    assert "x-kubernetes-validations" not in SCHEMA


def test_a_bound_that_the_schema_cannot_hold_is_an_error() -> None:
    class Half(Model):
        share: Annotated[float, Field(gt=0)]

    with pytest.raises(ValueError, match="no structural schema can hold: exclusiveMinimum"):
        model_schema(Half)


# ---- Bad manifests ----


def test_the_good_manifest_is_good() -> None:
    assert parse_resource(GOOD).metadata.name == "fox"


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_python_refuses_a_bad_manifest_and_names_the_field(bad: Bad) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        parse_resource(bad.manifest())

    (problem,) = caught.value.problems
    path = problem.split(": ")[0]
    # A rule between fields is told at their parent, and a key of a map behind its map.
    assert bad.field.startswith(path) or path.startswith(bad.field)
    assert bad.python in problem


@pytest.mark.parametrize(("value", "text"), [(4, "4"), (0, "0"), ("500m", "500m"), ("16Gi", "16Gi")])
def test_resources_are_whole_numbers_or_quantities(value: object, text: str) -> None:
    pod = {"resources": {"requests": {"cpu": value}}}
    document = GOOD | {"spec": {"prompts": [{"text": "a fox"}], "encoder": {"pod": pod}}}

    encoder = parse_resource(document).spec.encoder

    assert encoder is not None
    assert encoder.pod is not None
    assert encoder.pod.resources is not None
    assert encoder.pod.resources.requests == {"cpu": text}


@pytest.mark.parametrize("value", [-1, True, 1.5, None, 2**63])
def test_resources_are_nothing_else(value: object) -> None:
    pod = {"resources": {"requests": {"cpu": value}}}

    with pytest.raises(ManifestInvalid, match=re.escape("spec.encoder.pod.resources.requests.cpu")):
        parse_resource(GOOD | {"spec": {"prompts": [{"text": "a fox"}], "encoder": {"pod": pod}}})
