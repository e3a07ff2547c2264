"""Whatever a manifest says: names and labels of its children are legal, and its texts get nowhere where they act."""

import copy
import json
import re
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.cluster.pod_security import violations
from tests.cluster.rendering import SECRET_KEYS, Child, build_document, values_of

from videogen_api.errors import InvalidInput
from videogen_api.resource import parse_resource
from videogen_operator.cli.render import assumed_config, render_children

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
INDEX_DIGITS = 4
# Stands in every free text that a manifest may hold; nothing else looks like it.
FREE_TEXT = "Free;Text"

# Free texts with what shells, YAML, templates and the kubelet would make something of.
_free_texts = st.text(st.sampled_from("$()'\"`;{}a: \n\u00e4-"), max_size=20).map(lambda text: FREE_TEXT + text)
_slugs = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
_label_maps = st.dictionaries(
    st.from_regex(r"(example\.com/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,20}[A-Za-z0-9])?", fullmatch=True),
    st.from_regex(LABEL_VALUE, fullmatch=True),
    max_size=3,
)
_variables = st.fixed_dictionaries(
    {"name": st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), "value": _free_texts}
)
_quantities = st.dictionaries(st.sampled_from(["cpu", "memory"]), st.sampled_from(["2", "3Gi", "0.5"]), max_size=2)
_pods = st.fixed_dictionaries(
    {},
    optional={
        "nodeSelector": _label_maps,
        "tolerations": st.lists(st.just({"key": "gpu", "operator": "Exists"}), max_size=2),
        "resources": st.one_of(
            st.fixed_dictionaries({"requests": _quantities}), st.fixed_dictionaries({"limits": _quantities})
        ),
        "priorityClassName": _slugs,
        "imagePullSecrets": st.lists(st.fixed_dictionaries({"name": _slugs}), max_size=2),
        "serviceAccountName": _slugs,
        "labels": _label_maps,
        "env": st.lists(_variables, max_size=3),
    },
)
_gpus = st.fixed_dictionaries(
    {},
    optional={
        "count": st.integers(0, 4),
        "resource": st.sampled_from(["nvidia.com/gpu", "nvidia.com/mig-3g.20gb", "amd.com/gpu"]),
        "product": st.sampled_from(["Tesla-T4", "NVIDIA-A100-SXM4-80GB"]),
    },
)
_pools = st.fixed_dictionaries(
    {"name": _slugs}, optional={"replicas": st.integers(0, 1000), "gpu": _gpus, "pod": _pods}
)
_specs = st.fixed_dictionaries(
    {
        "prompts": st.lists(
            st.fixed_dictionaries({"text": _free_texts}, optional={"name": _slugs, "samples": st.integers(1, 3)}),
            min_size=1,
            max_size=3,
        ),
    },
    optional={
        "storage": st.fixed_dictionaries(
            {"url": st.sampled_from(["s3://b", "s3://b/$(HOME)"])}, optional={"credentialsSecret": _slugs}
        ),
        "model": st.fixed_dictionaries(
            {
                "name": st.just("open-sora-v1.2-tiny"),
                "weights": st.sampled_from(["builtin", "s3://m/x", "pvc://claim", "pvc://a.b/$(AWS_SESSION_TOKEN)/"]),
            }
        ),
        "encoder": st.fixed_dictionaries({}, optional={"shards": st.integers(1, 2), "gpu": _gpus, "pod": _pods}),
        "runners": st.lists(_pools, max_size=3, unique_by=lambda pool: pool["name"]),
        "schedule": st.fixed_dictionaries({}, optional={"queue": _slugs}),
        "retries": st.integers(0, 100),
    },
)
_documents = st.builds(
    lambda name, namespace, spec: build_document(**spec) | {"metadata": {"name": name, "namespace": namespace}},
    st.from_regex(r"[a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?", fullmatch=True),
    _slugs,
    _specs,
)


@settings(max_examples=150)
@given(_documents)
def test_whatever_a_manifest_says_its_children_are_legal_and_harmless(document: dict[str, Any]) -> None:
    try:
        resource = parse_resource(document)
        children = render_children(resource, assumed_config(resource))
    except InvalidInput:
        assume(False)
    names = [(child["kind"], child["metadata"]["name"]) for child in children]
    assert len(set(names)) == len(names)
    for child in children:
        labels = dict(child["metadata"]["labels"])
        if child["kind"] == "Job":
            # The pods' host names end in their index.
            assert DNS_LABEL.fullmatch(f"{child['metadata']['name']}-{'9' * INDEX_DIGITS}")
            template = child["spec"]["template"]
            check_pod(template["spec"], resource.spec.model_dump(by_alias=True))
            labels |= template["metadata"]["labels"]
        else:
            assert DNS_LABEL.fullmatch(child["metadata"]["name"])
        assert [value for value in labels.values() if not LABEL_VALUE.fullmatch(value)] == []
        if child["kind"] != "ConfigMap":
            assert FREE_TEXT not in json.dumps(without_environment(child))


def without_environment(child: Child) -> Child:
    child = copy.deepcopy(child)
    for found in child["spec"].get("template", {}).get("spec", {}).get("containers", []):
        del found["env"]
    return child


def check_pod(pod: Child, spec: Child) -> None:
    assert list(violations(pod)) == []
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    (found,) = pod["containers"]
    assert found["command"] == ["python", "-m", "videogen_runner.main"]
    assert not {"args", "envFrom"} & set(found)
    names = [variable["name"] for variable in found["env"]]
    assert len(set(names)) == len(names)
    from_secrets = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]["key"]
        for variable in found["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert from_secrets in ({}, {key: key for key in SECRET_KEYS})
    said = [
        variable["value"]
        for owner in (spec["encoder"], *(spec["runners"] or ()))
        for variable in ((owner or {}).get("pod") or {}).get("env") or ()
    ]
    for text in values_of(found).values():
        assert "LEAKED" not in text
        assert FREE_TEXT not in text or text in said
