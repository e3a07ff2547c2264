"""Values that cannot work are refused before anything reaches a cluster, with the field named."""

import json
import re

import pytest
import yaml
from charts import values_schema
from tests.chart.chart import CHART, EVERYTHING, Chart, Manifest

# Values, and where helm must say that the one fault in them is.
BAD_VALUES = [
    ("replicas: 2", "'': additional properties 'replicas'"),
    ("fullnameOverride: video.gen", "'/fullnameOverride'"),
    ("fullnameOverride: 1video", "'/fullnameOverride'"),
    ("images: {operator: {repo: x}}", "'/images/operator': additional properties 'repo'"),
    ("images: {operator: {repository: with space}}", "'/images/operator/repository'"),
    ("images: {operator: {repository: 'name@sha256:0'}}", "'/images/operator/repository'"),
    ("images: {runner: {tag: a/b}}", "'/images/runner/tag'"),
    ("images: {runner: {tag: 1.10}}", "'/images/runner/tag': got number, want string"),
    ("images: {runner: {digest: 'sha256:short'}}", "'/images/runner/digest'"),
    ("images: {pullPolicy: Sometimes}", "'/images/pullPolicy'"),
    ("images: {pullSecrets: [pull]}", "'/images/pullSecrets/0': got string, want object"),
    ("namespaces: team-a", "'/namespaces': got string, want array"),
    ("namespaces: [team-a, team_b]", "'/namespaces/1'"),
    ("namespaces: [team-a, team-a]", "'/namespaces': items at 0 and 1 are equal"),
    ("crds: {enabled: 'yes'}", "'/crds/enabled': got string, want boolean"),
    ("defaults: {machine: {name: local}}", "'/defaults': additional properties 'machine'"),
    ("defaults: {storage: {url: 'https://s3.example.com/b'}}", "'/defaults/storage/url'"),
    ("defaults: {storage: {url: 'file:///videos'}}", "'/defaults/storage/url'"),
    ("defaults: {storage: {endpoint: 'minio:9000'}}", "'/defaults/storage/endpoint'"),
    ("defaults: {storage: {credentialsSecret: Not A Name}}", "'/defaults/storage/credentialsSecret'"),
    ("defaults: {storage: {secretKey: in the open}}", "'/defaults/storage': additional properties 'secretKey'"),
    ("defaults: {model: {weights: /weights}}", "'/defaults/model/weights'"),
    ("defaults: {model: {precision: roughly}}", "'/defaults/model/precision': value must be 'exact'"),
    ("defaults: {encoder: {shards: 0}}", "'/defaults/encoder/shards'"),
    ("defaults: {encoder: {shards: '4'}}", "'/defaults/encoder/shards': got string, want integer"),
    ("defaults: {encoder: {gpu: {memory: 16 GB}}}", "'/defaults/encoder/gpu/memory'"),
    ("defaults: {runners: [{replicas: 1}]}", "'/defaults/runners/0': missing property 'name'"),
    ("defaults: {runners: [{name: a}, {name: T4}]}", "'/defaults/runners/1/name'"),
    ("defaults: {runners: [{name: a, replicas: -1}]}", "'/defaults/runners/0/replicas'"),
    ("defaults: {runners: [{name: a, gpu: {resource: gpu}}]}", "'/defaults/runners/0/gpu/resource'"),
    ("defaults: {runners: [{name: a, gpu: {count: 17}}]}", "'/defaults/runners/0/gpu/count'"),
    (
        "defaults: {runners: [{name: a, pod: {hostNetwork: true}}]}",
        "'/defaults/runners/0/pod': additional properties 'hostNetwork'",
    ),
    (
        "defaults: {runners: [{name: a, pod: {nodeSelector: {a//b: x}}}]}",
        "'/defaults/runners/0/pod/nodeSelector': additional properties 'a//b'",
    ),
    (
        "defaults: {runners: [{name: a, pod: {tolerations: [{effect: Never}]}}]}",
        "'/defaults/runners/0/pod/tolerations/0/effect'",
    ),
    (
        "defaults: {runners: [{name: a, pod: {resources: {limits: {memory: much}}}}]}",
        "'/defaults/runners/0/pod/resources/limits/memory'",
    ),
    ("allowed: {endpoints: [s3.example.com]}", "'/allowed/endpoints/0'"),
    ("allowed: {namespaces: [a]}", "'/allowed': additional properties 'namespaces'"),
    ("operator: {replicas: 1.5}", "'/operator/replicas': got number, want integer"),
    ("operator: {replicas: 11}", "'/operator/replicas'"),
    ("operator: {runAsUser: 0}", "'/operator/runAsUser'"),
    ("operator: {resources: {claims: []}}", "'/operator/resources': additional properties 'claims'"),
    ("operator: {resources: {limits: {memory: 512 MB}}}", "'/operator/resources/limits/memory'"),
    ("operator: {podLabels: {team: 7}}", "'/operator/podLabels/team': got number, want string"),
    ("operator: {topologySpread: [{topologyKey: zone}]}", "'/operator/topologySpread/0': missing properties"),
    ("serviceAccount: {name: Operator}", "'/serviceAccount/name'"),
    ("serviceAccount: {create: false}", "'/serviceAccount': additional properties 'create'"),
    ("userRoles: {enabled: 1}", "'/userRoles/enabled': got number, want boolean"),
    ("podDisruptionBudget: {minAvailable: 1}", "'/podDisruptionBudget': additional properties 'minAvailable'"),
    ("metrics: {service: {port: 80}}", "'/metrics/service': additional properties 'port'"),
    ("networkPolicy: {enabled: true}", "'/networkPolicy': additional properties 'enabled'"),
    ("networkPolicy: {operator: {apiServer: {cidrs: [10.0.0.1]}}}", "'/networkPolicy/operator/apiServer/cidrs/0'"),
    ("networkPolicy: {operator: {apiServer: {ports: [70000]}}}", "'/networkPolicy/operator/apiServer/ports/0'"),
    ("networkPolicy: {workload: {store: {ports: [s3]}}}", "'/networkPolicy/workload/store/ports/0'"),
    ("embeddedStore: {bucket: Videos}", "'/embeddedStore/bucket'"),
    ("embeddedStore: {command: []}", "'/embeddedStore/command'"),
    ("embeddedStore: {persistence: {size: big}}", "'/embeddedStore/persistence/size'"),
]


@pytest.mark.parametrize(("values", "fault"), BAD_VALUES, ids=[values for values, _ in BAD_VALUES])
def test_bad_values_are_refused_with_the_field_named(chart: Chart, values: str, fault: str) -> None:
    faults = re.findall(r"^- at (.*)$", chart.refuse(yaml.safe_load(values)), re.MULTILINE)
    assert {found[: len(fault)] for found in faults} == {fault}


def test_a_store_of_one_s_own_and_the_embedded_one_exclude_each_other(chart: Chart) -> None:
    refusal = chart.refuse({"embeddedStore": {"enabled": True}, "defaults": {"storage": {"url": "s3://mine/"}}})
    assert "remove defaults.storage, or set embeddedStore.enabled to false" in refusal


def test_the_schema_is_generated_from_the_contract() -> None:
    written = values_schema.SCHEMA.read_text(encoding="utf-8")
    assert written == values_schema.build_schema(), "run `make generate`"


def test_every_value_is_documented_and_has_a_form() -> None:
    """The keys of values.yaml and of its schema are the same, down to where the schema leaves the rest open."""
    schema = json.loads(values_schema.SCHEMA.read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert paths_of_values(values, schema, schema["$defs"]) == paths_of_schema(schema, schema["$defs"]) - {"/global"}


# Their fields are those of the spec; values.yaml shows them as examples.
OPEN = ("Storage", "ModelRef", "Encoder")


def resolve(schema: Manifest, definitions: Manifest) -> Manifest:
    name = schema.get("$ref", "").rpartition("/")[2]
    if name in OPEN:
        return {}
    return definitions[name] if name else schema


def paths_of_schema(schema: Manifest, definitions: Manifest, path: str = "") -> set[str]:
    found = {path} if path else set()
    for key, part in resolve(schema, definitions).get("properties", {}).items():
        found |= paths_of_schema(part, definitions, f"{path}/{key}")
    return found


def paths_of_values(values: object, schema: Manifest, definitions: Manifest, path: str = "") -> set[str]:
    found = {path} if path else set()
    properties = resolve(schema, definitions).get("properties", {})
    if isinstance(values, dict) and properties:
        for key, value in values.items():
            found |= paths_of_values(value, properties[key], definitions, f"{path}/{key}")
    return found


def test_good_values_are_taken_whole(chart: Chart) -> None:
    assert chart.render(EVERYTHING | {"global": {"anything": 1}})
