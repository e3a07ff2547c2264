"""Which events a change of status is worth, and how they reach the API server."""

import queue
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.builders import NOW

from videogen_api.resource import Metadata
from videogen_api.status import Attempts, Condition, ConditionStatus, ConditionType, Phase, VideoGenerationStatus
from videogen_operator.cluster import events
from videogen_operator.cluster.api_errors import ApiError, Forbidden, NotFound, TooManyRequests, Unavailable
from videogen_operator.cluster.events import EventRecorder, render_event
from videogen_operator.cluster.resources import EVENTS, Object, Resource
from videogen_operator.core.conditions import TEXT_TRUNCATED
from videogen_operator.core.events import EventNote, EventType, events_of
from videogen_operator.core.observed import WaitingReason

PATIENCE_SECONDS = 120.0
FOX = Metadata(name="fox", namespace="team-a", uid="u1")
ALL_ONCE = Attempts(preflight=1, encode=1, generate={"t4": 1}, collect=1)
STARTED = EventNote(EventType.NORMAL, "Started", "run 5f1c begins")


def status(
    phase: Phase | None = Phase.PREFLIGHT,
    message: str = "m",
    *,
    run_id: str | None = "5f1c",
    retry: str | None = None,
    attempts: Attempts | None = None,
    late_starts: tuple[str, ...] = (),
    **reasons: str,
) -> VideoGenerationStatus:
    """A status; `reasons` are those of conditions, by the name of ConditionType."""
    conditions = tuple(
        Condition(
            type=ConditionType[name],
            status=ConditionStatus.TRUE,
            reason=reason,
            message=f"about {reason}",
            last_transition_time=NOW,
            observed_generation=1,
        )
        for name, reason in reasons.items()
    )
    return VideoGenerationStatus(
        run_id=run_id,
        retry=retry,
        phase=phase,
        message=message,
        attempts=attempts or Attempts(),
        late_starts=late_starts,
        conditions=conditions,
    )


def normal(reason: str, note: str) -> EventNote:
    return EventNote(EventType.NORMAL, reason, note)


def warning(reason: str, note: str) -> EventNote:
    return EventNote(EventType.WARNING, reason, note)


def test_an_undisturbed_life_is_five_events() -> None:
    life = [
        VideoGenerationStatus(),
        status(Phase.PREFLIGHT, attempts=Attempts(preflight=1)),
        status(Phase.ENCODING, "encoding prompts", attempts=Attempts(preflight=1, encode=1)),
        status(Phase.GENERATING, "denoising", attempts=Attempts(preflight=1, encode=1, generate={"t4": 1})),
        status(Phase.GENERATING, "half", attempts=Attempts(preflight=1, encode=1, generate={"t4": 1})),
        status(Phase.COLLECTING, "verifying", attempts=ALL_ONCE),
        status(
            Phase.SUCCEEDED,
            "2 clips are ready",
            attempts=Attempts(preflight=1, encode=1, generate={"t4": 1}, collect=1),
        ),
    ]

    told = [note for before, after in pairwise(life) for note in events_of(before, after)]

    assert told == [
        normal("Started", "run 5f1c begins"),
        normal("Encoding", "encoding prompts"),
        normal("Generating", "denoising"),
        normal("Collecting", "verifying"),
        normal("Succeeded", "2 clips are ready"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (status(), status(), ()),
        (status(message="a"), status(message="b"), ()),
        (
            status(Phase.SUCCEEDED),
            status(Phase.PREFLIGHT, run_id="77aa"),
            (normal("Started", "the spec asks for other clips: run 77aa begins"),),
        ),
        (
            status(Phase.FAILED),
            status(Phase.PREFLIGHT, retry="1", attempts=Attempts(preflight=2)),
            (normal("Started", "spec.retry has changed: run 5f1c is tried again"),),
        ),
        (
            status(Phase.ENCODING, attempts=Attempts(preflight=1, encode=1)),
            status(Phase.ENCODING, "encoding again: killed", attempts=Attempts(preflight=1, encode=2)),
            (warning("Retrying", "attempt 2 of encode: encoding again: killed"),),
        ),
        (
            # The second run of a resource: its attempts count on, and this is the first of its own.
            status(Phase.PREFLIGHT, attempts=Attempts(preflight=2, encode=1)),
            status(Phase.ENCODING, "encoding prompts", attempts=Attempts(preflight=2, encode=2)),
            (normal("Encoding", "encoding prompts"),),
        ),
        (
            status(Phase.GENERATING, attempts=Attempts(generate={"a": 1, "b": 1})),
            status(Phase.GENERATING, "denoising again", attempts=Attempts(generate={"a": 1, "b": 2})),
            (warning("Retrying", "attempt 2 of generate of pool b: denoising again"),),
        ),
        (
            # What it waited for is in the message for a moment only.
            status(Phase.ENCODING, late_starts=("encode-1",)),
            status(Phase.ENCODING, "again: no room", late_starts=("encode-1", "encode-2")),
            (warning("StartDeadlineExceeded", "again: no room"),),
        ),
        (
            status(Phase.FAILED, late_starts=("encode-1",)),
            status(Phase.PREFLIGHT, retry="1"),
            (normal("Started", "spec.retry has changed: run 5f1c is tried again"),),
        ),
        (
            status(Phase.GENERATING),
            status(Phase.FAILED, "no such bucket", STALLED="StoreDenied"),
            (warning("StoreDenied", "no such bucket"),),
        ),
        (
            status(Phase.GENERATING),
            status(Phase.SUSPENDED, "suspended; set spec.suspend to false"),
            (normal("Suspended", "suspended; set spec.suspend to false"),),
        ),
        (
            status(Phase.SUSPENDED, attempts=Attempts(generate={"a": 1})),
            status(Phase.GENERATING, "denoising", attempts=Attempts(generate={"a": 2})),
            (normal("Resumed", "denoising"),),
        ),
        (
            status(RECONCILING="Preflight"),
            status(message="1 of 4 pods wait: no node has nvidia.com/gpu", RECONCILING=WaitingReason.UNSCHEDULABLE),
            (warning("Unschedulable", "1 of 4 pods wait: no node has nvidia.com/gpu"),),
        ),
        (
            status(message="1 of 4 pods wait", RECONCILING=WaitingReason.UNSCHEDULABLE),
            status(message="2 of 4 pods wait", RECONCILING=WaitingReason.UNSCHEDULABLE),
            (),
        ),
        (
            status(),
            status(Phase.PENDING, "queue team-a has not admitted it", RECONCILING=WaitingReason.QUEUED),
            (normal("Queued", "queue team-a has not admitted it"),),
        ),
        (
            status(RECONCILING="Preflight"),
            status(Phase.PENDING, "waiting for the encoder of another resource", RECONCILING="EncoderWaits"),
            (normal("EncoderWaits", "waiting for the encoder of another resource"),),
        ),
        (
            status(RECONCILING="Preflight"),
            status(message="exceeded quota: pods", RECONCILING="QuotaExceeded"),
            (warning("QuotaExceeded", "exceeded quota: pods"),),
        ),
        (
            status(Phase.FAILED, "model x is unknown", run_id=None, STALLED="InvalidInput", RECONCILING="InvalidInput"),
            status(Phase.FAILED, "model y is unknown", run_id=None, STALLED="InvalidInput", RECONCILING="InvalidInput"),
            (warning("InvalidInput", "model y is unknown"),),
        ),
        (
            status(Phase.ENCODING),
            status(Phase.GENERATING, "denoising", EMBEDDINGS_READY=TEXT_TRUNCATED),
            (normal("Generating", "denoising"), warning(TEXT_TRUNCATED, f"about {TEXT_TRUNCATED}")),
        ),
        (status(EMBEDDINGS_READY=TEXT_TRUNCATED), status(EMBEDDINGS_READY=TEXT_TRUNCATED), ()),
    ],
    ids=lambda value: value[0].reason if isinstance(value, tuple) and value else "",
)
def test_a_change_of_status_is_told_once_with_its_reason(
    before: VideoGenerationStatus, after: VideoGenerationStatus, told: tuple[EventNote, ...]
) -> None:
    assert events_of(before, after) == told


class Writer:
    """The API server as far as events know it; `errors` are raised instead of the next answers."""

    def __init__(self, *errors: ApiError) -> None:
        self.calls: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.errors = list(errors)
        self.may_answer = threading.Event()
        self.may_answer.set()

    def create(self, resource: Resource, namespace: str, manifest: Object) -> Object:
        return self._answer("create", resource, namespace, manifest)

    def patch(self, resource: Resource, namespace: str, name: str, merge_patch: Object) -> Object:
        return self._answer("patch", resource, namespace, name, merge_patch)

    def _answer(self, *call: Any) -> Object:
        self.calls.put(call)
        assert self.may_answer.wait(PATIENCE_SECONDS)
        if self.errors:
            raise self.errors.pop(0)
        return {}

    def next(self) -> tuple[Any, ...]:
        return self.calls.get(timeout=PATIENCE_SECONDS)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_an_event_is_posted_about_its_resource() -> None:
    writer = Writer()
    with EventRecorder(writer, "operator-7d9f", Clock()) as recorder:
        recorder.record(FOX, [STARTED])
        assert writer.next() == ("create", EVENTS, "team-a", render_event(FOX, STARTED, NOW, "operator-7d9f"))
    assert (recorder.num_posted, recorder.num_dropped) == (1, 0)


def test_events_sort_by_name_as_they_happened_because_kubectl_shows_them_so() -> None:
    times = [NOW + timedelta(microseconds=each) for each in (0, 1, 10**6, 10**12)]
    notes = [STARTED, normal("Encoding", "encoding prompts"), normal("Collecting", "verifying"), STARTED]

    names = [
        render_event(FOX, note, time, "operator-7d9f")["metadata"]["name"]
        for note, time in zip(notes, times, strict=True)
    ]

    assert names == sorted(set(names))


def test_an_event_is_rendered_within_the_limits_of_the_api() -> None:
    event = render_event(FOX, EventNote(EventType.WARNING, "StoreDenied", "é" * 2000), NOW, "operator-7d9f")

    name = event["metadata"].pop("name")
    assert name.startswith("fox.")
    assert event == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "team-a"},
        "eventTime": "2026-11-24T12:00:00.000000Z",
        "type": "Warning",
        "reason": "StoreDenied",
        "action": "Reconcile",
        "note": "é" * 512,
        "reportingController": "videogen.dev/operator",
        "reportingInstance": "operator-7d9f",
        "regarding": {
            "apiVersion": "videogen.dev/v1alpha1",
            "kind": "VideoGeneration",
            "namespace": "team-a",
            "name": "fox",
            "uid": "u1",
        },
    }


def test_an_equal_event_soon_after_is_counted_and_a_late_one_is_new() -> None:
    writer, clock = Writer(), Clock()
    with EventRecorder(writer, "operator-7d9f", clock) as recorder:
        recorder.record(FOX, [STARTED])
        _, _, _, first = writer.next()
        for count, seconds in ((2, 60), (3, 120)):
            clock.now = NOW + timedelta(seconds=seconds)
            recorder.record(FOX, [STARTED])
            observed = f"2026-11-24T12:0{seconds // 60}:00.000000Z"
            series = {"series": {"count": count, "lastObservedTime": observed}}
            assert writer.next() == ("patch", EVENTS, "team-a", first["metadata"]["name"], series)
        clock.now = NOW + timedelta(seconds=120 + events.SERIES_SECONDS + 1)
        recorder.record(FOX, [STARTED])
        verb, _, _, second = writer.next()
    assert verb == "create"
    assert second["metadata"]["name"] != first["metadata"]["name"]


def test_events_of_two_objects_or_with_two_notes_are_not_mixed_up() -> None:
    writer = Writer()
    with EventRecorder(writer, "operator-7d9f", Clock()) as recorder:
        recorder.record(FOX, [STARTED, normal("Started", "run 77aa begins")])
        recorder.record(Metadata(name="fox", namespace="team-b", uid="u2"), [STARTED])
        assert [writer.next()[0] for _ in range(3)] == ["create", "create", "create"]


def test_an_event_that_the_api_server_has_forgotten_is_posted_anew() -> None:
    writer, clock = Writer(), Clock()
    with EventRecorder(writer, "operator-7d9f", clock) as recorder:
        recorder.record(FOX, [STARTED])
        writer.next()
        writer.errors.append(NotFound("gone", code=404))
        clock.now = NOW + timedelta(seconds=1)
        recorder.record(FOX, [STARTED])
        assert [writer.next()[0], writer.next()[0]] == ["patch", "create"]
    assert (recorder.num_posted, recorder.num_dropped) == (2, 0)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("no answer", code=0),
        TooManyRequests("slow down", code=429, retry_after=1),
        Forbidden("the namespace is being deleted", code=403),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_event_that_is_refused_is_dropped_and_the_next_one_is_posted(error: ApiError) -> None:
    writer = Writer(error)
    with EventRecorder(writer, "operator-7d9f", Clock()) as recorder:
        recorder.record(FOX, [STARTED])
        recorder.record(FOX, [normal("Encoding", "encoding prompts")])
        assert [writer.next()[3]["reason"], writer.next()[3]["reason"]] == ["Started", "Encoding"]
    assert (recorder.num_posted, recorder.num_dropped) == (1, 1)


def test_an_object_has_a_budget_that_refills_and_takes_nothing_from_others() -> None:
    writer, clock = Writer(), Clock()
    with EventRecorder(writer, "operator-7d9f", clock) as recorder:
        recorder.record(FOX, [normal("Encoding", f"again {number}") for number in range(events.BURST + 5)])
        recorder.record(Metadata(name="owl", namespace="team-a", uid="u2"), [STARTED])
        posted = [writer.next()[3] for _ in range(events.BURST + 1)]
        assert [event["regarding"]["name"] for event in posted] == ["fox"] * events.BURST + ["owl"]
        assert recorder.num_dropped == 5
        clock.now = NOW + timedelta(seconds=events.REFILL_SECONDS + 1)
        recorder.record(FOX, [normal("Encoding", "later"), normal("Encoding", "too soon")])
        assert writer.next()[3]["note"] == "later"
    assert writer.calls.empty()
    assert recorder.num_dropped == 6


def test_a_pass_never_waits_for_an_api_server_that_hangs() -> None:
    writer = Writer()
    writer.may_answer.clear()
    with EventRecorder(writer, "operator-7d9f", Clock(), per_second=1e6) as recorder:
        recorder.record(FOX, [STARTED])
        writer.next()  # it is being posted, for as long as the server likes
        for number in range(events.MAX_WAITING + 3):
            recorder.record(Metadata(name="fox", namespace="team-a", uid=f"u{number}"), [STARTED])
        assert recorder.num_dropped == 3
        writer.may_answer.set()
        for _ in range(events.MAX_WAITING):
            writer.next()
    assert recorder.num_posted == events.MAX_WAITING + 1


def test_many_events_at_once_are_posted_one_after_the_other_and_at_the_end_in_a_hurry() -> None:
    writer, times = Writer(), []
    with EventRecorder(writer, "operator-7d9f", Clock(), per_second=20) as recorder:
        for number in range(20):
            recorder.record(Metadata(name="fox", namespace="team-a", uid=f"u{number}"), [STARTED])
        for _ in range(4):
            writer.next()
            times.append(time.monotonic())
    assert times[-1] - times[0] >= 3 * 0.05 * 0.9
    assert recorder.num_posted == 20


def test_times_are_those_at_which_something_was_seen_in_utc() -> None:
    writer = Writer()
    with EventRecorder(writer, "operator-7d9f") as recorder:
        began = datetime.now(UTC)
        recorder.record(FOX, [STARTED])
        seen = datetime.fromisoformat(writer.next()[3]["eventTime"])
    assert began <= seen <= datetime.now(UTC)
