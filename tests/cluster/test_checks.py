"""What a cluster refuses of a well-formed manifest."""

from typing import Any

import pytest
from tests.cluster.rendering import build_config, build_document, render

from videogen_api.errors import InvalidInput
from videogen_api.resource import parse_resource
from videogen_operator.cluster.checks import check_for_cluster
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.planner import make_plan

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"storage": {"url": "/data/out"}},
        "spec.storage.url: /data/out is a folder of one machine, which pods do not share; want s3://bucket/path",
    ),
    ({"storage": {"url": "file:///data"}}, "spec.storage.url: file:///data is a folder of one machine"),
    (
        {"storage": {"url": "s3://b", "endpoint": "http://evil:80"}},
        (
            "spec.storage.endpoint: http://evil:80 is not allowed here (allowed: http://minio:9000, "
            "http://default:9000/); remove it, or ask the cluster's administrator to add it to allowed.endpoints "
            "of the operator's configuration"
        ),
    ),
    ({"model": {"weights": "weights/tiny"}}, "spec.model.weights: weights/tiny is a folder of one machine"),
    ({"model": {"weights": "pvc://My_Claim/x"}}, "spec.model.weights: pvc://My_Claim/x: 'My_Claim' is no name of a"),
    ({"model": {"weights": "pvc://claim/../x"}}, "spec.model.weights: pvc://claim/../x leads out of the volume"),
    (
        {"prompts": [{"text": "a"}, {"text": "b", "references": [{"url": "s3://b/k"}, {"url": "fox.png"}]}]},
        "spec.prompts[1].references[1].url: fox.png is a file of one machine, which pods do not have; want s3://",
    ),
    (
        {"prompts": [{"text": 'a fox {"reference_path": "fox.png", "mask_strategy": "0"}'}]},
        "spec.prompts[0].text: reference_path: fox.png is a file of one machine",
    ),
    (
        {"runners": [{"name": "a"}, {"name": "b", "pod": {"serviceAccountName": "admin"}}]},
        "spec.runners[1].pod.serviceAccountName: admin is not allowed here (allowed: video); remove it, or ask",
    ),
    (
        {"encoder": {"pod": {"priorityClassName": "top"}}},
        "spec.encoder.pod.priorityClassName: top is not allowed here (none is); remove it, or ask the cluster's",
    ),
    (
        {"runners": [{"name": "a", "pod": {"resources": {"limits": {"nvidia.com/gpu": "8"}}}}]},
        "spec.runners[0].pod.resources.limits: nvidia.com/gpu does not belong here; set spec.runners[0].gpu.count",
    ),
]


@pytest.mark.parametrize(
    ("spec", "complaint"), REFUSED, ids=lambda value: value.partition(":")[0] if isinstance(value, str) else ""
)
def test_what_cannot_work_in_a_cluster_is_refused(spec: dict[str, Any], complaint: str) -> None:
    config = build_config(
        defaults={"storage": {"url": "s3://b", "endpoint": "http://default:9000/"}},
        allowed={"endpoints": ["http://minio:9000"], "serviceAccounts": ["video"]},
    )
    with pytest.raises(InvalidInput) as raised:
        render(build_document(**spec), config)
    assert complaint in str(raised.value)


@pytest.mark.parametrize("endpoint", ["http://minio:9000", "http://minio:9000/", "http://default:9000"])
def test_an_allowed_endpoint_and_that_of_the_defaults_may_be_named(endpoint: str) -> None:
    config = build_config(
        defaults={"storage": {"url": "s3://b", "endpoint": "http://default:9000/"}},
        allowed={"endpoints": ["http://minio:9000"]},
    )
    render(build_document(storage={"url": "s3://b", "endpoint": endpoint}), config)


def test_a_local_path_of_the_defaults_is_the_administrators_to_correct() -> None:
    document = build_document()
    del document["spec"]["storage"]
    with pytest.raises(
        InvalidInput, match=r"^defaults\.storage\.url of the operator's configuration: /data is a folder"
    ):
        render(document, build_config(defaults={"storage": {"url": "/data"}}))


def test_a_plan_that_with_its_defaults_is_too_large_for_a_configmap_is_refused() -> None:
    resource = parse_resource(build_document(prompts=[{"text": f"{i:03}" + "🦊" * 149} for i in range(600)]))
    plan = make_plan(resource, Defaults())
    room = 2**20 - len(plan.to_bytes())
    pools = [
        {"name": f"p{i}", "pod": {"env": [{"name": "A", "value": "x" * 4096}] * 32}} for i in range(room // 100_000 + 1)
    ]
    with pytest.raises(InvalidInput, match=r"spec\.prompts: the plan would take .* and a ConfigMap holds 1,048,576"):
        check_for_cluster(resource, plan, build_config(defaults={"runners": pools}))
