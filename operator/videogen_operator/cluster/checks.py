"""What a cluster refuses although the manifest is well-formed: paths of one machine, and names that only the
administrator may give.

Pure. The operator asks before it creates anything, `videogen render` before it prints anything.
"""

import re
from collections.abc import Iterator, Sequence

from videogen_api.errors import InvalidInput
from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_api.spec import Gpu, Pod
from videogen_operator.cluster.pods import PVC_SCHEME
from videogen_operator.cluster.render import defaults_bytes
from videogen_operator.config import OperatorConfig
from videogen_operator.core.defaults import resolve_encoder, resolve_pools

MAX_CONFIG_MAP_BYTES = 2**20

_CONFIGURATION = "the operator's configuration"
_CLAIM_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def check_for_cluster(resource: VideoGeneration, plan: Plan, config: OperatorConfig) -> None:
    """Raises InvalidInput, naming the field and the remedy, for the first thing that cannot work in this cluster.

    `config.defaults` must be those that the plan was made with.
    """
    for problem in _problems(resource, plan, config):
        raise InvalidInput(problem)


def _problems(resource: VideoGeneration, plan: Plan, config: OperatorConfig) -> Iterator[str]:
    yield from _check_storage(resource, plan, config)
    yield from _check_weights(resource, plan)
    yield from _check_references(resource, plan)
    for field, pod, gpu in _pods(resource, config):
        yield from _check_allowed(field, pod, config)
        yield from _check_gpu(field, pod, gpu)
    size = len(plan.to_bytes()) + len(defaults_bytes(config.defaults))
    if size > MAX_CONFIG_MAP_BYTES:
        yield (
            f"spec.prompts: the plan would take {size:,} bytes, and a ConfigMap holds {MAX_CONFIG_MAP_BYTES:,}; "
            "use several VideoGenerations"
        )


def _check_storage(resource: VideoGeneration, plan: Plan, config: OperatorConfig) -> Iterator[str]:
    own = resource.spec.storage
    if not plan.storage.url.startswith("s3://"):
        field = (
            "spec.storage.url"
            if own is not None and own.url is not None
            else f"defaults.storage.url of {_CONFIGURATION}"
        )
        yield f"{field}: {plan.storage.url} is a folder of one machine, which pods do not share; want s3://bucket/path"
    if own is None or own.endpoint is None:
        return
    default = config.defaults.storage.endpoint if config.defaults.storage is not None else None
    allowed = [*config.allowed.endpoints, *([default] if default is not None else [])]
    if own.endpoint.rstrip("/") not in {endpoint.rstrip("/") for endpoint in allowed}:
        yield _not_allowed("spec.storage.endpoint", own.endpoint, "endpoints", allowed)


def _check_weights(resource: VideoGeneration, plan: Plan) -> Iterator[str]:
    weights = plan.model.weights
    own = resource.spec.model
    field = "spec.model.weights" if own is not None and own.weights else f"defaults.model.weights of {_CONFIGURATION}"
    if weights.startswith(PVC_SCHEME):
        claim, _, path = weights.removeprefix(PVC_SCHEME).partition("/")
        if not _CLAIM_NAME.fullmatch(claim):
            yield f"{field}: {weights}: {claim!r} is no name of a PersistentVolumeClaim; want pvc://claim/path"
        if ".." in path.split("/"):
            yield f"{field}: {weights} leads out of the volume; want pvc://claim/path without .."
    elif weights != "builtin" and not weights.startswith("s3://"):
        yield (
            f"{field}: {weights} is a folder of one machine, which pods do not have; "
            "want s3://bucket/path, pvc://claim/path or builtin"
        )


def _check_references(resource: VideoGeneration, plan: Plan) -> Iterator[str]:
    for position, prompt in enumerate(plan.prompts):
        of_spec = [reference.url for reference in resource.spec.prompts[position].references or ()]
        for reference in prompt.references:
            if reference.url.startswith("s3://"):
                continue
            field = f"spec.prompts[{position}]"
            if reference.url in of_spec:
                field += f".references[{of_spec.index(reference.url)}].url"
            else:
                field += ".text: reference_path"
            yield f"{field}: {reference.url} is a file of one machine, which pods do not have; want s3://bucket/key"


def _pods(resource: VideoGeneration, config: OperatorConfig) -> Iterator[tuple[str, Pod, Gpu]]:
    """The manifest's own pods; those of the defaults are the administrator's."""
    pools = resolve_pools(resource.spec.runners, config.defaults)
    own = resource.spec.encoder
    if own is not None:
        encoder = resolve_encoder(own, pools, config.defaults)
        yield "spec.encoder", own.pod or Pod(), encoder.gpu or Gpu()
    if resource.spec.runners:
        for position, pool in enumerate(pools):
            yield f"spec.runners[{position}]", pool.pod or Pod(), pool.gpu or Gpu()


def _check_allowed(field: str, pod: Pod, config: OperatorConfig) -> Iterator[str]:
    account, priority = pod.service_account_name, pod.priority_class_name
    if account is not None and account not in config.allowed.service_accounts:
        names = config.allowed.service_accounts
        yield _not_allowed(f"{field}.pod.serviceAccountName", account, "serviceAccounts", names)
    if priority is not None and priority not in config.allowed.priority_classes:
        names = config.allowed.priority_classes
        yield _not_allowed(f"{field}.pod.priorityClassName", priority, "priorityClasses", names)


def _not_allowed(field: str, value: str, key: str, allowed: Sequence[str]) -> str:
    names = ", ".join(allowed)
    return (
        f"{field}: {value} is not allowed here ({f'allowed: {names}' if names else 'none is'}); "
        f"remove it, or ask the cluster's administrator to add it to allowed.{key} of {_CONFIGURATION}"
    )


def _check_gpu(field: str, pod: Pod, gpu: Gpu) -> Iterator[str]:
    for kind in ("requests", "limits"):
        if pod.resources is not None and gpu.resource in (getattr(pod.resources, kind) or {}):
            yield f"{field}.pod.resources.{kind}: {gpu.resource} does not belong here; set {field}.gpu.count"
