"""From `helm install` to a finished video on a real node, in both modes of the chart, and what users see on the way."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import av
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.cluster.real import RealCluster
from tests.cluster.releases import Release, fox, install

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"

pytestmark = pytest.mark.timeout(3600)


def ready_of(found: dict[str, Any]) -> dict[str, Any]:
    condition: dict[str, Any] = next(each for each in found["status"]["conditions"] if each["type"] == "Ready")
    return condition


def decoded_frames(video: bytes) -> list[tuple[int, int]]:
    with av.open(io.BytesIO(video)) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


def test_the_quickstart_becomes_five_videos_in_the_store(release: Release) -> None:
    release.kubectl("apply", "--filename", str(QUICKSTART))
    status = release.wait("quickstart", "condition=Ready")["status"]
    assert (status["phase"], status["progress"], status["clips"]["succeeded"]) == ("Succeeded", 100, 5)
    assert status["attempts"] == {"preflight": 1, "encode": 1, "generate": {"cpu": 1}, "collect": 1}
    assert {output["clip"] for output in status["outputs"]} == {
        *("snow-42", "snow-43"),
        *(output["clip"] for output in status["outputs"] if output["prompt"] in ("harbour", "rain", "boat")),
    }
    for output in status["outputs"]:
        video = release.read_stored(output["url"])
        assert hashlib.sha256(video).hexdigest() == output["sha256"]
        assert decoded_frames(video) == [(output["width"], output["height"])] * 51


def test_applying_it_again_under_another_name_needs_no_gpu_pod(release: Release) -> None:
    manifest = yaml.safe_load(QUICKSTART.read_text())
    release.apply(manifest | {"metadata": {"name": "again"}})
    status = release.wait("again", "condition=Ready")["status"]
    assert status["attempts"] == {"preflight": 1, "encode": 0, "generate": {}, "collect": 1}
    assert status["clips"]["succeeded"] == 5


def test_a_missing_secret_is_named_until_it_appears(release: Release) -> None:
    release.apply(fox("secretive", storage={"credentialsSecret": "mine"}))
    found = release.wait("secretive", "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=ConfigMissing")
    assert "mine" in ready_of(found)["message"]
    secret = json.loads(release.kubectl("get", "secret", "videogen-store", "--output=json"))
    release.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "data": secret["data"]})
    assert release.wait("secretive", "condition=Ready")["status"]["clips"]["succeeded"] == 1


def test_a_pool_that_no_node_can_serve_says_what_is_missing(release: Release) -> None:
    release.apply(fox("greedy", runners=[{"name": "big", "gpu": {"resource": "example.com/gpu", "count": 1}}]))
    found = release.wait("greedy", "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=Unschedulable")
    assert "example.com/gpu" in ready_of(found)["message"]
    release.kubectl("delete", "vg", "greedy", "--wait")


def test_a_bucket_that_does_not_exist_ends_the_run_with_its_name(release: Release) -> None:
    release.apply(fox("homeless", storage={"url": "s3://nowhere/here"}))
    found = release.wait("homeless", "condition=Stalled")
    condition = next(each for each in found["status"]["conditions"] if each["type"] == "Stalled")
    assert (found["status"]["phase"], condition["reason"]) == ("Failed", "StoreDenied")
    assert "nowhere" in condition["message"]
    assert found["status"]["attempts"] == {"preflight": 1, "encode": 0, "generate": {}, "collect": 0}


def test_a_runner_without_memory_is_reported_as_out_of_memory(release: Release) -> None:
    tight = {"resources": {"requests": {"memory": "96Mi"}, "limits": {"memory": "96Mi"}}}
    release.apply(fox("tight", retries=0, runners=[{"name": "cpu", "gpu": {"count": 0}, "pod": tight}]))
    status = release.wait("tight", "condition=Stalled")["status"]
    assert status["phase"] == "Failed"
    assert status["failures"][-1]["reason"] == "OutOfMemory"


def test_suspend_ends_every_pod_and_resume_finishes_the_work(release: Release) -> None:
    release.apply(fox("paused", video={"size": {"width": 128, "height": 128}, "frames": 51}, sampling={"steps": 300}))
    found = release.wait("paused", "jsonpath={.status.runners[?(@.state=='Denoising')].name}=cpu-0")
    runner = found["status"]["runners"][0]
    assert (runner["name"], runner["clip"], runner["steps"]) == ("cpu-0", "fox-1", 300)
    assert runner["pod"].startswith("paused-")
    assert 0 <= runner["step"] <= 300
    assert runner["memoryBytes"] > 0
    release.kubectl("patch", "vg", "paused", "--type=merge", "--patch", '{"spec": {"suspend": true}}')
    release.wait("paused", "condition=Suspended")
    release.kubectl("wait", "pods", "--selector=videogen.dev/name=paused", "--for=delete", "--timeout=300s")
    assert release.kubectl("get", "jobs", "--selector=videogen.dev/name=paused", "--output=name") == ""
    release.kubectl("patch", "vg", "paused", "--type=merge", "--patch", '{"spec": {"suspend": false}}')
    assert release.wait("paused", "condition=Ready")["status"]["clips"]["succeeded"] == 1


def test_a_deleted_resource_leaves_nothing_behind(release: Release) -> None:
    release.apply(fox("short", sampling={"steps": 900}))
    release.wait("short", "jsonpath={.status.phase}=Generating")
    release.kubectl("delete", "vg", "short", "--wait")
    for kind in ("jobs", "pods", "services", "configmaps"):
        release.kubectl("wait", kind, "--selector=videogen.dev/name=short", "--for=delete", "--timeout=300s")
        assert release.kubectl("get", kind, "--selector=videogen.dev/name=short", "--output=name") == ""


def num_writes(release: Release) -> int:
    """How often the operator has asked the API server to change something, but for its Lease."""
    service = f"/api/v1/namespaces/{release.namespace}/services/videogen-metrics:metrics"
    families = text_string_to_metric_families(release.cluster.kubectl("get", "--raw", f"{service}/proxy/metrics"))
    return sum(
        int(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == "videogen_operator_api_calls_total"
        and sample.labels["verb"] != "GET"
        and sample.labels["resource"] != "leases"
    )


def test_a_namespace_that_goes_while_a_run_is_at_work_takes_everything_with_it(release: Release) -> None:
    doomed = Release(release.cluster, "doomed")
    release.cluster.kubectl("create", "namespace", doomed.namespace)
    secret = json.loads(release.kubectl("get", "secret", "videogen-store", "--output=json"))
    copied = {key: secret[key] for key in ("apiVersion", "kind", "data")}
    doomed.apply(copied | {"metadata": {"name": "videogen-store"}})
    doomed.apply(fox("gone", sampling={"steps": 900}))
    doomed.wait("gone", "jsonpath={.status.phase}=Generating")
    num_before = num_writes(release)

    # Its pods are given 30 s each, and Kubernetes looks again after as long; without the operator it would be for ever.
    release.cluster.kubectl("delete", "namespace", doomed.namespace, "--timeout=300s")

    assert num_writes(release) - num_before <= 30
    lines = release.kubectl("logs", "deployment/videogen", "--tail=-1").splitlines()
    told = [json.loads(line) for line in lines if "doomed/gone" in line]
    assert [line for line in told if "because it is being terminated" in line["message"]] == told
    assert {line["level"] for line in told} == {"warning"}
    restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}"
    selector = "--selector=app.kubernetes.io/component=operator"
    assert release.kubectl("get", "pods", selector, f"--output={restarts}") == "0"


def test_an_operator_of_one_namespace_needs_no_right_on_the_cluster(real_node: RealCluster, release: Release) -> None:
    tenant = install(real_node, "team-a", "namespaces={team-a}", "crds.enabled=false")
    # The cluster-wide operator would work there as well; with it away, only the tenant's own is left.
    release.kubectl("scale", "deployment/videogen", "--replicas=0")
    selector = "--selector=app.kubernetes.io/component=operator"
    release.kubectl("wait", "pods", selector, "--for=delete", "--timeout=300s")
    try:
        tenant.apply(fox("mine"))
        assert tenant.wait("mine", "condition=Ready")["status"]["clips"]["succeeded"] == 1
    finally:
        release.kubectl("scale", "deployment/videogen", "--replicas=1")
    roles = json.loads(real_node.kubectl("get", "clusterrolebindings", "--output=json"))["items"]
    subjects = [subject for role in roles for subject in role.get("subjects", ())]
    assert not [subject for subject in subjects if subject.get("namespace") == "team-a"]
