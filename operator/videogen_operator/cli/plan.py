"""`videogen plan FILE`: what would be made, on what, in how much memory and time, without GPU, weights or store."""

import argparse
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from videogen_api.errors import ExitCode, InvalidInput
from videogen_api.plan import Device, Plan, PlannedPool, canonical_json
from videogen_api.resource import VideoGeneration, load_manifests
from videogen_api.spec import ModelRef, Storage
from videogen_api.video import num_tokens
from videogen_operator.cli.arguments import positive, seconds, share, speed
from videogen_operator.cli.chart import render_chart
from videogen_operator.cli.tables import format_bytes, format_flops, format_seconds, render_fields, render_table
from videogen_operator.core.defaults import Defaults, local_defaults
from videogen_operator.core.fleet import Fleet, Scenario, Span
from videogen_operator.core.planner import make_plan
from videogen_operator.core.simulate import Moment, simulate
from videogen_operator.core.totals import least_seconds, totals_of

_SHOWN_CLIPS = 4
_OUT = "out"
_OF_THE_CLUSTER = "<cluster-default>"
_BEGIN = datetime.fromtimestamp(0, UTC)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("plan", help="show what a manifest would make, and what it would take")
    parser.add_argument("file", type=Path, help="one or many VideoGeneration documents")
    parser.add_argument(
        "--output", choices=("table", "json"), default="table", help="json: one plan with its totals a line"
    )
    parser.add_argument(
        "--workers", type=positive, help="plan for `videogen run` with that many workers on this machine"
    )
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="play the run through in the predicted seconds, and show what each card does when",
    )
    simulated = parser.add_argument_group("with --simulate")
    simulated.add_argument("--losses-per-hour", type=share, default=0.0, help="pods lost in an hour, such as 5%%")
    simulated.add_argument("--seed", type=int, default=0, help="which pods are lost when (default: 0)")
    simulated.add_argument(
        "--start-seconds", type=seconds, default=0.0, help="from creating a pod to its first operation (default: 0)"
    )
    simulated.add_argument(
        "--speed",
        type=speed,
        action="append",
        default=[],
        metavar="POOL=FACTOR",
        help="cards of a pool that are faster or slower than predicted, such as t4=0.5",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Plans every resource of the file. Raises InvalidInput for the first one that cannot be planned."""
    resources = load_manifests(arguments.file)
    plans = [_plan(resource, arguments) for resource in resources]
    for resource, plan in zip(resources, plans, strict=True):
        played = play(resource, plan, _scenario(plan, arguments)) if arguments.simulate else None
        if arguments.output == "json":
            sys.stdout.buffer.write(_to_json(plan, played) + b"\n")
        else:
            separator = "\n" if resource is not resources[0] else ""
            print(separator + render_plan(plan) + (f"\n\n{render_played(plan, played)}" if played is not None else ""))
    return ExitCode.OK


@dataclass(frozen=True)
class Played:
    """A simulated run."""

    scenario: Scenario
    moments: tuple[Moment, ...]
    spans: tuple[Span, ...]
    losses: int

    @property
    def seconds(self) -> float:
        return _age(self.moments[-1])

    @property
    def redone_seconds(self) -> float:
        """Work that was lost with its pods."""
        return sum((span.end - span.begin) * (1 - span.kept) for span in self.spans)


def play(resource: VideoGeneration, plan: Plan, scenario: Scenario) -> Played:
    """Plays a run through: the operator's own decisions, on cards that take the predicted seconds."""
    fleet = Fleet(plan, scenario, _BEGIN)
    moments = simulate(resource, plan, fleet)
    return Played(scenario, moments, tuple(fleet.spans), fleet.losses)


def _scenario(plan: Plan, arguments: argparse.Namespace) -> Scenario:
    speeds = dict(arguments.speed)
    unknown = sorted(set(speeds) - {pool.name for pool in plan.pools})
    if unknown:
        names = ", ".join(pool.name for pool in plan.pools)
        raise InvalidInput(f"--speed: {plan.name} has no pool {unknown[0]!r}; its pools are {names}")
    return Scenario(arguments.losses_per_hour, arguments.start_seconds, speeds, arguments.seed)


def _plan(resource: VideoGeneration, arguments: argparse.Namespace) -> Plan:
    try:
        return make_plan(resource, _defaults_for(resource, arguments.workers))
    except InvalidInput as error:
        raise InvalidInput(f"{arguments.file}: {error}") from error


def _defaults_for(resource: VideoGeneration, workers: int | None) -> Defaults:
    """What `videogen run` would take if workers are named; what a cluster may add if pools are; else one CPU worker."""
    if workers is not None:
        return local_defaults(_OUT, workers=workers)
    if resource.spec.runners:
        return assumed_defaults(resource)
    return assumed_defaults(resource).model_copy(update={"machine": local_defaults(_OUT).machine})


def assumed_defaults(resource: VideoGeneration) -> Defaults:
    """What a cluster may add and a plan does not depend on: where the weights are, and where results go."""
    name = resource.spec.model.name if resource.spec.model is not None else None
    return Defaults(storage=Storage(url=_OF_THE_CLUSTER), model=ModelRef(name=name, weights=_OF_THE_CLUSTER))


def render_plan(plan: Plan) -> str:
    """The plan for a person."""
    totals = totals_of(plan)
    summary = [
        ("name", f"{plan.namespace}/{plan.name}"),
        ("run", plan.run_id if plan.model.weights != _OF_THE_CLUSTER else "(depends on the weights)"),
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
    rows = [[format_seconds(_age(at)), at.phase.value, _describe_groups(at), at.message] for at in played.moments]
    return "\n\n".join(
        [
            render_fields(fields),
            render_chart(plan, played.spans, played.seconds),
            render_table(["AFTER", "PHASE", "STARTS", "MESSAGE"], rows),
        ]
    )


def _age(moment: Moment) -> float:
    return (moment.time - _BEGIN).total_seconds()


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


def _to_json(plan: Plan, played: Played | None) -> bytes:
    moments = [
        {
            "seconds": _age(moment),
            "phase": moment.phase,
            "message": moment.message,
            "starts": {group.label: group.processes for group in moment.created},
        }
        for moment in (played.moments if played is not None else ())
    ]
    return canonical_json(
        {
            "plan": plan.model_dump(mode="json", by_alias=True),
            "clips": [clip.model_dump(mode="json", by_alias=True) for clip in plan.clips],
            "tokens": num_tokens(plan.video.latent),
            "totals": totals_of(plan).model_dump(mode="json", by_alias=True),
        }
        | ({"timeline": moments, "simulation": _simulation(plan, played)} if played is not None else {})
    )


def _simulation(plan: Plan, played: Played) -> dict[str, Any]:
    return {
        "seconds": played.seconds,
        "leastSeconds": least_seconds(plan, played.scenario.speeds),
        "losses": played.losses,
        "redoneSeconds": played.redone_seconds,
        "spans": [
            {"card": span.card, "label": span.label, "begin": span.begin, "end": span.end, "kept": span.kept}
            for span in played.spans
        ],
    }
