"""`videogen weights ...`: convert, inspect and make weights directories (docs/weights.md).

The `videogen` command starts this module as a process of its own, because it needs torch and the command does not.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from videogen_api.architecture import ARCHITECTURES, architecture_of
from videogen_api.errors import ExitCode, Interrupted, VideogenError

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_PRESETS = ("tiny", "shapes", "xl")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; an error is one line on stderr."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        error: VideogenError = Interrupted("interrupted")
    except VideogenError as raised:
        error = raised
    print(f"videogen weights: {error}", file=sys.stderr)
    return int(error.exit_code)


@contextmanager
def _stop_at_signals() -> Iterator[Callable[[], None]]:
    """A check that raises Interrupted once SIGTERM or SIGINT has come.

    A handler that raised would be lost where C code imports a module and ignores that it failed (seen, 1 time in 10).
    """
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}

    def check() -> None:
        if received:
            raise Interrupted(f"stopped by {signal.Signals(received[0]).name}; nothing unfinished was left")

    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="videogen weights", description="Make, check and convert model weights.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    convert = commands.add_parser("convert", help="stream public checkpoints to safetensors, with their digests")
    convert.add_argument("source", type=Path, help="directory of the checkpoints' folders, or one of these")
    convert.add_argument("target", type=Path, help="weights directory to write; folders that are there stay")
    convert.add_argument("--dtype", choices=_DTYPES, help="cast to this; left out: each tensor keeps its own")
    convert.set_defaults(run=_convert)

    inspect = commands.add_parser("inspect", help="say what is there, complete, missing or of the wrong shape")
    inspect.add_argument("directory", type=Path)
    inspect.add_argument("--model", choices=ARCHITECTURES, help="also compare with this model's sizes")
    inspect.add_argument("--output", choices=("table", "json"), default="table")
    inspect.set_defaults(run=_inspect)

    random = commands.add_parser("random", help="write weights that make noise, for tests and timing")
    random.add_argument(
        "--preset", choices=_PRESETS, required=True, help="tiny: 16 MB; shapes: 23 MB; xl: full size, 13.5 GB"
    )
    random.add_argument("--out", type=Path, required=True, help="weights directory to write")
    random.add_argument("--seed", type=int, default=0)
    random.set_defaults(run=_random)
    return parser


def _convert(arguments: argparse.Namespace) -> ExitCode:
    import torch

    from videogen_runner.weights.conversion import convert

    dtype = getattr(torch, _DTYPES[arguments.dtype]) if arguments.dtype else None
    with _stop_at_signals() as check:
        tables = convert(arguments.source, arguments.target, dtype, check)
    for component, table in tables.items():
        print(f"{arguments.target / component}: {len(table.tensors)} tensors, digest {table.digest}")
    return ExitCode.OK


def _inspect(arguments: argparse.Namespace) -> ExitCode:
    from videogen_runner.weights.inspection import inspect

    architecture = architecture_of(arguments.model) if arguments.model else None
    reports = inspect(arguments.directory, architecture)
    if arguments.output == "json":
        print(json.dumps([report.model_dump(mode="json", by_alias=True) for report in reports], indent=2))
    else:
        rows = [["COMPONENT", "STATE", "TENSORS", "PARAMETERS", "BYTES", "DTYPE", "DIGEST"]]
        for report in reports:
            numbers = [f"{number:,}" for number in (report.tensors, report.parameters, report.bytes)]
            state = "incomplete" if report.problems else "complete"
            rows.append([report.component, state, *numbers, ",".join(report.dtypes) or "-", report.digest or "-"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for report in reports:
            if report.note:
                print(f"{report.folder}: {report.note}")
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        print(f"videogen weights: {problem}", file=sys.stderr)
    return ExitCode.WEIGHTS if problems else ExitCode.OK


def _random(arguments: argparse.Namespace) -> ExitCode:
    from videogen_runner.weights.random_weights import PRESETS, write_random

    with _stop_at_signals() as check:
        tables = write_random(PRESETS[arguments.preset], arguments.out, arguments.seed, check)
    for component, table in tables.items():
        print(f"{arguments.out / component}: {len(table.tensors)} tensors, digest {table.digest}")
    print("These weights are random: they make noise, not pictures.")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
