import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.cluster.cluster import write_kubeconfig
from tests.cluster.control_plane import ControlPlane

from videogen_operator.cluster import client as client_module
from videogen_operator.cluster import connection as connection_module
from videogen_operator.cluster.api_errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.resources import CONFIG_MAPS, JOBS, LEASES, PODS, VIDEO_GENERATIONS, Object

OTHER_UID = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def real(control_plane: ControlPlane, request: pytest.FixtureRequest) -> "Iterator[Real]":
    namespace = request.node.name.replace("_", "-")[-60:].strip("-")
    control_plane.install_crd()
    control_plane.kubectl("create", "namespace", namespace)
    client = KubernetesClient.connect({"KUBECONFIG": str(control_plane.kubeconfig)}, threads=4)
    yield Real(client, namespace)
    client.close()


@dataclass(frozen=True)
class Real:
    """A client of the real API server, and a namespace that is the test's own."""

    client: KubernetesClient
    namespace: str

    def create_resource(self) -> Object:
        manifest = {
            "apiVersion": "videogen.dev/v1alpha1",
            "kind": "VideoGeneration",
            "metadata": {"name": "fox"},
            "spec": {"prompts": [{"text": "a red fox"}]},
        }
        return self.client.create(VIDEO_GENERATIONS, self.namespace, manifest)

    def create_job(self, **pod: object) -> Object:
        container = {"name": "runner", "image": "none"}
        spec = {"template": {"spec": {"restartPolicy": "Never", "containers": [container], **pod}}}
        manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "fox"}, "spec": spec}
        return self.client.create(JOBS, self.namespace, manifest)

    def create_config_map(self, name: str) -> Object:
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"of": "test"}}}
        return self.client.create(CONFIG_MAPS, self.namespace, manifest | {"data": {"key": "value"}})


def test_a_status_is_replaced_and_the_rest_is_untouched(real: Real) -> None:
    created = real.create_resource()
    first = real.client.patch_status(
        VIDEO_GENERATIONS, real.namespace, "fox", created["resourceVersion"], {"phase": "Pending", "message": "waits"}
    )
    second = real.client.patch_status(
        VIDEO_GENERATIONS, real.namespace, "fox", first["resourceVersion"], {"phase": "Encoding"}
    )
    found = real.client.get(VIDEO_GENERATIONS, real.namespace, "fox")
    assert (found["status"], found["spec"]) == ({"phase": "Encoding"}, {"prompts": [{"text": "a red fox"}]})
    assert found["metadata"]["resourceVersion"] == second["resourceVersion"]
    assert found["metadata"]["generation"] == created["generation"]


def test_a_status_is_not_written_over_a_newer_one(real: Real) -> None:
    created = real.create_resource()
    status = {"phase": "Pending"}
    real.client.patch_status(VIDEO_GENERATIONS, real.namespace, "fox", created["resourceVersion"], status)
    with pytest.raises(Conflict, match="the object has been modified"):
        real.client.patch_status(VIDEO_GENERATIONS, real.namespace, "fox", created["resourceVersion"], {})
    assert real.client.get(VIDEO_GENERATIONS, real.namespace, "fox")["status"] == status


def test_a_status_that_the_schema_does_not_allow_is_invalid(real: Real) -> None:
    created = real.create_resource()
    with pytest.raises(Invalid, match=r"status\.progress"):
        real.client.patch_status(
            VIDEO_GENERATIONS, real.namespace, "fox", created["resourceVersion"], {"progress": "half"}
        )


def test_a_name_can_be_taken_once(real: Real) -> None:
    real.create_config_map("plan")
    with pytest.raises(AlreadyExists, match='configmaps "plan" already exists'):
        real.create_config_map("plan")


def test_replies_to_writes_hold_metadata_alone(real: Real) -> None:
    created = real.create_config_map("plan")
    patched = real.client.patch(CONFIG_MAPS, real.namespace, "plan", {"data": {"key": "other"}})
    found = real.client.get(CONFIG_MAPS, real.namespace, "plan")
    assert found["data"] == {"key": "other"}
    assert (created["uid"], patched) == (found["metadata"]["uid"], found["metadata"])


def test_nothing_is_created_in_a_namespace_that_is_not_there(real: Real) -> None:
    with pytest.raises(NotFound, match='namespaces "absent" not found'):
        real.client.create(CONFIG_MAPS, "absent", {"metadata": {"name": "plan"}})


def test_only_the_object_of_that_uid_is_deleted(real: Real) -> None:
    created = real.create_config_map("plan")
    real.client.delete(CONFIG_MAPS, real.namespace, "plan", OTHER_UID)
    assert real.client.get(CONFIG_MAPS, real.namespace, "plan")["metadata"]["uid"] == created["uid"]
    real.client.delete(CONFIG_MAPS, real.namespace, "plan", created["uid"])
    with pytest.raises(NotFound):
        real.client.get(CONFIG_MAPS, real.namespace, "plan")
    real.client.delete(CONFIG_MAPS, real.namespace, "plan", created["uid"])


def test_the_pods_of_a_deleted_job_go_too(real: Real, control_plane: ControlPlane) -> None:
    created = real.create_job()
    of_job = (f"--namespace={real.namespace}", "--selector=job-name=fox")
    control_plane.kubectl("wait", "pod", *of_job, "--for=create", "--timeout=300s")
    real.client.delete(JOBS, real.namespace, "fox", created["uid"])
    control_plane.kubectl("wait", "pod", *of_job, "--for=delete", "--timeout=300s")
    assert real.client.list(PODS, real.namespace).items == ()


def test_the_reason_why_a_job_gets_no_pods_is_in_its_events(real: Real, control_plane: ControlPlane) -> None:
    created = real.create_job(serviceAccountName="absent")
    control_plane.kubectl("wait", "event", "--all", "--for=create", "--timeout=300s", f"--namespace={real.namespace}")
    (event,) = real.client.list_failed_creates(real.namespace)
    assert event["involvedObject"]["uid"] == created["uid"]
    assert 'serviceaccount "absent" not found' in event["message"]
    assert event["firstTimestamp"] <= event["lastTimestamp"]


def test_long_lists_are_whole(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE_SIZE", 2)
    versions = {real.create_config_map(f"plan-{number}")["uid"] for number in range(5)}
    whole = real.client.list(CONFIG_MAPS, real.namespace, label_selector="of=test")
    assert [item["metadata"]["name"] for item in whole.items] == [f"plan-{number}" for number in range(5)]
    metadata = real.client.list_metadata(CONFIG_MAPS, real.namespace, label_selector="of=test")
    assert {item["metadata"]["uid"] for item in metadata.items} == versions
    assert metadata.items[0].keys() == {"metadata"}


def test_a_lease_is_renewed_by_whoever_saw_it_last(real: Real) -> None:
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "leader"}}
    created = real.client.create(LEASES, real.namespace, lease | {"spec": {"holderIdentity": "a"}})
    held = {"name": "leader", "resourceVersion": created["resourceVersion"]}
    real.client.replace(LEASES, real.namespace, "leader", lease | {"metadata": held, "spec": {"holderIdentity": "b"}})
    assert real.client.get(LEASES, real.namespace, "leader")["spec"] == {"holderIdentity": "b"}
    with pytest.raises(Conflict):
        real.client.replace(LEASES, real.namespace, "leader", lease | {"metadata": held})


def test_whoever_has_no_rights_is_told_which(real: Real, control_plane: ControlPlane, tmp_path: Path) -> None:
    control_plane.kubectl("create", "serviceaccount", "nobody", f"--namespace={real.namespace}")
    token = control_plane.kubectl("create", "token", "nobody", f"--namespace={real.namespace}").strip()
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", control_plane.server, control_plane.ca_file, token)
    client = KubernetesClient.connect({"KUBECONFIG": str(kubeconfig)}, threads=1)
    with pytest.raises(Forbidden, match='cannot list resource "jobs"'):
        client.list(JOBS, real.namespace)
    client.close()


def test_a_pod_takes_the_token_of_its_service_account(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(control_plane.token)
    monkeypatch.setattr(connection_module, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(connection_module, "SERVICE_CERT_FILENAME", str(control_plane.ca_file))
    address = urlsplit(control_plane.server)
    environment = {"KUBERNETES_SERVICE_HOST": str(address.hostname), "KUBERNETES_SERVICE_PORT": str(address.port)}
    client = KubernetesClient.connect(environment, threads=1)
    assert client.list(CONFIG_MAPS, "default").items
    client.close()


def test_many_threads_share_a_client(real: Real) -> None:
    errors: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(10):
                created = real.create_config_map(f"w{worker}-{number}")
                real.client.delete(CONFIG_MAPS, real.namespace, f"w{worker}-{number}", created["uid"])
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert real.client.list(CONFIG_MAPS, real.namespace, label_selector="of=test").items == ()
