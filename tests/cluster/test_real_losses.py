"""One sharded encoder and four runners on a real node that lose every pod they have, one after the other."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.releases import Release, fox

pytestmark = pytest.mark.timeout(3600)

NUM_RUNNERS = 4
NUM_SHARDS = 2
SMALL = {"resources": {"requests": {"cpu": "0.1"}}}
OPERATOR = "--selector=app.kubernetes.io/component=operator"
STORE = "--selector=app.kubernetes.io/component=store"


def twelve_clips(name: str, **spec: Any) -> dict[str, Any]:
    prompts = [
        {"name": f"fox-{number}", "text": f"A red fox runs through fresh snow, scene {number}", "seed": 1, "samples": 3}
        for number in range(4)
    ]
    return fox(
        name,
        prompts=prompts,
        sampling={"steps": 1000},  # enough for all that happens meanwhile on a fast machine, too
        encoder={"shards": NUM_SHARDS, "gpu": {"count": 0}, "pod": SMALL},
        runners=[{"name": "cpu", "replicas": NUM_RUNNERS, "gpu": {"count": 0}, "pod": SMALL}],
        **spec,
    )


def digests_of(status: dict[str, Any]) -> dict[str, str]:
    return {output["clip"]: output["sha256"] for output in status["outputs"]}


def delete_shard(release: Release, name: str, index: int, attempt: int) -> None:
    """As soon as it runs, in the given attempt; with less grace than encoding takes, or it might end well after all."""
    release.wait(name, f"jsonpath={{.status.attempts.encode}}={attempt}")
    selector = (
        f"--selector=videogen.dev/name={name},videogen.dev/stage=encode,videogen.dev/attempt={attempt},"
        f"batch.kubernetes.io/job-completion-index={index}"
    )
    release.kubectl("wait", "pods", selector, "--for=create", "--timeout=300s")
    release.kubectl("wait", "pods", selector, "--for=jsonpath={.status.phase}=Running", "--timeout=300s")
    release.kubectl("delete", "pods", selector, "--grace-period=1", "--wait=false")


def wait_for_step(release: Release, name: str, runner: str) -> str:
    """The pod of a runner that is denoising."""
    found = release.wait(name, f"jsonpath={{.status.runners[?(@.name=='{runner}')].state}}=Denoising")
    pod: str = next(each["pod"] for each in found["status"]["runners"] if each["name"] == runner)
    return pod


@contextlib.contextmanager
def drained(release: Release) -> Iterator[None]:
    node = release.cluster.kubectl("get", "nodes", "--output=jsonpath={.items[0].metadata.name}")
    try:
        release.cluster.kubectl(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=300s")
        )
        yield
    finally:
        release.cluster.kubectl("uncordon", node)


def test_a_run_that_loses_each_of_its_pods_the_operator_the_store_and_its_node_makes_the_same_bytes(
    release: Release,
) -> None:
    release.apply(twelve_clips("undisturbed", storage={"url": "s3://videos/undisturbed"}))
    undisturbed = release.wait("undisturbed", "condition=Ready")["status"]

    release.apply(twelve_clips("loses"))
    for index in range(NUM_SHARDS):
        delete_shard(release, "loses", index, attempt=index + 1)
    for index in range(NUM_RUNNERS):
        pod = wait_for_step(release, "loses", f"cpu-{index}")
        release.kubectl("delete", "pod", pod, "--wait=false")
    release.kubectl("delete", "pods", OPERATOR)
    wait_for_step(release, "loses", "cpu-0")
    release.kubectl("delete", "pods", STORE)
    release.kubectl("rollout", "status", "deployment/videogen-store", "--timeout=300s")
    wait_for_step(release, "loses", "cpu-1")
    with drained(release):
        pods = json.loads(release.kubectl("get", "pods", "--output=json"))["items"]
        assert [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"] == []
    status = release.wait("loses", "condition=Ready")["status"]

    assert status["clips"]["succeeded"] == len(undisturbed["outputs"]) == 12
    assert digests_of(status) == digests_of(undisturbed)
    assert status["attempts"]["encode"] == NUM_SHARDS + 1
    assert {failure["reason"] for failure in status.get("failures", ())} <= {"Interrupted", "PeerLost"}
