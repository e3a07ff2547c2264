"""Threads that take keys from the queue and look at them; what becomes of a look decides when the next one is due."""

import logging
import threading
import time
from collections.abc import Callable

from videogen_operator.cluster.api_errors import ApiError, Conflict
from videogen_operator.cluster.logs import about
from videogen_operator.cluster.metrics import OperatorMetrics
from videogen_operator.cluster.queue import WorkQueue
from videogen_operator.cluster.reconciler import Blocked
from videogen_operator.cluster.resources import Key

log = logging.getLogger("videogen")


class Workers:
    """`start` them once; they end when the queue is shut down. `reconcile` is Reconciler's."""

    def __init__(
        self,
        number: int,
        queue: WorkQueue[Key],
        reconcile: Callable[[Key], float | None],
        metrics: OperatorMetrics,
    ) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._metrics = metrics
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{index}", daemon=True) for index in range(number)
        ]
        self._started = False

    def start(self) -> None:
        self._started = True
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> bool:
        """Waits for the passes at hand; whether all of them have ended in time."""
        deadline = time.monotonic() + seconds
        for thread in self._threads if self._started else ():
            thread.join(max(0.0, deadline - time.monotonic()))
        return not self._started or not any(thread.is_alive() for thread in self._threads)

    def problem(self) -> str | None:
        """For /livez; None: all is well, or they have not begun."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()] if self._started else []
        return f"{', '.join(dead)} ended" if dead else None

    def _work(self) -> None:
        while (key := self._queue.take()) is not None:
            began = time.perf_counter()
            try:
                with about(key):
                    result = self._look(key)
            finally:
                self._queue.done(key)
            self._metrics.record_pass(result, time.perf_counter() - began)

    def _look(self, key: Key) -> str:
        try:
            seconds = self._reconcile(key)
        except Conflict as error:
            # Somebody else wrote first; what they wrote will have arrived by the next pass.
            log.info("again in %.1f s: %s", self._queue.retry(key), error)
            return "conflict"
        except Blocked as error:
            log.warning("blocked, again in %.1f s: %s", self._queue.retry(key), error)
            return "blocked"
        except ApiError as error:
            log.warning("again in %.1f s: %s", self._queue.retry(key, error.retry_after or 0.0), error)
            return "api-error"
        except Exception:
            # The border of a pass: an error in our code for one resource must not keep the others from being served.
            log.exception("an error of the operator itself, again in %.1f s", self._queue.retry(key))
            return "bug"
        self._queue.forget(key)
        if seconds is not None:
            self._queue.wake_after(key, seconds)
        return "ok"
