"""Children of a resource, as values."""

import json
from pathlib import Path

import pytest
import yaml
from tests.cluster.rendering import (
    EXAMPLES,
    GOLDEN,
    SECRET_KEYS,
    build_config,
    build_document,
    container,
    job,
    pod_spec,
    pods_of,
    render,
    values_of,
)

from videogen_api.errors import ConfigInvalid
from videogen_api.naming import Env, Stage
from videogen_api.resource import load_manifests, parse_resource
from videogen_operator.cli.main import main
from videogen_operator.cli.render import render_children, to_yaml
from videogen_operator.cluster.render import render_group
from videogen_operator.config import OperatorConfig
from videogen_operator.core.observed import Group
from videogen_operator.core.planner import make_plan


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


def test_shards_learn_where_the_first_of_them_waits_and_for_how_long() -> None:
    document = build_document(encoder={"shards": 3}, schedule={"startDeadlineSeconds": 600})
    children = render(document, build_config())
    encode = job(children, Stage.ENCODE)
    name = encode["metadata"]["name"]
    (service,) = [child for child in children if child["kind"] == "Service"]
    assert (service["metadata"]["name"], encode["spec"]["template"]["spec"]["subdomain"]) == (name, name)
    values = values_of(container(children, Stage.ENCODE))
    assert (values[Env.SHARDS_ADDRESS], values[Env.START_DEADLINE]) == (f"{name}-0.{name}:29500", "1200")


def test_one_shard_waits_for_nobody() -> None:
    values = values_of(container(render(build_document(encoder={"shards": 1}), build_config()), Stage.ENCODE))
    assert {Env.SHARDS_ADDRESS, Env.START_DEADLINE}.isdisjoint(values)


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
