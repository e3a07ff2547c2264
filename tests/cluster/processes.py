"""Child processes with a log each, which never outlive the process that started them."""

import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

LOG_TAIL = 3000
END_SECONDS = 120.0


class Processes:
    """Start them from one thread that lives as long as they shall: the kernel kills them when that thread ends, so that
    nothing stays behind even where the tests themselves are killed."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """Output goes to `<name>.log`. In a session of their own, so that Ctrl-C reaches only who will end them."""
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._running[name]

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Raises RuntimeError with the log's end when a process ends early, or with every log's when time is up."""
        pause = threading.Event()
        for _ in range(int(seconds / 0.05)):
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}: {self._tail(name)}")
            if condition():
                return
            pause.wait(0.05)
        logs = "\n".join(f"--- {name}: {self._tail(name)}" for name in self._running)
        raise RuntimeError(f"after {seconds:g} s still not so: {what}\n{logs}")

    def end(self, *names: str) -> None:
        """Kills those named, or all, the last first: what they would still save is thrown away with their folder."""
        for name in reversed(names or tuple(self._running)):
            process = self._running.pop(name)
            process.kill()
            process.wait(END_SECONDS)

    def _tail(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text(errors="replace")[-LOG_TAIL:]


def free_port(address: str = "127.0.0.1") -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
