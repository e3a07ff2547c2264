"""Operator processes, many of them and quickly: `videogen operator` spends two seconds of a processor on its imports.

One process imports everything once and forks a child for each operator, which then runs the command line as given. The
child is a process like any other: it can be killed at any time and shares nothing with its siblings.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class RunningOperator:
    """Somebody else's child: known by a descriptor that cannot come to mean another process."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)
        self._killed = False

    def has_ended_by_itself(self) -> bool:
        return not self._killed and bool(select.select([self._descriptor], [], [], 0)[0])

    def kill(self) -> None:
        """Returns when it is gone; nothing where it was killed before."""
        if self._killed:
            return
        self._killed = True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        select.select([self._descriptor], [], [])
        os.close(self._descriptor)


class Launcher:
    """Starts operators while its `with` block lasts."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.operators"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> RunningOperator:
        """Runs `videogen` with these arguments; its output is added to `log`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return RunningOperator(int(self._process.stdout.readline()))


def _serve() -> None:
    import videogen_operator.cluster.process  # noqa: F401 - what takes so long
    from videogen_operator.cli.main import main

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, place in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, place)
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.exit(main(order["arguments"]))


if __name__ == "__main__":
    _serve()
