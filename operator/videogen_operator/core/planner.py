"""From a manifest to a plan: what is made (prompts, seeds, sizes) and where it is made (formats, shards, slices).

`make_plan` is pure: the same manifest and defaults give the same bytes. The planner knows cards by their data sheets
and stages by costs.py; it knows nothing of what a cluster has free at the moment.
"""

from videogen_api import video as sizes
from videogen_api.architecture import architecture_of
from videogen_api.errors import InvalidInput
from videogen_api.plan import (
    EMBEDDING_WAIT_SECONDS,
    NUMERICS_VERSION,
    Plan,
    PlannedModel,
    PlannedPool,
    PlannedSampling,
    PlannedStorage,
    PlannedVideo,
)
from videogen_api.resource import VideoGeneration
from videogen_api.spec import ModelRef, RunnerPool, Sampling, Schedule, Storage, Strategy, Video
from videogen_operator.core import defaults as code_defaults
from videogen_operator.core.defaults import Defaults, resolve_encoder, resolve_model, resolve_pools, resolve_storage
from videogen_operator.core.placement import place_encoder, place_pool
from videogen_operator.core.strategy import choose_strategy, shares_cards
from videogen_operator.core.texts import resolve_prompt

# What a ConfigMap holds, less some room for its names.
MAX_PLAN_BYTES = 2**20 - 4096


def make_plan(resource: VideoGeneration, defaults: Defaults, *, least_shards: int = 1) -> Plan:
    """The plan of one run. Raises InvalidInput naming the field and the remedy.

    `least_shards` is what the run has learnt of its encoder: fewer have run out of memory.
    """
    spec = resource.spec
    model = _resolve_model(resolve_model(spec.model, defaults.model))
    architecture = architecture_of(model.name)
    sampling = spec.sampling or Sampling()
    video = _resolve_video(spec.video or Video())
    prompts = tuple(resolve_prompt(i, prompt, video, sampling) for i, prompt in enumerate(spec.prompts))
    planned_sampling = PlannedSampling(
        steps=sampling.steps or code_defaults.STEPS,
        guidance=code_defaults.GUIDANCE if sampling.guidance is None else float(sampling.guidance),
    )
    texts = tuple(dict.fromkeys(segment.text for prompt in prompts for segment in prompt.segments))
    pools = resolve_pools(spec.runners, defaults)
    if not any(pool.replicas for pool in pools):
        raise InvalidInput(
            "spec.runners: no pool has a replica, so nothing would run; raise replicas, or set spec.suspend to pause"
        )
    clips = sum(prompt.samples for prompt in prompts)
    encoder = resolve_encoder(spec.encoder, pools, defaults)
    planned_pools = tuple(
        place_pool(
            pool,
            architecture,
            video,
            planned_sampling,
            texts,
            clips,
            shares_encoder_cards=shares_cards(encoder, pool),
        )
        for pool in pools
    )
    _check_pools(pools, planned_pools)
    plan = Plan.with_run_id(
        name=resource.metadata.name,
        namespace=resource.metadata.namespace,
        numerics_version=NUMERICS_VERSION,
        prompts=prompts,
        video=video,
        sampling=planned_sampling,
        model=model,
        storage=_resolve_storage(resolve_storage(spec.storage, defaults.storage)),
        strategy=Strategy.SEQUENTIAL,
        why="",
        encoder=place_encoder(encoder, architecture, texts, least_shards=least_shards),
        pools=planned_pools,
        retries=code_defaults.RETRIES if spec.retries is None else spec.retries,
        embedding_wait_seconds=_embedding_wait_seconds(spec.schedule),
    )
    strategy, why = choose_strategy(spec.schedule, encoder, pools, plan)
    plan = plan.model_copy(update={"strategy": strategy, "why": why})
    _check_size(plan)
    return plan


def _check_pools(pools: tuple[RunnerPool, ...], planned: tuple[PlannedPool, ...]) -> None:
    """A pool whose cards are too small works on nothing; the run goes on with the others, if there are any."""
    asked = [each for pool, each in zip(pools, planned, strict=True) if pool.replicas]
    if all(each.unfit for each in asked):
        raise InvalidInput(
            f"spec.runners: {'; '.join(each.unfit for each in asked)}; "
            "lower spec.video.resolution or frames, or name a card with more memory"
        )


def _embedding_wait_seconds(schedule: Schedule | None) -> float:
    deadline = schedule.start_deadline_seconds if schedule is not None else None
    return EMBEDDING_WAIT_SECONDS if deadline is None else float(deadline)


def keep_strategy(resource: VideoGeneration, plan: Plan, before: Plan) -> Plan:
    """Another placement of a run that has begun: where nobody asks for one, its strategy stays as it was.

    Runners that began beside the encoder hold their cards; an encoder that now came first would wait for them.
    """
    schedule = resource.spec.schedule
    is_asked_for = schedule is not None and schedule.strategy not in (None, Strategy.AUTO)
    if is_asked_for or plan.run_id != before.run_id:
        return plan
    return plan.model_copy(update={"strategy": before.strategy, "why": before.why})


def _resolve_model(model: ModelRef) -> PlannedModel:
    if model.name is None or model.precision is None:
        raise AssertionError("the code's defaults name a model and a precision")
    if model.weights is None:
        raise InvalidInput(
            "spec.model.weights: missing; say where the weights are: s3://bucket/path, pvc://claim/path or a path"
        )
    return PlannedModel(name=model.name, weights=model.weights, precision=model.precision)


def _resolve_storage(storage: Storage) -> PlannedStorage:
    if storage.url is None:
        raise InvalidInput("spec.storage.url: missing; say where results go: s3://bucket/path")
    return PlannedStorage(url=storage.url, endpoint=storage.endpoint, region=storage.region)


def _resolve_video(video: Video) -> PlannedVideo:
    if video.size is not None:
        height, width = video.size.height, video.size.width
    else:
        height, width = sizes.image_size_of_aspect(
            video.resolution or code_defaults.RESOLUTION, video.aspect_ratio or code_defaults.ASPECT_RATIO
        )
    planned = PlannedVideo(
        height=height,
        width=width,
        frames=video.frames or code_defaults.FRAMES,
        fps=video.fps or code_defaults.FPS,
        loops=video.loops or code_defaults.LOOPS,
        condition_frames=video.condition_frames or code_defaults.CONDITION_FRAMES,
    )
    if planned.loops > 1 and planned.condition_frames >= planned.frames:
        raise InvalidInput(
            f"spec.video.conditionFrames: {planned.condition_frames} of {planned.frames} frames would leave a loop "
            "nothing of its own; lower it, raise frames, or set loops to 1"
        )
    return planned


def _check_size(plan: Plan) -> None:
    size = len(plan.to_bytes())
    if size > MAX_PLAN_BYTES:
        raise InvalidInput(
            f"spec.prompts: the plan would take {size:,} bytes, and Kubernetes keeps {MAX_PLAN_BYTES:,}; use several "
            "VideoGenerations"
        )
