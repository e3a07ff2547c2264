"""`videogen operator --config FILE`: the process that makes videos out of VideoGenerations, in a cluster."""

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from videogen_operator.cli.arguments import port, positive

_HEALTH_PORT = 8081
_METRICS_PORT = 8080


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("operator", help="serve the VideoGenerations of a cluster")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the operator's configuration")
    parser.add_argument("--workers", type=positive, default=4, help="resources looked at at once (default: 4)")
    parser.add_argument(
        "--health-port",
        type=port,
        default=_HEALTH_PORT,
        metavar="PORT",
        help=f"/livez and /readyz; 0: any free port (default: {_HEALTH_PORT})",
    )
    parser.add_argument(
        "--metrics-port",
        type=port,
        default=_METRICS_PORT,
        metavar="PORT",
        help=f"/metrics; 0: any free port (default: {_METRICS_PORT})",
    )
    parser.add_argument(
        "--no-leader-election",
        dest="elects",
        action="store_false",
        help="lead at once; only where no other operator serves the same namespaces",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to end; the exit code is 0 then, 1 where the process has to be started anew."""
    from videogen_operator.cluster.api_errors import ApiError
    from videogen_operator.cluster.logs import log_as_json
    from videogen_operator.cluster.process import OperatorProcess, Options
    from videogen_operator.config import OperatorConfig

    log_as_json()
    config = OperatorConfig.read(arguments.config)
    options = Options(arguments.workers, arguments.health_port, arguments.metrics_port, arguments.elects)
    try:
        return OperatorProcess(config, os.environ, options).run()
    except ApiError as error:
        logging.getLogger("videogen").error("the operator cannot begin: %s", error)
        return 1
