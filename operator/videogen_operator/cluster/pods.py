"""The pod of one stage as a plain dict: who may do what in it, on which cards, with which environment.

Pure: from values to values. What users may say about pods is a closed list (`spec.Pod`); everything else is the
operator's and the same in every pod. Pod Security's `restricted` profile admits all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from videogen_api import naming
from videogen_api.errors import ConfigInvalid
from videogen_api.naming import Env, Stage
from videogen_api.plan import Device, Plan, StageCost
from videogen_api.resource import VideoGeneration
from videogen_api.spec import Gpu, Pod
from videogen_operator.config import OperatorConfig
from videogen_operator.core.activations import finish_bytes
from videogen_operator.core.deadlines import HALF_STARTED_SECONDS
from videogen_operator.core.defaults import Defaults, resolve_encoder, resolve_pools, resolve_storage
from videogen_operator.core.observed import Group

COMMAND = ("python", "-m", "videogen_runner.main")
"""An image's own entry point is the `videogen` command."""
_PRODUCT_LABEL = "nvidia.com/gpu.product"
"""The node label that NVIDIA's feature discovery writes."""
USER_ID = 65532
"""Of both images; nobody on the node has it."""
PVC_SCHEME = "pvc://"

_PLAN_FOLDER = "/etc/videogen"
_SCRATCH_FOLDER = "/scratch"
_WEIGHTS_FOLDER = "/weights"
_GRACE_SECONDS = 30

_SHARD_PATIENCE = 2
"""A shard waits longer for the others than the operator does, which knows better what holds them back."""

# The Secret's keys have the names of the variables. Temporary credentials alone have a token.
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False, "AWS_SESSION_TOKEN": True}

_MIB = 2**20
# What a process holds on the host beside what the plan counts, with some room. Measured: torch and transformers take
# 0.7 GiB after their imports; with the context and libraries of a card (H100, torch 2.11) it is 1.3.
_PROCESS_BYTES = {Device.CPU: 1024 * _MIB, Device.CUDA: 2048 * _MIB}
_SMALL_REQUESTS = {"cpu": "100m", "memory": "256Mi"}
"""Preflight and collect: 61 MiB after their imports (measured), and what they read."""


@dataclass(frozen=True)
class _Workload:
    """What the pods of the stages differ in."""

    image: str
    gpu: Gpu | None
    pod: Pod
    requests: dict[str, str]
    """Of cpu and memory, where the user says nothing."""
    reads_weights: bool


def render_pod_template(
    resource: VideoGeneration,
    plan: Plan,
    plan_name: str,
    group: Group,
    job: str,
    config: OperatorConfig,
    labels: dict[str, str],
) -> dict[str, Any]:
    """The template of a group's pods; `labels` come on top of the user's. `job` is the name of Job and Service.

    Raises ConfigInvalid for a pool that the resource does not have.
    """
    workload = _workload(resource, plan, group, config)
    pod, gpu = workload.pod, workload.gpu
    volumes: list[dict[str, Any]] = [
        {
            "name": "plan",
            "configMap": {"name": plan_name, "items": [{"key": naming.PLAN_FILE, "path": naming.PLAN_FILE}]},
        },
        {"name": "scratch", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "plan", "mountPath": _PLAN_FOLDER, "readOnly": True},
        {"name": "scratch", "mountPath": _SCRATCH_FOLDER},
    ]
    claim = _claim(plan) if workload.reads_weights else None
    if claim is not None:
        volumes.append({"name": "weights", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": "weights", "mountPath": _WEIGHTS_FOLDER, "readOnly": True})
    container = {
        "name": naming.CONTAINER,
        "image": workload.image,
        "imagePullPolicy": config.images.pull_policy.value,
        "command": list(COMMAND),
        "env": list(_environment(resource, plan, group, job, workload, config.defaults)),
        "ports": [{"name": "http", "containerPort": naming.DEFAULT_PORT, "protocol": "TCP"}],
        "resources": _resources(workload),
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    product = {_PRODUCT_LABEL: gpu.product} if gpu is not None and gpu.count and gpu.product else {}
    overrides = {
        "nodeSelector": product | (pod.node_selector or {}),
        "tolerations": [
            toleration.model_dump(by_alias=True, exclude_none=True) for toleration in pod.tolerations or ()
        ],
        "priorityClassName": pod.priority_class_name,
        "imagePullSecrets": [secret.model_dump() for secret in pod.image_pull_secrets or ()],
        "serviceAccountName": pod.service_account_name,
    }
    pod_spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **{field: value for field, value in overrides.items() if value},
        "containers": [container],
        "volumes": volumes,
    }
    return {"metadata": {"labels": (pod.labels or {}) | labels}, "spec": pod_spec}


def _workload(resource: VideoGeneration, plan: Plan, group: Group, config: OperatorConfig) -> _Workload:
    spec, defaults = resource.spec, config.defaults
    if group.stage == Stage.GENERATE and group.pool is not None:
        planned = plan.pool(group.pool)
        pool = next((pool for pool in resolve_pools(spec.runners, defaults) if pool.name == group.pool), None)
        if pool is None:
            raise ConfigInvalid(f"spec.runners has no pool {group.pool!r}, which the plan places; plan the run again")
        host_bytes = finish_bytes(plan.video, planned.vae_dtype, Device.CPU)
        requests = _requests(planned.device, planned.cost, host_bytes)
        return _Workload(config.images.runner, pool.gpu, _pod_of_pool(resource, group.pool, defaults), requests, True)
    encoder_pod = _pod_of_encoder(resource, defaults)
    if group.stage == Stage.ENCODE:
        encoder = resolve_encoder(spec.encoder, resolve_pools(spec.runners, defaults), defaults)
        requests = _requests(plan.encoder.device, plan.encoder.cost, 0)
        return _Workload(config.images.runner, encoder.gpu, encoder_pod, requests, True)
    pod = encoder_pod.model_copy(update={"node_selector": None, "resources": None})
    return _Workload(config.images.operator, None, pod, _SMALL_REQUESTS, group.stage == Stage.PREFLIGHT)


def _pod_of_pool(resource: VideoGeneration, name: str, defaults: Defaults) -> Pod:
    """The resource's own pool over the cluster's of that name."""
    pools = (*(defaults.runners or ()), *(resource.spec.runners or ()))
    return _merge_pods(_pod_of_cluster(defaults), *(pool.pod for pool in pools if pool.name == name))


def _pod_of_cluster(defaults: Defaults) -> Pod:
    """Who pulls the images, and as whom pods run: that does not depend on the kind of card, nor on a pool's name."""
    of_pools = (pool.pod for pool in reversed(defaults.runners or ()))
    pod = _merge_pods(*of_pools, defaults.encoder.pod if defaults.encoder is not None else None)
    return Pod.model_construct(image_pull_secrets=pod.image_pull_secrets, service_account_name=pod.service_account_name)


def _pod_of_encoder(resource: VideoGeneration, defaults: Defaults) -> Pod:
    """The resource's own over the cluster's, and that over the pod of the pool whose cards the encoder takes.

    With cards of its own it runs on other nodes than the pool.
    """
    pools = resolve_pools(resource.spec.runners, defaults)
    lender = next((pool for pool in pools if pool.gpu is not None and pool.gpu.count), pools[0])
    own = [encoder for encoder in (defaults.encoder, resource.spec.encoder) if encoder is not None]
    not_lent: dict[str, None] = {"resources": None}
    if any(encoder.gpu is not None for encoder in own):
        not_lent["node_selector"] = None
    lent = _pod_of_pool(resource, lender.name, defaults).model_copy(update=not_lent)
    return _merge_pods(lent, *(encoder.pod for encoder in own))


def _merge_pods(*pods: Pod | None) -> Pod:
    """One value out of several: maps and lists add up; of a key or field that is there twice, the last counts."""
    fields: dict[str, Any] = {}
    for pod in pods:
        for name in Pod.model_fields if pod is not None else ():
            before, value = fields.get(name), getattr(pod, name)
            if isinstance(value, dict):
                fields[name] = (before or {}) | value
            elif isinstance(value, tuple):
                fields[name] = tuple(dict.fromkeys((*(before or ()), *value)))
            elif value is not None:
                fields[name] = value
    # Not checked again: the sum may be longer than what one manifest may say.
    return Pod.model_construct(**fields)


def _claim(plan: Plan) -> str | None:
    weights = plan.model.weights
    return weights.removeprefix(PVC_SCHEME).partition("/")[0] if weights.startswith(PVC_SCHEME) else None


def _start_deadline_seconds(resource: VideoGeneration) -> int:
    schedule = resource.spec.schedule
    return (schedule and schedule.start_deadline_seconds) or HALF_STARTED_SECONDS


def _environment(
    resource: VideoGeneration, plan: Plan, group: Group, job: str, workload: _Workload, defaults: Defaults
) -> Iterator[dict[str, Any]]:
    values = {
        # One thread each: a clip must not depend on the cores of its node. Whoever wants more says so in pod.env.
        "OMP_NUM_THREADS": "1",
        **{variable.name: variable.value for variable in workload.pod.env or ()},
        Env.ROLE.value: group.stage.value,
        Env.PLAN.value: f"{_PLAN_FOLDER}/{naming.PLAN_FILE}",
        Env.ATTEMPT.value: str(group.attempt),
        Env.PORT.value: str(naming.DEFAULT_PORT),
        Env.SCRATCH.value: _SCRATCH_FOLDER,
        "HOME": _SCRATCH_FOLDER,
        "TMPDIR": _SCRATCH_FOLDER,
    }
    if group.pool is not None:
        values[Env.POOL.value] = group.pool
    if group.stage == Stage.ENCODE and group.processes > 1:
        values[Env.SHARDS_ADDRESS.value] = f"{job}-0.{job}:{naming.SHARDS_PORT}"
        values[Env.START_DEADLINE.value] = str(_SHARD_PATIENCE * _start_deadline_seconds(resource))
    if workload.gpu is not None and workload.gpu.count == 0:
        values[Env.DEVICE.value] = Device.CPU.value
    if workload.reads_weights and plan.model.weights.startswith(PVC_SCHEME):
        path = plan.model.weights.removeprefix(PVC_SCHEME).partition("/")[2].strip("/")
        values[Env.WEIGHTS.value] = f"{_WEIGHTS_FOLDER}/{path}".rstrip("/")
    for name, value in values.items():
        # Otherwise Kubernetes would put the values of other variables in place of $(NAME), secrets too.
        yield {"name": name, "value": value.replace("$", "$$")}
    yield {"name": Env.POD.value, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    yield {"name": Env.NODE.value, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    secret = resolve_storage(resource.spec.storage, defaults.storage).credentials_secret
    if secret is not None:
        for key, optional in _CREDENTIALS.items():
            reference = {"name": secret, "key": key, "optional": optional}
            yield {"name": key, "valueFrom": {"secretKeyRef": reference}}


def _requests(device: Device, cost: StageCost, host_bytes: int) -> dict[str, str]:
    """One core, and the memory that the plan predicts: on a card, `host_bytes` is what comes back from it."""
    held = _PROCESS_BYTES[device] + (cost.peak_memory_bytes if device == Device.CPU else host_bytes)
    return {"cpu": "1", "memory": f"{ceil(held / _MIB)}Mi"}


def _resources(workload: _Workload) -> dict[str, Any]:
    own = workload.pod.resources
    requests = dict((own and own.requests) or {})
    limits = dict((own and own.limits) or {})
    # A request beside a limit that is smaller would be refused.
    requests |= {
        name: value for name, value in workload.requests.items() if name not in requests and name not in limits
    }
    if workload.gpu is not None and workload.gpu.count and workload.gpu.resource is not None:
        limits[workload.gpu.resource] = str(workload.gpu.count)
    return {"requests": requests, **({"limits": limits} if limits else {})}
