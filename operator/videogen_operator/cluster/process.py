"""The operator's process: who starts what, in which order, and what ends it.

    prime the cache -> watch streams -> leader election -> one more look -> workers

A standby replica stops before the last two steps; its cache stays warm. The main thread waits for what ends the
process: a signal (exit code 0 after the passes at hand), a lost leadership, or a stream that is dead or deaf (1).
"""

import contextlib
import logging
import os
import queue
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from videogen_operator.cluster.api_errors import ApiError
from videogen_operator.cluster.backend import ClusterBackend
from videogen_operator.cluster.cache import ClusterCache
from videogen_operator.cluster.campaign import campaign, make_elector
from videogen_operator.cluster.canary import Canary
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.events import EventRecorder
from videogen_operator.cluster.health import Check, Page, check_page, metrics_page, serve
from videogen_operator.cluster.metrics import OperatorMetrics, Reading
from videogen_operator.cluster.plans import PlanBook
from videogen_operator.cluster.progress import ProgressPoller
from videogen_operator.cluster.queue import WorkQueue
from videogen_operator.cluster.reconciler import Reconciler
from videogen_operator.cluster.resources import Key, Object, Resource
from videogen_operator.cluster.watch import Watcher
from videogen_operator.cluster.workers import Workers
from videogen_operator.config import OperatorConfig

log = logging.getLogger("videogen")

FINISH_SECONDS = 10.0
"""How long passes may take to end when the process is asked to."""

_OTHER_CALLERS = 3
"""Threads beside the workers that call the API server: canary, events, main."""
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Options:
    """What the command line says; a port of 0 is any free one."""

    workers: int
    health_port: int
    metrics_port: int
    elects: bool


@dataclass(frozen=True)
class _Ending:
    exit_code: int
    why: str


class OperatorProcess:
    """`run` it once, in the main thread. Making it raises ConfigInvalid where there is no cluster or no identity."""

    def __init__(self, config: OperatorConfig, environment: Mapping[str, str], options: Options) -> None:
        self._options = options
        self._identity = f"{environment.get('POD_NAME') or os.uname().nodename}-{uuid.uuid4().hex[:8]}"
        # A SimpleQueue: what a signal handler may put to while its own thread waits.
        self._endings: queue.SimpleQueue[_Ending] = queue.SimpleQueue()
        self._metrics = OperatorMetrics()
        self._queue = WorkQueue[Key]()
        self._cache = ClusterCache(time.monotonic)
        self._elector = make_elector(environment, self._identity, self._metrics) if options.elects else None
        client = KubernetesClient.connect(
            environment,
            threads=options.workers + _OTHER_CALLERS,
            record_call=self._metrics.record_call,
            may_write=self._may_write,
        )
        self._canary = Canary(
            client,
            self._cache,
            config.namespaces,
            wake=self._queue.wake,
            on_deaf=lambda problem: self._end(1, f"a watch stream is deaf: {problem}"),
            clock=time.monotonic,
        )
        self._watcher = Watcher(
            config.namespaces, self._on_event, lambda error: self._end(1, f"the watch streams ended: {error!r}")
        )
        self._poller = ProgressPoller[Key](self._queue.wake)
        self._recorder = EventRecorder(client, self._identity)
        self._reconciler = Reconciler(
            self._cache,
            ClusterBackend(client, self._cache, config, progress=self._poller.latest),
            PlanBook(client),
            config,
            poller=self._poller,
            recorder=self._recorder,
        )
        self._workers = Workers(options.workers, self._queue, self._reconciler.reconcile, self._metrics)
        self._is_primed = False
        self._metrics.readings += self._readings()

    def run(self) -> int:
        """Until something ends it; returns the exit code. Raises ConfigInvalid, and ApiError before it has begun."""
        with ExitStack() as stack:
            stack.enter_context(_on_signals(lambda name: self._end(0, f"{name} received")))
            health = stack.enter_context(serve(self._options.health_port, self._health_pages()))
            metrics = stack.enter_context(serve(self._options.metrics_port, {"/metrics": self._metrics_page}))
            log.info("%s starts; health on port %d, metrics on port %d", self._identity, health, metrics)
            self._canary.prime()
            self._is_primed = True
            self._watcher.start()
            stack.callback(self._watcher.stop)
            self._canary.start()
            stack.callback(self._canary.stop)
            if self._elector is not None:
                stack.enter_context(campaign(self._elector, lambda: self._workers.join(0.0)))
            stack.enter_context(self._poller)
            stack.enter_context(self._recorder)
            ending = self._wait_to_lead() or self._work()
            log.log(logging.INFO if ending.exit_code == 0 else logging.ERROR, "the process ends: %s", ending.why)
            self._queue.shut_down()
            if not self._workers.join(FINISH_SECONDS):
                log.warning("passes have not ended after %g s; the next leader makes them again", FINISH_SECONDS)
            return ending.exit_code

    def _wait_to_lead(self) -> _Ending | None:
        """None: it leads."""
        while self._elector is not None and not self._elector.may_write():
            with contextlib.suppress(queue.Empty):
                return self._endings.get(timeout=_LOOK_SECONDS)
        return None

    def _work(self) -> _Ending:
        try:
            if self._elector is not None:
                # Now that nobody else writes: a ledger must not be read without the children that it speaks of, and
                # the streams do not keep that order.
                self._canary.prime()
        except ApiError as error:
            return _Ending(1, f"cannot look at what there is: {error}")
        self._reconciler.begin()
        keys = self._cache.keys()
        for key in keys:
            self._queue.wake(key)
        self._workers.start()
        log.info("%s works on %d resources", self._identity, len(keys))
        while self._may_write():
            with contextlib.suppress(queue.Empty):
                return self._endings.get(timeout=_LOOK_SECONDS)
        return _Ending(1, "it leads no more")

    def _may_write(self) -> bool:
        return self._elector is None or self._elector.may_write()

    def _on_event(self, resource: Resource, event_type: str | None, found: Object) -> None:
        for key in self._cache.apply(resource, event_type, found):
            self._queue.wake(key)

    def _end(self, exit_code: int, why: str) -> None:
        self._endings.put(_Ending(exit_code, why))

    def _health_pages(self) -> Mapping[str, Callable[[], Page]]:
        alive: Mapping[str, Check] = {
            "watch": self._watcher.problem,
            "streams": self._canary.problem,
            "workers": self._workers.problem,
        }
        ready: Mapping[str, Check] = {
            "cache": lambda: None if self._is_primed else "is not filled yet",
            "watch": self._watcher.problem,
        }
        return {"/livez": lambda: check_page(alive), "/readyz": lambda: check_page(ready)}

    def _metrics_page(self) -> Page:
        return metrics_page(self._metrics.render())

    def _readings(self) -> list[Reading]:
        recorder = self._recorder
        return [
            Reading("queue_depth", "Resources that wait for a worker.", lambda: {(): len(self._queue)}),
            Reading("resources", "Resources that there are.", lambda: {(): len(self._cache.keys())}),
            Reading("leader", "1 where this replica may write.", lambda: {(): float(self._may_write())}),
            Reading(
                "stream_age_seconds",
                "Seconds since a watch stream was last seen to have delivered everything.",
                self._canary.proof_ages,
                ["resource"],
            ),
            Reading(
                "events_total",
                "Kubernetes events, by what became of them.",
                lambda: {("posted",): recorder.num_posted, ("dropped",): recorder.num_dropped},
                ["result"],
            ),
        ]


@contextmanager
def _on_signals(end: Callable[[str], None]) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (the signal module's form)
        end(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
