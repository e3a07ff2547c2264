"""A pass over a resource whose status another version of the operator has written."""

from typing import cast

import pytest
from tests.cluster.child_objects import NOW, build_job, build_video_generation

from videogen_api.resource import parse_live_resource
from videogen_operator.cluster.api_errors import Unavailable
from videogen_operator.cluster.backend import ClusterBackend
from videogen_operator.cluster.cache import ClusterCache
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.events import EventRecorder
from videogen_operator.cluster.plans import PlanBook
from videogen_operator.cluster.progress import ProgressPoller
from videogen_operator.cluster.reconciler import Blocked, Reconciler
from videogen_operator.cluster.resources import JOBS, VIDEO_GENERATIONS, Key, Object
from videogen_operator.config import OperatorConfig
from videogen_operator.core.asked import asked_digest

KEY = Key("team", "fox")
CONFIG = OperatorConfig.model_validate({"images": {"operator": "operator:1", "runner": "runner:1"}}, strict=False)
# Whoever touches it fails the test: there is no API server behind.
NO_CLIENT = cast("KubernetesClient", object())


class NoPoller:
    """Nobody is asked for progress."""

    def follow(self, *_: object) -> None: ...


def reconciler_of(resource: Object, client: KubernetesClient = NO_CLIENT) -> Reconciler:
    """One whose cluster holds a resource and a Job of it that runs."""
    cache = ClusterCache(lambda: 0.0)
    cache.apply(VIDEO_GENERATIONS, None, resource)
    cache.apply(JOBS, None, build_job(created=0))
    return Reconciler(
        cache,
        ClusterBackend(client, cache, CONFIG, progress=lambda _: None, clock=lambda: NOW),
        PlanBook(client),
        CONFIG,
        poller=cast("ProgressPoller[Key]", NoPoller()),
        recorder=EventRecorder(NO_CLIENT, "operator-0"),
        clock=lambda: NOW,
    )


def test_a_status_that_cannot_be_read_is_blocked_and_nothing_is_written_or_deleted() -> None:
    reconciler = reconciler_of(build_video_generation(status={"attempts": {"preflight": "first"}}))

    with pytest.raises(Blocked, match="its status cannot be read"):
        reconciler.reconcile(KEY)


def test_a_manifest_that_cannot_be_read_either_changes_nothing_in_that() -> None:
    document = build_video_generation(spec={"prompts": []}, status={"phase": "Dreaming"})

    with pytest.raises(Blocked, match="its status cannot be read"):
        reconciler_of(document).reconcile(KEY)


def test_fields_that_only_a_newer_operator_knows_are_passed_over() -> None:
    status = {"phase": "Generating", "runId": "5f1c", "attempts": {"preflight": 2, "dreams": 3}, "mood": {"of": "fox"}}

    read = parse_live_resource(build_video_generation(status=status)).status

    assert (read.phase, read.run_id, read.attempts.preflight) == ("Generating", "5f1c", 2)


class UnansweringClient:
    """An API server that is away for a moment."""

    def get(self, *_: object) -> Object:
        raise Unavailable("GET: no answer", code=0)


def test_an_api_server_that_is_away_is_tried_again_and_is_no_error_of_the_resource() -> None:
    spec = {"prompts": [{"name": "fox", "text": "a red fox"}]}
    asked = asked_digest(parse_live_resource(build_video_generation(spec=spec)).spec)
    status = {"phase": "Generating", "runId": "5f1c0a2b", "asked": asked, "planRevision": 1}
    reconciler = reconciler_of(
        build_video_generation(spec=spec, status=status), cast("KubernetesClient", UnansweringClient())
    )

    with pytest.raises(Unavailable, match="no answer"):
        reconciler.reconcile(KEY)
