"""A plan, and a simulated run of it, as text for a person."""

from videogen_api.plan import Device, Plan, PlannedPool
from videogen_api.video import num_tokens
from videogen_operator.cli.chart import render_chart
from videogen_operator.cli.tables import format_bytes, format_flops, format_seconds, render_fields, render_table
from videogen_operator.core.play import Played
from videogen_operator.core.simulate import Moment
from videogen_operator.core.totals import least_seconds, totals_of

OF_THE_CLUSTER = "<cluster-default>"
"""Stands for a location that the cluster's defaults would give."""

_SHOWN_CLIPS = 4


def render_plan(plan: Plan) -> str:
    """The plan for a person."""
    totals = totals_of(plan)
    summary = [
        ("name", f"{plan.namespace}/{plan.name}"),
        ("run", plan.run_id if plan.model.weights != OF_THE_CLUSTER else "(depends on the weights)"),
        ("model", f"{plan.model.name} ({plan.model.precision}), weights {plan.model.weights}"),
        ("storage", plan.storage.url),
        ("clips", _describe_clips(plan)),
        ("size", _describe_size(plan)),
        ("sampling", f"{plan.sampling.steps} steps, guidance {plan.sampling.guidance:g}"),
        ("strategy", f"{plan.strategy}. {plan.why}"),
        ("total", f"{format_flops(totals.flops)}, {_describe_gpu_time(totals.gpu_seconds)}"),
        ("time", f"about {format_seconds(totals.seconds)}, without starting pods and loading weights"),
    ]
    encoder = plan.encoder
    encode_row = [
        str(len(plan.texts)), str(encoder.shards), encoder.device.value, encoder.dtype.value,
        format_bytes(encoder.cost.peak_memory_bytes), format_seconds(encoder.cost.seconds),
    ]  # fmt: skip
    return "\n\n".join(
        [
            render_fields(summary),
            render_table(["ENCODE TEXTS", "SHARDS", "DEVICE", "DTYPE", "PEAK MEMORY", "TIME"], [encode_row]),
            render_table(
                [
                    "GENERATE POOL",
                    "REPLICAS",
                    "CARD",
                    "DTYPE",
                    "VAE",
                    "GUIDANCE",
                    "DECODE",
                    "PEAK MEMORY",
                    "STEP",
                    "CLIP",
                ],
                [_pool_row(pool) for pool in plan.pools],
            ),
            *(f"Without runners: {pool.unfit}" for pool in plan.pools if pool.unfit),
        ]
    )


def render_played(plan: Plan, played: Played) -> str:
    """A simulated run for a person: how long, how well used, and what happened when."""
    least = least_seconds(plan, played.scenario.speeds)
    fields = [("makespan", f"{format_seconds(played.seconds)}; no order of clips could beat {format_seconds(least)}")]
    if played.scenario.losses_per_hour:
        pods = f"{played.losses} pod{'' if played.losses == 1 else 's'}"
        fields.append(("lost", f"{pods}, {format_seconds(played.redone_seconds)} of work done again"))
    rows = [[format_seconds(played.age(at)), at.phase.value, _describe_groups(at), at.message] for at in played.moments]
    return "\n\n".join(
        [
            render_fields(fields),
            render_chart(plan, played.spans, played.seconds),
            render_table(["AFTER", "PHASE", "STARTS", "MESSAGE"], rows),
        ]
    )


def _describe_groups(moment: Moment) -> str:
    return ", ".join(
        f"{group.label} ({group.processes} pod{'s' if group.processes > 1 else ''})" for group in moment.created
    )


def _describe_clips(plan: Plan) -> str:
    names = [clip.name for clip in plan.clips]
    shown = ", ".join(names[:_SHOWN_CLIPS]) + (", ..." if len(names) > _SHOWN_CLIPS else "")
    repeated = len(plan.clips) - len(plan.work)
    return (
        f"{len(names)} of {len(plan.prompts)} prompt{'s' if len(plan.prompts) > 1 else ''}: {shown}"
        f"{f' ({repeated} of them the same as others)' if repeated else ''}"
    )


def _describe_size(plan: Plan) -> str:
    video, latent = plan.video, plan.video.latent
    height, width = video.decoded_size
    frames = f"{video.total_frames} frames at {video.fps} fps ({video.total_frames / video.fps:.1f} s)"
    loops = f" in {video.loops} loops of {video.frames}" if video.loops > 1 else ""
    return (
        f"{width}x{height} pixels, {frames}{loops}; latents {latent.frames}x{latent.height}x{latent.width}, "
        f"{num_tokens(latent):,} tokens"
    )


def _describe_gpu_time(seconds: float) -> str:
    return f"{seconds / 3600:.2f} GPU-hours" if seconds else "no GPU"


def _pool_row(pool: PlannedPool) -> list[str]:
    on_card = pool.product or "unnamed card"
    return [
        pool.name,
        str(pool.replicas),
        f"{pool.gpus} x {on_card}" if pool.device == Device.CUDA else "cpu",
        pool.dtype.value,
        pool.vae_dtype.value,
        "one batch of 2" if pool.guidance_batch > 1 else "two passes",
        f"{pool.decode_batch_frames} frame{'s' if pool.decode_batch_frames > 1 else ''} a time",
        format_bytes(pool.cost.peak_memory_bytes),
        format_seconds(pool.seconds_per_step),
        format_seconds(pool.cost.seconds),
    ]
