"""`videogen crd`: the CustomResourceDefinition, and what is made from it."""

import argparse
import sys
from typing import Any

from videogen_api.errors import ExitCode


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("crd", help="print the CustomResourceDefinition")
    parser.add_argument(
        "--output",
        choices=("yaml", "helm", "markdown"),
        default="yaml",
        help="helm: the chart's template; markdown: the resource field by field",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    # Here, so that no other command has to load what only this one needs.
    from videogen_operator.crd import build_crd
    from videogen_operator.crd_docs import to_markdown
    from videogen_operator.crd_text import to_helm, to_yaml

    render = {"yaml": to_yaml, "helm": to_helm, "markdown": to_markdown}[arguments.output]
    sys.stdout.write(render(build_crd()))
    return ExitCode.OK
