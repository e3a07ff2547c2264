"""What every role gets: `run(context) -> report`. A test builds one by hand and calls the role in its own process."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from videogen_api.errors import Interrupted
from videogen_api.plan import Plan
from videogen_runner.environment import Environment
from videogen_runner.progress import ProgressHolder
from videogen_runner.store import Store


@dataclass(frozen=True)
class Clock:
    """The two clocks, in seconds: `monotonic` for durations, `wall` since the epoch."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


@dataclass(frozen=True)
class RoleContext:
    """Everything outside a role that it may use."""

    environment: Environment
    plan: Plan
    store: Store
    progress: ProgressHolder
    stop: threading.Event
    """Set at SIGTERM, even while the main thread is inside a long call; the role saves what it has and raises
    Interrupted."""
    clock: Clock

    def raise_if_stopped(self) -> None:
        """Raises Interrupted once `stop` is set: for roles that have nothing to save."""
        if self.stop.is_set():
            raise Interrupted("stopped by a signal; what is done is kept, run again to continue")
