"""The cluster's backend against a real API server and Job controller; no pod ever runs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.builders import build_plan
from tests.cluster.child_objects import NOW, build_job
from tests.cluster.control_plane import ControlPlane

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.resource import VideoGeneration, parse_resource
from videogen_api.status import Phase, VideoGenerationStatus
from videogen_operator.cluster.api_errors import Conflict, NotFound
from videogen_operator.cluster.backend import ClusterBackend, _Refusals
from videogen_operator.cluster.cache import ClusterCache
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.ownership import NameTaken
from videogen_operator.cluster.resources import JOBS, PODS, SERVICES, VIDEO_GENERATIONS, Key, Object
from videogen_operator.cluster.slim import slim
from videogen_operator.cluster.views import Job
from videogen_operator.config import OperatorConfig
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.observed import Group, GroupState, ObservedGroup, WaitingReason

PLAN = build_plan(storage="s3://videos/")
ENCODE = Group(Stage.ENCODE, None, 1, 1, 1, "abc")
GENERATE = Group(Stage.GENERATE, "local", 1, 2, 1, "abc")
CONFIG = OperatorConfig.model_validate(
    {"images": {"operator": "operator:1", "runner": "runner:1"}, "defaults": {"storage": {"url": "s3://videos/"}}},
    strict=False,
)


@dataclass
class World:
    """A resource in a namespace of the test's own, and the backend that looks after it."""

    client: KubernetesClient
    cache: ClusterCache
    backend: ClusterBackend
    namespace: str
    calls: list[tuple[str, str]]
    now: datetime
    """What the backend's clock says."""

    @property
    def key(self) -> Key:
        return Key(self.namespace, "fox")

    def resource(self) -> VideoGeneration:
        return parse_resource(self.cache.get(self.key))

    def refresh(self) -> None:
        """Takes in everything that there is, as after a restart."""
        for kind in (VIDEO_GENERATIONS, JOBS, PODS):
            self.cache.prime(kind, self.client.list(kind, self.namespace))

    def observe(self) -> tuple[ObservedGroup, ...]:
        return self.backend.observe(self.resource()).groups

    def name_of(self, group: Group) -> str:
        metadata = self.resource().metadata
        prefix = naming.child_prefix(metadata.namespace, metadata.name, metadata.uid, PLAN.run_id)
        return naming.child_name(prefix, group.stage, group.pool, group.attempt)


def build_manifest() -> Object:
    runners = [{"name": "local", "replicas": 2, "gpu": {"count": 0}}]
    spec = {"prompts": [{"text": "a red fox"}], "storage": {"url": "s3://videos/"}, "runners": runners}
    metadata = {"name": "fox"}
    return {"apiVersion": "videogen.dev/v1alpha1", "kind": "VideoGeneration", "metadata": metadata, "spec": spec}


@pytest.fixture
def world(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[World]:
    namespace = request.node.name.replace("_", "-")[-60:].strip("-")
    control_plane.install_crd()
    control_plane.kubectl("create", "namespace", namespace)
    calls: list[tuple[str, str]] = []
    client = KubernetesClient.connect(
        {"KUBECONFIG": str(control_plane.kubeconfig)},
        threads=1,
        record_call=lambda verb, kind, _code, _seconds: calls.append((verb, kind)),
    )
    client.create(VIDEO_GENERATIONS, namespace, build_manifest())
    cache = ClusterCache(lambda: 0.0)
    backend = ClusterBackend(client, cache, CONFIG, progress=lambda _: None, clock=lambda: world.now)
    world = World(client, cache, backend.on_plan(1, CONFIG.defaults), namespace, calls, datetime.now(UTC))
    world.refresh()
    yield world
    client.close()


def test_a_status_is_written_and_known_at_once(world: World) -> None:
    status = VideoGenerationStatus(phase=Phase.PREFLIGHT, run_id=PLAN.run_id, progress=3)
    world.backend.write_status(world.resource(), status)
    known = world.resource()
    assert known.status == status
    stored = world.client.get(VIDEO_GENERATIONS, world.namespace, "fox")
    assert parse_resource(stored) == known
    # The stream's echo of the own write is no news.
    assert world.cache.apply(VIDEO_GENERATIONS, "MODIFIED", stored) == frozenset()


def test_a_status_that_was_decided_on_an_older_object_is_not_written(world: World) -> None:
    seen = world.resource()
    world.client.patch(VIDEO_GENERATIONS, world.namespace, "fox", {"spec": {"suspend": True}})
    with pytest.raises(Conflict):
        world.backend.write_status(seen, VideoGenerationStatus(phase=Phase.PREFLIGHT))
    assert world.resource() == seen


def test_a_group_that_was_created_is_seen_at_once(world: World) -> None:
    world.backend.create(world.resource(), PLAN, GENERATE)
    (group,) = world.observe()
    assert group == ObservedGroup(
        PLAN.run_id,
        Stage.GENERATE,
        "local",
        1,
        1,
        GroupState.RUNNING,
        (),
        expected=2,
        created=group.created,
        template="abc",
        uid=world.client.get(JOBS, world.namespace, world.name_of(GENERATE))["metadata"]["uid"],
    )
    world.refresh()
    assert [replace(again, processes=()) for again in world.observe()] == [group]


def test_pods_that_the_job_controller_makes_are_processes(world: World, control_plane: ControlPlane) -> None:
    world.backend.create(world.resource(), PLAN, GENERATE)
    for index in (0, 1):
        selector = f"--selector=batch.kubernetes.io/job-completion-index={index}"
        control_plane.kubectl(
            "wait", "pod", selector, "--for=create", "--timeout=300s", f"--namespace={world.namespace}"
        )
    world.refresh()
    (group,) = world.observe()
    assert [(process.index, process.started, process.exit_code) for process in group.processes] == [
        (0, False, None),
        (1, False, None),
    ]


def test_a_group_that_is_there_already_is_taken_as_it_is(world: World) -> None:
    """The reply to the first create was lost."""
    world.backend.create(world.resource(), PLAN, ENCODE)
    uid = world.client.get(JOBS, world.namespace, world.name_of(ENCODE))["metadata"]["uid"]
    world.cache.prime(JOBS, replace(world.client.list(JOBS, "absent"), resource_version=str(2**60)))
    assert world.observe() == ()
    fresh = ClusterCache(lambda: 0.0)
    fresh.apply(VIDEO_GENERATIONS, None, world.client.get(VIDEO_GENERATIONS, world.namespace, "fox"))
    again = ClusterBackend(world.client, fresh, CONFIG, 1, progress=lambda _: None)
    again.create(world.resource(), PLAN, ENCODE)
    assert [group.uid for group in again.observe(world.resource()).groups] == [uid]


def test_a_name_that_somebody_else_has_taken_is_refused(world: World) -> None:
    container = {"name": "mine", "image": "none"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": world.name_of(GENERATE)}
    foreign = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}
    uid = world.client.create(JOBS, world.namespace, foreign)["uid"]
    with pytest.raises(NameTaken, match=f"{metadata['name']} exists and belongs to somebody else; delete or"):
        world.backend.create(world.resource(), PLAN, GENERATE)
    found = world.client.get(JOBS, world.namespace, metadata["name"])
    assert (found["metadata"]["uid"], found["metadata"].get("ownerReferences")) == (uid, None)
    assert world.observe() == ()


def test_an_own_job_whose_labels_were_changed_is_refused(world: World) -> None:
    world.backend.create(world.resource(), PLAN, GENERATE)
    name = world.name_of(GENERATE)
    world.client.patch(JOBS, world.namespace, name, {"metadata": {"labels": {naming.LABEL_ATTEMPT: "7"}}})
    with pytest.raises(NameTaken, match=f"Job {name} exists with other labels"):
        world.backend.create(world.resource(), PLAN, GENERATE)


def test_a_deleted_group_is_gone_with_its_service(world: World) -> None:
    world.backend.create(world.resource(), PLAN, ENCODE)
    (group,) = world.observe()
    name = world.name_of(ENCODE)
    assert world.client.get(SERVICES, world.namespace, name)["spec"]["clusterIP"] == "None"
    world.backend.delete(group)
    for kind in (JOBS, SERVICES):
        with pytest.raises(NotFound):
            world.client.get(kind, world.namespace, name)
    assert world.observe() == ()
    world.backend.delete(group)


def test_a_service_of_somebody_else_is_left_alone(world: World) -> None:
    world.backend.create(world.resource(), PLAN, ENCODE)
    (group,) = world.observe()
    name = world.name_of(ENCODE)
    world.client.patch(SERVICES, world.namespace, name, {"metadata": {"ownerReferences": None}})
    world.backend.delete(group)
    assert world.client.get(SERVICES, world.namespace, name)["metadata"]["name"] == name


def test_a_group_that_is_scaled_has_the_new_size_at_once(world: World) -> None:
    world.backend.create(world.resource(), PLAN, GENERATE)
    (group,) = world.observe()
    world.backend.scale(group, 3)
    assert [again.expected for again in world.observe()] == [3]
    spec = world.client.get(JOBS, world.namespace, world.name_of(GENERATE))["spec"]
    assert (spec["completions"], spec["parallelism"]) == (3, 3)


@pytest.fixture
def refused(world: World, control_plane: ControlPlane) -> World:
    """A namespace whose quota allows no pods, and one Job in it that has been refused one."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    control_plane.kubectl("apply", f"--namespace={world.namespace}", "--filename=-", stdin=json.dumps(quota))
    used = "--for=jsonpath={.status.hard.pods}=0"
    control_plane.kubectl("wait", "quota/none", used, "--timeout=300s", f"--namespace={world.namespace}")
    world.backend.create(world.resource(), PLAN, GENERATE)
    control_plane.kubectl("wait", "event", "--all", "--for=create", "--timeout=300s", f"--namespace={world.namespace}")
    return world


def test_why_pods_are_refused_is_read_when_there_should_be_some(refused: World) -> None:
    (young,) = refused.observe()
    assert young.created is not None
    refused.now = young.created + timedelta(seconds=4)
    assert refused.observe() == (young,)
    assert ("GET", "events") not in refused.calls
    wake_at = refused.backend.changes_at(refused.key)
    assert wake_at == young.created + timedelta(seconds=5)
    refused.now = wake_at
    (group,) = refused.observe()
    assert group.waiting is not None
    assert group.waiting.reason == WaitingReason.POD_REFUSED
    assert group.waiting.message.startswith("the cluster refuses its pods: exceeded quota: none, requested: pods=1")


def test_events_are_read_now_and_then(refused: World) -> None:
    (group,) = refused.observe()
    assert group.created is not None
    reads = []
    for seconds in (6, 8, 15, 16, 17):
        refused.now = group.created + timedelta(seconds=seconds)
        refused.observe()
        reads.append(refused.calls.count(("GET", "events")))
    assert reads == [1, 1, 1, 2, 2]


def test_events_are_read_again_for_a_job_that_was_made_since() -> None:
    class Reader:
        reads = 0

        def list_failed_creates(self, namespace: str) -> tuple[Object, ...]:
            self.reads += 1
            return ({"involvedObject": {"uid": "j"}, "message": namespace},)

    reader = Reader()
    refusals = _Refusals(reader)
    old, young = (Job.read(slim(JOBS, build_job(uid, created=made))) for uid, made in (("j", -30), ("k", 0)))
    assert refusals.read([old], NOW)["j"][0]["message"] == "team"
    assert (refusals.read([old], NOW + timedelta(seconds=5)).keys(), reader.reads) == ({"j"}, 1)
    assert (refusals.read([old, young], NOW + timedelta(seconds=6)), reader.reads) == (
        {"j": [{"involvedObject": {"uid": "j"}, "message": "team"}], "k": ()},
        2,
    )
    assert (refusals.read([young], NOW + timedelta(seconds=7)), reader.reads) == ({"k": ()}, 2)


def test_groups_are_made_from_the_plan_that_was_named(world: World) -> None:
    defaults = Defaults.model_validate({"storage": {"url": "s3://videos/", "credentialsSecret": "s3"}}, strict=False)
    world.backend.on_plan(4, defaults).create(world.resource(), PLAN, GENERATE)
    spec = world.client.get(JOBS, world.namespace, world.name_of(GENERATE))["spec"]["template"]["spec"]
    volumes = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
    secrets = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for variable in spec["containers"][0]["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert ([name.rpartition("-")[2] for name in volumes], secrets) == (["4"], {"s3"})
