"""Watch streams through kopf, which is used for that alone: every event goes to one callback, nothing is ever written.

kopf runs in a thread of its own. It never stops by itself unless something is wrong for good (its credentials, its
rights, or an API server that did not answer for minutes); `on_end` then tells the process to end too, and nothing of
this is used any more. Only `event` handlers are registered: all others would write annotations or finalizers to other
people's objects.

What kopf cannot see itself, a stream that is open and silent, is the canary's to find (canary.py).
"""

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import kopf

from videogen_api import naming
from videogen_operator.cluster.resources import JOBS, PODS, VIDEO_GENERATIONS, Object, Resource

log = logging.getLogger("videogen")

EventCallback = Callable[[Resource, str | None, Object], None]
"""What kind, event type (None: it was there when the stream began; else ADDED, MODIFIED or DELETED), the object."""

SELECTORS: Mapping[Resource, str | None] = {
    VIDEO_GENERATIONS: None,
    JOBS: naming.LABEL_NAME,
    PODS: naming.LABEL_NAME,
}
"""What is watched, with the label selector that the API server applies."""

_TURN_SECONDS = 1.0
_STUCK_SECONDS = 15.0
_TIDY_SECONDS = 8.0


class Watcher:
    """The streams of some namespaces (None: of all).

    `on_event` is called in kopf's thread, for one object in the order of its events; it must not block. An exception
    in it ends the watcher: an event that was lost would not come again. `on_end` is called once, with the error, when
    the streams have ended without `stop`.
    """

    def __init__(
        self, namespaces: tuple[str, ...] | None, on_event: EventCallback, on_end: Callable[[BaseException], None]
    ) -> None:
        self._namespaces = namespaces
        self._on_event = on_event
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._has_ended = False
        """Stopped, or reported to have failed."""
        self._begun = threading.Event()
        self._turned_at = time.monotonic()

    def start(self) -> None:
        self._thread.start()
        self._begun.wait()

    def stop(self) -> None:
        """Ends the streams; waits a few seconds for it."""
        if not self._has_ended and self._loop is not None and self._task is not None:
            self._has_ended = True
            # A RuntimeError: the loop was faster.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(_TIDY_SECONDS)

    def problem(self) -> str | None:
        """Why no event can arrive; None: nothing is wrong, or it has not begun. For /livez."""
        if not self._begun.is_set():
            return None
        if not self._thread.is_alive():
            return "ended"
        seconds = time.monotonic() - self._turned_at
        return f"its event loop has not turned for {seconds:.0f} s" if seconds > _STUCK_SECONDS else None

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except asyncio.CancelledError:
            log.debug("the watch streams were stopped")
        except Exception as error:  # noqa: BLE001  (the border of this thread: on_end ends the process)
            self._report(error)
        finally:
            self._begun.set()

    async def _watch(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._loop.set_exception_handler(_log_in_one_line)
        self._begun.set()
        turning = asyncio.create_task(self._turn())
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(),
            # Of no use without peering; left out, kopf asks for the user's name, which a container's may not have.
            identity=cast("Any", "videogen"),
            clusterwide=self._namespaces is None,
            namespaces=self._namespaces or (),
        )
        tidying = asyncio.create_task(kopf.run_tasks(tasks, ignored=others))
        try:
            # kopf tidies up before it says that a stream has failed, and that can take for ever.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self._report(next((task.exception() for task in done if not task.cancelled()), None))
            await asyncio.wait([tidying], timeout=_TIDY_SECONDS)
        finally:
            tidying.cancel()
            turning.cancel()
            await asyncio.wait([tidying], timeout=_TIDY_SECONDS)

    async def _turn(self) -> None:
        while True:
            self._turned_at = time.monotonic()
            await asyncio.sleep(_TURN_SECONDS)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, errors=kopf.ErrorsMode.PERMANENT)(self._log_in)
        for resource in SELECTORS:
            on_event = kopf.on.event(
                resource.group, resource.version, resource.plural, id=resource.plural, registry=registry
            )
            on_event(self._handler(resource))
        return registry

    def _handler(self, resource: Resource) -> Any:
        async def handle(event: kopf.RawEvent, **_: Any) -> None:
            try:
                self._on_event(resource, event["type"], dict(event["object"]))
            except Exception as error:
                # kopf would log it and go on without this event.
                self._give_up(error)
                raise

        return handle

    async def _log_in(self, settings: kopf.OperatorSettings, **kwargs: Any) -> kopf.ConnectionInfo:
        try:
            return _find_cluster(settings, **kwargs)
        except Exception as error:
            # kopf would log it and wait for credentials for ever.
            self._give_up(error)
            raise

    def _give_up(self, error: Exception) -> None:
        self._report(error)
        if self._task is not None:
            self._task.cancel()

    def _report(self, error: BaseException | None) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_end(error or RuntimeError("the watch streams ended by themselves"))


def _log_in_one_line(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.warning("watch loop: %s: %r", context["message"], context.get("exception"))


class _Backoffs:
    """Seconds between tries: about four minutes in all, each with jitter; new ones for each request.

    No single one is long, so that a stream comes back before the canary calls it deaf.
    """

    def __iter__(self) -> Iterator[float]:
        for seconds in (0.5, 1, 2, 4, *[8] * 30):
            yield seconds * random.uniform(0.5, 1.5)  # noqa: S311  (jitter)


class _NoHistory(kopf.DiffBaseStorage):
    """Of what an object was when it was last seen, nothing: nobody asks kopf what has changed.

    By itself kopf would copy and compare every object at every event, a third of all that an event costs.
    """

    def build(self, *, body: kopf.Body, **_: Any) -> kopf.BodyEssence:  # noqa: ARG002  (kopf's form)
        return cast("kopf.BodyEssence", {})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002  (kopf's form)
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        raise NotImplementedError("nothing is ever written to a watched object")


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    # Neither namespaces nor CRDs are watched: a namespaced install has no right to.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = _NoHistory()
    for resource, selector in SELECTORS.items():
        if selector is not None:
            settings.watching.label_selectors[resource.group, resource.version, resource.plural] = selector
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 270
    settings.watching.connect_timeout = 10
    # The API server sends a bookmark every minute.
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.enforce_retry_after = True
    # Without a limit of workers: with one, rate = limit / idle_timeout.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 1
    settings.queueing.exit_timeout = 1
    # kopf would kill the whole process where it cannot end; `stop` does not wait for that.
    settings.process.ultimate_exiting_timeout = None
    return settings


def _find_cluster(settings: kopf.OperatorSettings, **kwargs: Any) -> kopf.ConnectionInfo:
    """The same cluster that connection.py takes: of KUBECONFIG, of the pod that this is, or of ~/.kube/config.

    Raises kopf.LoginError where there is none.
    """
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if host and "KUBECONFIG" not in os.environ:
        found = kopf.login_with_service_account(settings=settings, **kwargs)
        if found is not None:
            # By address: the cluster's DNS may have to come up first.
            address = f"[{host}]" if ":" in host else host
            found = replace(found, server=f"https://{address}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}")
    else:
        found = kopf.login_with_kubeconfig(settings=settings, **kwargs)
    if found is None:
        raise kopf.LoginError("no cluster to talk to: run in a pod with a service account, or set KUBECONFIG")
    return found
