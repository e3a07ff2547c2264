"""What a run takes where its manifest says nothing: the cluster's values first, then these. Never written to a spec."""

from typing import Annotated, TypeVar

from pydantic import Field

from videogen_api.architecture import DEFAULT_MODEL
from videogen_api.spec import Encoder, Gpu, Model, ModelRef, Precision, RunnerPool, Storage

RESOLUTION = "240p"
ASPECT_RATIO = "16:9"
FRAMES = 51
FPS = 24
LOOPS = 1
CONDITION_FRAMES = 17
STEPS = 30
GUIDANCE = 7.0
AESTHETIC_SCORE = 6.5
PRECISION = Precision.EXACT
GPU_RESOURCE = "nvidia.com/gpu"
RETRIES = 3

_ONE_GPU = Gpu(resource=GPU_RESOURCE, count=1)
_POOL = RunnerPool(name="default", replicas=1, gpu=_ONE_GPU)
_CPU = Gpu(count=0)

M = TypeVar("M", bound=Model)


class Defaults(Model):
    """A cluster's own values, or a machine's."""

    storage: Storage | None = None
    model: ModelRef | None = None
    encoder: Encoder | None = None
    runners: Annotated[tuple[RunnerPool, ...], Field(max_length=16)] | None = None
    machine: RunnerPool | None = None
    """The one machine that everything runs on: it takes the place of the pools and of the encoder's cards."""


def local_defaults(
    storage_url: str,
    *,
    workers: int = 1,
    device: str = "cpu",
    gpu_memory: str | None = None,
    encoder_shards: int | None = None,
) -> Defaults:
    """Defaults of `videogen run`: results go to a folder, and `workers` processes of this machine do the work.

    `gpu_memory` is a Kubernetes quantity: what each process may take of its card.
    """
    gpu = _CPU if device == "cpu" else _ONE_GPU.model_copy(update={"memory": gpu_memory})
    return Defaults(
        storage=Storage(url=storage_url),
        machine=RunnerPool(name="local", replicas=workers, gpu=gpu),
        encoder=Encoder(shards=encoder_shards),
    )


def resolve_storage(spec: Storage | None, cluster: Storage | None) -> Storage:
    """Field by field: a URL of one's own keeps the cluster's endpoint."""
    return _merge(Storage, cluster, spec)


def resolve_model(spec: ModelRef | None, cluster: ModelRef | None) -> ModelRef:
    """Field by field; the cluster's weights count only for the cluster's model."""
    name = (spec and spec.name) or (cluster and cluster.name) or DEFAULT_MODEL
    if cluster is not None and (cluster.name or DEFAULT_MODEL) != name:
        cluster = cluster.model_copy(update={"weights": None})
    return _merge(ModelRef, ModelRef(name=name, precision=PRECISION), cluster, spec)


def resolve_pools(spec: tuple[RunnerPool, ...] | None, defaults: Defaults) -> tuple[RunnerPool, ...]:
    """The manifest's pools, the cluster's where it names none, and one card where neither does."""
    if defaults.machine is not None:
        return (defaults.machine,)
    return tuple(
        pool.model_copy(
            update={
                "replicas": 1 if pool.replicas is None else pool.replicas,
                "gpu": _merge(Gpu, _ONE_GPU, pool.gpu),
            }
        )
        for pool in spec or defaults.runners or (_POOL,)
    )


def resolve_encoder(spec: Encoder | None, pools: tuple[RunnerPool, ...], defaults: Defaults) -> Encoder:
    """Shards may stay open. Without cards of its own the encoder takes those of the first pool that has any."""
    if defaults.machine is not None:
        shards = defaults.encoder.shards if defaults.encoder is not None else None
        return Encoder(gpu=defaults.machine.gpu, shards=shards)
    merged = _merge(Encoder, defaults.encoder, spec)
    if merged.gpu is not None:
        return merged.model_copy(update={"gpu": _merge(Gpu, _ONE_GPU, merged.gpu)})
    gpus = [pool.gpu for pool in pools if pool.gpu is not None and pool.gpu.count]
    return merged.model_copy(update={"gpu": gpus[0] if gpus else _CPU})


def _merge(kind: type[M], *values: M | None) -> M:
    """One value out of several, each field the last one that is there."""
    fields: dict[str, object] = {}
    for value in values:
        if value is not None:
            fields |= {name: field for name in kind.model_fields if (field := getattr(value, name)) is not None}
    return kind(**fields)
