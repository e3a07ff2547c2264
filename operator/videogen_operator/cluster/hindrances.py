"""Why a pod does not run, in a sentence for its owner, out of what scheduler, kubelet and Job controller say.

The sentences hold no counts and no names of pods: a status that says the same thing is not written again.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from videogen_operator.cluster.views import Event, Job, Pod
from videogen_operator.core.observed import Waiting, WaitingReason

LOST_AFTER = timedelta(seconds=60)
"""A pod is given its grace period and this long to end."""

_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_IMAGE_CAUSES = (
    (re.compile(r"not found|manifest unknown|does not exist", re.IGNORECASE), "the registry does not have it"),
    (re.compile(r"unauthorized|denied|forbidden", re.IGNORECASE), "the registry refuses the credentials"),
    (re.compile(r"no such host|timeout|refused|unreachable", re.IGNORECASE), "the registry cannot be reached"),
)
_MISSING_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) [^/\s]*/?(\S+)")
_MISSING_OBJECT = re.compile(r"(secret|configmap) \"([^\"]+)\" not found")
# `0/5 nodes are available: 2 Insufficient nvidia.com/gpu, 3 node(s) had untolerated taint {a: b}. preemption: ...`
_SCHEDULER_CLAUSES = re.compile(r"nodes are available: (.*?)(?:\. preemption: .*|\.? ?)$", re.DOTALL)
_SCHEDULER_CLAUSE = re.compile(r"(?:^|, )\d+ (.+?)(?=, \d+ |$)", re.DOTALL)
_INSUFFICIENT = "Insufficient "
# `Error creating: pods "fox-0-x7k2p" is forbidden: exceeded quota: ...`
_REFUSAL = re.compile(r"^Error creating: (?:pods \"[^\"]*\" is forbidden: )?")


def waiting_of_pod(pod: Pod, now: datetime) -> Waiting | None:
    """What holds back a pod that has not ended."""
    deleted = pod.metadata.deletion_timestamp
    # The API server adds the grace period to that time itself.
    if deleted is not None and now > deleted + LOST_AFTER:
        node = pod.spec.node_name or "its node"
        message = f"node {node} does not answer: a pod there should have ended and nobody knows whether it has"
        return Waiting(WaitingReason.NODE_LOST, message, deleted + LOST_AFTER)
    since = _since(pod)
    state = pod.container.state.waiting
    if state is not None and state.reason in _IMAGE_REASONS:
        return Waiting(WaitingReason.IMAGE_UNAVAILABLE, _explain_image(pod.container.image, state.message), since)
    if state is not None and state.reason in _CONFIG_REASONS:
        return Waiting(WaitingReason.CONFIG_MISSING, _explain_config(pod.metadata.namespace, state.message), since)
    scheduled = next((found for found in pod.status.conditions if found.type == "PodScheduled"), None)
    if scheduled is not None and scheduled.status == "False":
        return Waiting(WaitingReason.UNSCHEDULABLE, _explain_scheduler(scheduled.message), since)
    return None


def waiting_of_job(job: Job, events: Iterable[Event], now: datetime, *, has_pods: bool) -> Waiting | None:
    """What holds back a Job that has not ended as a whole; `events` are its FailedCreate events."""
    created = job.metadata.creation_timestamp
    if job.spec.suspend:
        suspended = next((found for found in job.status.conditions if found.type == "Suspended"), None)
        since = suspended.last_transition_time if suspended is not None else None
        return Waiting(WaitingReason.QUEUED, _explain_suspension(job), since or created)
    if has_pods:
        return None
    newest = max(events, key=lambda event: event.last or created, default=None)
    if newest is None:
        return None
    message = f"the cluster refuses its pods: {_one_line(_REFUSAL.sub('', newest.message))}"
    return Waiting(WaitingReason.POD_REFUSED, message, min(newest.first or created, now))


def _since(pod: Pod) -> datetime:
    """When it began to wait: when the scheduler last changed its mind, at the latest."""
    times = [found.last_transition_time for found in pod.status.conditions if found.type == "PodScheduled"]
    return next((time for time in times if time is not None), pod.metadata.creation_timestamp)


def _explain_image(image: str, message: str) -> str:
    cause = next((f": {cause}" for pattern, cause in _IMAGE_CAUSES if pattern.search(message)), "")
    return f"image {image} cannot be pulled{cause}; check its name and the imagePullSecrets"


def _explain_config(namespace: str, message: str) -> str:
    if missing := _MISSING_KEY.search(message):
        key, kind, name = missing.groups()
        return f"{kind.lower()} {name} in namespace {namespace} has no key {key}; add it"
    if missing := _MISSING_OBJECT.search(message):
        kind, name = missing.groups()
        return f"{kind} {name} is not in namespace {namespace}; create it"
    return f"the container cannot be created: {_one_line(message)}"


def _explain_scheduler(message: str) -> str:
    clauses = _SCHEDULER_CLAUSES.search(message)
    if clauses is None:
        return f"no node can take a pod: {_one_line(message)}"
    found = dict.fromkeys(_SCHEDULER_CLAUSE.findall(clauses[1]))
    missing = [clause.removeprefix(_INSUFFICIENT) for clause in found if clause.startswith(_INSUFFICIENT)]
    reasons = [f"too little free {' and '.join(sorted(missing))}"] if missing else []
    reasons += sorted(_one_line(clause) for clause in found if not clause.startswith(_INSUFFICIENT))
    return f"no node can take a pod: {'; '.join(reasons)}"


def _explain_suspension(job: Job) -> str:
    queue = job.metadata.labels.queue
    if queue is None:
        return f"job {job.metadata.name} was suspended from outside; set its spec.suspend to false to go on"
    return f"queue {queue} has not admitted job {job.metadata.name} yet"


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "no reason given"
