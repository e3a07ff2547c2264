"""Small manifests, what they render to, and how to look into it: for the tests of rendering."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videogen_api.naming import Stage
from videogen_api.resource import parse_resource
from videogen_operator.cli.render import render_children
from videogen_operator.config import OperatorConfig

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden")
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.yaml") if path.stem != "image-to-video")
"""But for the one that starts from a file of one machine."""
SECRET_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}

Child = dict[str, Any]


def build_document(**spec: Any) -> dict[str, Any]:
    usual = {"prompts": [{"text": "a red fox"}], "model": {"name": "open-sora-v1.2-tiny", "weights": "builtin"}}
    return {
        "apiVersion": "videogen.dev/v1alpha1",
        "kind": "VideoGeneration",
        "metadata": {"name": "fox", "namespace": "film", "uid": "u1"},
        "spec": {"storage": {"url": "s3://films/"}, **usual, **spec},
    }


def build_config(**fields: Any) -> OperatorConfig:
    images = {"operator": "operator:1", "runner": "runner:1"}
    return OperatorConfig.model_validate({"images": images, **fields}, strict=False)


def render(document: dict[str, Any], config: OperatorConfig) -> list[Child]:
    return render_children(parse_resource(document), config)


def job(children: list[Child], stage: Stage, pool: str | None = None) -> Child:
    (found,) = [
        child
        for child in children
        if child["kind"] == "Job"
        and child["metadata"]["labels"]["videogen.dev/stage"] == stage.value
        and child["metadata"]["labels"].get("videogen.dev/pool") == pool
    ]
    return found


def pod_spec(children: list[Child], stage: Stage, pool: str | None = None) -> Child:
    spec: Child = job(children, stage, pool)["spec"]["template"]["spec"]
    return spec


def container(children: list[Child], stage: Stage, pool: str | None = None) -> Child:
    (found,) = pod_spec(children, stage, pool)["containers"]
    return dict(found)


def values_of(container: Child) -> dict[str, str]:
    """The literal variables of a container, as its process will see them."""
    seen: dict[str, str] = {}
    for variable in container["env"]:
        if "value" in variable:
            seen[variable["name"]] = expand(variable["value"], seen | dict.fromkeys(SECRET_KEYS, "LEAKED"))
    return seen


def expand(text: str, variables: dict[str, str]) -> str:
    """$(NAME) as the kubelet replaces it: known names by their values, $$ by $, anything else not at all."""
    return re.sub(
        r"\$(\$|\(([^()]*)\))",
        lambda found: "$" if found[1] == "$" else variables.get(found[2], found[0]),
        text,
    )


def pods_of(children: list[Child]) -> Iterator[Child]:
    yield from (child["spec"]["template"]["spec"] for child in children if child["kind"] == "Job")
