"""A thread that computes, so that the main thread can hear of a stop while a step takes a minute.

A call into torch cannot be broken off. At a stop the computation is left behind, unfinished, and ends with the process.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from videogen_api.errors import Interrupted

T = TypeVar("T")

_POLL_SECONDS = 0.05


class ComputeThread:
    """Runs one piece of work after another on one thread of its own: a card's handles belong to threads."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="compute", daemon=True).start()

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Begins the work when what was submitted before has ended."""
        future: Future[T] = Future()
        self._work.put((future, work))
        return future

    def is_done_before_stop(self, future: "Future[T]", raise_if_lost: Callable[[], None] = lambda: None) -> bool:
        """Waits for the work or the stop, whichever comes first; True for the work.

        `raise_if_lost` is asked all the while, and what it raises ends the waiting: by it the work can be given up
        for another reason than a stop.
        """
        while not wait([future], _POLL_SECONDS).done:
            raise_if_lost()
            if self._stop.is_set():
                return False
        return True

    def run(self, work: Callable[[], T], raise_if_lost: Callable[[], None] = lambda: None) -> T:
        """What the work returns, or raises. Raises Interrupted at a stop, without waiting for the work's end."""
        if not self._stop.is_set():
            future = self.submit(work)
            if self.is_done_before_stop(future, raise_if_lost):
                return future.result()
        raise Interrupted("stopped by a signal; what is done is kept, run again to continue")

    def _serve(self) -> None:
        while True:
            _compute(*self._work.get())


def _compute(future: "Future[T]", work: Callable[[], T]) -> None:
    # In a function of its own, so that the thread holds no result while it waits for more.
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever waits for the result gets it
        future.set_exception(error)
    else:
        future.set_result(result)
