"""`videogen run FILE`: from a manifest to videos on this machine, resuming whatever an earlier run left."""

import argparse
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from videogen_api import keys
from videogen_api.errors import ExitCode, Interrupted, Reason, reason_of_exit
from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration, load_manifests
from videogen_api.status import FINISHED_PHASES, ConditionType, Phase, VideoGenerationStatus
from videogen_operator.cli.arguments import device, gpus, positive, quantity
from videogen_operator.cli.view import open_view
from videogen_operator.core.conditions import TEXT_TRUNCATED
from videogen_operator.core.defaults import local_defaults
from videogen_operator.core.planner import keep_strategy, make_plan
from videogen_operator.core.reconcile import least_shards
from videogen_operator.local.backend import LocalBackend
from videogen_operator.sync import sync

_PASS_SECONDS = 0.5
_EXIT_CODE_OF_REASON: dict[str, ExitCode] = {
    # Two reasons share one code; the table gives back only one of them.
    Reason.WEIGHTS_MISSING: ExitCode.WEIGHTS,
    **{reason: code for code in ExitCode if (reason := reason_of_exit(code)) is not None},
}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("run", help="make the videos of a manifest on this machine")
    parser.add_argument("file", type=Path, help="one or many VideoGeneration documents")
    parser.add_argument("--out", type=Path, default=Path("out"), help="output folder (default: out)")
    parser.add_argument(
        "--workers", type=positive, help="runner processes (default: one per GPU or core, at most one per clip)"
    )
    parser.add_argument(
        "--encoder-shards",
        type=positive,
        help="processes that share the text encoder (default: as few as fit), whatever spec.encoder.shards says",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", type=device, help="cpu, cuda or cuda:N (default: cpu)", default="cpu")
    where.add_argument(
        "--gpus",
        type=gpus,
        default=(),
        help="GPUs of this machine, such as 0,1,2,3: one worker on each, and one shard of the encoder",
    )
    parser.add_argument(
        "--gpu-memory",
        type=quantity,
        help="memory that each process may take of its GPU, such as 16Gi (default: all of it); where several share one",
    )
    parser.add_argument(
        "--output", choices=("text", "json"), default="text", help="json: the final status, for scripts"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Makes every resource of the file in turn; the first failure's exit code is the command's."""
    resources = load_manifests(arguments.file)
    backend = LocalBackend(arguments.out, os.environ, device=_device(arguments), gpus=arguments.gpus)
    try:
        codes = [_run_resource(resource, backend, arguments) for resource in resources]
    finally:
        backend.stop()
        backend.close()
    return next((code for code in codes if code), ExitCode.OK)


def _device(arguments: argparse.Namespace) -> str:
    return "cuda" if arguments.gpus else str(arguments.device)


def _run_resource(resource: VideoGeneration, backend: LocalBackend, arguments: argparse.Namespace) -> int:
    workers = arguments.workers or len(arguments.gpus) or os.cpu_count() or 1
    defaults = local_defaults(
        str(arguments.out.resolve()),
        workers=workers,
        device=_device(arguments),
        gpu_memory=arguments.gpu_memory,
        encoder_shards=arguments.encoder_shards,
    )
    plan = make_plan(resource, defaults)
    # Each command is a new try: what an earlier one left undone is taken up, also after a failure.
    spec = resource.spec.model_copy(update={"retry": uuid.uuid4().hex})
    resource = resource.model_copy(update={"spec": spec, "status": backend.read_status(resource)})
    status = resource.status
    with _stop_on_signals(), open_view(resource, plan, json_output=arguments.output == "json") as view:
        while True:
            least = least_shards(resource, backend.observe(resource))
            if least > plan.encoder.shards:
                plan = keep_strategy(resource, make_plan(resource, defaults, least_shards=least), plan)
            status = sync(resource, plan, backend, datetime.now(UTC))
            resource = resource.model_copy(update={"status": status})
            view.show(status)
            if status.phase in FINISHED_PHASES:
                break
            backend.wait(_PASS_SECONDS)
    if arguments.output == "json":
        print(status.model_dump_json(by_alias=True, exclude_none=True))
    else:
        _print_result(plan, status, arguments.out)
    return _exit_code(status)


def _exit_code(status: VideoGenerationStatus) -> int:
    if status.phase == Phase.SUCCEEDED:
        return ExitCode.OK
    return _EXIT_CODE_OF_REASON.get(_stalled_reason(status), ExitCode.INTERNAL)


def _stalled_reason(status: VideoGenerationStatus) -> str:
    return next(condition.reason for condition in status.conditions if condition.type == ConditionType.STALLED)


def _print_result(plan: Plan, status: VideoGenerationStatus, out: Path) -> None:
    for condition in status.conditions:
        if condition.reason == TEXT_TRUNCATED:
            print(f"warning: {condition.message}", file=sys.stderr)
    if status.phase == Phase.FAILED:
        print(f"error: {status.message}", file=sys.stderr)
        # What the message says already, or an earlier attempt at the same, would only bury it.
        told = {_stalled_reason(status)}
        for failure in reversed(status.failures):
            if failure.reason not in told:
                print(f"error: {failure.pod}: {failure.reason}: {failure.message}", file=sys.stderr)
                told.add(failure.reason)
        return
    for output in status.outputs:
        print(output.url)
    page = keys.page(plan.namespace, plan.name)
    print(f"{status.message}; open {out / page if '://' not in plan.storage.url else f'{plan.storage.url}/{page}'}")


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[None]:
    """SIGINT and SIGTERM become Interrupted, so that the processes are ended in order on the way out."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (the signal module's form)
        raise Interrupted("stopped; the same command goes on where this one ended")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
