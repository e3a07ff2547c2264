"""The `videogen` command: picks a subcommand and loads only what that one needs."""

import argparse
import os
import sys
from collections.abc import Sequence

from videogen_api.errors import VideogenError

_INTERRUPTED = 130
# Of the runner's: they need torch or boto3, which this process never loads.
_RUNNER_PROGRAMS = {"weights": "videogen_runner.weights_cli", "gallery": "videogen_runner.gallery_cli"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; errors are one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    program = _RUNNER_PROGRAMS.get(arguments[0]) if arguments else None
    if program is not None:
        os.execv(sys.executable, [sys.executable, "-m", program, *arguments[1:]])  # noqa: S606
    parsed = _build_parser().parse_args(arguments)
    try:
        return int(parsed.command(parsed))
    except VideogenError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED


def _build_parser() -> argparse.ArgumentParser:
    from importlib.metadata import version

    from videogen_operator.cli import crd, operator, plan, render, run, validate

    parser = argparse.ArgumentParser(
        prog="videogen", description="Text-to-video generation on Kubernetes or one machine."
    )
    parser.add_argument("--version", action="version", version=f"videogen {version('videogen')}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (run, plan, validate, render, crd, operator):
        command.add_parser(subparsers)
    subparsers.add_parser("weights", help="convert, inspect or make model weights", add_help=False)
    subparsers.add_parser("gallery", help="make the pages of finished runs anew", add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
