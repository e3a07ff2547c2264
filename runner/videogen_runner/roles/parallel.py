"""Many small requests to the store at once: what preflight and collect do instead of waiting for each reply."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from videogen_runner.roles.context import RoleContext

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 8


def map_in_threads(context: RoleContext, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`function` of every item, in their order; counts them in `Progress.done`.

    Raises what the first call to fail raised, and Interrupted after a stop; what has not begun by then never does.
    """
    before = context.progress.snapshot().done
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="store") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for number, future in enumerate(as_completed(futures), before + 1):
                context.raise_if_stopped()
                future.result()
                context.progress.update(done=number)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]
