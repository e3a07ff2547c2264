"""`videogen plan FILE`: what would be made, on what, in how much memory and time, without GPU, weights or store."""

import argparse
import sys
from pathlib import Path
from typing import Any

from videogen_api.errors import ExitCode, InvalidInput
from videogen_api.plan import Plan, canonical_json
from videogen_api.resource import VideoGeneration, load_manifests
from videogen_api.spec import ModelRef, Storage
from videogen_api.video import num_tokens
from videogen_operator.cli.arguments import positive, seconds, share, speed
from videogen_operator.cli.plan_text import OF_THE_CLUSTER, render_plan, render_played
from videogen_operator.core.defaults import Defaults, local_defaults
from videogen_operator.core.fleet import Scenario
from videogen_operator.core.planner import make_plan
from videogen_operator.core.play import Played, play
from videogen_operator.core.totals import least_seconds, totals_of

_OUT = "out"


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
    return Defaults(storage=Storage(url=OF_THE_CLUSTER), model=ModelRef(name=name, weights=OF_THE_CLUSTER))


def _to_json(plan: Plan, played: Played | None) -> bytes:
    return canonical_json(
        {
            "plan": plan.model_dump(mode="json", by_alias=True),
            "clips": [clip.model_dump(mode="json", by_alias=True) for clip in plan.clips],
            "tokens": num_tokens(plan.video.latent),
            "totals": totals_of(plan).model_dump(mode="json", by_alias=True),
        }
        | ({"timeline": _timeline(played), "simulation": _simulation(plan, played)} if played is not None else {})
    )


def _timeline(played: Played) -> list[dict[str, Any]]:
    return [
        {
            "seconds": played.age(moment),
            "phase": moment.phase,
            "message": moment.message,
            "starts": {group.label: group.processes for group in moment.created},
        }
        for moment in played.moments
    ]


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
