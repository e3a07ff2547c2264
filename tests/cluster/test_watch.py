"""Watch streams against a real API server and against one that misbehaves; the canary on lists that a test makes."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web
from tests.cluster.control_plane import ControlPlane

from videogen_api import naming
from videogen_operator.cluster import canary as canaries
from videogen_operator.cluster.api_errors import ApiError, NotFound, Unavailable
from videogen_operator.cluster.cache import ClusterCache
from videogen_operator.cluster.canary import Canary
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.resources import (
    JOBS,
    PODS,
    VIDEO_GENERATIONS,
    Key,
    Object,
    ObjectList,
    Resource,
)
from videogen_operator.cluster.watch import Watcher

PATIENCE_SECONDS = 120.0
POD_SPEC = {"containers": [{"name": "runner", "image": "none"}], "restartPolicy": "Never"}
SPECS: Mapping[Resource, Object] = {
    VIDEO_GENERATIONS: {"prompts": [{"text": "a red fox"}], "runners": [{"name": "cpu", "gpu": {"count": 0}}]},
    JOBS: {"template": {"spec": POD_SPEC}, "suspend": True},
    PODS: POD_SPEC,
}

Seen = tuple[str, str | None, str]
"""Plural, event type, name."""


class Events:
    """What a watcher was told, to be waited for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.seen: list[Seen] = []
        self.errors: list[BaseException] = []

    def on_event(self, resource: Resource, event_type: str | None, found: Object) -> None:
        with self._changed:
            self.seen.append((resource.plural, event_type, found["metadata"]["name"]))
            self._changed.notify_all()

    def on_end(self, error: BaseException) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(is_so, PATIENCE_SECONDS), (self.seen, self.errors)


# A real API server.


@pytest.fixture(scope="module")
def client(control_plane: ControlPlane) -> Iterator[KubernetesClient]:
    control_plane.install_crd()
    client = KubernetesClient.connect({"KUBECONFIG": str(control_plane.kubeconfig)}, threads=1)
    yield client
    client.close()


def create(client: KubernetesClient, resource: Resource, namespace: str, name: str, *, labelled: bool = True) -> str:
    labels = {naming.LABEL_NAME: "fox"} if labelled else {}
    manifest = {
        "apiVersion": f"{resource.group}/{resource.version}".lstrip("/"),
        "kind": resource.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": SPECS[resource],
    }
    uid: str = client.create(resource, namespace, manifest)["uid"]
    return uid


def test_events_of_all_kinds_arrive_from_what_is_there_to_what_is_deleted(
    control_plane: ControlPlane, client: KubernetesClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    for namespace in ("watch-a", "watch-b"):
        control_plane.kubectl("create", "namespace", namespace)
    uids = {resource: create(client, resource, "watch-a", "there") for resource in SPECS}
    for resource in SPECS:
        create(client, resource, "watch-b", "elsewhere")
    create(client, PODS, "watch-a", "not-ours", labelled=False)
    events = Events()
    watcher = Watcher(("watch-a",), events.on_event, events.on_end)
    watcher.start()
    try:
        events.wait_for(lambda: {(resource.plural, None, "there") for resource in SPECS} <= set(events.seen))
        for resource in SPECS:
            create(client, resource, "watch-a", "new")
            client.patch(resource, "watch-a", "new", {"metadata": {"annotations": {"a": "b"}}})
            client.delete(resource, "watch-a", "there", uids[resource])
        expected = {
            (resource.plural, event_type, name)
            for resource in SPECS
            for event_type, name in (("ADDED", "new"), ("MODIFIED", "new"), ("DELETED", "there"))
        }
        events.wait_for(lambda: expected <= set(events.seen))
        assert watcher.problem() is None
    finally:
        watcher.stop()

    assert {name for _, _, name in events.seen} == {"there", "new"}
    assert events.errors == []
    for resource in SPECS:
        metadata = client.get(resource, "watch-a", "new")["metadata"]
        # Nothing of kopf's.
        assert metadata["annotations"] == {"a": "b"}
        assert "finalizers" not in metadata or metadata["finalizers"] == ["foregroundDeletion"]


def test_an_object_that_is_deleted_leaves_the_cache(
    control_plane: ControlPlane, client: KubernetesClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    control_plane.kubectl("create", "namespace", "watch-c")
    uid = create(client, VIDEO_GENERATIONS, "watch-c", "fox")
    cache = ClusterCache(time.monotonic)
    events = Events()

    def on_event(resource: Resource, event_type: str | None, found: Object) -> None:
        cache.apply(resource, event_type, found)
        events.on_event(resource, event_type, found)

    watcher = Watcher(("watch-c",), on_event, events.on_end)
    watcher.start()
    try:
        events.wait_for(lambda: cache.keys() == (Key("watch-c", "fox"),))
        client.delete(VIDEO_GENERATIONS, "watch-c", "fox", uid)
        events.wait_for(lambda: cache.keys() == ())
    finally:
        watcher.stop()


# An API server that misbehaves.


@dataclass
class FakeServer:
    """Discovery, lists of one object a kind, and watch streams that do what the test says; one loop in one thread."""

    watch: Callable[[web.Request, int], Any]
    """Called with the request and how many watches of any kind came before; returns a response."""
    methods: set[str] = field(default_factory=set)
    num_lists: int = 0
    num_watches: int = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
        self.address = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(PATIENCE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()

    def write_kubeconfig(self, path: Path) -> Path:
        config = {
            "clusters": [{"name": "fake", "cluster": {"server": self.address}}],
            "users": [{"name": "fake", "user": {"token": "none"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
        path.write_text(json.dumps(config))
        return path

    async def _listen(self) -> str:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.methods.add(request.method)
        found = _discovery(request.path)
        if found is not None:
            return web.json_response(found)
        if "watch" in request.query:
            self.num_watches += 1
            response: web.StreamResponse = await self.watch(request, self.num_watches - 1)
            return response
        self.num_lists += 1
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [fake_object("there")]})


def _discovery(path: str) -> Object | None:
    groups = [(resource.group, resource.version) for resource in (VIDEO_GENERATIONS, JOBS)]
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        versions = [(group, {"version": version, "groupVersion": f"{group}/{version}"}) for group, version in groups]
        return {"groups": [{"name": name, "versions": [one], "preferredVersion": one} for name, one in versions]}
    found = [resource for resource in SPECS if path == resource.path(None).removesuffix(f"/{resource.plural}")]
    if not found:
        return None
    names = [(found[0].plural, found[0].kind, True)]
    if found == [PODS]:
        names.append(("namespaces", "Namespace", False))
    return {
        "resources": [
            {
                "name": plural,
                "kind": kind,
                "singularName": "",
                "namespaced": namespaced,
                "verbs": ["get", "list", "watch"],
            }
            for plural, kind, namespaced in names
        ]
    }


def fake_object(name: str, version: str = "1") -> Object:
    return {"metadata": {"name": name, "namespace": "fake", "uid": f"uid-{name}", "resourceVersion": version}}


async def stream(request: web.Request, *events: Object) -> web.StreamResponse:
    """Some events, then silence for as long as the client wants."""
    response = web.StreamResponse()
    await response.prepare(request)
    for event in events:
        await response.write(json.dumps(event).encode() + b"\n")
    if not events or events[-1]["type"] != "ERROR":
        await asyncio.sleep(3600)
    return response


async def quiet(request: web.Request, _number: int) -> web.StreamResponse:
    return await stream(request)


def watch_fake(server: FakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch, events: Events) -> Watcher:
    monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(folder / "kubeconfig")))
    watcher = Watcher(None, events.on_event, events.on_end)
    watcher.start()
    return watcher


def test_a_stream_with_an_error_ends_the_watcher_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(request: web.Request, _number: int) -> web.StreamResponse:
        return await stream(request, {"type": "ERROR", "object": {"code": 500, "message": "etcd is gone"}})

    events = Events()
    with FakeServer(fail) as server:
        watcher = watch_fake(server, tmp_path, monkeypatch, events)
        events.wait_for(lambda: bool(events.errors))
        watcher.stop()

    assert ["etcd is gone" in str(error) for error in events.errors] == [True]
    assert watcher.problem() == "ended"


def test_an_api_server_that_is_away_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def come_back(request: web.Request, number: int) -> web.StreamResponse:
        if number < 6:
            return web.json_response({"kind": "Status", "code": 503}, status=503)
        return await stream(request, {"type": "ADDED", "object": fake_object("late", "2")})

    events = Events()
    with FakeServer(come_back) as server:
        watcher = watch_fake(server, tmp_path, monkeypatch, events)
        events.wait_for(lambda: {(resource.plural, "ADDED", "late") for resource in SPECS} <= set(events.seen))
        watcher.stop()

    assert events.errors == []


def test_a_stream_that_is_too_old_begins_anew_with_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def expire(request: web.Request, number: int) -> web.StreamResponse:
        if number < 3:
            return await stream(request, {"type": "ERROR", "object": {"code": 410, "message": "too old"}})
        return await stream(request)

    events = Events()
    with FakeServer(expire) as server:
        watcher = watch_fake(server, tmp_path, monkeypatch, events)
        events.wait_for(lambda: all(events.seen.count((r.plural, None, "there")) == 2 for r in SPECS))
        watcher.stop()

    assert (events.errors, server.num_lists) == ([], 6)


def test_an_error_in_the_callback_ends_the_watcher_because_the_event_would_not_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events()

    def fail(*_: object) -> None:
        raise KeyError("nobody thought of this")

    with FakeServer(quiet) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.write_kubeconfig(tmp_path / "kubeconfig")))
        watcher = Watcher(None, fail, events.on_end)
        watcher.start()
        events.wait_for(lambda: bool(events.errors))
        watcher.stop()

    assert [repr(error) for error in events.errors] == ["KeyError('nobody thought of this')"]


def test_a_stopped_watcher_ends_in_silence_and_has_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events()
    with FakeServer(quiet) as server:
        watcher = watch_fake(server, tmp_path, monkeypatch, events)
        events.wait_for(lambda: len(events.seen) == len(SPECS))
        watcher.stop()

    assert events.errors == []
    assert server.methods == {"GET"}


def test_no_cluster_is_an_error_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    events = Events()
    watcher = Watcher(None, events.on_event, events.on_end)
    watcher.start()

    events.wait_for(lambda: bool(events.errors))

    assert "run in a pod with a service account, or set KUBECONFIG" in str(events.errors[0])


def test_credentials_that_are_refused_end_the_watcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_request: web.Request, _number: int) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "code": 401}, status=401)

    events = Events()
    with FakeServer(refuse) as server:
        watcher = watch_fake(server, tmp_path, monkeypatch, events)
        events.wait_for(lambda: bool(events.errors))
        watcher.stop()

    assert len(events.errors) == 1


# The canary.


@dataclass
class FakeLists:
    """What the API server would list: objects by kind, or an error."""

    items: dict[Resource, list[Object]] = field(default_factory=dict)
    version: int = 100
    error: ApiError | None = None
    num_looks: int = 0
    looked: threading.Condition = field(default_factory=threading.Condition)

    def list(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        label_selector: str | None = None,
        keep: Callable[[Object], Object],
    ) -> ObjectList:
        assert (label_selector is None) == (resource == VIDEO_GENERATIONS)
        return ObjectList(tuple(keep(item) for item in self._items(resource, namespace)), str(self.version))

    def list_metadata(
        self, resource: Resource, namespace: str | None, *, label_selector: str | None = None
    ) -> ObjectList:
        assert (label_selector is None) == (resource == VIDEO_GENERATIONS)
        with self.looked:
            self.num_looks += 1
            self.looked.notify_all()
        return ObjectList(tuple(self._items(resource, namespace)), str(self.version))

    def _items(self, resource: Resource, namespace: str | None) -> "list[Object]":
        if self.error is not None:
            raise self.error
        return [item for item in self.items.get(resource, []) if namespace in (None, item["metadata"]["namespace"])]


def video_generation(name: str, version: int, *, namespace: str = "fake", status: Object | None = None) -> Object:
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{name}",
        "resourceVersion": str(version),
        "generation": 1,
    }
    return {"metadata": metadata, "spec": {}, "status": status or {}}


@dataclass
class Setting:
    lists: FakeLists = field(default_factory=FakeLists)
    namespaces: tuple[str, ...] | None = None
    now: float = 1000.0
    woken: list[Key] = field(default_factory=list)
    deaf: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.cache = ClusterCache(lambda: self.now)
        self.canary = Canary(
            self.lists,  # type: ignore[arg-type]  # lists are all that it asks the client for
            self.cache,
            self.namespaces,
            wake=self.woken.append,
            on_deaf=self._on_deaf,
            clock=lambda: self.now,
        )

    def _on_deaf(self, problem: str) -> None:
        with self.changed:
            self.deaf.append(problem)
            self.changed.notify_all()


def test_the_cache_is_filled_from_full_lists_of_every_namespace() -> None:
    items = [video_generation("a", 5, namespace="one"), video_generation("b", 6, namespace="two")]
    setting = Setting(FakeLists({VIDEO_GENERATIONS: items}), namespaces=("one", "two"))

    setting.canary.prime()

    assert sorted(setting.cache.keys()) == [Key("one", "a"), Key("two", "b")]
    assert setting.canary.proof_ages() == {("videogenerations",): 0.0, ("jobs",): 0.0, ("pods",): 0.0}


def test_a_missing_crd_is_named_with_the_remedy() -> None:
    setting = Setting(FakeLists(error=NotFound("404 page not found", code=404)))

    with pytest.raises(NotFound, match=r"no videogenerations.videogen.dev; apply the CRD \(crds/\) first"):
        setting.canary.prime()


def test_a_stream_that_keeps_up_is_not_deaf() -> None:
    setting = Setting(FakeLists({VIDEO_GENERATIONS: [video_generation("a", 5)]}))
    setting.canary.prime()
    for version in range(6, 12):
        setting.now += 60
        setting.lists.items[VIDEO_GENERATIONS] = [video_generation("a", version)]
        assert setting.canary.look()
        setting.cache.apply(VIDEO_GENERATIONS, "MODIFIED", video_generation("a", version))

    assert not setting.canary.look()
    assert setting.canary.problem() is None


@pytest.mark.parametrize("namespaces", [None, ("fake",), ("other", "fake"), ("fake", "other")])
def test_a_stream_that_has_missed_an_object_for_long_is_deaf(namespaces: tuple[str, ...] | None) -> None:
    setting = Setting(FakeLists({VIDEO_GENERATIONS: [video_generation("a", 5)]}), namespaces)
    setting.canary.prime()
    setting.lists.items[VIDEO_GENERATIONS].append(video_generation("b", 7))

    assert setting.canary.look()
    setting.now += 30
    assert setting.canary.look()
    assert setting.canary.problem() is None
    setting.now += 1
    assert setting.canary.look()

    assert setting.canary.problem() == "no events of videogenerations"
    assert setting.canary.proof_ages()[("videogenerations",)] == 31


def test_what_was_deleted_unseen_leaves_the_cache_and_wakes_its_key() -> None:
    setting = Setting(FakeLists({VIDEO_GENERATIONS: [video_generation("a", 5), video_generation("b", 6)]}))
    setting.canary.prime()
    setting.lists.items[VIDEO_GENERATIONS].pop()

    assert not setting.canary.look()

    assert setting.cache.keys() == (Key("fake", "a"),)
    assert setting.woken == [Key("fake", "b")]


def test_a_look_wakes_what_is_unfinished_and_leaves_the_rest_in_peace() -> None:
    finished = {"phase": "Succeeded", "observedGeneration": 1}
    items = [
        video_generation("new", 1),
        video_generation("running", 2, status={"phase": "Generating", "observedGeneration": 1}),
        video_generation("done", 3, status=finished),
        video_generation("edited", 4, status={**finished, "observedGeneration": 0}),
    ]
    setting = Setting(FakeLists({VIDEO_GENERATIONS: items}))
    setting.canary.prime()

    setting.canary.wake_unfinished()

    assert [key.name for key in setting.woken] == ["new", "running", "edited"]


def test_the_canarys_thread_reports_a_deaf_stream_once_and_an_api_error_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(canaries, "SUSPICIOUS_INTERVAL_SECONDS", 0.005)
    setting = Setting(FakeLists({VIDEO_GENERATIONS: [video_generation("a", 5)]}))
    setting.canary.prime()
    setting.lists.error = Unavailable("no answer", code=0)
    setting.canary.start()
    with setting.lists.looked:
        assert setting.lists.looked.wait_for(lambda: setting.lists.num_looks >= 5, PATIENCE_SECONDS)
    assert (setting.deaf, setting.canary.problem()) == ([], None)

    setting.lists.items[VIDEO_GENERATIONS] = [video_generation("a", 9)]
    setting.lists.error = None
    with setting.lists.looked:
        after = setting.lists.num_looks + 6
        assert setting.lists.looked.wait_for(lambda: setting.lists.num_looks >= after, PATIENCE_SECONDS)
    setting.now += 31
    with setting.changed:
        assert setting.changed.wait_for(lambda: bool(setting.deaf), PATIENCE_SECONDS)

    assert setting.deaf == ["no events of videogenerations for more than 30 s"]
    assert setting.canary.problem() == "no events of videogenerations"


class Pauses:
    """Stands in for the event that ends the canary's thread: no pause takes time, and the last one ends it."""

    def __init__(self, most: int, before: Callable[[int], None]) -> None:
        self.seconds: list[float] = []
        self._most = most
        self._before = before

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        self._before(len(self.seconds))
        return len(self.seconds) > self._most

    def set(self) -> None:
        raise AssertionError("it ends by itself")


def pauses_of(setting: Setting, most: int, before: Callable[[int], None] = lambda _: None) -> list[float]:
    """The pauses of a canary before its first looks and the one that comes after `most` of them; `before` is told of
    each, counted from 1."""
    pauses = Pauses(most, before)
    setting.canary._stop = pauses  # type: ignore[assignment]  # all that is asked of an event
    setting.canary.start()
    setting.canary._thread.join(PATIENCE_SECONDS)
    return pauses.seconds


def test_the_first_looks_come_early_and_what_went_unseen_at_the_start_is_found_by_them() -> None:
    setting = Setting(FakeLists({VIDEO_GENERATIONS: [video_generation("stays", 1), video_generation("goes", 2)]}))
    setting.canary.prime()
    woken_before: dict[int, list[str]] = {}

    def before(pause: int) -> None:
        woken_before[pause] = [key.name for key in setting.woken]
        if pause == 1:
            # After the cache was filled and before a stream began: no event will ever tell of it.
            setting.lists.items[VIDEO_GENERATIONS].pop()

    assert pauses_of(setting, 3, before) == [3.0, 11.0, 60.0, 60.0]
    assert setting.cache.keys() == (Key("fake", "stays"),)
    # The early looks leave what is unfinished alone; that is for the regular ones.
    assert woken_before == {1: [], 2: ["goes"], 3: ["goes"], 4: ["goes", "stays"]}


def test_a_look_that_fails_or_misses_something_is_soon_followed_by_another() -> None:
    setting = Setting(FakeLists({VIDEO_GENERATIONS: [video_generation("a", 1)]}))
    setting.canary.prime()

    def before(pause: int) -> None:
        setting.lists.error = Unavailable("no answer", code=0) if pause == 3 else None
        # A version that the stream has not brought before the fifth look.
        version = 9 if pause == 4 else 1
        setting.lists.items[VIDEO_GENERATIONS] = [video_generation("a", version)]

    assert pauses_of(setting, 5, before) == [3.0, 11.0, 60.0, 11.0, 11.0, 60.0]
    assert setting.deaf == []


def test_a_canary_that_was_stopped_is_no_problem_of_the_streams() -> None:
    setting = Setting()
    setting.canary.prime()
    setting.canary.start()
    assert setting.canary.problem() is None

    setting.canary.stop()
