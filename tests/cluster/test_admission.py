"""Rendered pods against Pod Security's rules, and all children against a real API server."""

import copy
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pod_security import violations
from tests.cluster.rendering import (
    EXAMPLES,
    GOLDEN,
    Child,
    build_config,
    build_document,
    pod_spec,
    pods_of,
    render,
)

from videogen_api.naming import Stage
from videogen_api.resource import load_manifests
from videogen_operator.cli.render import assumed_config, render_children, to_yaml


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
