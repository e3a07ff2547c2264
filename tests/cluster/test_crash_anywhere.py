"""The operator is killed at every single write of a resource's life: nobody can tell afterwards that it was.

The writes are enumerated, not sampled: from the first on, until a life ends before its crash is due. A crash comes
either after the API server has carried the write out and before the operator hears of it, or before the API server has
seen it.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.builders import NOW
from tests.cluster.behaviours import Behaviour, SimulatedPod, fail, hang, succeed
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crash_proxy import Crash, CrashProxy, When
from tests.cluster.lives import SPEC, Life, World
from tests.cluster.outcomes import Outcome, differences

from videogen_api.naming import Stage
from videogen_api.resource import Metadata
from videogen_api.status import Phase
from videogen_operator.cluster.api_errors import Unavailable
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.events import render_event
from videogen_operator.cluster.resources import CONFIG_MAPS, EVENTS, Object
from videogen_operator.core.events import EventNote, EventType

PARALLEL = 10
NOTE = EventNote(EventType.NORMAL, "Started", "run 5f1c begins")
TWO_POOLS = {"runners": [{"name": name, "gpu": {"count": 0}} for name in ("left", "right")]}


def trouble(pod: SimulatedPod) -> Behaviour:
    """The encoder needs a second attempt, and in the end the store refuses."""
    if pod.stage == Stage.ENCODE and pod.attempt == 1:
        return fail(70, "a bug")
    return fail(77, "bucket videos: PutObject denied") if pod.stage == Stage.COLLECT else succeed


def first_runner_hangs(pod: SimulatedPod) -> Behaviour:
    return hang if pod.stage == Stage.GENERATE and pod.attempt == 1 else succeed


def suspend_and_resume(resource: Object, num_jobs: int) -> Object | None:
    """Suspended while a runner is at work, and resumed when nothing is at work any more."""
    status, spec = resource.get("status", {}), resource["spec"]
    if status.get("phase") == Phase.SUSPENDED and spec.get("suspend") and not num_jobs:
        return {"spec": {"suspend": False}}
    if "suspend" not in spec and status.get("phase") == Phase.GENERATING and status.get("runners"):
        return {"spec": {"suspend": True}}
    return None


PLAIN = Life("plain", SPEC)
TROUBLE = Life("trouble", {**SPEC, **TWO_POOLS, "retries": 1}, trouble)
SUSPENDED = Life("suspended", SPEC, first_runner_hangs, suspend_and_resume)


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(control_plane, tmp_path_factory.mktemp("lives")) as world:
        yield world


def live_undisturbed(world: World, life: Life) -> tuple[Outcome, int]:
    """What becomes of the resource, and how many writes it took."""
    with world.place(life) as place:
        assert place.live() is False
        return place.settle(), len(place.writes)


def live_with_crash(world: World, life: Life, number: int, when: When, expected: Outcome) -> tuple[bool, Outcome]:
    """Whether the crash came before the end, and what became of the resource."""
    with world.place(life) as place:
        place.crash_at(number, when)
        crashed = place.live()
        return crashed, place.wait_for_outcome(expected)


@pytest.mark.parametrize("when", When)
def test_the_proxy_counts_writes_and_strikes_at_the_right_one(
    control_plane: ControlPlane, tmp_path: Path, when: When
) -> None:
    killed = threading.Event()
    namespace = f"proxy-{when.name.lower()}"
    control_plane.kubectl("create", "namespace", namespace)

    def config_map(name: str) -> Object:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}

    with CrashProxy(control_plane) as proxy:
        proxy.crash = Crash(2, when, killed.set)
        client = KubernetesClient.connect({"KUBECONFIG": str(proxy.write_kubeconfig(tmp_path / "config"))}, threads=1)
        client.create(EVENTS, namespace, render_event(Metadata(name="fox", namespace=namespace), NOTE, NOW, "test"))
        client.create(CONFIG_MAPS, namespace, config_map("first"))
        client.list(CONFIG_MAPS, namespace)
        assert not killed.is_set()
        with pytest.raises(Unavailable, match="no answer"):
            client.create(CONFIG_MAPS, namespace, config_map("second"))
        assert killed.is_set()
        names = {found["metadata"]["name"] for found in client.list(CONFIG_MAPS, namespace).items}
        client.close()

    assert ("second" in names) == (when == When.AFTER)
    assert [(write.method, write.what, write.code) for write in proxy.writes] == [
        ("POST", "configmaps", 201),
        ("POST", "configmaps", 201 if when == When.AFTER else None),
    ]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("life", "when"),
    [(PLAIN, When.AFTER), (PLAIN, When.BEFORE), (TROUBLE, When.AFTER), (SUSPENDED, When.AFTER)],
    ids=lambda value: value.name.lower(),
)
def test_a_crash_at_any_write_changes_nothing_in_the_end(world: World, life: Life, when: When) -> None:
    expected, num_writes = live_undisturbed(world, life)
    numbers = range(1, num_writes + 3)

    with ThreadPoolExecutor(PARALLEL) as pool:
        lived = list(pool.map(lambda number: live_with_crash(world, life, number, when, expected), numbers))

    different = [differences(outcome, expected) for _, outcome in lived]
    assert {number: each for number, each in zip(numbers, different, strict=True) if each} == {}
    crashes = [crashed for crashed, _ in lived]
    assert sorted(crashes, reverse=True) == crashes
    assert crashes[-1] is False  # every write there was had its crash
