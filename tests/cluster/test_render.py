"""Children of a resource, as values: nothing here needs a cluster but the last test."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pod_security import violations

from videogen_api.errors import ConfigInvalid, InvalidInput
from videogen_api.naming import Env, Stage
from videogen_api.resource import load_manifests, parse_resource
from videogen_operator.cli.main import main
from videogen_operator.cli.render import assumed_config, render_children, to_yaml
from videogen_operator.cluster.checks import check_for_cluster
from videogen_operator.cluster.render import render_group
from videogen_operator.config import OperatorConfig
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.observed import Group
from videogen_operator.core.planner import make_plan

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden")
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")
INDEX_DIGITS = 4
SECRET_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
# Stands in every free text that a manifest may hold; nothing else looks like it.
FREE_TEXT = "Free;Text"

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


def test_a_rich_resource_renders_as_agreed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(GOLDEN / "resource.yaml"), "--config", str(GOLDEN / "operator.yaml")]) == 0
    rendered = tmp_path / "children.yaml"
    rendered.write_text(capsys.readouterr().out)
    assert rendered.read_text() == (GOLDEN / "children.yaml").read_text(), (
        f"if every difference is meant: cp {rendered} {GOLDEN / 'children.yaml'}"
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_renders_to_the_same_objects_in_yaml_and_json(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", str(path)]) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert main(["render", str(path), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"apiVersion": "v1", "kind": "List", "items": documents}
    assert [child["kind"] for child in documents[:4]] == ["ConfigMap", "Job", "Service", "Job"]


def test_rendering_twice_gives_equal_objects() -> None:
    (resource,) = load_manifests(GOLDEN / "resource.yaml")
    config = OperatorConfig.read(GOLDEN / "operator.yaml")
    assert render_children(resource, config) == render_children(resource, config)


def test_text_that_yaml_readers_take_for_numbers_or_truth_values_is_quoted() -> None:
    odd = ["y", "N", "1e5", "+1e-5", "0o7", "0x1f", "1_000", "12:30", "no", "~", "", "2026-01-01", "."]
    assert to_yaml([{"odd": odd}]).splitlines()[2:] == [f"- '{text}'" for text in odd]


def test_a_later_attempt_has_another_name_and_says_so() -> None:
    resource = parse_resource(build_document())
    config = build_config()
    plan = make_plan(resource, config.defaults)
    first, third = (
        render_group(resource, plan, 1, Group(Stage.PREFLIGHT, None, attempt, 1, attempt), config)[0]
        for attempt in (1, 3)
    )
    assert third["metadata"]["name"] == first["metadata"]["name"][:-1] + "3"
    assert third["metadata"]["labels"]["videogen.dev/attempt"] == "3"
    assert third["metadata"]["labels"]["videogen.dev/round"] == "3"


def test_resources_of_one_name_in_two_namespaces_have_children_of_different_names() -> None:
    documents = [build_document(), build_document()]
    documents[1]["metadata"]["namespace"] = "other"
    one, two = ({child["metadata"]["name"] for child in render(document, build_config())} for document in documents)
    assert one.isdisjoint(two)


def test_without_a_secret_pods_have_no_keys_and_rely_on_their_service_account() -> None:
    for pod in pods_of(render(build_document(), build_config())):
        assert SECRET_KEYS.isdisjoint(variable["name"] for variable in pod["containers"][0]["env"])


def test_only_generate_pods_are_tried_again_by_their_job() -> None:
    children = render(build_document(retries=7), build_config())
    assert job(children, Stage.GENERATE, "default")["spec"]["backoffLimitPerIndex"] == 7
    for stage in (Stage.PREFLIGHT, Stage.ENCODE, Stage.COLLECT):
        spec = job(children, stage)["spec"]
        assert spec["backoffLimit"] == 0
        assert not {"podFailurePolicy", "backoffLimitPerIndex"} & set(spec)


def test_a_pool_without_cards_runs_on_the_cpu_and_asks_for_the_memory_that_the_plan_predicts() -> None:
    document = build_document(runners=[{"name": "cpu", "gpu": {"count": 0}}])
    config = build_config()
    plan = make_plan(parse_resource(document), config.defaults)
    found = container(render(document, config), Stage.GENERATE, "cpu")
    assert values_of(found)[Env.DEVICE] == "cpu"
    mebibytes = int(found["resources"]["requests"]["memory"].removesuffix("Mi"))
    assert 2**30 < mebibytes * 2**20 - plan.pools[0].cost.peak_memory_bytes <= 2**30 + 2**20
    assert "limits" not in found["resources"]


def test_a_pool_with_cards_asks_for_them_and_for_the_nodes_that_have_them() -> None:
    pool = {"name": "mi", "gpu": {"resource": "amd.com/gpu", "count": 4, "product": "MI-300"}}
    children = render(build_document(runners=[pool]), build_config())
    found = container(children, Stage.GENERATE, "mi")
    assert found["resources"]["limits"] == {"amd.com/gpu": "4"}
    assert Env.DEVICE not in values_of(found)
    assert pod_spec(children, Stage.GENERATE, "mi")["nodeSelector"] == {"nvidia.com/gpu.product": "MI-300"}


def test_limits_of_the_users_own_stand_without_a_request_that_could_be_larger() -> None:
    pool = {"name": "a", "pod": {"resources": {"limits": {"memory": "1Gi"}}}}
    found = container(render(build_document(runners=[pool]), build_config()), Stage.GENERATE, "a")
    assert found["resources"] == {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": "1"}}


POOL_POD = {
    "nodeSelector": {"zone": "a"},
    "tolerations": [{"key": "gpu"}],
    "resources": {"requests": {"memory": "64Gi"}},
    "imagePullSecrets": [{"name": "registry"}],
    "labels": {"team": "film"},
    "env": [{"name": "LANG", "value": "C"}],
}


def test_the_encoder_takes_from_the_pool_whose_cards_it_borrows_all_but_resources() -> None:
    children = render(
        build_document(runners=[{"name": "cpu", "gpu": {"count": 0}}, {"name": "a", "pod": POOL_POD}]), build_config()
    )
    spec = pod_spec(children, Stage.ENCODE)
    assert spec["nodeSelector"] == {"zone": "a"}
    assert spec["tolerations"] == [{"key": "gpu"}]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["containers"][0]["resources"]["requests"]["memory"] == "2048Mi"
    assert values_of(spec["containers"][0])["LANG"] == "C"


def test_an_encoder_with_cards_of_its_own_does_not_look_for_the_pools_nodes() -> None:
    document = build_document(encoder={"gpu": {"product": "L4"}}, runners=[{"name": "a", "pod": POOL_POD}])
    spec = pod_spec(render(document, build_config()), Stage.ENCODE)
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "L4"}
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


def test_preflight_and_collect_take_from_the_encoder_all_but_nodes_and_resources() -> None:
    children = render(build_document(runners=[{"name": "a", "pod": POOL_POD}]), build_config())
    for stage in (Stage.PREFLIGHT, Stage.COLLECT):
        template = job(children, stage)["spec"]["template"]
        assert template["metadata"]["labels"]["team"] == "film"
        assert template["spec"]["tolerations"] == [{"key": "gpu"}]
        assert template["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert "nodeSelector" not in template["spec"]
        assert template["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "100m", "memory": "256Mi"}}


def test_a_pool_adds_to_what_the_cluster_says_of_the_pool_of_that_name() -> None:
    config = build_config(defaults={"runners": [{"name": "a", "pod": POOL_POD}]})
    own = {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu"}, {"key": "spot"}],
        "labels": {"team": "news"},
        "env": [{"name": "LANG", "value": "fr"}],
    }
    children = render(build_document(runners=[{"name": "a", "pod": own}]), config)
    template = job(children, Stage.GENERATE, "a")["spec"]["template"]
    assert template["spec"]["nodeSelector"] == {"zone": "a", "disk": "fast"}
    assert template["spec"]["tolerations"] == [{"key": "gpu"}, {"key": "spot"}]
    assert template["metadata"]["labels"]["team"] == "news"
    assert values_of(template["spec"]["containers"][0])["LANG"] == "fr"


def test_pull_secrets_and_service_account_of_the_cluster_count_for_pools_of_every_name() -> None:
    pod = POOL_POD | {"serviceAccountName": "video"}
    config = build_config(defaults={"runners": [{"name": "a", "pod": pod}]})
    spec = pod_spec(render(build_document(runners=[{"name": "b"}]), config), Stage.GENERATE, "b")
    assert (spec["imagePullSecrets"], spec["serviceAccountName"]) == ([{"name": "registry"}], "video")
    assert "tolerations" not in spec


def test_a_volume_of_weights_is_mounted_read_only_where_weights_are_read() -> None:
    model = {"name": "open-sora-v1.2-tiny", "weights": "pvc://models/a/b"}
    children = render(build_document(model=model), build_config())
    for stage, pool in ((Stage.PREFLIGHT, None), (Stage.ENCODE, None), (Stage.GENERATE, "default")):
        found = container(children, stage, pool)
        assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in found["volumeMounts"]
        assert values_of(found)[Env.WEIGHTS] == "/weights/a/b"
    assert "weights" not in [volume["name"] for volume in pod_spec(children, Stage.COLLECT)["volumes"]]


def test_a_pool_that_left_the_resource_is_named() -> None:
    config = build_config()
    plan = make_plan(parse_resource(build_document(runners=[{"name": "gone"}])), config.defaults)
    resource = parse_resource(build_document(runners=[{"name": "new"}]))
    with pytest.raises(ConfigInvalid, match=r"spec\.runners has no pool 'gone'"):
        render_group(resource, plan, 1, Group(Stage.GENERATE, "gone", 1, 1, 1), config)


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


@pytest.mark.parametrize(
    ("path", "value", "violation"),
    [
        (("hostNetwork",), True, "hostNetwork"),
        (("securityContext", "runAsNonRoot"), False, "containers[runner].securityContext.runAsNonRoot"),
        (("securityContext", "runAsUser"), 0, "securityContext.runAsUser"),
        (
            ("securityContext", "seccompProfile"),
            {"type": "Unconfined"},
            "containers[runner].securityContext.seccompProfile",
        ),
        (("securityContext", "sysctls"), [{"name": "kernel.msgmax"}], "securityContext.sysctls"),
        (("volumes", 0), {"name": "host", "hostPath": {"path": "/"}}, "volumes[host]"),
        (("containers", 0, "securityContext", "privileged"), True, "containers[runner].securityContext.privileged"),
        (
            ("containers", 0, "securityContext", "allowPrivilegeEscalation"),
            None,
            "containers[runner].securityContext.allowPrivilegeEscalation",
        ),
        (
            ("containers", 0, "securityContext", "capabilities", "add"),
            ["SYS_ADMIN"],
            "containers[runner].securityContext.capabilities",
        ),
        (("containers", 0, "securityContext", "capabilities"), {}, "containers[runner].securityContext.capabilities"),
        (("containers", 0, "ports", 0, "hostPort"), 80, "containers[runner].ports.hostPort"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_the_rules_of_pod_security_find_what_is_wrong_with_a_pod(
    path: tuple[Any, ...], value: Any, violation: str
) -> None:
    pod = copy.deepcopy(pod_spec(render(build_document(), build_config()), Stage.ENCODE))
    assert list(violations(pod)) == []
    *parents, last = path
    place = pod
    for parent in parents:
        place = place[parent]
    place[last] = value
    assert list(violations(pod)) == [violation]


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


@pytest.mark.parametrize("path", [*EXAMPLES, GOLDEN / "resource.yaml"], ids=lambda path: path.stem)
def test_a_real_api_server_takes_every_child_and_pod_without_a_warning(control_plane: ControlPlane, path: Path) -> None:
    (resource,) = load_manifests(path)
    namespace = f"render-{path.stem}"
    resource = resource.model_copy(update={"metadata": resource.metadata.model_copy(update={"namespace": namespace})})
    children = render_children(resource, assumed_config(resource))
    pods = [build_object("Pod", f"pod-{i}", namespace, spec=spec) for i, spec in enumerate(pods_of(children))]
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    around = [
        build_object("Namespace", namespace, labels=levels),
        build_object("ServiceAccount", "default", namespace),
        build_object("PriorityClass", "low", api_version="scheduling.k8s.io/v1", value=-10),
    ]
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=to_yaml(around))
    dry_run = ("create", "--dry-run=server", "--warnings-as-errors", "--validate=strict", "--output=name", "-f", "-")
    created = control_plane.kubectl(*dry_run, stdin=to_yaml(children + pods)).split()
    assert [name.partition("/")[2] for name in created] == [child["metadata"]["name"] for child in children + pods]


def build_object(
    kind: str,
    name: str,
    namespace: str | None = None,
    *,
    api_version: str = "v1",
    labels: dict[str, str] | None = None,
    **fields: Any,
) -> Child:
    place = {} if namespace is None else {"namespace": namespace}
    metadata = {"name": name, **place, "labels": labels or {}}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}
