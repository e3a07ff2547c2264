"""What became of a resource, in words that depend neither on names nor on times: equal lives have equal outcomes."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from videogen_api import naming
from videogen_api.status import VideoGenerationStatus
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.resources import CONFIG_MAPS, JOBS, SERVICES, VIDEO_GENERATIONS, Object

ChildName = tuple[str, ...]
"""Kind, stage, pool and attempt of a child; a plan's kind and number."""


@dataclass(frozen=True)
class Outcome:
    phase: str | None
    message: str | None
    conditions: frozenset[tuple[str, str, str, str]]
    """Type, status, reason, message."""
    clips: dict[str, int] | None
    attempts: dict[str, Any]
    children: frozenset[ChildName]
    jobs_created: dict[ChildName, int]
    """How many objects of that name ever existed."""


def differences(found: Outcome, expected: Outcome) -> dict[str, tuple[Any, Any]]:
    """By field: what was found, and what was expected in its place."""
    return {
        each.name: (getattr(found, each.name), getattr(expected, each.name))
        for each in fields(Outcome)
        if getattr(found, each.name) != getattr(expected, each.name)
    }


def outcome_of(client: KubernetesClient, namespace: str, name: str, jobs: Iterable[Object]) -> Outcome:
    """`jobs` are all Jobs of the namespace that were ever seen."""
    status = VideoGenerationStatus.model_validate_json(
        json.dumps(client.get(VIDEO_GENERATIONS, namespace, name)["status"])
    )
    children = [
        _name_of(kind.kind, child)
        for kind in (JOBS, SERVICES, CONFIG_MAPS)
        for child in client.list(kind, namespace, label_selector=f"{naming.LABEL_NAME}={name}").items
        if "deletionTimestamp" not in child["metadata"]
    ]
    ours = [job for job in tuple(jobs) if job["metadata"]["labels"].get(naming.LABEL_NAME) == name]
    return Outcome(
        phase=status.phase,
        message=status.message,
        conditions=frozenset((c.type.value, c.status.value, c.reason, c.message) for c in status.conditions),
        clips=status.clips.model_dump() if status.clips is not None else None,
        attempts=status.attempts.model_dump(),
        children=frozenset(children),
        jobs_created=dict(Counter(_name_of(JOBS.kind, job) for job in ours)),
    )


def _name_of(kind: str, child: Object) -> ChildName:
    labels = child["metadata"]["labels"]
    parts = [labels.get(label) for label in (naming.LABEL_STAGE, naming.LABEL_POOL, naming.LABEL_ATTEMPT)]
    if kind == CONFIG_MAPS.kind:
        parts = [child["metadata"]["name"].rpartition("-")[2]]
    return (kind, *(part for part in parts if part is not None))
