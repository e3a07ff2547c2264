"""Install, upgrade, uninstall and come back, with a real API server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.chart.chart import CHART, EMBEDDED, EVERYTHING, NAMESPACED, ROOT, TRYOUT, Values
from tests.chart.installer import CRD, Installer

FOX = """
apiVersion: videogen.dev/v1alpha1
kind: VideoGeneration
metadata: {name: fox, namespace: team-a}
spec: {prompts: [{text: A red fox runs through fresh snow}]}
"""
RELEASE = ("vg", "video")


@pytest.fixture
def cleared(installer: Installer) -> Iterator[Installer]:
    """Nothing is installed, before and after."""
    yield installer
    if installer.names("secrets", "-n", "video", "-l", "owner=helm"):
        installer.uninstall(*RELEASE)
    for left in (CRD, "persistentvolumeclaims/vg-videogen-store"):
        installer.cluster.kubectl("delete", left, "-n", "video", "--ignore-not-found", "--wait=false")


@pytest.mark.parametrize(
    "values", [{}, NAMESPACED, TRYOUT, EMBEDDED, EVERYTHING], ids=["cluster", "ns", "tryout", "store", "everything"]
)
def test_the_api_server_would_take_every_object(installer: Installer, values: Values) -> None:
    installer.install(*RELEASE, values, "--dry-run=server")


def test_the_crd_and_every_videogeneration_outlive_the_release(cleared: Installer) -> None:
    cleared.install(*RELEASE, {})
    cleared.cluster.kubectl("apply", "-f", "-", stdin=FOX)
    uid = cleared.get("videogeneration/fox", "-n", "team-a")["metadata"]["uid"]
    cleared.uninstall(*RELEASE)
    assert cleared.get("videogeneration/fox", "-n", "team-a")["metadata"]["uid"] == uid
    made = ("-l", "app.kubernetes.io/instance=vg")
    left = cleared.names("clusterroles,clusterrolebindings", *made)
    left += cleared.names(
        "all,roles,rolebindings,configmaps,networkpolicies", "-A", "-l", "app.kubernetes.io/instance=vg"
    )
    assert left == []


@pytest.mark.parametrize(
    ("release", "options"), [(("vg", "video"), []), (("other", "tenant"), ["--take-ownership"])], ids=["same", "other"]
)
def test_a_release_comes_back_to_what_the_last_one_left(
    cleared: Installer, release: tuple[str, str], options: list[str]
) -> None:
    cleared.install(*RELEASE, {})
    cleared.cluster.kubectl("apply", "-f", "-", stdin=FOX)
    cleared.uninstall(*RELEASE)
    cleared.install(*release, {}, *options)
    assert cleared.names("videogenerations", "-A") == ["videogeneration.videogen.dev/fox"]
    cleared.uninstall(*release)


def test_a_crd_that_is_not_to_be_kept_goes_with_the_release(cleared: Installer) -> None:
    cleared.install(*RELEASE, {"crds": {"keep": False}})
    cleared.uninstall(*RELEASE)
    assert cleared.names(CRD, "--ignore-not-found") == []


def test_the_keys_of_the_embedded_store_and_its_volume_stay_through_upgrades(cleared: Installer) -> None:
    def state() -> tuple[dict[str, str], str]:
        secret = cleared.get("secret/vg-videogen-store", "-n", "video")
        claim = cleared.get("persistentvolumeclaim/vg-videogen-store", "-n", "video")
        return secret["data"], claim["metadata"]["uid"]

    cleared.install(*RELEASE, EMBEDDED)
    keys, volume = state()
    assert sorted(keys) == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    cleared.upgrade(*RELEASE, EMBEDDED | {"operator": {"replicas": 1}})
    assert state() == (keys, volume)
    cleared.uninstall(*RELEASE)
    assert cleared.get("persistentvolumeclaim/vg-videogen-store", "-n", "video")["metadata"]["uid"] == volume


def test_the_store_s_pod_is_admitted_under_restricted_pod_security(cleared: Installer) -> None:
    cleared.install(*RELEASE, TRYOUT)
    for deployment in ("vg-videogen", "vg-videogen-store"):
        replicas = "--for=jsonpath={.status.replicas}=1"
        cleared.cluster.kubectl("wait", f"deployment/{deployment}", "-n", "video", replicas, "--timeout=300s")


def test_a_tenant_installs_it_without_any_right_on_the_cluster(cleared: Installer) -> None:
    cleared.cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds" / "videogenerations.videogen.dev.yaml"))
    golden = Path(__file__).with_name("rbac-namespaced.yaml").read_text(encoding="utf-8")
    roles = [found for found in yaml.safe_load_all(golden) if found["kind"] == "Role"]
    rules = [rule for role in roles for rule in role["rules"]]
    for namespace in ("tenant", "team-a", "team-b"):
        # Whoever grants rights must hold them; `admin` of the namespace is for everything else.
        held = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "held"},
            "rules": rules,
        }
        cleared.cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(held))
        for name, role in {"held": "--role=held", "admin": "--clusterrole=admin"}.items():
            cleared.cluster.kubectl("create", "rolebinding", name, role, "--user=tenant", "-n", namespace)
    tenant = ("-n", "tenant", "--kube-as-user=tenant", "--kube-as-group=tenants")
    cleared.helm("install", "mine", str(CHART), *tenant, values=NAMESPACED)
    cleared.helm("uninstall", "mine", *tenant)
