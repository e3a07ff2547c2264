"""What the chart makes of its values."""

import re
from pathlib import Path

import pytest
import yaml
from tests.chart.chart import (
    EMBEDDED,
    EVERYTHING,
    FULL_NAME,
    NAMESPACE,
    NAMESPACED,
    TRYOUT,
    Chart,
    Values,
    of_kind,
    operator_yaml,
    pod_specs,
)

from videogen_api import naming
from videogen_api.spec import Encoder, Gpu, ModelRef, Pod, Resources, RunnerPool, Storage, Toleration
from videogen_operator.config import Allowed, Images, OperatorConfig, PullPolicy
from videogen_operator.core.defaults import Defaults

MODES: dict[str, Values] = {
    "cluster": {},
    "namespaced": NAMESPACED,
    "embedded": EMBEDDED,
    "tryout": TRYOUT,
    "everything": EVERYTHING,
}
modes = pytest.mark.parametrize("values", MODES.values(), ids=MODES.keys())


def read_config(chart: Chart, values: Values, folder: Path) -> OperatorConfig:
    path = folder / "operator.yaml"
    path.write_text(operator_yaml(chart.render(values)), encoding="utf-8")
    return OperatorConfig.read(path)


@modes
def test_helm_finds_no_fault(chart: Chart, values: Values) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in chart.lint(values)


def test_without_values_the_operator_watches_all_namespaces_and_sets_no_defaults(chart: Chart, tmp_path: Path) -> None:
    images = Images(operator="videogen-operator:0.1.0", runner="videogen-runner:0.1.0")
    assert read_config(chart, {}, tmp_path) == OperatorConfig(images=images)


def test_every_value_reaches_the_operator(chart: Chart, tmp_path: Path) -> None:
    store = f"{FULL_NAME}-store"
    pool = RunnerPool(
        name="t4",
        replicas=4,
        gpu=Gpu(resource="nvidia.com/gpu", count=1, memory="16Gi", product="Tesla-T4"),
        pod=Pod(
            tolerations=(Toleration(key="gpu", operator="Exists", effect="NoExecute", toleration_seconds=31_536_000),),
            resources=Resources(requests={"cpu": "4", "memory": "8Gi"}),
        ),
    )
    storage = Storage(
        url="s3://videos/",
        endpoint=f"http://{store}.{NAMESPACE}.svc:7070",
        region="us-east-1",
        credentials_secret=store,
    )
    assert read_config(chart, EVERYTHING | {"namespaces": ["b", "a"]}, tmp_path) == OperatorConfig(
        images=Images(
            operator=f"example.com/operator@sha256:{'a' * 64}",
            runner="example.com/runner:1.2.3",
            pull_policy=PullPolicy.ALWAYS,
        ),
        namespaces=("a", "b"),
        defaults=Defaults(
            storage=storage,
            model=ModelRef(name="open-sora-v1.2", weights="pvc://weights/open-sora-v1.2"),
            encoder=Encoder(shards=4, gpu=Gpu(count=1, memory="16Gi")),
            runners=(pool,),
        ),
        allowed=Allowed(service_accounts=("video",), priority_classes=("low",), endpoints=("https://s3.example.com",)),
    )


def test_the_try_out_needs_neither_a_gpu_nor_anything_else_of_one_s_own(chart: Chart, tmp_path: Path) -> None:
    defaults = read_config(chart, TRYOUT, tmp_path).defaults
    assert defaults.storage is not None
    assert defaults.storage.url == "s3://videos/"
    assert defaults == Defaults(
        storage=defaults.storage,
        model=ModelRef(name="open-sora-v1.2-tiny", weights="builtin"),
        runners=(RunnerPool(name="cpu", replicas=2, gpu=Gpu(count=0)),),
    )


def test_a_changed_configuration_replaces_the_pods(chart: Chart) -> None:
    sums = set()
    for policy in ("Always", "Never", "Always"):
        deployment = of_kind(chart.render({"images": {"pullPolicy": policy}}), "Deployment")[f"{NAMESPACE}/{FULL_NAME}"]
        sums.add(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"])
    assert len(sums) == 2


def test_an_image_with_a_digest_is_named_by_it_everywhere(chart: Chart) -> None:
    digest = f"sha256:{'b' * 64}"
    images = {name: {"repository": f"example.com/{name}", "digest": digest} for name in ("operator", "runner")}
    store = {"enabled": True, "image": {"repository": "example.com/store", "digest": digest}}
    manifests = chart.render({"images": images, "embeddedStore": store})
    used = {
        container["image"]
        for _, spec in pod_specs(manifests)
        for container in [*spec.get("initContainers", []), *spec["containers"]]
    }
    assert used == {f"example.com/{name}@{digest}" for name in ("operator", "store")}
    assert f"runner: example.com/runner@{digest}" in operator_yaml(manifests)


def test_values_of_the_pod_reach_the_operator_s_pod(chart: Chart) -> None:
    deployment = of_kind(chart.render(EVERYTHING), "Deployment")[f"{NAMESPACE}/{FULL_NAME}"]
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "media"
    assert template["metadata"]["annotations"]["example.com/scrape"] == "true"
    wanted = {
        "serviceAccountName": "operator",
        "imagePullSecrets": [{"name": "pull"}],
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "control-plane", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    }
    assert {key: template["spec"][key] for key in wanted} == wanted


def test_the_operator_is_started_with_its_configuration_and_its_own_name(chart: Chart) -> None:
    deployment = of_kind(chart.render(), "Deployment")[f"{NAMESPACE}/{FULL_NAME}"]
    assert deployment["spec"]["replicas"] == 2
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert [*container["command"], *container["args"]] == [
        "videogen",
        "operator",
        "--config",
        "/etc/videogen/operator.yaml",
    ]
    assert container["env"] == [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"metrics": 8080, "health": 8081}
    for probe, path in {"livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "health"}
    assert [constraint["topologyKey"] for constraint in spec["topologySpreadConstraints"]] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]


def test_every_selector_finds_exactly_its_own_pods(chart: Chart) -> None:
    """Of the chart's own pods: the operator's and the store's."""
    manifests = chart.render(EMBEDDED)
    templates = {
        name: deployment["spec"]["template"]["metadata"]["labels"]
        for name, deployment in of_kind(manifests, "Deployment").items()
    }

    def found_by(selector: dict[str, str]) -> list[str]:
        return [name for name, labels in templates.items() if selector.items() <= labels.items()]

    operator, store = f"{NAMESPACE}/{FULL_NAME}", f"{NAMESPACE}/{FULL_NAME}-store"
    for name, deployment in of_kind(manifests, "Deployment").items():
        assert found_by(deployment["spec"]["selector"]["matchLabels"]) == [name]
    for budget in of_kind(manifests, "PodDisruptionBudget").values():
        assert found_by(budget["spec"]["selector"]["matchLabels"]) == [operator]
    selected = {name: found_by(found["spec"]["selector"]) for name, found in of_kind(manifests, "Service").items()}
    assert selected == {f"{operator}-metrics": [operator], store: [store]}
    policies = of_kind(manifests, "NetworkPolicy")
    for name in (operator, store):
        assert found_by(policies[name]["spec"]["podSelector"]["matchLabels"]) == [name]
    (peer,) = policies[f"{operator}-workload"]["spec"]["ingress"][0]["from"]
    assert found_by(peer["podSelector"]["matchLabels"]) == [operator]


def test_workload_pods_are_reached_by_the_operator_and_by_their_own_group_only(chart: Chart) -> None:
    policies = of_kind(chart.render(NAMESPACED), "NetworkPolicy")
    assert sorted(policies) == [
        f"team-a/{FULL_NAME}-encode",
        f"team-a/{FULL_NAME}-workload",
        f"team-b/{FULL_NAME}-encode",
        f"team-b/{FULL_NAME}-workload",
        f"{NAMESPACE}/{FULL_NAME}",
    ]
    workload = {"matchExpressions": [{"key": naming.LABEL_STAGE, "operator": "Exists"}]}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
        "podSelector": {
            "matchLabels": {
                "app.kubernetes.io/name": "videogen",
                "app.kubernetes.io/instance": "vg",
                "app.kubernetes.io/component": "operator",
            }
        },
    }
    port = [{"protocol": "TCP", "port": naming.DEFAULT_PORT}]
    spec = policies[f"team-a/{FULL_NAME}-workload"]["spec"]
    assert spec["podSelector"] == workload
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [{"from": [operator], "ports": port}]
    encode = {"matchLabels": {naming.LABEL_STAGE: naming.Stage.ENCODE.value}}
    assert policies[f"team-a/{FULL_NAME}-encode"]["spec"] == {
        "podSelector": encode,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": encode}]}],
        "egress": [{"to": [{"podSelector": encode}]}],
    }
    polled = policies[f"{NAMESPACE}/{FULL_NAME}"]["spec"]["egress"][-1]
    assert polled == {"to": [{"namespaceSelector": {}, "podSelector": workload}], "ports": port}


@pytest.mark.parametrize(
    ("endpoint", "ports"),
    [
        ("", [443]),
        ("http://minio.storage:9000", [443, 9000]),
        ("http://minio.storage", [443, 80]),
        ("https://s3.example.com", [443]),
        ("http://[fd00::9]:9001", [443, 9001]),
    ],
)
def test_the_ports_of_the_endpoints_are_open_to_workload_pods(chart: Chart, endpoint: str, ports: list[int]) -> None:
    values = {
        "defaults": {"storage": {"endpoint": endpoint} if endpoint else {}},
        "allowed": {"endpoints": ["https://other.example.com:8443"]},
        "networkPolicy": {"workload": {"store": {"ports": [3128]}}},
    }
    policy = of_kind(chart.render(values), "NetworkPolicy")[f"{NAMESPACE}/{FULL_NAME}-workload"]
    _, store = policy["spec"]["egress"]
    assert [found["port"] for found in store["ports"]] == [*ports, 8443, 3128]


def test_in_cluster_mode_workload_policies_go_where_the_values_say(chart: Chart) -> None:
    values = {"networkPolicy": {"workload": {"namespaces": ["team-c"]}, "operator": {"enabled": False}}}
    assert sorted(of_kind(chart.render(values), "NetworkPolicy")) == [
        f"team-c/{FULL_NAME}-encode",
        f"team-c/{FULL_NAME}-workload",
    ]


CRD = f"CustomResourceDefinition {naming.PLURAL}.{naming.GROUP}"


@pytest.mark.parametrize(
    ("switch", "made"),
    [
        ("crds: {enabled: %s}", {CRD}),
        ("podDisruptionBudget: {enabled: %s}", {f"PodDisruptionBudget {FULL_NAME}"}),
        ("userRoles: {enabled: %s}", {f"ClusterRole {FULL_NAME}-edit", f"ClusterRole {FULL_NAME}-view"}),
        ("metrics: {service: {enabled: %s}}", {f"Service {FULL_NAME}-metrics"}),
        ("networkPolicy: {operator: {enabled: %s}}", {f"NetworkPolicy {FULL_NAME}"}),
        (
            "networkPolicy: {workload: {enabled: %s}}",
            {f"NetworkPolicy {FULL_NAME}-encode", f"NetworkPolicy {FULL_NAME}-workload"},
        ),
    ],
)
def test_each_switch_decides_over_its_own_objects_and_no_others(chart: Chart, switch: str, made: set[str]) -> None:
    def names(state: str) -> set[str]:
        manifests = chart.render(yaml.safe_load(switch % state))
        return {f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in manifests}

    assert names("true") - names("false") == made
    assert names("false") <= names("true")


@pytest.mark.parametrize(("keep", "annotations"), [(True, {"helm.sh/resource-policy": "keep"}), (False, None)])
def test_the_crd_outlives_the_release_unless_told_otherwise(
    chart: Chart, keep: bool, annotations: dict[str, str] | None
) -> None:
    (crd,) = of_kind(chart.render({"crds": {"keep": keep}}), "CustomResourceDefinition").values()
    assert crd["metadata"].get("annotations") == annotations


def test_the_embedded_store_has_one_server_a_bucket_and_credentials_by_reference(chart: Chart) -> None:
    manifests = chart.render({"embeddedStore": {"enabled": True, "bucket": "clips", "command": ["/s3"]}})
    name = f"{FULL_NAME}-store"
    deployment = of_kind(manifests, "Deployment")[f"{NAMESPACE}/{name}"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    spec = deployment["template"]["spec"]
    assert spec["initContainers"][0]["command"][-1] == "/data/clips"
    (server,) = spec["containers"]
    assert server["command"] == ["/s3"]
    references = {variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in server["env"]}
    assert references == {
        "ROOT_ACCESS_KEY_ID": {"name": name, "key": "AWS_ACCESS_KEY_ID"},
        "ROOT_SECRET_ACCESS_KEY": {"name": name, "key": "AWS_SECRET_ACCESS_KEY"},
    }
    assert spec["volumes"][0] == {"name": "data", "emptyDir": {"sizeLimit": "20Gi"}}
    assert of_kind(manifests, "PersistentVolumeClaim") == {}


def test_the_volume_of_the_embedded_store_outlives_the_release(chart: Chart) -> None:
    claim = of_kind(chart.render(EMBEDDED), "PersistentVolumeClaim")[f"{NAMESPACE}/{FULL_NAME}-store"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}}


def test_the_longest_names_still_fit(chart: Chart) -> None:
    manifests = chart.render(EMBEDDED | {"fullnameOverride": "n" * 253})
    assert max(len(manifest["metadata"]["name"]) for manifest in manifests) <= naming.MAX_NAME_LENGTH


def test_texts_that_look_like_numbers_stay_texts(chart: Chart) -> None:
    manifests = chart.render(
        {
            "operator": {"priorityClassName": "1234"},
            "embeddedStore": {
                "enabled": True,
                "region": "1",
                "persistence": {"enabled": True, "storageClassName": "7"},
            },
        }
    )
    deployments = of_kind(manifests, "Deployment")
    assert deployments[f"{NAMESPACE}/{FULL_NAME}"]["spec"]["template"]["spec"]["priorityClassName"] == "1234"
    (server,) = deployments[f"{NAMESPACE}/{FULL_NAME}-store"]["spec"]["template"]["spec"]["containers"]
    assert server["args"][server["args"].index("--region") + 1] == "1"
    (claim,) = of_kind(manifests, "PersistentVolumeClaim").values()
    assert claim["spec"]["storageClassName"] == "7"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {},
            [
                "watches every namespace",
                "each VideoGeneration must name one in spec.storage",
                "each VideoGeneration must say in spec.model.weights where they are",
                "    storage: {url: s3://BUCKET/}\n    model: {weights: s3://BUCKET/open-sora-v1.2/}\n  END",
                "-n video -w",
            ],
        ),
        (NAMESPACED, ["watches team-a, team-b", "kubectl apply -n team-a"]),
        (EMBEDDED, ["Secret vg-videogen-store of namespace video", "kubectl get secret vg-videogen-store -n video"]),
        (
            {"defaults": {"storage": {"url": "s3://b/", "credentialsSecret": "s3"}}},
            ["Secret s3 with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"],
        ),
    ],
)
def test_the_notes_say_what_to_type_next(chart: Chart, values: Values, expected: list[str]) -> None:
    notes = chart.notes(values)
    missing = [text for text in expected if not re.search(re.escape(text), notes)]
    assert missing == []
