"""A text encoder in two pods of a real node: found by name, the same clip as from one pod, and a pod that goes away."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.real import RealCluster
from tests.cluster.test_real_install import Release, fox, install

from videogen_api.report import TerminationReport

pytestmark = pytest.mark.timeout(900)

SMALL = {"resources": {"requests": {"cpu": "0.25"}}}
TEXT = "A red fox runs through fresh snow"


@pytest.fixture(scope="module")
def release(real_node: RealCluster) -> Iterator[Release]:
    yield install(real_node, "shards")
    real_node.helm("uninstall", "videogen", "--namespace", "shards", "--wait", "--timeout=120s")


def in_shards(name: str, shards: int, text: str) -> dict[str, Any]:
    return fox(
        name,
        prompts=[{"name": "fox", "text": text, "seed": 1}],
        encoder={"shards": shards, "gpu": {"count": 0}, "pod": SMALL},
        runners=[{"name": "cpu", "gpu": {"count": 0}, "pod": SMALL}],
    )


def shard_pods(release: Release, name: str) -> list[dict[str, Any]]:
    selector = f"--selector=videogen.dev/name={name},videogen.dev/stage=encode"
    pods = json.loads(release.kubectl("get", "pods", selector, "--output=json"))["items"]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))


def report_of(pod: dict[str, Any]) -> TerminationReport:
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    report = TerminationReport.from_bytes(ended["message"].encode())
    assert report is not None, ended
    return report


def test_two_pods_encode_what_one_pod_would(release: Release) -> None:
    release.apply(in_shards("two", 2, TEXT))
    status = release.wait("two", "condition=Ready", 400)["status"]
    assert status["attempts"] == {"preflight": 1, "encode": 1, "generate": {"cpu": 1}, "collect": 1}
    assert status["plan"]["encoderShards"] == 2
    reports = [report_of(pod).encode for pod in shard_pods(release, "two")]
    assert [report.encoded for report in reports if report is not None] == [0, 1]

    # The store forgets, so that the second resource cannot take what the first one has made.
    forget = "rm -rf /data/videos/embeddings /data/videos/clips"
    release.kubectl("exec", "deployment/videogen-store", "--", "sh", "-c", forget)
    release.apply(in_shards("one", 1, TEXT))
    alone = release.wait("one", "condition=Ready", 400)["status"]
    assert (alone["plan"]["encoderShards"], alone["encoder"]["prompts"]["encoded"]) == (1, 1)
    assert [output["sha256"] for output in status["outputs"]] == [output["sha256"] for output in alone["outputs"]]


def test_a_shard_whose_pod_is_deleted_comes_back_with_its_whole_group(release: Release) -> None:
    release.apply(in_shards("loses", 2, f"{TEXT}, and loses a shard"))
    release.wait("loses", "jsonpath={.status.attempts.encode}=1", 200)
    selector = "--selector=videogen.dev/name=loses,videogen.dev/stage=encode,batch.kubernetes.io/job-completion-index=1"
    release.kubectl("wait", "pod", selector, "--for=create", "--timeout=60s")
    release.kubectl("delete", "pod", selector, "--wait=false")
    status = release.wait("loses", "condition=Ready", 400)["status"]
    assert status["attempts"]["encode"] == 2
    assert status["clips"]["succeeded"] == 1
