"""Children of a resource as plain dicts, as they are posted: the plan's ConfigMap, and for each group its Job.

Pure: same inputs, same dicts. Nothing here knows an API server; `client.py` posts what these functions return, and
`videogen render` prints it. `config.defaults` must be the defaults that the plan was made with.
"""

from typing import Any

from videogen_api import naming
from videogen_api.errors import ExitCode
from videogen_api.naming import Stage
from videogen_api.plan import Plan, canonical_json
from videogen_api.resource import VideoGeneration
from videogen_operator.cluster.pods import render_pod_template
from videogen_operator.config import OperatorConfig
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.observed import Group

# A second try cannot cure them, so that one index ends the whole Job.
_FINAL_CODES = (ExitCode.INVALID_INPUT, ExitCode.WEIGHTS, ExitCode.STORE_DENIED, ExitCode.CONFIG_INVALID)
# The pod did nothing wrong; they cost no retry.
_FREE_CODES = (ExitCode.STORE_UNAVAILABLE, ExitCode.INTERRUPTED)

# The Job controller's own label on every pod of a Job.
_JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


def render_plan(resource: VideoGeneration, plan: Plan, revision: int, defaults: Defaults) -> dict[str, Any]:
    """The immutable ConfigMap of one placement: the plan, and the cluster's defaults that it was made with."""
    prefix = _prefix(resource, plan)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(resource, naming.plan_name(prefix, revision), _run_labels(resource, plan)),
        "immutable": True,
        "data": {
            naming.PLAN_FILE: plan.to_bytes().decode(),
            naming.DEFAULTS_FILE: defaults_bytes(defaults).decode(),
        },
    }


def defaults_bytes(defaults: Defaults) -> bytes:
    """Canonical JSON of what the defaults say; `Defaults.model_validate_json` reads it."""
    return canonical_json(defaults.model_dump(mode="json", by_alias=True, exclude_none=True))


def render_group(
    resource: VideoGeneration, plan: Plan, revision: int, group: Group, config: OperatorConfig
) -> tuple[dict[str, Any], ...]:
    """What must be created for a group, in this order: its Job, and before an encoder's Job the headless Service.

    `revision` is that of the plan's ConfigMap. Raises ConfigInvalid for a pool that resource or plan does not have.
    """
    prefix = _prefix(resource, plan)
    name = naming.child_name(prefix, group.stage, group.pool, group.attempt)
    labels = _group_labels(resource, plan, group)
    template = render_pod_template(resource, plan, naming.plan_name(prefix, revision), group, name, config, labels)
    if group.stage == Stage.ENCODE:
        # Each shard's host name is JOB-INDEX; in the Service's domain the others can look it up.
        template["spec"] |= {"subdomain": name, "setHostnameAsFQDN": False}
    queue = resource.spec.schedule.queue if resource.spec.schedule is not None else None
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(resource, name, labels | ({naming.QUEUE_LABEL: queue} if queue is not None else {})),
        "spec": {
            # Kueue resumes the Job when its queue has room.
            **({"suspend": True} if queue is not None else {}),
            "completionMode": "Indexed",
            "completions": group.processes,
            "parallelism": group.processes,
            "podReplacementPolicy": "Failed",
            **(_retries_per_index(plan) if group.stage == Stage.GENERATE else {"backoffLimit": 0}),
            "template": template,
        },
    }
    return (_render_service(resource, name, labels), job) if group.stage == Stage.ENCODE else (job,)


def _retries_per_index(plan: Plan) -> dict[str, Any]:
    """The first rule that matches decides: final codes end the Job, even where the node is being drained as well."""
    return {
        "backoffLimitPerIndex": plan.retries,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": _exit_codes(_FINAL_CODES)},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "Ignore", "onExitCodes": _exit_codes(_FREE_CODES)},
            ]
        },
    }


def _exit_codes(codes: tuple[ExitCode, ...]) -> dict[str, Any]:
    return {"containerName": naming.CONTAINER, "operator": "In", "values": [code.value for code in codes]}


def _render_service(resource: VideoGeneration, job: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(resource, job, labels),
        "spec": {
            "clusterIP": "None",
            # The shards look each other up before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {_JOB_NAME_LABEL: job},
            "ports": [{"name": "http", "port": naming.DEFAULT_PORT, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def _prefix(resource: VideoGeneration, plan: Plan) -> str:
    metadata = resource.metadata
    return naming.child_prefix(metadata.namespace, metadata.name, metadata.uid, plan.run_id)


def _run_labels(resource: VideoGeneration, plan: Plan) -> dict[str, str]:
    return {naming.LABEL_NAME: resource.metadata.name, naming.LABEL_RUN: plan.run_id}


def _group_labels(resource: VideoGeneration, plan: Plan, group: Group) -> dict[str, str]:
    return {
        **_run_labels(resource, plan),
        naming.LABEL_STAGE: group.stage.value,
        **({naming.LABEL_POOL: group.pool} if group.pool is not None else {}),
        naming.LABEL_ATTEMPT: str(group.attempt),
        naming.LABEL_ROUND: str(group.round),
        **({naming.LABEL_TEMPLATE: group.template} if group.template else {}),
    }


def _metadata(resource: VideoGeneration, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """The owner reference lets Kubernetes collect the child; blockOwnerDeletion would need a right on finalizers."""
    owner = {
        "apiVersion": naming.API_VERSION,
        "kind": naming.KIND,
        "name": resource.metadata.name,
        "uid": resource.metadata.uid,
        "controller": True,
    }
    return {
        "name": name,
        "namespace": resource.metadata.namespace,
        "labels": labels,
        "ownerReferences": [owner],
    }
