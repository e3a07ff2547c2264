"""Whole lives of resources under real operator processes, each behind a proxy of its own, on one API server.

A life is what a user applies and what its pods do. `World` runs many of them at the same time, each in a namespace of
its own with an operator of its own, and tells what became of them in words that do not depend on names or times.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

from tests.cluster.behaviours import Behaviour, SimulatedPod, succeed
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crash_proxy import Crash, CrashProxy, When, Write
from tests.cluster.operators import Launcher, RunningOperator
from tests.cluster.outcomes import Outcome, outcome_of
from tests.cluster.simulator import PodSimulator
from tests.cluster.watching import Watch

from videogen_api import naming
from videogen_api.status import FINISHED_PHASES
from videogen_operator.cluster.api_errors import NotFound, TooManyRequests
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.resources import JOBS, VIDEO_GENERATIONS, Object

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
QUIET_SECONDS = 1.5
NAME = "fox"
CONFIG = {
    "images": {"operator": "operator:1", "runner": "runner:1"},
    "defaults": {
        "model": {"name": "open-sora-v1.2-tiny", "weights": "builtin"},
        "storage": {"url": "s3://videos/tests", "endpoint": "http://store:9000", "credentialsSecret": "s3"},
    },
}
SPEC: dict[str, Any] = {
    "prompts": [{"text": "a red fox runs through fresh snow", "samples": 2}],
    "runners": [{"name": "cpu", "gpu": {"count": 0}}],
}


@dataclass(frozen=True)
class Life:
    """`behave` is what a pod does; `edit` is what the user changes, as a merge patch, when the resource is as given and
    has so many Jobs."""

    name: str
    spec: dict[str, Any]
    behave: Callable[[SimulatedPod], Behaviour] = lambda _: succeed
    edit: Callable[[Object, int], Object | None] = lambda _resource, _num_jobs: None


@dataclass
class _Seen:
    """Everything that was seen of one namespace."""

    life: Life
    resources: dict[str, Object] = field(default_factory=dict)
    """By name."""
    jobs: dict[str, Object] = field(default_factory=dict)
    """Every Job that ever existed, by UID."""
    gone: set[str] = field(default_factory=set)
    """Those of them that do not exist any more."""


class World:
    """An API server with the CRD, a pod simulator and an eye on everything, while its `with` block lasts."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.client = KubernetesClient.connect({"KUBECONFIG": str(plane.kubeconfig)}, threads=8)
        self._folder = folder
        self._changed = threading.Condition()
        self._seen: dict[str, _Seen] = {}
        self._numbers = count(1)
        self._stack = ExitStack()
        self._launcher = Launcher()
        self._launch_lock = threading.Lock()

    def __enter__(self) -> Self:
        self.plane.install_crd()
        # A definition that is established is not yet served everywhere.
        assert self.wait_for(self._is_served)
        self._stack.callback(self.client.close)
        self._stack.enter_context(self._launcher)
        self.simulator = self._stack.enter_context(PodSimulator(self.plane, self.client, self._behave))
        for resource in (VIDEO_GENERATIONS, JOBS):
            self._stack.enter_context(Watch(self.plane, resource, self._on_event))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def place(self, life: Life) -> Iterator["Place"]:
        """A namespace for one life, with a proxy; whatever operator is still at work there ends with the block."""
        namespace = f"{life.name}-{next(self._numbers)}"
        self._seen[namespace] = _Seen(life)
        self.plane.kubectl("create", "namespace", namespace)
        folder = self._folder / namespace
        folder.mkdir()
        with CrashProxy(self.plane) as proxy:
            place = Place(self, namespace, life, proxy, folder)
            try:
                yield place
            finally:
                place.kill()

    def wait_for(self, is_so: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
        """Whether it is so before the time is over; looks again at every event and ten times a second."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                return False
            with self._changed:
                self._changed.wait(0.1)
        return True

    def launch(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> RunningOperator:
        with self._launch_lock:
            return self._launcher.start(arguments, environment, log)

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def seen(self, namespace: str) -> _Seen:
        return self._seen[namespace]

    def _is_served(self) -> bool:
        """Whether the API server has taken in the new kind."""
        try:
            self.client.list(VIDEO_GENERATIONS, None)
        except (NotFound, TooManyRequests):
            return False
        return True

    def _behave(self, pod: SimulatedPod) -> Behaviour:
        seen = self._seen.get(pod.namespace)
        return seen.life.behave(pod) if seen is not None else succeed

    def _on_event(self, event_type: str, found: Object) -> None:
        metadata = found["metadata"]
        seen = self._seen.get(metadata["namespace"])
        if seen is None:
            return
        with self._changed:
            if "prompts" in found["spec"]:
                seen.resources[metadata["name"]] = found
            else:
                seen.jobs[metadata["uid"]] = found
                (seen.gone.add if event_type == "DELETED" else seen.gone.discard)(metadata["uid"])
            self._changed.notify_all()
            resource, num_jobs = seen.resources.get(NAME), len(seen.jobs.keys() - seen.gone)
        patch = seen.life.edit(resource, num_jobs) if resource is not None else None
        if patch is not None:
            self.client.patch(VIDEO_GENERATIONS, metadata["namespace"], NAME, patch)


class Place:
    """One life in its namespace."""

    def __init__(self, world: World, namespace: str, life: Life, proxy: CrashProxy, folder: Path) -> None:
        self.world = world
        self.namespace = namespace
        self.proxy = proxy
        self.life = life
        self._folder = folder
        self._operator: RunningOperator | None = None
        self._crashed = threading.Event()

    @property
    def writes(self) -> list[Write]:
        return list(self.proxy.writes)

    def apply(self, name: str = NAME) -> None:
        manifest = {
            "apiVersion": naming.API_VERSION,
            "kind": naming.KIND,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": self.life.spec,
        }
        self.world.client.create(VIDEO_GENERATIONS, self.namespace, manifest)

    def start_operator(self, **configuration: Any) -> None:
        """`configuration` goes beside CONFIG, or over it."""
        config = self._folder / "operator.yaml"
        config.write_text(json.dumps({**CONFIG, "namespaces": [self.namespace], **configuration}))
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.proxy.write_kubeconfig(self._folder / "kubeconfig")),
            "POD_NAME": "operator-0",
            "POD_NAMESPACE": self.namespace,
        }
        arguments = ["operator", f"--config={config}", "--no-leader-election", "--health-port=0", "--metrics-port=0"]
        self._operator = self.world.launch(arguments, environment, self._folder / "operator.log")

    def kill(self) -> None:
        if self._operator is not None:
            self._operator.kill()

    def crash_at(self, number: int, when: When) -> None:
        """Kills the operator at a write, once; numbers count from the first write on."""

        def kill() -> None:
            self.kill()
            self._crashed.set()
            self.world.notify()

        self.proxy.crash = Crash(number, when, kill)

    def live(self) -> bool:
        """From the manifest to the end, over a crash of the operator if one is due; whether there was one."""
        self.start_operator()
        self.apply()
        self._wait(lambda: self._crashed.is_set() or self.is_finished())
        if not self._crashed.is_set():
            return False
        self.start_operator()
        self.wait_for_end()
        return True

    def wait_for_end(self, name: str = NAME) -> None:
        self._wait(lambda: self.is_finished(name))

    def is_finished(self, name: str = NAME) -> bool:
        resource = self.world.seen(self.namespace).resources.get(name)
        status = resource.get("status", {}) if resource is not None else {}
        return (
            resource is not None
            and status.get("phase") in FINISHED_PHASES
            and status["observedGeneration"] == resource["metadata"]["generation"]
        )

    def settle(self) -> Outcome:
        """The outcome of a finished life, when it has not changed for a while."""
        outcome = self.outcome()
        while (later := self.wait_for_outcome(outcome, QUIET_SECONDS, other=True)) != outcome:
            outcome = later
        return outcome

    def wait_for_outcome(self, expected: Outcome, seconds: float = 20.0, *, other: bool = False) -> Outcome:
        """The outcome as soon as it is (or `other`: is not) the expected one; what it is when time is up."""
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while ((outcome := self.outcome()) == expected) == other and time.monotonic() < deadline:
            pause.wait(0.3)
        return outcome

    def outcome(self) -> Outcome:
        return outcome_of(self.world.client, self.namespace, NAME, self.world.seen(self.namespace).jobs.values())

    def _wait(self, is_so: Callable[[], bool]) -> None:
        if not self.world.wait_for(lambda: is_so() or self._has_ended()):
            raise AssertionError(f"{self.namespace}: nothing happened for {PATIENCE_SECONDS:g} s\n{self.log_tail()}")
        if self._has_ended():
            raise AssertionError(f"{self.namespace}: the operator ended by itself\n{self.log_tail()}")

    def _has_ended(self) -> bool:
        return self._operator is not None and self._operator.has_ended_by_itself()

    def log_lines(self) -> list[str]:
        """Everything that the operator has logged, a JSON object a line."""
        return (self._folder / "operator.log").read_text().splitlines()

    def log_tail(self) -> str:
        writes = "\n".join(f"{write.method} {write.path}: {write.code}" for write in self.writes)
        return f"{writes}\n{(self._folder / 'operator.log').read_text()[-3000:]}"
