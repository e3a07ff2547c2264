"""The CustomResourceDefinition in a real API server: what it takes, what it refuses, what kubectl shows."""

import json
import re
from pathlib import Path

import pytest
from tests.cluster.cluster import CRD, KubectlError
from tests.cluster.crd_api import STRICT, Api, Refused, api
from tests.manifests import BAD, GOOD, Bad, changed

from videogen_api import naming
from videogen_api.resource import parse_resource

__all__ = ["api"]

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


# ---- What is taken ----


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_every_example_is_taken(api: Api, path: Path) -> None:
    printed = api.plane.kubectl("apply", "--dry-run=server", "-n", api.namespace, "-f", str(path))

    assert "created (server dry run)" in printed


def test_the_crd_may_be_applied_again(api: Api) -> None:
    def version() -> str:
        return api.plane.kubectl("get", "--filename", str(CRD), "--output=jsonpath={.metadata.resourceVersion}")

    api.plane.install_crd()
    before = version()
    api.plane.install_crd()
    assert version() == before


def test_what_is_taken_comes_back_as_it_was_written_with_nothing_filled_in(api: Api) -> None:
    created = api.create(GOOD)

    assert created["spec"] == GOOD["spec"]
    assert parse_resource(created).spec == parse_resource(GOOD).spec


def test_a_fresh_object_counts_as_not_observed(api: Api) -> None:
    api.create(changed(GOOD, {"metadata.name": "fresh"}), STRICT)

    assert api.request("GET", "/fresh")["status"] == {"observedGeneration": -1}


def test_the_largest_manifest_is_taken_within_the_limits_for_rules(api: Api) -> None:
    names = [f"{'n' * 59}{n:04d}" for n in range(1000)]
    reference = {"url": "s3://b/" + "k" * 500, "sha256": "ab" * 32}
    pod = {
        "labels": {f"example.com/{'a' * 50}{n}": "v" * 63 for n in range(32)},
        "nodeSelector": {f"{'d' * 63}.{'e' * 63}.{'f' * 63}.{'g' * 57}/{'a' * 61}{n:02d}": "v" * 63 for n in range(32)},
        "env": [{"name": "N" * 120 + str(n), "value": "x" * 1000} for n in range(32)],
        "tolerations": [{"key": "a" * 60, "operator": "Equal", "value": "v"}] * 16,
        "resources": {
            kind: {f"example.com/{'r' * 50}{n}": "9" * 30 + "Gi" for n in range(16)} for kind in ("requests", "limits")
        },
    }
    changes = {
        "spec.prompts": [
            {"name": name, "text": "\u00e9" * 150, "samples": 10, "references": [reference]} for name in names
        ],
        "spec.runners": [{"name": f"p{n}", "pod": pod} for n in range(16)],
        "spec.encoder.pod": pod,
    }

    assert len(api.create(changed(GOOD, changes))["spec"]["prompts"]) == 1000


def test_two_managers_may_own_one_pool_each(api: Api) -> None:
    head = {"apiVersion": naming.API_VERSION, "kind": naming.KIND, "metadata": {"name": "shared"}}
    mine = head | {"spec": {"prompts": [{"text": "a fox"}], "runners": [{"name": "t4", "replicas": 1}]}}
    theirs = head | {"spec": {"runners": [{"name": "a100", "replicas": 2}]}}

    api.request("PATCH", "/shared", mine, "fieldManager=mine", "application/apply-patch+yaml")
    merged = api.request("PATCH", "/shared", theirs, "fieldManager=theirs", "application/apply-patch+yaml")

    assert merged["spec"]["runners"] == [{"name": "t4", "replicas": 1}, {"name": "a100", "replicas": 2}]


# ---- What is refused ----


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_manifest_is_refused_with_the_field_and_what_is_wrong(api: Api, bad: Bad) -> None:
    with pytest.raises(Refused) as caught:
        api.create(bad.manifest())

    # Unknown fields are found before the object is looked at, and told without causes.
    told = caught.value.causes or [(bad.field, str(caught.value))]
    # Rules write a key of a map in brackets.
    assert [message for field, message in told if re.sub(r"\[([a-z]+)\]", r".\1", field) == bad.field]
    assert bad.api_server in "\n".join(message for _, message in told)


def test_kubectl_shows_the_field_and_the_remedy(api: Api) -> None:
    document = changed(GOOD, {"spec.video.size": {"width": 64, "height": 64}, "spec.runners[0].replicas": 0})

    with pytest.raises(KubectlError) as caught:
        api.plane.kubectl("apply", "-n", api.namespace, "-f", "-", stdin=json.dumps(document))

    assert str(caught.value).splitlines() == [
        'The VideoGeneration "fox" is invalid: ',
        f"* spec.runners: Invalid value: {BAD['pools without a replica'].api_server}",
        f"* spec.video.size: Invalid value: {BAD['size and resolution'].api_server}",
    ]


# ---- What kubectl shows ----


def test_the_columns_tell_phase_progress_clips_and_when_it_ends(api: Api) -> None:
    created = api.create(changed(GOOD, {"metadata.name": "columns"}), STRICT)
    status = {
        "phase": "Generating",
        "message": "denoising 4 of 8 clips, 3 done",
        "progress": 47,
        "estimatedCompletionTime": "2026-11-24T12:00:00Z",
        "clips": {"total": 8, "succeeded": 3},
        "plan": {
            "strategy": "Auto",
            "encoderShards": 1,
            "encoderDtype": "float16",
            "runnerDtype": "float16",
            "gpuSeconds": 1234.5,
            "peakMemoryBytes": 1,
            "why": "",
        },
    }
    api.request("PUT", "/columns/status", created | {"status": status}, STRICT)

    narrow, wide = (
        [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
        for printed in (
            api.plane.kubectl("get", "vg", "columns", "-n", api.namespace),
            api.plane.kubectl("get", "vg", "columns", "-n", api.namespace, "-o", "wide"),
        )
    )

    assert narrow[0] == ["NAME", "PHASE", "PROGRESS %", "DONE", "CLIPS", "ETA", "AGE"]
    assert narrow[1][:6] == ["columns", "Generating", "47", "3", "8", "2026-11-24T12:00:00Z"]
    assert wide[0] == [*narrow[0], "MESSAGE", "GPU-SECONDS"]
    assert wide[1][7:] == ["denoising 4 of 8 clips, 3 done", "1234.5"]


def test_a_resource_is_among_all_of_its_namespace(api: Api) -> None:
    api.create(changed(GOOD, {"metadata.name": "listed"}), STRICT)

    assert "videogeneration.videogen.dev/listed" in api.plane.kubectl("get", "all", "-n", api.namespace, "-o", "name")


def test_explain_tells_what_a_field_means(api: Api) -> None:
    assert "Frames of one loop: 1 for an image, or at least 17" in " ".join(
        api.plane.kubectl("explain", "vg.spec.video.frames").split()
    )
