"""Objects as the API server gives them, whole, for tests of what the operator keeps and makes of them."""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

from videogen_api import naming
from videogen_operator.cluster.resources import Object, ObjectList

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
RUN = "5f1c0a2b"


def at(seconds: float) -> str:
    """RFC 3339, that many seconds after NOW."""
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def build_video_generation(name: str = "fox", uid: str = "v", version: int = 1, **fields: Any) -> Object:
    return {
        "apiVersion": naming.API_VERSION,
        "kind": naming.KIND,
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": at(-60),
            "managedFields": [{"manager": "kubectl", "operation": "Update"}],
        },
        "spec": {"prompts": [{"name": "fox", "text": "a red fox"}]},
        "status": {"observedGeneration": -1},
        **fields,
    }


def build_job(
    uid: str = "j",
    *,
    owner: str = "v",
    owner_name: str = "fox",
    version: int = 1,
    stage: str = "generate",
    pool: str | None = "t4",
    attempt: int = 1,
    completions: int = 1,
    created: float = -30,
    conditions: tuple[Object, ...] = (),
) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"fox-{uid}",
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": at(created),
            "labels": _labels(owner_name, stage, pool, attempt),
            "ownerReferences": [
                {
                    "apiVersion": naming.API_VERSION,
                    "kind": naming.KIND,
                    "name": owner_name,
                    "uid": owner,
                    "controller": True,
                }
            ],
            "managedFields": [{"manager": "videogen", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {
            "parallelism": completions,
            "completions": completions,
            "completionMode": "Indexed",
            "backoffLimitPerIndex": 3,
            "suspend": False,
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
            "template": {"spec": {"containers": [{"name": naming.CONTAINER, "image": "runner:1"}]}},
            "podReplacementPolicy": "Failed",
        },
        "status": {
            "active": completions,
            "ready": 0,
            "startTime": at(created),
            "uncountedTerminatedPods": {},
            **({"conditions": list(conditions)} if conditions else {}),
        },
    }


def build_pod(
    uid: str = "p",
    *,
    job: str = "j",
    owner_name: str = "fox",
    index: int = 0,
    version: int = 1,
    stage: str = "generate",
    pool: str | None = "t4",
    attempt: int = 1,
    created: float = -29,
    phase: str = "Running",
    state: Object | None = None,
    conditions: tuple[Object, ...] = (),
    node: str | None = "gpu-1",
    deleted: float | None = None,
    reason: str | None = None,
    message: str | None = None,
) -> Object:
    """`state` is that of its container; left out: it runs. `{}`: the kubelet has said nothing of it."""
    found = {"running": {"startedAt": at(created + 2)}} if state is None else state
    container = {
        "name": naming.CONTAINER,
        "image": "registry.example/runner:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "lastState": {},
        "state": found,
    }
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(created + 1)}
    known = conditions if any(found["type"] == "PodScheduled" for found in conditions) else (*conditions, scheduled)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"fox-{job}-{index}-{uid}",
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(version),
            "creationTimestamp": at(created),
            **({"deletionTimestamp": at(deleted), "deletionGracePeriodSeconds": 30} if deleted is not None else {}),
            "labels": {**_labels(owner_name, stage, pool, attempt), "batch.kubernetes.io/controller-uid": job},
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index), "other": "x"},
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": f"fox-{job}",
                    "uid": job,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "finalizers": ["batch.kubernetes.io/job-tracking"],
            "managedFields": [{"manager": "kubelet", "operation": "Update"}],
        },
        "spec": {
            "containers": [{"name": naming.CONTAINER, "image": "registry.example/runner:1", "env": []}],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 30,
            **({"nodeName": node} if node is not None else {}),
        },
        "status": {
            "phase": phase,
            "podIP": "10.88.0.7",
            "hostIP": "10.88.0.1",
            "qosClass": "Burstable",
            "startTime": at(created + 1),
            "conditions": [{"type": "Initialized", "status": "True"}, *known],
            **({"containerStatuses": [container]} if found else {}),
            **({"reason": reason} if reason is not None else {}),
            **({"message": message} if message is not None else {}),
        },
    }


def condition(kind: str, status: str = "True", reason: str = "", message: str = "", seconds: float = -5) -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at(seconds),
        "lastProbeTime": None,
    }


def ended(exit_code: int, *, reason: str = "", message: str = "") -> Object:
    """The state of a container that has ended."""
    return {
        "terminated": {
            "exitCode": exit_code,
            "reason": reason or ("Completed" if exit_code == 0 else "Error"),
            "message": message,
            "startedAt": at(-20),
            "finishedAt": at(-6),
            "containerID": "containerd://1",
        }
    }


def waits(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def build_list(*items: Object, version: int) -> ObjectList:
    return ObjectList(tuple(copy.deepcopy(item) for item in items), str(version))


def _labels(name: str, stage: str, pool: str | None, attempt: int) -> dict[str, str]:
    return {
        naming.LABEL_NAME: name,
        naming.LABEL_RUN: RUN,
        naming.LABEL_STAGE: stage,
        **({naming.LABEL_POOL: pool} if pool is not None else {}),
        naming.LABEL_ATTEMPT: str(attempt),
        naming.LABEL_ROUND: "1",
        "batch.kubernetes.io/job-name": f"{name}-job",
    }
