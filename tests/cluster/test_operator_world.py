"""What only the operator can see: no rule at admission knows models, allow-lists, quotas or a namespace's end."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from tests.cluster.behaviours import hang
from tests.cluster.control_plane import ControlPlane
from tests.cluster.lives import SPEC, Life, World
from tests.cluster.scenes import Scene, at, open_scene

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.status import Attempts, ConditionType, Phase
from videogen_operator.cluster.resources import EVENTS

CPU = {"name": "cpu", "gpu": {"count": 0}}
ONLY_SEPARATORS = "\x1c\x1c"
"""Space to Python, but not to the rules of the API server."""
MOST_SECONDS = 10.0
MOST_REFUSED = 10
"""Requests in a namespace that goes: the pauses between two of them double."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-model": (
        {"model": {"name": "sora-9", "weights": "builtin"}},
        "spec.model.name: 'sora-9' is unknown; use one of open-sora-v1.2, open-sora-v1.2-tiny, shapes",
    ),
    "local-weights": (
        {"model": {"weights": "/weights"}},
        (
            "spec.model.weights: /weights is a folder of one machine, which pods do not have; want s3://bucket/path, "
            "pvc://claim/path or builtin"
        ),
    ),
    "local-storage": (
        {"storage": {"url": "out/videos"}},
        "spec.storage.url: out/videos is a folder of one machine, which pods do not share; want s3://bucket/path",
    ),
    "endpoint": (
        {"storage": {"endpoint": "http://elsewhere:9000"}},
        (
            "spec.storage.endpoint: http://elsewhere:9000 is not allowed here (allowed: http://store:9000); remove it, "
            "or ask the cluster's administrator to add it to allowed.endpoints of the operator's configuration"
        ),
    ),
    "account": (
        {"runners": [{**CPU, "pod": {"serviceAccountName": "admin"}}]},
        (
            "spec.runners[0].pod.serviceAccountName: admin is not allowed here (allowed: video); remove it, or ask the "
            "cluster's administrator to add it to allowed.serviceAccounts of the operator's configuration"
        ),
    ),
    "priority": (
        {"encoder": {"pod": {"priorityClassName": "system-node-critical"}}},
        (
            "spec.encoder.pod.priorityClassName: system-node-critical is not allowed here (none is); remove it, or ask "
            "the cluster's administrator to add it to allowed.priorityClasses of the operator's configuration"
        ),
    ),
    "separators": (
        {"prompts": [{"text": ONLY_SEPARATORS}]},
        'spec.prompts[0].text: "\\u001c\\u001c" is not allowed: the prompt is empty; write what the video should show',
    ),
}
REPAIRED: dict[str, dict[str, Any]] = {
    "separators": {"prompts": SPEC["prompts"]},
    "endpoint": {"storage": None},
}


@dataclass(frozen=True)
class Scenes:
    """Namespaces under one operator."""

    plain: Scene
    few_pods: Scene
    few_plans: Scene
    restricted: Scene
    doomed: Scene


@pytest.fixture(scope="module")
def scenes(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenes]:
    with World(control_plane, tmp_path_factory.mktemp("world")) as world, ExitStack() as stack:
        plain = stack.enter_context(open_scene(world, "seen"))
        others = [
            Scene(world, stack.enter_context(world.place(Life(name, SPEC))), {})
            for name in ("few-pods", "few-plans", "restricted")
        ]
        doomed = stack.enter_context(open_scene(world, "doomed"))
        scenes = Scenes(plain, *others, doomed)
        set_quota(scenes.few_pods, pods=0)
        set_quota(scenes.few_plans, configmaps=0)
        control_plane.kubectl(
            "label", "namespace", scenes.restricted.namespace, "pod-security.kubernetes.io/enforce=restricted"
        )
        namespaces = [scene.namespace for scene in (plain, *others, doomed)]
        plain.place.start_operator(namespaces=namespaces, allowed={"serviceAccounts": ["video"]})
        for name, (spec, _) in REFUSED.items():
            plain.apply(name, **spec)
        plain.apply("no-account", encoder={"pod": {"serviceAccountName": "video"}})
        for scene in others:
            scene.apply("fox")
        doomed.apply("fox", at(Stage.GENERATE, hang))
        doomed.wait_for_pods("fox", Stage.GENERATE, 1)
        control_plane.kubectl("delete", "namespace", doomed.namespace, "--wait=false")
        yield scenes


def set_quota(scene: Scene, **hard: int) -> None:
    """Returns when the quota is in force."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "quota", "namespace": scene.namespace},
        "spec": {"hard": {name: str(number) for name, number in hard.items()}},
    }
    scene.world.plane.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    for name, number in hard.items():
        wanted = f"--for=jsonpath={{.status.hard.{name}}}={number}"
        scene.world.plane.kubectl("wait", "-n", scene.namespace, "resourcequota/quota", wanted, "--timeout=300s")


def test_what_no_rule_can_see_is_refused_with_field_and_remedy(scenes: Scenes) -> None:
    scene = scenes.plain
    for name in REFUSED:
        scene.wait_for_end(name)
    scene.wait_until(lambda: all(scene.events(name) for name in REFUSED))

    kinds = (ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED)
    assert {name: scene.conditions(name, *kinds) for name in REFUSED} == {
        name: {
            ConditionType.READY: ("False", "InvalidInput", message),
            ConditionType.RECONCILING: ("False", "InvalidInput", message),
            ConditionType.STALLED: ("True", "InvalidInput", message),
        }
        for name, (_, message) in REFUSED.items()
    }
    assert {name: scene.status(name).attempts for name in REFUSED} == dict.fromkeys(REFUSED, Attempts())
    assert {name: scene.events(name) for name in REFUSED} == {name: [("Warning", "InvalidInput")] for name in REFUSED}
    assert {name: scene.all_jobs(name) for name in REFUSED} == dict.fromkeys(REFUSED, ())


def test_a_refused_resource_runs_once_its_field_is_mended(scenes: Scenes) -> None:
    scene = scenes.plain
    for name, spec in REPAIRED.items():
        scene.wait_for_end(name)
        scene.edit(name, **spec)

    ended = {name: scene.wait_for_phase(name, Phase.SUCCEEDED) for name in REPAIRED}

    assert {name: status.message for name, status in ended.items()} == dict.fromkeys(REPAIRED, "2 clips are ready")
    kinds = (ConditionType.READY, ConditionType.STALLED)
    assert {name: scene.conditions(name, *kinds) for name in REPAIRED} == {
        name: {
            ConditionType.READY: ("True", "Succeeded", "2 clips are ready"),
            ConditionType.STALLED: ("False", "Succeeded", "2 clips are ready"),
        }
        for name in REPAIRED
    }


def test_a_namespace_that_enforces_restricted_pods_runs_them(scenes: Scenes) -> None:
    assert scenes.restricted.wait_for_end("fox").phase == Phase.SUCCEEDED


def test_a_quota_of_plans_blocks_a_run_until_it_is_raised(scenes: Scenes) -> None:
    scene = scenes.few_plans
    plan = naming.plan_name(scene.child_prefix(scene.get("fox")), 1)
    message = (
        f'POST /api/v1/namespaces/{scene.namespace}/configmaps: 403: configmaps "{plan}" is forbidden: exceeded '
        "quota: quota, requested: configmaps=1, used: configmaps=1, limited: configmaps=0"
    )

    status = scene.wait("fox", lambda status: status.message is not None)

    assert (status.phase, status.message) == (Phase.PENDING, message)
    assert scene.conditions("fox", ConditionType.RECONCILING, ConditionType.STALLED) == {
        ConditionType.RECONCILING: ("True", "QuotaExceeded", message),
        ConditionType.STALLED: ("False", "QuotaExceeded", message),
    }

    set_quota(scene, configmaps=9)

    assert scene.wait_for_end("fox").phase == Phase.SUCCEEDED


def test_pods_that_a_quota_refuses_are_told_of_within_ten_seconds(scenes: Scenes) -> None:
    scene = scenes.few_pods
    refusal = "the cluster refuses its pods: exceeded quota: quota, requested: pods=1, used: pods=0, limited: pods=0"

    status = scene.wait("fox", lambda status: status.message is not None and refusal in status.message)

    message = f"checking store and weights; {refusal}"
    assert (status.phase, status.message) == (Phase.PREFLIGHT, message)
    assert scene.conditions("fox", ConditionType.RECONCILING) == {
        ConditionType.RECONCILING: ("True", "PodRefused", message)
    }
    assert seconds_to_event(scene, "fox", "PodRefused") <= MOST_SECONDS


def test_pods_of_a_service_account_that_there_is_not_are_told_of(scenes: Scenes) -> None:
    scene = scenes.plain
    refusal = f'error looking up service account {scene.namespace}/video: serviceaccount "video" not found'

    status = scene.wait("no-account", lambda status: status.message is not None and "refuses" in status.message)

    assert status.message == f"checking store and weights; the cluster refuses its pods: {refusal}"
    assert seconds_to_event(scene, "no-account", "PodRefused") <= MOST_SECONDS


def seconds_to_event(scene: Scene, name: str, reason: str) -> float:
    """From the creation of a resource's first Job to the event that tells why it has no pods."""
    scene.wait_until(lambda: ("Warning", reason) in scene.events(name))
    told = next(
        event["eventTime"]
        for event in scene.client.list(EVENTS, scene.namespace).items
        if (event["regarding"]["name"], event["reason"]) == (name, reason)
    )
    created = scene.all_jobs(name)[0]["metadata"]["creationTimestamp"]
    return (datetime.fromisoformat(told) - datetime.fromisoformat(created)).total_seconds()


def test_a_namespace_that_goes_while_a_run_is_at_work_takes_everything_with_it(scenes: Scenes) -> None:
    """Its Jobs too: Kubernetes would keep a Job for the sake of its pods, and the last of these for that of the Job.

    The last test of all: it waits for Kubernetes.
    """
    scene = scenes.doomed

    def is_gone() -> bool:
        scene.end_deleted_pods("fox")
        return scene.world.plane.kubectl("get", "namespace", scene.namespace, "--ignore-not-found") == ""

    scene.wait_until(is_gone, lambda: scene.status("fox"))

    message = f"namespace {scene.namespace} is being deleted, and this goes with it"
    assert scene.conditions("fox", ConditionType.READY, ConditionType.STALLED) == {
        ConditionType.READY: ("False", "NamespaceTerminating", message),
        ConditionType.STALLED: ("False", "NamespaceTerminating", message),
    }
    assert len(scene.all_jobs("fox")) == len((Stage.PREFLIGHT, Stage.ENCODE, Stage.GENERATE))
    refused = [write.code for write in scenes.plain.place.writes if f"/{scene.namespace}/" in write.path].count(403)
    assert 1 <= refused <= MOST_REFUSED
    lines = [json.loads(line) for line in scenes.plain.place.log_lines() if scene.namespace in line]
    assert {line["level"] for line in lines} == {"warning"}
    assert all("because it is being terminated" in line["message"] for line in lines)
