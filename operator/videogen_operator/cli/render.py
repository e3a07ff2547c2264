"""`videogen render FILE`: every object that the operator would create, stage by stage, without a cluster."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from videogen_api.errors import ExitCode, InvalidInput
from videogen_api.naming import Stage
from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration, load_manifests
from videogen_api.spec import ModelRef, Storage
from videogen_operator.cluster.checks import check_for_cluster
from videogen_operator.cluster.render import render_group, render_plan
from videogen_operator.config import Allowed, Images, OperatorConfig
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.observed import Group
from videogen_operator.core.planner import make_plan

PLACEHOLDER_UID = "00000000-0000-0000-0000-000000000000"
"""The API server gives the real one; names of children depend on it."""

_PLACEHOLDER_STORE = "s3://cluster-default/"
_FIRST = 1
_NEVER_FOLD = 2**31


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("render", help="print the Kubernetes objects of a manifest, without a cluster")
    parser.add_argument("file", type=Path, help="one or many VideoGeneration documents")
    parser.add_argument(
        "--config", type=Path, help="the operator's configuration: images, defaults, allow-lists (left out: assumed)"
    )
    parser.add_argument("--output", choices=("yaml", "json"), default="yaml", help="json: one List")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Renders every resource of the file. Raises InvalidInput for the first that cannot run in a cluster."""
    config = None if arguments.config is None else OperatorConfig.read(arguments.config)
    children: list[dict[str, Any]] = []
    for resource in load_manifests(arguments.file):
        try:
            children += render_children(resource, config or assumed_config(resource))
        except InvalidInput as error:
            raise InvalidInput(f"{arguments.file}: {error}") from error
    sys.stdout.write(to_json(children) if arguments.output == "json" else to_yaml(children))
    return ExitCode.OK


def render_children(resource: VideoGeneration, config: OperatorConfig) -> list[dict[str, Any]]:
    """The children of an undisturbed run, in the order in which they are created."""
    metadata = resource.metadata.model_copy(update={"uid": resource.metadata.uid or PLACEHOLDER_UID})
    resource = resource.model_copy(update={"metadata": metadata})
    plan = make_plan(resource, config.defaults)
    check_for_cluster(resource, plan, config)
    children = [render_plan(resource, plan, _FIRST, config.defaults)]
    for group in _groups(plan):
        children += render_group(resource, plan, _FIRST, group, config)
    return children


def _groups(plan: Plan) -> Iterator[Group]:
    """The first attempt of every stage."""
    yield Group(Stage.PREFLIGHT, None, _FIRST, 1, _FIRST)
    yield Group(Stage.ENCODE, None, _FIRST, plan.encoder.shards, _FIRST)
    for pool in plan.pools:
        if pool.replicas:
            yield Group(Stage.GENERATE, pool.name, _FIRST, pool.replicas, _FIRST)
    yield Group(Stage.COLLECT, None, _FIRST, 1, _FIRST)


def assumed_config(resource: VideoGeneration) -> OperatorConfig:
    """A cluster that runs this version, keeps results under a placeholder, and allows what the resource names."""
    spec = resource.spec
    pods = [of_spec.pod for of_spec in (spec.encoder, *(spec.runners or ())) if of_spec is not None and of_spec.pod]
    endpoint = spec.storage.endpoint if spec.storage is not None else None
    return OperatorConfig(
        images=Images(
            operator=f"videogen-operator:{version('videogen')}", runner=f"videogen-runner:{version('videogen')}"
        ),
        defaults=Defaults(
            storage=Storage(url=_PLACEHOLDER_STORE),
            model=ModelRef(name=spec.model.name if spec.model is not None else None, weights="builtin"),
        ),
        allowed=Allowed(
            service_accounts=tuple(pod.service_account_name for pod in pods if pod.service_account_name is not None),
            priority_classes=tuple(pod.priority_class_name for pod in pods if pod.priority_class_name is not None),
            endpoints=() if endpoint is None else (endpoint,),
        ),
    )


class _Dumper(yaml.SafeDumper):
    """Quotes every string that some reader of YAML takes for something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own class attribute)
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (the base class passes it)
        """A label map that stands twice is written twice."""
        return True


# kubectl's parser takes y and n for truth values, and 1e5 for a number; PyYAML, on its own, would write them bare.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(0[obx]\w+|[0-9._]+([eE][-+]?[0-9_]+)?)$"), list("-+.0123456789")
)


def to_yaml(children: list[dict[str, Any]]) -> str:
    """One document for each object, for `kubectl apply -f -`."""
    return yaml.dump_all(
        children, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_NEVER_FOLD, explicit_start=True
    )


def to_json(children: list[dict[str, Any]]) -> str:
    """One List, for `kubectl apply -f -` and jq."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": children}, indent=2, ensure_ascii=False) + "\n"
