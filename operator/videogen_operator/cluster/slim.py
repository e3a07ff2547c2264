"""What is worth keeping of an object: the fields that observing looks at, a tenth of what the API server sends.

Keys are written out here once more because a key that comes from JSON is a new string in every object.
"""

from collections.abc import Callable, Iterable
from typing import Any

from videogen_api import naming
from videogen_operator.cluster.resources import JOBS, PODS, VIDEO_GENERATIONS, Object, Resource

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
"""The Job controller's own: the index of a pod in its Job."""

LABELS = (
    naming.LABEL_NAME,
    naming.LABEL_RUN,
    naming.LABEL_STAGE,
    naming.LABEL_POOL,
    naming.LABEL_ATTEMPT,
    naming.LABEL_ROUND,
    naming.LABEL_TEMPLATE,
    naming.QUEUE_LABEL,
)
"""The labels of a child that mean something to the operator."""

_METADATA = (
    "name",
    "namespace",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_JOB_SPEC = ("suspend", "completions", "parallelism")
_JOB_STATUS = ("startTime", "completionTime", "active", "terminating")
_CONDITION = ("type", "status", "reason", "message", "lastTransitionTime")
_JOB_CONDITIONS = frozenset({"Complete", "SuccessCriteriaMet", "Failed", "FailureTarget", "Suspended"})
_POD_CONDITIONS = frozenset({"PodScheduled", "DisruptionTarget"})
_POD_SPEC = ("nodeName", "hostNetwork", "terminationGracePeriodSeconds")
_POD_STATUS = ("phase", "reason", "message", "podIP", "startTime")


def slim(resource: Resource, found: Object) -> Object:
    """A smaller copy of a VideoGeneration, Job or Pod, without resourceVersion."""
    return _SLIM[resource](found)


def _slim_video_generation(found: Object) -> Object:
    return {
        "apiVersion": naming.API_VERSION,
        "kind": naming.KIND,
        "metadata": _pick(found.get("metadata"), _METADATA),
        "spec": found.get("spec", {}),
        "status": found.get("status", {}),
    }


def _slim_job(found: Object) -> Object:
    status = _pick(found.get("status"), _JOB_STATUS)
    status["conditions"] = _slim_conditions(found, _JOB_CONDITIONS)
    return {
        "metadata": _slim_metadata(found),
        "spec": _pick(found.get("spec"), _JOB_SPEC),
        "status": status,
    }


def _slim_pod(found: Object) -> Object:
    status = _pick(found.get("status"), _POD_STATUS)
    status["conditions"] = _slim_conditions(found, _POD_CONDITIONS)
    containers = (found.get("status") or {}).get("containerStatuses") or ()
    status["containerStatuses"] = [
        {"name": container["name"], "image": container.get("image", ""), "state": container.get("state") or {}}
        for container in containers
        if container.get("name") == naming.CONTAINER
    ]
    return {"metadata": _slim_metadata(found), "spec": _pick(found.get("spec"), _POD_SPEC), "status": status}


_SLIM: dict[Resource, Callable[[Object], Object]] = {
    VIDEO_GENERATIONS: _slim_video_generation,
    JOBS: _slim_job,
    PODS: _slim_pod,
}


def _slim_metadata(found: Object) -> Object:
    metadata = found.get("metadata") or {}
    kept = _pick(metadata, _METADATA)
    kept["labels"] = _pick(metadata.get("labels"), LABELS)
    kept["annotations"] = _pick(metadata.get("annotations"), (INDEX_ANNOTATION,))
    kept["ownerReferences"] = [
        _pick(owner, ("apiVersion", "kind", "name", "uid", "controller"))
        for owner in metadata.get("ownerReferences") or ()
        if owner.get("controller")
    ]
    return kept


def _slim_conditions(found: Object, types: frozenset[str]) -> list[Object]:
    conditions = (found.get("status") or {}).get("conditions") or ()
    return [_pick(condition, _CONDITION) for condition in conditions if condition.get("type") in types]


def _pick(found: dict[str, Any] | None, keys: Iterable[str]) -> Object:
    found = found or {}
    return {key: found[key] for key in keys if key in found}
