"""`videogen gallery`: the pages of finished runs anew (docs/gallery.md).

The `videogen` command starts this module as a process of its own. It needs neither torch nor, for a folder, boto3.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from videogen_api.errors import ConfigInvalid, ExitCode, Interrupted, VideogenError
from videogen_runner.gallery import rebuild
from videogen_runner.store import Store, open_store


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; each error is one line on stderr."""
    parsed = _parser().parse_args(arguments)
    errors: list[VideogenError] = []
    try:
        errors += _gallery(parsed)
    except KeyboardInterrupt:
        errors.append(Interrupted("interrupted; every page is the old one or the new one"))
    except VideogenError as error:
        errors.append(error)
    for each in errors:
        print(f"videogen gallery: {each}", file=sys.stderr)
    return errors[0].exit_code if errors else ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videogen gallery", description="Make the pages of all runs in a store anew, from their manifests."
    )
    parser.add_argument("store", help="folder of `videogen run --out`, or s3://bucket/prefix")
    parser.add_argument("--endpoint", help="url of an S3-compatible service (default: AWS_ENDPOINT_URL, then AWS)")
    parser.add_argument("--region", help="default: AWS_REGION, then us-east-1")
    return parser


def _gallery(arguments: argparse.Namespace) -> Sequence[VideogenError]:
    """Says what was done; what could not be read, while the rest was made."""
    rebuilt = rebuild(_open(arguments))
    for run in rebuilt.without_manifest:
        print(f"videogen gallery: {run} has no manifest yet, so it has no page; run it to its end", file=sys.stderr)
    for page in rebuilt.pages:
        print(page)
    return rebuilt.damaged


def _open(arguments: argparse.Namespace) -> Store:
    if arguments.store.startswith("s3://") and find_spec("boto3") is None:
        raise ConfigInvalid("s3:// needs boto3: pip install 'videogen[store]'")
    return open_store(arguments.store, os.environ, endpoint=arguments.endpoint, region=arguments.region)


if __name__ == "__main__":
    sys.exit(main())
