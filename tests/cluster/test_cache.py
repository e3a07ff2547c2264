import gc
import json
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.child_objects import build_job, build_list, build_pod, build_video_generation

from videogen_operator.cluster.cache import DELETED, Children, ClusterCache
from videogen_operator.cluster.resources import JOBS, PODS, VIDEO_GENERATIONS, Key, Object, Resource
from videogen_operator.cluster.slim import slim

FOX = Key("team", "fox")
WOKEN = frozenset({FOX})
NOBODY: frozenset[Key] = frozenset()


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def build_cache(clock: Clock | None = None) -> ClusterCache:
    """One that knows the resource fox."""
    cache = ClusterCache(clock or Clock())
    cache.apply(VIDEO_GENERATIONS, None, build_video_generation())
    return cache


def children_of(jobs: tuple[Object, ...] = (), pods: tuple[Object, ...] = ()) -> Children:
    return Children(tuple(slim(JOBS, job) for job in jobs), tuple(slim(PODS, pod) for pod in pods))


def test_events_wake_the_resource_that_they_belong_to() -> None:
    cache = ClusterCache(Clock())
    assert cache.apply(VIDEO_GENERATIONS, None, build_video_generation()) == WOKEN
    assert cache.apply(JOBS, "ADDED", build_job()) == WOKEN
    assert cache.apply(PODS, "ADDED", build_pod()) == WOKEN
    assert cache.apply(PODS, "MODIFIED", build_pod(version=2, phase="Succeeded")) == WOKEN
    assert cache.apply(PODS, DELETED, build_pod(version=3)) == WOKEN
    assert cache.children(FOX) == children_of((build_job(),))


def test_a_resource_is_handed_out_with_the_version_that_it_is_written_with() -> None:
    cache = build_cache()
    found = cache.get(FOX)
    assert found is not None
    expected = build_video_generation()
    del expected["metadata"]["managedFields"]
    assert found == expected


def test_the_echo_of_what_is_known_wakes_nobody() -> None:
    cache = build_cache()
    assert cache.apply(JOBS, None, build_job()) == WOKEN
    assert cache.apply(JOBS, "ADDED", build_job()) == NOBODY


def test_a_change_of_nothing_that_matters_wakes_nobody_and_still_counts_as_newer() -> None:
    cache = build_cache()
    assert cache.apply(VIDEO_GENERATIONS, "MODIFIED", build_video_generation(version=7)) == NOBODY
    found = cache.get(FOX)
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "7"


def test_what_a_webhook_changed_in_our_own_job_is_taken_from_the_stream() -> None:
    """The reply to a create holds metadata alone, so that the stream brings the same version with another content."""
    cache = build_cache()
    cache.apply(JOBS, None, build_job())
    suspended = build_job()
    suspended["spec"]["suspend"] = True
    assert cache.apply(JOBS, "ADDED", suspended) == WOKEN
    assert cache.children(FOX) == children_of((suspended,))


def test_pods_that_come_before_their_job_belong_to_it_afterwards() -> None:
    cache = build_cache()
    assert cache.apply(PODS, "ADDED", build_pod()) == NOBODY
    assert cache.apply(JOBS, "ADDED", build_job()) == WOKEN
    assert cache.children(FOX) == children_of((build_job(),), (build_pod(),))


def test_pods_outlive_their_job() -> None:
    cache = build_cache()
    cache.apply(JOBS, "ADDED", build_job())
    cache.forget(JOBS, "j")
    assert cache.apply(PODS, "ADDED", build_pod()) == WOKEN
    assert cache.children(FOX) == children_of((), (build_pod(),))


def test_pods_outlive_a_job_that_was_heard_of_only_when_it_went() -> None:
    cache = build_cache()
    cache.apply(JOBS, DELETED, build_job())
    cache.apply(PODS, "ADDED", build_pod())
    assert cache.children(FOX) == children_of((), (build_pod(),))


def test_a_pod_that_only_carries_our_labels_is_nobodys() -> None:
    cache = build_cache()
    cache.apply(JOBS, "ADDED", build_job())
    stray = build_pod(uid="stray", job="other")
    orphan = build_pod(uid="orphan")
    orphan["metadata"]["ownerReferences"] = []
    assert cache.apply(PODS, "ADDED", stray) == NOBODY
    assert cache.apply(PODS, "ADDED", orphan) == NOBODY
    assert cache.children(FOX) == children_of((build_job(),))


def test_a_job_that_only_carries_our_labels_is_nobodys() -> None:
    cache = build_cache()
    foreign = build_job()
    foreign["metadata"]["ownerReferences"][0]["apiVersion"] = "example.com/v1"
    orphan = build_job(uid="orphan")
    del orphan["metadata"]["ownerReferences"][0]["controller"]
    assert cache.apply(JOBS, "ADDED", foreign) == NOBODY
    assert cache.apply(JOBS, "ADDED", orphan) == NOBODY
    assert cache.children(FOX) == Children()


def test_children_of_an_earlier_resource_of_the_same_name_are_not_those_of_today() -> None:
    cache = build_cache()
    cache.apply(JOBS, "ADDED", build_job(owner="before"))
    assert cache.children(FOX) == Children()
    cache.apply(JOBS, "ADDED", build_job(uid="new", owner="v"))
    assert cache.children(FOX) == children_of((build_job(uid="new", owner="v"),))


def test_a_resource_that_was_made_again_is_not_deleted_by_the_end_of_the_first() -> None:
    cache = build_cache()
    again = build_video_generation(uid="again", version=9)
    cache.apply(VIDEO_GENERATIONS, "ADDED", again)
    cache.apply(VIDEO_GENERATIONS, DELETED, build_video_generation(version=8))
    found = cache.get(FOX)
    assert found is not None
    assert found["metadata"]["uid"] == "again"
    assert cache.keys() == (FOX,)


def test_late_events_do_not_bring_back_what_the_operator_has_deleted() -> None:
    cache = build_cache()
    cache.apply(JOBS, "ADDED", build_job())
    cache.forget(JOBS, "j")
    assert cache.apply(JOBS, "MODIFIED", build_job(version=5)) == NOBODY
    assert cache.children(FOX) == Children()
    assert cache.apply(JOBS, DELETED, build_job(version=6)) == WOKEN


def test_a_list_replaces_everything_but_what_is_newer() -> None:
    cache = build_cache()
    cache.apply(JOBS, "ADDED", build_job(uid="gone", version=3))
    cache.apply(JOBS, None, build_job(uid="just-made", version=12))
    woken = cache.prime(JOBS, build_list(build_job(uid="listed", version=5), version=10))
    assert woken == WOKEN
    just_made, listed = build_job(uid="just-made", version=12), build_job(uid="listed", version=5)
    assert cache.children(FOX) == children_of((just_made, listed))
    assert cache.apply(JOBS, "MODIFIED", build_job(uid="gone", version=4)) == NOBODY


def test_a_resync_drops_what_is_gone_and_wakes_whose_it_was() -> None:
    cache = build_cache()
    cache.apply(JOBS, "ADDED", build_job())
    result = cache.resync(JOBS, build_list(version=10))
    assert (result.keys, result.is_behind, result.behind_seconds) == (WOKEN, False, 0.0)
    assert cache.children(FOX) == Children()


def test_a_stream_is_behind_for_as_long_as_an_object_has_been_newer() -> None:
    clock = Clock()
    cache = build_cache(clock)
    newer = build_list(build_video_generation(version=5), version=10)
    assert cache.resync(VIDEO_GENERATIONS, newer).behind_seconds == 0.0
    clock.seconds = 20.0
    assert cache.resync(VIDEO_GENERATIONS, newer).behind_seconds == 20.0
    # Even where the object has changed once more meanwhile.
    clock.seconds = 60.0
    newest = build_list(build_video_generation(version=6), version=11)
    assert cache.resync(VIDEO_GENERATIONS, newest).behind_seconds == 60.0
    cache.apply(VIDEO_GENERATIONS, "MODIFIED", build_video_generation(version=6))
    assert cache.resync(VIDEO_GENERATIONS, newest).behind_seconds == 0.0


def test_a_stream_that_delivers_other_versions_each_time_is_not_behind() -> None:
    clock = Clock()
    cache = build_cache(clock)
    for minute in range(1, 5):
        clock.seconds = 60.0 * minute
        listed = build_list(build_video_generation(version=10 * minute), version=10 * minute)
        assert cache.resync(VIDEO_GENERATIONS, listed).behind_seconds == 0.0
        cache.apply(VIDEO_GENERATIONS, "MODIFIED", build_video_generation(version=10 * minute))


def test_objects_that_are_nobodys_do_not_make_a_stream_look_deaf() -> None:
    clock = Clock()
    cache = build_cache(clock)
    stray = build_pod(uid="stray", job="other")
    cache.apply(PODS, "ADDED", stray)
    for clock.seconds in (0.0, 60.0):
        assert cache.resync(PODS, build_list(stray, version=10)).behind_seconds == 0.0


def test_a_deleted_job_that_a_finalizer_keeps_does_not_make_a_stream_look_deaf() -> None:
    clock = Clock()
    cache = build_cache(clock)
    cache.apply(JOBS, "ADDED", build_job())
    cache.forget(JOBS, "j")
    for clock.seconds in (0.0, 60.0):
        assert cache.resync(JOBS, build_list(build_job(version=7), version=10)).behind_seconds == 0.0


def test_nothing_is_remembered_for_ever() -> None:
    clock = Clock()
    cache = build_cache(clock)
    cache.apply(JOBS, "ADDED", build_job())
    cache.apply(PODS, "ADDED", build_pod())
    cache.apply(PODS, DELETED, build_pod(version=2))
    cache.apply(JOBS, DELETED, build_job(version=2))
    cache.apply(VIDEO_GENERATIONS, DELETED, build_video_generation(version=3))
    clock.seconds = 601.0
    cache.resync(VIDEO_GENERATIONS, build_list(version=10))
    kept = (cache._tombstones, cache._owner_of_job, cache._jobs_of_owner, cache._pods_of_job, cache._uid_of_key)
    assert kept == ({}, {}, {}, {}, {})


@pytest.mark.parametrize(
    ("resource", "found"), [(VIDEO_GENERATIONS, build_video_generation()), (JOBS, build_job()), (PODS, build_pod())]
)
def test_what_is_slim_already_stays_as_it_is(resource: Resource, found: Object) -> None:
    slimmed = slim(resource, found)
    assert slim(resource, slimmed) == slimmed
    assert len(json.dumps(slimmed)) < len(json.dumps(found))


@dataclass(frozen=True)
class Event:
    resource: Resource
    event_type: str
    found: Object


@dataclass(frozen=True)
class History:
    events: list[Event]
    final: dict[tuple[Resource, str], Object | None]
    """What there is in the end; None: it was deleted."""
    cut: int
    """A position among the events."""

    def left(self, resource: Resource) -> tuple[Object, ...]:
        return tuple(found for (kind, _), found in self.final.items() if kind == resource and found is not None)


def _versions(resource: Resource, uid: str, version: int) -> Object:
    """The object at a version; each has another content."""
    if resource == VIDEO_GENERATIONS:
        return build_video_generation(uid=uid, version=version, spec={"retry": str(version)})
    if resource == JOBS:
        return build_job(uid=uid, version=version, completions=version)
    return build_pod(uid=uid, job=f"j{uid[1]}", version=version, node=f"node-{version}")


@st.composite
def _histories(draw: st.DrawFn) -> History:
    """What happened to a resource and its children, in any order and some of it twice."""
    uids = [(VIDEO_GENERATIONS, "v"), (JOBS, "j1"), (JOBS, "j2"), (PODS, "p1a"), (PODS, "p1b"), (PODS, "p2a")]
    events: list[Event] = []
    final: dict[tuple[Resource, str], Object | None] = {}
    for position, (resource, uid) in enumerate(uids):
        versions = draw(st.integers(1, 4))
        for number in range(versions):
            kind = "ADDED" if number == 0 else "MODIFIED"
            events.append(Event(resource, kind, _versions(resource, uid, 10 * number + position)))
        final[resource, uid] = events[-1].found
        if resource != VIDEO_GENERATIONS and draw(st.booleans()):
            events.append(Event(resource, DELETED, _versions(resource, uid, 10 * versions + position)))
            final[resource, uid] = None
    twice = draw(st.lists(st.sampled_from(events), max_size=len(events)))
    heard = draw(st.permutations(events + twice))
    return History(heard, final, draw(st.integers(0, len(heard))))


@given(_histories())
def test_events_in_any_order_and_any_number_leave_the_newest_of_each(history: History) -> None:
    cache = ClusterCache(Clock())
    for event in history.events:
        cache.apply(event.resource, event.event_type, event.found)
    resource = cache.get(FOX)
    assert resource is not None
    assert resource["spec"] == history.left(VIDEO_GENERATIONS)[0]["spec"]
    assert cache.children(FOX) == children_of(history.left(JOBS), history.left(PODS))


@given(_histories())
def test_a_list_in_the_middle_changes_nothing_of_the_end(history: History) -> None:
    """As after a stream that broke off: the list is of the end, and events from before it still arrive after it."""
    cache = ClusterCache(Clock())
    for event in history.events[: history.cut]:
        cache.apply(event.resource, event.event_type, event.found)
    for resource in (VIDEO_GENERATIONS, JOBS, PODS):
        cache.prime(resource, build_list(*history.left(resource), version=1000))
    after_the_list = cache.children(FOX)
    for event in history.events[history.cut :]:
        # Of what the list has shown to be gone, and the cache had never heard of, only the end itself can tell.
        if history.final[event.resource, event.found["metadata"]["uid"]] is not None:
            cache.apply(event.resource, event.event_type, event.found)
    assert cache.children(FOX) == after_the_list
    assert after_the_list.jobs == children_of(history.left(JOBS)).jobs


def test_a_thousand_resources_with_their_children_fit_in_50_megabytes() -> None:
    wires = [
        (resource, json.dumps(found))
        for resource, found in [
            (VIDEO_GENERATIONS, build_video_generation()),
            *((JOBS, build_job(uid=f"j{number}")) for number in range(4)),
            *((PODS, build_pod(uid=f"p{number}", job=f"j{number}")) for number in range(4)),
        ]
    ]
    gc.collect()
    tracemalloc.start()
    try:
        cache = ClusterCache(Clock())
        for number in range(100):
            for resource, wire in wires:
                found = json.loads(wire.replace('"uid": "', f'"uid": "{number:036d}').replace('"fox"', f'"f{number}"'))
                cache.apply(resource, None, found)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(cache.children(Key("team", "f7")).pods) == 4
    assert kept < 50e6 * 100 / 1000
