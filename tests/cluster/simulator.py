"""Pods that do nothing but end: a kubelet's half of the conversation with the API server, for thousands of pods.

Every pod with our labels gets the status that its script says, with a real termination report; the Job controller does
the rest.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from tests.cluster.behaviours import Behaviour, Made, SimulatedPod, succeed
from tests.cluster.watching import Server, Watch

from videogen_api import naming
from videogen_api.plan import Plan
from videogen_operator.cluster.api_errors import Conflict, NotFound
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.resources import CONFIG_MAPS, PODS, Object

log = logging.getLogger("simulator")

Script = Callable[[SimulatedPod], Behaviour]


def everything_succeeds(pod: SimulatedPod) -> Behaviour:  # noqa: ARG001 - a Script
    return succeed


class PodSimulator:
    """Works while its `with` block lasts, in the namespaces of the whole cluster."""

    def __init__(
        self, server: Server, client: KubernetesClient, script: Script = everything_succeeds, threads: int = 4
    ) -> None:
        self._client = client
        self._script = script
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="pod")
        self._watch = Watch(server, PODS, self._on_event, label_selector=f"{naming.LABEL_NAME},{naming.LABEL_STAGE}")
        self._lock = threading.Lock()
        self._done: set[str] = set()
        self._live: dict[str, Object] = {}
        self._plans: dict[tuple[str, str], Plan] = {}
        self._made: defaultdict[tuple[str, str, str], Made] = defaultdict(Made)
        self._errors: list[BaseException] = []
        self.started: dict[str, SimulatedPod] = {}
        """Every pod that did something, by UID."""

    def __enter__(self) -> Self:
        self._watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.__exit__()
        self._workers.shutdown(cancel_futures=True)
        if self._errors:
            raise self._errors[0]

    def change(self, script: Script) -> None:
        """From now on another script, also for the pods that are there and have not ended."""
        with self._lock:
            self._script = script
            self._done.clear()
            live = tuple(self._live.values())
        for pod in live:
            self._workers.submit(self._act, pod)

    def ask_again(self, namespace: str, resource: str) -> None:
        """The pods of one resource that have not ended do what the script says now."""
        with self._lock:
            pods = [
                pod
                for pod in self._live.values()
                if (pod["metadata"]["namespace"], pod["metadata"]["labels"][naming.LABEL_NAME]) == (namespace, resource)
            ]
            self._done.difference_update(pod["metadata"]["uid"] for pod in pods)
        for pod in pods:
            self._workers.submit(self._act, pod)

    def _on_event(self, event_type: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]
        with self._lock:
            if event_type == "DELETED" or ended:
                self._live.pop(uid, None)
                return
            self._live[uid] = pod
            if uid in self._done:
                return
        self._workers.submit(self._act, pod)

    def _act(self, pod: Object) -> None:
        metadata = pod["metadata"]
        try:
            simulated = SimulatedPod.of(pod)
            plan = self._plan(pod)
            with self._lock:
                if metadata["uid"] in self._done:
                    return
                self._done.add(metadata["uid"])
                made = self._made[metadata["namespace"], simulated.resource, plan.run_id]
                status = self._script(simulated)(simulated, plan, made)
                self.started[simulated.uid] = simulated
            self._client.patch_status(
                PODS, metadata["namespace"], metadata["name"], metadata["resourceVersion"], status
            )
        except Conflict:
            # It has changed meanwhile: the watch brings the newer one.
            with self._lock:
                self._done.discard(metadata["uid"])
                newer = self._live.get(metadata["uid"])
            if newer is not None and newer["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
                self._workers.submit(self._act, newer)
        except NotFound:
            log.debug("pod %s is gone", metadata["name"])
        except BaseException as error:
            self._errors.append(error)
            raise

    def _plan(self, pod: Object) -> Plan:
        """The plan that the pod has mounted."""
        names = [volume["configMap"]["name"] for volume in pod["spec"]["volumes"] if "configMap" in volume]
        key = (pod["metadata"]["namespace"], names[0])
        plan = self._plans.get(key)
        if plan is None:
            found = self._client.get(CONFIG_MAPS, *key)
            plan = self._plans[key] = Plan.from_bytes(found["data"][naming.PLAN_FILE].encode())
        return plan
