"""Whom a real API server allows what, in both modes, against the golden RBAC files.

The modes are installed beside each other: release `vg` in namespace `video` for the whole cluster, and release
`tenant` in namespace `tenant` for team-a and team-b only.
"""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.chart.chart import NAMESPACED, Values
from tests.chart.installer import CRD, Installer

Rights = Mapping[str, set[str]]
"""Verbs by resource, as in `jobs.batch` or `pods/log`."""


@dataclass(frozen=True)
class Release:
    name: str
    namespace: str
    values: Values
    golden: str
    watched: tuple[str, ...]
    """Namespaces in which its operator works."""
    unwatched: tuple[str, ...]

    @property
    def account(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}-videogen"


CLUSTER = Release("vg", "video", {}, "rbac-cluster.yaml", ("video", "team-a", "elsewhere"), ())
TENANT = Release("tenant", "tenant", NAMESPACED, "rbac-namespaced.yaml", ("team-a", "team-b"), ("tenant", "elsewhere"))
both_modes = pytest.mark.parametrize("release", [CLUSTER, TENANT], ids=["cluster", "namespaced"])

LEASES: Rights = {"leases.coordination.k8s.io": {"get", "create", "update"}}
NOTHING: Rights = {}


@pytest.fixture(scope="module")
def installed(installer: Installer) -> Iterator[Installer]:
    for release in (CLUSTER, TENANT):
        installer.install(release.name, release.namespace, release.values)
    yield installer
    for release in (CLUSTER, TENANT):
        installer.uninstall(release.name, release.namespace)
    installer.cluster.kubectl("delete", CRD)


def golden_rights(release: Release) -> Rights:
    """What the agreed file lets the operator do in a namespace that it watches."""
    documents = yaml.safe_load_all(Path(__file__).with_name(release.golden).read_text(encoding="utf-8"))
    roles = [found for found in documents if found["kind"] in {"ClusterRole", "Role"}]
    rules = next(role["rules"] for role in roles if role["metadata"]["name"] == "vg-videogen")
    rights: defaultdict[str, set[str]] = defaultdict(set)
    for rule in rules:
        (group,), (resource,) = rule["apiGroups"], rule["resources"]
        name, slash, subresource = resource.partition("/")
        rights[f"{name}.{group}".rstrip(".") + slash + subresource] |= set(rule["verbs"])
    return dict(rights)


def listed_rights(installer: Installer, account: str, namespace: str) -> Rights:
    """All that `kubectl auth can-i --list` knows of, without what it says of everybody."""
    lines = installer.cluster.kubectl("auth", "can-i", "--list", f"--as={account}", "--namespace", namespace)
    everybody = installer.cluster.kubectl("auth", "can-i", "--list", "--as=system:serviceaccount:x:y", "-n", namespace)
    rows = [re.split(r"\s{2,}", line.strip()) for line in set(lines.splitlines()) - set(everybody.splitlines())]
    assert all(len(row) == 4 and row[1:3] == ["[]", "[]"] for row in rows), rows
    return {resource: set(verbs.strip("[]").split()) for resource, _, _, verbs in rows}


@both_modes
def test_the_operator_has_the_agreed_rights_where_it_watches_and_nothing_else(
    installed: Installer, release: Release
) -> None:
    agreed = golden_rights(release)
    for namespace in release.watched:
        expected = {**agreed, **(LEASES if namespace == release.namespace else NOTHING)}
        assert listed_rights(installed, release.account, namespace) == expected, namespace


@both_modes
def test_elsewhere_it_has_none_but_those_of_its_lease(installed: Installer, release: Release) -> None:
    for namespace in release.unwatched:
        expected = LEASES if namespace == release.namespace else NOTHING
        assert listed_rights(installed, release.account, namespace) == expected, namespace


def can_i(installer: Installer, account: str, question: tuple[str, ...]) -> str:
    """yes or no, from the API server's authorizer; the question is verb, resource and where."""
    verb, resource, *where = question
    name, _, subresource = resource.partition("/")
    cluster = installer.cluster
    command = [cluster.kube, "kubectl", f"--kubeconfig={cluster.kubeconfig}", "auth", "can-i", f"--as={account}"]
    command += [verb, name, f"--subresource={subresource}", *where]
    reply = subprocess.run(command, check=False, capture_output=True, text=True)
    answer = reply.stdout.strip().partition(" ")[0]
    assert answer in {"yes", "no"}, reply.stderr
    return answer


# Each is one step from what the operator may do, or what an intruder would want of its token.
REFUSED = [
    ("get", "secrets"),
    ("list", "secrets"),
    ("watch", "secrets"),
    ("create", "secrets"),
    ("patch", "secrets"),
    ("delete", "secrets"),
    ("get", "nodes"),
    ("list", "nodes"),
    ("patch", "nodes"),
    ("list", "namespaces"),
    ("list", "customresourcedefinitions.apiextensions.k8s.io"),
    ("list", "serviceaccounts"),
    ("create", "serviceaccounts/token"),
    ("impersonate", "serviceaccounts"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ("get", "pods"),
    ("create", "pods"),
    ("patch", "pods"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("get", "pods/log"),
    ("get", "pods/proxy"),
    ("update", "jobs.batch"),
    ("deletecollection", "jobs.batch"),
    ("patch", "jobs.batch/status"),
    ("get", "videogenerations.videogen.dev"),
    ("create", "videogenerations.videogen.dev"),
    ("update", "videogenerations.videogen.dev"),
    ("patch", "videogenerations.videogen.dev"),
    ("delete", "videogenerations.videogen.dev"),
    ("get", "videogenerations.videogen.dev/status"),
    ("update", "videogenerations.videogen.dev/status"),
    ("update", "videogenerations.videogen.dev/finalizers"),
    ("patch", "configmaps"),
    ("update", "configmaps"),
    ("watch", "configmaps"),
    ("list", "services"),
    ("delete", "events"),
    ("list", "leases.coordination.k8s.io"),
    ("delete", "leases.coordination.k8s.io"),
    ("create", "deployments.apps"),
]


@both_modes
def test_the_authorizer_says_yes_to_every_agreed_verb_and_no_to_others(installed: Installer, release: Release) -> None:
    watched, own = release.watched[0], release.namespace
    granted = [(verb, resource) for resource, verbs in golden_rights(release).items() for verb in sorted(verbs)]
    expected: dict[tuple[str, ...], str] = {(*right, "-n", watched): "yes" for right in granted}
    expected |= {("update", "leases.coordination.k8s.io", "-n", own): "yes"}
    expected |= {(*right, "-n", watched): "no" for right in REFUSED}
    # The whole cluster at once, and a namespace that only one of them watches.
    beyond = "yes" if release is CLUSTER else "no"
    expected |= {("list", "videogenerations.videogen.dev", "--all-namespaces"): beyond}
    expected |= {("create", "jobs.batch", "-n", "elsewhere"): beyond}
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda question: can_i(installed, release.account, question), expected)
        assert dict(zip(expected, answers, strict=True)) == expected


@pytest.mark.parametrize(
    ("role", "yes", "no"),
    [
        ("view", ["get", "list", "watch"], ["create", "patch", "delete"]),
        ("edit", ["get", "list", "create", "update", "patch", "delete"], ["impersonate"]),
        ("admin", ["get", "list", "create", "update", "patch", "delete"], ["impersonate"]),
    ],
)
def test_people_with_the_cluster_s_own_roles_may_do_the_same_with_videogenerations(
    installed: Installer, role: str, yes: list[str], no: list[str]
) -> None:
    kubectl = installed.cluster.kubectl
    kubectl("create", "rolebinding", f"people-{role}", f"--clusterrole={role}", f"--user={role}er", "-n", "team-a")
    # A controller adds the rules up; this one is in all three.
    rule = '{.rules[?(@.apiGroups[0]=="videogen.dev")].resources[0]}'
    if role != "view":
        rule = '{.rules[?(@.resources[0]=="videogenerations/status")].resources[0]}'
    kubectl("wait", f"clusterrole/{role}", f"--for=jsonpath={rule}", "--timeout=300s")
    answers = {
        verb: can_i(installed, f"{role}er", (verb, "videogenerations.videogen.dev", "-n", "team-a"))
        for verb in [*yes, *no]
    }
    assert answers == dict.fromkeys(yes, "yes") | dict.fromkeys(no, "no")


@both_modes
def test_the_operator_s_pods_are_admitted_under_restricted_pod_security(installed: Installer, release: Release) -> None:
    deployment = f"deployment/{release.name}-videogen"
    installed.cluster.kubectl(
        "wait", deployment, "-n", release.namespace, "--for=jsonpath={.status.replicas}=2", "--timeout=300s"
    )
    conditions = installed.get(deployment, "-n", release.namespace)["status"]["conditions"]
    assert [found for found in conditions if found["type"] == "ReplicaFailure"] == []
