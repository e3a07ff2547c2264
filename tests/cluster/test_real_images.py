"""Both images as pods under restricted Pod Security, with everything of a rendered pod but its command."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.real import RealCluster

from videogen_api.naming import Stage
from videogen_api.resource import parse_resource
from videogen_operator.cli.render import render_children
from videogen_operator.config import Images, OperatorConfig

NAMESPACE = "images"
# What an image holds, as its own Python sees it: a module without valid bytecode would be compiled at every start,
# because a pod cannot write beside it. Torch has a test module for later Pythons only.
LOOK = """
import importlib.util, json, os, pathlib, struct, sys
import videogen_operator
packages = pathlib.Path(videogen_operator.__file__).parents[1]
def is_compiled(source):
    compiled = pathlib.Path(importlib.util.cache_from_source(source))
    if not compiled.exists():
        return False
    flags, modified, size = struct.unpack("<III", compiled.read_bytes()[4:16])
    status = source.stat()
    return (flags, modified, size) == (0, int(status.st_mtime), status.st_size)
print(json.dumps({
    "user": os.getuid(),
    "modules": {name: importlib.util.find_spec(name) is not None for name in sys.argv[1:]},
    "weights": sorted(path.name for path in pathlib.Path(os.environ["VIDEOGEN_BUILTIN_WEIGHTS"]).iterdir()),
    "scratch": os.access(os.environ["VIDEOGEN_SCRATCH"], os.W_OK),
    "root": os.access("/", os.W_OK),
    "not compiled": [str(source.relative_to(packages)) for source in packages.rglob("*.py")
                     if not is_compiled(source) and source.name != "py312_intrinsics.py"],
}))
"""
MODULES = ("videogen_runner", "boto3", "kopf", "kubernetes", "torch", "transformers", "av", "numpy")

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def children(real_node: RealCluster) -> Iterator[list[dict[str, Any]]]:
    """Of a resource in a namespace that admits only restricted pods."""
    real_node.kubectl("create", "namespace", NAMESPACE)
    real_node.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    resource = parse_resource(
        {
            "apiVersion": "videogen.dev/v1alpha1",
            "kind": "VideoGeneration",
            "metadata": {"name": "fox", "namespace": NAMESPACE},
            "spec": {
                "prompts": [{"text": "a fox"}],
                "model": {"name": "open-sora-v1.2-tiny", "weights": "builtin"},
                "storage": {"url": "s3://films"},
                "runners": [{"name": "cpu", "gpu": {"count": 0}}],
            },
        }
    )
    images = Images(operator=real_node.operator_image, runner=real_node.runner_image)
    rendered = render_children(resource, OperatorConfig(images=images))
    real_node.kubectl("create", "-f", "-", stdin=json.dumps(rendered[0]))
    yield rendered
    real_node.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def look_into(cluster: RealCluster, children: list[dict[str, Any]], stage: Stage) -> dict[str, Any]:
    """What LOOK prints in a pod of that stage."""
    (job,) = [
        child for child in children if child["kind"] == "Job" and f"-{stage.value[:3]}-" in child["metadata"]["name"]
    ]
    spec = job["spec"]["template"]["spec"]
    spec["containers"][0]["command"] = ["python", "-c", LOOK, *MODULES]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"look-{stage}", "namespace": NAMESPACE},
        "spec": spec,
    }
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    ended = ("--for=jsonpath={.status.phase}=Succeeded", "--timeout=300s")
    cluster.kubectl("--namespace", NAMESPACE, "wait", f"pod/look-{stage}", *ended)
    found: dict[str, Any] = json.loads(cluster.kubectl("--namespace", NAMESPACE, "logs", f"look-{stage}"))
    return found


@pytest.mark.parametrize(
    ("stage", "absent"),
    [
        (Stage.PREFLIGHT, {"torch", "transformers", "av", "numpy"}),
        (Stage.GENERATE, {"kopf", "kubernetes"}),
    ],
    ids=["operator", "runner"],
)
def test_an_image_holds_what_its_stages_need_and_no_more(
    real_node: RealCluster, children: list[dict[str, Any]], stage: Stage, absent: set[str]
) -> None:
    assert look_into(real_node, children, stage) == {
        "user": 65532,
        "modules": {name: name not in absent for name in MODULES},
        "weights": ["open-sora-v1.2-tiny"],
        "scratch": True,
        "root": False,
        "not compiled": [],
    }
