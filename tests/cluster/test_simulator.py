"""The pod simulator against a real API server and Job controller: what it says makes Jobs end as real pods would."""

import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from tests.builders import build_plan, build_resource
from tests.cluster.behaviours import (
    Behaviour,
    crash,
    evict,
    fail,
    hang,
    oom_killed,
    pull_error,
    succeed,
    unschedulable,
)
from tests.cluster.control_plane import ControlPlane
from tests.cluster.simulator import PodSimulator, Script, everything_succeeds
from tests.cluster.watching import Watch

from videogen_api.errors import Reason
from videogen_api.naming import Stage
from videogen_api.report import TerminationReport
from videogen_api.resource import VideoGeneration
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.render import render_group, render_plan
from videogen_operator.cluster.resources import JOBS, PODS, Object, resource_of
from videogen_operator.config import Images, OperatorConfig
from videogen_operator.core.observed import Group

PATIENCE_SECONDS = 120.0
CONFIG = OperatorConfig(images=Images(operator="operator:1", runner="runner:1"))
NUMBERS = count()


class Place:
    """A namespace of its own in which Jobs are posted and watched."""

    def __init__(self, plane: ControlPlane, client: KubernetesClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self._plane = plane
        self._changed = threading.Condition()
        self._objects: dict[str, Object] = {}
        self.resource = _in_namespace(build_resource(runners=[{"name": "local", "gpu": {"count": 0}}]), namespace)
        self.plan = build_plan().model_copy(update={"namespace": namespace})
        self._post(render_plan(self.resource, self.plan, 1, CONFIG.defaults))

    def watches(self) -> tuple[Watch, Watch]:
        return tuple(  # type: ignore[return-value]  # two in, two out
            Watch(self._plane, resource, self._on_event, namespace=self.namespace) for resource in (JOBS, PODS)
        )

    def start(self, stage: Stage, attempt: int = 1, pool: str | None = None, processes: int = 1) -> str:
        """Posts the objects of a group; returns the name of its Job."""
        manifests = render_group(self.resource, self.plan, 1, Group(stage, pool, attempt, processes, 1), CONFIG)
        for manifest in manifests:
            self._post(manifest)
        return str(manifests[-1]["metadata"]["name"])

    def wait_for_job(self, name: str, condition: str) -> Object:
        return self.wait_for(
            lambda found: (
                found["metadata"]["name"] == name
                and any(has["type"] == condition for has in found.get("status", {}).get("conditions", ()))
                and "completionMode" in found["spec"]
            )
        )

    def wait_for_pod(self, is_so: Callable[[Object], bool]) -> Object:
        return self.wait_for(lambda found: "containers" in found["spec"] and is_so(found))

    def wait_for(self, is_so: Callable[[Object], bool]) -> Object:
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(is_so, self._objects.values())), PATIENCE_SECONDS)
            return next(found for found in self._objects.values() if is_so(found))

    def reports(self, job: str) -> list[TerminationReport | None]:
        """By index."""
        pods = [pod for pod in self._objects.values() if "containers" in pod["spec"] and _job(pod) == job]
        by_index = sorted(
            pods, key=lambda pod: int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])
        )
        return [TerminationReport.from_bytes(_terminated(pod).get("message", "").encode()) for pod in by_index]

    def _on_event(self, _event_type: str, found: Object) -> None:
        with self._changed:
            self._objects[found["metadata"]["uid"]] = found
            self._changed.notify_all()

    def _post(self, manifest: Object) -> None:
        # Their owner does not exist here, and the garbage collector would take them for orphans.
        metadata = {key: value for key, value in manifest["metadata"].items() if key != "ownerReferences"}
        self.client.create(resource_of(manifest), self.namespace, {**manifest, "metadata": metadata})


def _in_namespace(resource: VideoGeneration, namespace: str) -> VideoGeneration:
    return resource.model_copy(update={"metadata": resource.metadata.model_copy(update={"namespace": namespace})})


def _job(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"])


def _terminated(pod: Object) -> Object:
    found: Object = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return found


@pytest.fixture
def client(control_plane: ControlPlane) -> Iterator[KubernetesClient]:
    client = KubernetesClient.connect({"KUBECONFIG": str(control_plane.kubeconfig)}, threads=4)
    yield client
    client.close()


@pytest.fixture
def place(control_plane: ControlPlane, client: KubernetesClient) -> Iterator[Place]:
    namespace = f"simulator-{next(NUMBERS)}"
    control_plane.kubectl("create", "namespace", namespace)
    place = Place(control_plane, client, namespace)
    jobs, pods = place.watches()
    with jobs, pods:
        yield place


@pytest.fixture
def simulate(control_plane: ControlPlane, client: KubernetesClient) -> Iterator[Callable[[Script], PodSimulator]]:
    simulators: list[PodSimulator] = []

    def start(script: Script) -> PodSimulator:
        simulators.append(PodSimulator(control_plane, client, script).__enter__())
        return simulators[-1]

    yield start
    for simulator in simulators:
        simulator.__exit__()


Simulate = Callable[[Script], PodSimulator]


def always(behaviour: Behaviour) -> Script:
    return lambda _: behaviour


def test_a_life_without_trouble_completes_every_job(place: Place, simulate: Simulate) -> None:
    simulate(everything_succeeds)
    jobs = []
    for stage, pool, processes in (
        (Stage.PREFLIGHT, None, 1),
        (Stage.ENCODE, None, 1),
        (Stage.GENERATE, "local", 2),
        (Stage.COLLECT, None, 1),
    ):
        jobs.append(place.start(stage, pool=pool, processes=processes))
        place.wait_for_job(jobs[-1], "Complete")

    preflight, encode, generate, collect = (place.reports(job) for job in jobs)

    assert [report.preflight.clips.flags() for report in preflight if report and report.preflight] == [(False, False)]
    assert [report.encode.encoded for report in encode if report and report.encode] == [1]
    assert [report.generate.finished for report in generate if report and report.generate] == [1, 1]
    assert [(report.collect.succeeded, report.collect.missing) for report in collect if report and report.collect] == [
        (2, 0)
    ]


def test_a_later_preflight_finds_what_earlier_pods_have_made(place: Place, simulate: Simulate) -> None:
    simulate(lambda pod: fail(70) if pod.index == 1 else succeed)
    for stage, pool, processes, end in (
        (Stage.ENCODE, None, 1, "Complete"),
        (Stage.GENERATE, "local", 1, "Complete"),
        (Stage.PREFLIGHT, None, 1, "Complete"),
    ):
        job = place.start(stage, pool=pool, processes=processes)
        place.wait_for_job(job, end)

    (report,) = place.reports(job)

    assert report is not None
    assert report.preflight is not None
    assert (report.preflight.embeddings.flags(), report.preflight.clips.flags()) == ((True,), (True, False))


@pytest.mark.parametrize(
    ("behaviour", "exit_code", "reason", "has_report"),
    [
        (fail(77), 77, "Error", True),
        (crash(139), 139, "Error", False),
        (oom_killed, 137, "OOMKilled", False),
    ],
    ids=["fails", "crashes", "oom"],
)
def test_a_pod_that_fails_fails_its_job(
    place: Place, simulate: Simulate, behaviour: Behaviour, exit_code: int, reason: str, has_report: bool
) -> None:
    simulate(always(behaviour))
    job = place.start(Stage.PREFLIGHT)
    place.wait_for_job(job, "Failed")

    pod = place.wait_for_pod(lambda pod: pod["status"]["phase"] == "Failed")

    assert (_terminated(pod)["exitCode"], _terminated(pod)["reason"]) == (exit_code, reason)
    assert [report.reason if report else None for report in place.reports(job)] == [
        Reason.STORE_DENIED if has_report else None
    ]


def test_a_final_code_fails_a_generate_job_and_an_eviction_does_not(place: Place, simulate: Simulate) -> None:
    simulate(lambda pod: evict if pod.attempt == 1 else fail(66))
    evicted, final = (place.start(Stage.GENERATE, attempt, "local") for attempt in (1, 2))

    failed = place.wait_for_job(final, "Failed")
    pod = place.wait_for_pod(lambda pod: _job(pod) == evicted and pod["status"]["phase"] == "Failed")

    assert [has["reason"] for has in failed["status"]["conditions"] if has["type"] == "Failed"] == ["PodFailurePolicy"]
    assert "DisruptionTarget" in [has["type"] for has in pod["status"]["conditions"]]
    # The Job controller makes another pod for the index, in its own time.
    place.wait_for_pod(lambda other: _job(other) == evicted and other["metadata"]["uid"] != pod["metadata"]["uid"])


@pytest.mark.parametrize(
    ("behaviour", "phase"), [(hang, "Running"), (unschedulable, "Pending"), (pull_error, "Pending")]
)
def test_a_pod_that_does_not_end_ends_when_the_script_changes(
    place: Place, simulate: Simulate, behaviour: Behaviour, phase: str
) -> None:
    simulator = simulate(always(behaviour))
    job = place.start(Stage.PREFLIGHT)
    pod = place.wait_for_pod(lambda pod: bool(pod["status"].get("conditions")))
    assert pod["status"]["phase"] == phase

    simulator.change(everything_succeeds)

    place.wait_for_job(job, "Complete")


def test_many_pods_end_at_once(place: Place, simulate: Simulate) -> None:
    simulator = simulate(everything_succeeds)
    job = place.start(Stage.GENERATE, pool="local", processes=100)
    place.wait_for_job(job, "Complete")
    assert sorted(pod.index for pod in simulator.started.values()) == list(range(100))
