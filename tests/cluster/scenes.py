"""Many resources of one namespace under one real operator process, each with pods that do what its own script says.

A module has one scene: whatever takes its time is applied when the scene opens, so that all of it waits together.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.cluster.behaviours import Behaviour, SimulatedPod, succeed
from tests.cluster.lives import CONFIG, PATIENCE_SECONDS, SPEC, Life, Place, World
from tests.cluster.outcomes import Outcome, outcome_of

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.resource import parse_resource
from videogen_api.status import FINISHED_PHASES, ConditionType, Phase, VideoGenerationStatus
from videogen_operator.cluster.api_errors import Conflict, NotFound
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.resources import EVENTS, JOBS, PODS, VIDEO_GENERATIONS, Object, Resource
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.planner import make_plan

Script = Callable[[SimulatedPod], Behaviour]
IsSo = Callable[[VideoGenerationStatus], bool]


class Scene:
    """One namespace; `place` starts and kills its operator."""

    def __init__(self, world: World, place: Place, scripts: dict[str, Script]) -> None:
        self.world = world
        self.place = place
        self.namespace = place.namespace
        self._scripts = scripts

    @property
    def client(self) -> KubernetesClient:
        return self.world.client

    def apply(self, name: str, script: Script | None = None, **spec: Any) -> Object:
        """A new resource; `spec` goes over SPEC. Returns it as the API server has it."""
        if script is not None:
            self.script(name, script)
        manifest = {
            "apiVersion": naming.API_VERSION,
            "kind": naming.KIND,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**SPEC, **spec},
        }
        metadata = self.client.create(VIDEO_GENERATIONS, self.namespace, manifest)
        return {**manifest, "metadata": metadata}

    def script(self, name: str, script: Script) -> None:
        """From now on the pods of a resource do this, also those that are there and have not ended."""
        self._scripts[name] = script
        self.world.simulator.ask_again(self.namespace, name)

    def edit(self, name: str, **spec: Any) -> None:
        """Merges into the resource's spec, as its user would."""
        self.client.patch(VIDEO_GENERATIONS, self.namespace, name, {"spec": spec})

    def delete(self, name: str) -> None:
        self.client.delete(VIDEO_GENERATIONS, self.namespace, name, self.get(name)["metadata"]["uid"])

    def get(self, name: str) -> Object:
        return self.client.get(VIDEO_GENERATIONS, self.namespace, name)

    def is_of(self, name: str, uid: str) -> bool:
        """Whether the resource as last seen is that one, and not one of the same name before it."""
        return bool(self.world.seen(self.namespace).resources[name]["metadata"]["uid"] == uid)

    def status(self, name: str) -> VideoGenerationStatus:
        """As last seen; a fresh one where nothing has been seen yet."""
        resource = self.world.seen(self.namespace).resources.get(name, {})
        return VideoGenerationStatus.model_validate_json(json.dumps(resource.get("status", {})))

    def wait(self, name: str, is_so: IsSo) -> VideoGenerationStatus:
        """The status when it is so."""
        self.wait_until(lambda: is_so(self.status(name)), lambda: f"{name}: {self.status(name)}")
        return self.status(name)

    def wait_until(self, is_so: Callable[[], bool], told: Callable[[], object] = lambda: "") -> None:
        """`told` is what a person should read where it never becomes so."""
        if not self.world.wait_for(is_so):
            raise AssertionError(f"not so after {PATIENCE_SECONDS:g} s: {told()}\n{self.place.log_tail()}")

    def wait_for_phase(self, name: str, *phases: Phase) -> VideoGenerationStatus:
        """The status when the newest generation of the resource is in one of these phases."""
        self.wait_until(
            lambda: self.status(name).phase in phases and self._is_observed(name),
            lambda: f"{name}: {self.status(name)}",
        )
        return self.status(name)

    def wait_for_end(self, name: str) -> VideoGenerationStatus:
        return self.wait_for_phase(name, *FINISHED_PHASES)

    def conditions(self, name: str, *types: ConditionType) -> dict[ConditionType, tuple[str, str, str]]:
        """Status, reason and message of the conditions of these types."""
        return {
            condition.type: (condition.status.value, condition.reason, condition.message)
            for condition in self.status(name).conditions
            if condition.type in types
        }

    def outcome(self, name: str) -> Outcome:
        return outcome_of(self.client, self.namespace, name, self.all_jobs(name))

    def all_jobs(self, name: str, stage: Stage | None = None) -> tuple[Object, ...]:
        """Every Job of a resource that ever existed, as last seen, the oldest first."""
        jobs = [
            job
            for job in tuple(self.world.seen(self.namespace).jobs.values())
            if job["metadata"]["labels"].get(naming.LABEL_NAME) == name
            and stage in (None, job["metadata"]["labels"][naming.LABEL_STAGE])
        ]
        return tuple(sorted(jobs, key=lambda job: int(job["metadata"]["labels"][naming.LABEL_ATTEMPT])))

    def children(self, kind: Resource, name: str) -> tuple[Object, ...]:
        """What there is now of one kind with the labels of a resource, by name; what is being deleted counts too."""
        found = self.client.list(kind, self.namespace, label_selector=f"{naming.LABEL_NAME}={name}").items
        return tuple(sorted(found, key=lambda child: str(child["metadata"]["name"])))

    def pods(self, name: str, stage: Stage) -> tuple[Object, ...]:
        pods = self.children(PODS, name)
        return tuple(pod for pod in pods if pod["metadata"]["labels"][naming.LABEL_STAGE] == stage)

    def wait_for_pods(self, name: str, stage: Stage, number: int) -> tuple[Object, ...]:
        self.wait_until(lambda: len(self.pods(name, stage)) == number, lambda: self.pods(name, stage))
        return self.pods(name, stage)

    def end_deleted_pods(self, name: str) -> None:
        """What a kubelet does with pods that are to go: without one they wait for Kubernetes to give them up."""
        for pod in self.children(PODS, name):
            metadata = pod["metadata"]
            if "deletionTimestamp" in metadata and pod["status"].get("phase") not in ("Failed", "Succeeded"):
                status = {"phase": "Failed"}
                # Somebody else was faster.
                with suppress(NotFound, Conflict):
                    self.client.patch_status(
                        PODS, self.namespace, metadata["name"], metadata["resourceVersion"], status
                    )

    def is_gone(self, kind: Resource, name: str) -> bool:
        try:
            self.client.get(kind, self.namespace, name)
        except NotFound:
            return True
        return False

    def events(self, name: str) -> list[tuple[str, str]]:
        """Type and reason of each event about a resource, in the order in which they were recorded."""
        events = [
            event
            for event in self.client.list(EVENTS, self.namespace).items
            if (event["regarding"]["kind"], event["regarding"]["name"]) == (naming.KIND, name)
        ]
        return [(event["type"], event["reason"]) for event in sorted(events, key=lambda event: str(event["eventTime"]))]

    def child_prefix(self, resource: Object) -> str:
        """How the names of the children begin that the operator is about to make."""
        metadata = resource["metadata"]
        plan = make_plan(parse_resource(resource), Defaults.model_validate(CONFIG["defaults"]))
        return naming.child_prefix(metadata["namespace"], metadata["name"], metadata["uid"], plan.run_id)

    def delete_job(self, job: Object) -> None:
        """By hand, as `kubectl delete job` does."""
        self.client.delete(JOBS, self.namespace, job["metadata"]["name"], job["metadata"]["uid"])

    def _is_observed(self, name: str) -> bool:
        resource = self.world.seen(self.namespace).resources[name]
        return bool(resource["status"]["observedGeneration"] == resource["metadata"]["generation"])


@contextmanager
def open_scene(world: World, name: str) -> Iterator[Scene]:
    """A scene whose operator has not been started."""
    scripts: dict[str, Script] = {}

    def behave(pod: SimulatedPod) -> Behaviour:
        script = scripts.get(pod.resource)
        return script(pod) if script is not None else succeed

    with world.place(Life(name, SPEC, behave)) as place:
        yield Scene(world, place, scripts)


def at(stage: Stage, behaviour: Behaviour) -> Script:
    """Pods of one stage do something else than to succeed."""
    return lambda pod: behaviour if pod.stage == stage else succeed
