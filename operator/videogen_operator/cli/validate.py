"""`videogen validate FILE...`: checks manifests as far as no cluster, store or weights are needed for it."""

import argparse
import sys
from pathlib import Path
from typing import Any

from videogen_api.errors import ExitCode, InvalidInput
from videogen_api.resource import ManifestInvalid, load_manifests
from videogen_operator.cli.plan import assumed_defaults
from videogen_operator.core.planner import make_plan


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("validate", help="check manifests, one line for each problem")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="VideoGeneration documents")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """One line a file on stdout where all is well, one a problem on stderr; any problem decides the exit code."""
    exit_code = ExitCode.OK
    for path in arguments.files:
        clips, problems = check_file(path)
        if problems:
            exit_code = ExitCode.INVALID_INPUT
            print("\n".join(problems), file=sys.stderr)
        else:
            print(f"{path}: ok, {clips} clip{'s' if clips != 1 else ''}")
    return exit_code


def check_file(path: Path) -> tuple[int, list[str]]:
    """How many clips a file asks for, and one line for each thing that is wrong with it."""
    try:
        resources = load_manifests(path)
    except ManifestInvalid as error:
        return 0, list(error.problems)
    clips, problems = 0, []
    for resource in resources:
        try:
            clips += len(make_plan(resource, assumed_defaults(resource)).clips)
        except InvalidInput as error:
            which = "" if len(resources) == 1 else f", {resource.metadata.namespace}/{resource.metadata.name}"
            problems.append(f"{path}{which}: {error}")
    return clips, problems
