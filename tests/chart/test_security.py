"""What the operator may do, and what its pods may be."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.chart import EMBEDDED, EVERYTHING, NAMESPACED, ROOT, Chart, Manifest, Values, of_kind, pod_specs

GOLDEN = {"rbac-cluster.yaml": {}, "rbac-namespaced.yaml": NAMESPACED}
RBAC_KINDS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount")


def rbac_of(manifests: list[Manifest]) -> str:
    """The RBAC objects as one YAML text, without what every object of a chart carries."""
    found = []
    for _, manifest in sorted(of_kind(manifests, *RBAC_KINDS[:1]).items()):
        found.append(manifest)
    for kind in RBAC_KINDS[1:]:
        found += [manifest for _, manifest in sorted(of_kind(manifests, kind).items())]
    for manifest in found:
        labels = manifest["metadata"].pop("labels")
        kept = {key: value for key, value in labels.items() if key.startswith("rbac.")}
        manifest["metadata"] |= {"labels": kept} if kept else {}
    return yaml.safe_dump_all(found, sort_keys=False, default_flow_style=None, width=120)


@pytest.mark.parametrize(("file", "values"), GOLDEN.items())
def test_rbac_is_what_was_agreed(chart: Chart, file: str, values: Values, tmp_path: Path) -> None:
    golden = Path(__file__).with_name(file)
    rendered = tmp_path / file
    rendered.write_text(rbac_of(chart.render(values)), encoding="utf-8")
    assert rendered.read_text(encoding="utf-8") == golden.read_text(encoding="utf-8"), (
        f"if every right is meant: cp {rendered} {golden}"
    )


@pytest.mark.parametrize("values", GOLDEN.values(), ids=GOLDEN)
def test_the_table_of_rights_in_the_documentation_is_complete(chart: Chart, values: Values) -> None:
    document = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| ([a-z/]+) \| ([a-z, ]+) \| [^|]+ \|$", document, re.MULTILINE)
    documented = {(group, resource, verbs) for group, resource, verbs in rows}
    roles = of_kind(chart.render(values | {"userRoles": {"enabled": False}}), "Role", "ClusterRole").values()
    granted = {
        (group or "core", resource, ", ".join(rule["verbs"]))
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert documented == granted


def rules_of(manifests: list[Manifest]) -> Iterator[dict[str, list[str]]]:
    for role in of_kind(manifests, "Role", "ClusterRole").values():
        yield from role["rules"]


@pytest.mark.parametrize("values", [{}, NAMESPACED, EVERYTHING], ids=["cluster", "namespaced", "everything"])
def test_no_role_has_a_verb_on_secrets_or_nodes_and_none_has_a_wildcard(chart: Chart, values: Values) -> None:
    for rule in rules_of(chart.render(values)):
        assert not {"secrets", "nodes", "*"} & set(rule["resources"]), rule
        assert "*" not in [*rule["verbs"], *rule["apiGroups"]], rule
        assert not {"impersonate", "bind", "escalate"} & set(rule["verbs"]), rule


def test_with_a_list_of_namespaces_nothing_is_of_the_cluster_s_scope(chart: Chart) -> None:
    manifests = chart.render(NAMESPACED | EMBEDDED)
    assert of_kind(manifests, "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition") == {}
    namespaces = {manifest["metadata"].get("namespace") for manifest in manifests}
    assert namespaces == {"video", "team-a", "team-b"}


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """What the `restricted` Pod Security standard refuses in a pod, and what this project asks for on top of it."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    pod = spec.get("securityContext", {})
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile"
    if pod.get("runAsNonRoot") is not True or pod.get("runAsUser") == 0:
        yield "runAsNonRoot"
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}:
            yield f"volume {volume['name']}"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        context = container.get("securityContext", {})
        if context != {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }:
            yield f"securityContext of {container['name']}"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"hostPort of {container['name']}"
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield f"no limit of memory in {container['name']}"


@pytest.mark.parametrize("values", [{}, NAMESPACED, EMBEDDED, EVERYTHING], ids=["cluster", "ns", "store", "everything"])
def test_every_pod_is_admitted_under_restricted_pod_security(chart: Chart, values: Values) -> None:
    found = {name: list(violations(spec)) for name, spec in pod_specs(chart.render(values))}
    assert found
    assert found == {name: [] for name in found}


def test_only_the_operator_s_pod_carries_a_token(chart: Chart) -> None:
    manifests = chart.render(EMBEDDED)
    mounted = {name: spec["automountServiceAccountToken"] for name, spec in pod_specs(manifests)}
    assert mounted == {"video/vg-videogen": True, "video/vg-videogen-store": False}
    (account,) = of_kind(manifests, "ServiceAccount").values()
    assert account["automountServiceAccountToken"] is False


def test_the_user_may_be_left_to_the_platform(chart: Chart) -> None:
    for _, spec in pod_specs(chart.render({"operator": {"runAsUser": None}})):
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
