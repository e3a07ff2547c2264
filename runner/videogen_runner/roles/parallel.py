"""Many small requests to the store at once: what preflight and collect do instead of waiting for each reply."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from videogen_runner.roles.context import RoleContext

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 8
_POLL_SECONDS = 0.25


def map_in_threads(context: RoleContext, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`function` of every item, in their order; counts them in `Progress.done`.

    Raises what the first item to fail raised, and Interrupted after SIGTERM; requests on their way are not waited for.
    """
    before = context.progress.snapshot().done
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
    try:
        futures = [pool.submit(function, item) for item in items]
        pending: set[Future[R]] = set(futures)
        while pending and not _failed(futures):
            context.raise_if_stopped()
            _, pending = wait(pending, _POLL_SECONDS, FIRST_EXCEPTION)
            context.progress.update(done=before + len(futures) - len(pending))
        failed = _failed(futures)
        return [future.result() for future in failed or futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _failed(futures: Sequence[Future[R]]) -> list[Future[R]]:
    return [future for future in futures if future.done() and future.exception() is not None]
