"""Groups as processes of this machine: the embedded default, with no cluster and no server.

A process gets the environment and the plan file that a pod would get. The status that Kubernetes would keep lies in the
output folder, next to each process's log and report. One command at a time works on an output folder: the lock is
inherited by the processes, so it also holds while something that a killed command left behind is still at work.
"""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from videogen_api import naming
from videogen_api.errors import ConfigInvalid, Interrupted, StoreDenied, StoreUnavailable
from videogen_api.naming import Env, Stage
from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_api.status import VideoGenerationStatus
from videogen_operator.core.observed import Group, Observed, ObservedGroup
from videogen_operator.local.processes import LocalProcess, RunningGroup, end

STATE_FOLDER = ".videogen"
RUNNER_COMMAND: Sequence[str] = (sys.executable, "-m", "videogen_runner.main")

_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_START_DEADLINE_SECONDS = 300
"""For the shards of an encoder to meet: they are started together."""


class LocalBackend:
    """Runs the groups of one output folder. Raises StoreDenied when the folder cannot be used."""

    def __init__(
        self,
        out: Path,
        environment: Mapping[str, str],
        *,
        device: str | None,
        gpus: Sequence[str] = (),
        command: Sequence[str] = RUNNER_COMMAND,
    ) -> None:
        """`gpus` are shared out among the processes of each group; none given: each sees what this one sees."""
        self._state = out / STATE_FOLDER
        self._environment = environment
        self._device = device
        self._gpus = gpus
        self._command = command
        self._groups: dict[str, RunningGroup] = {}
        try:
            self._state.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreDenied(
                f"{out}: cannot be used as output folder: {error.strerror}; choose another --out"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise OutputBusy(
                f"{out}: another videogen run works on this folder; wait for its end or choose another --out"
            ) from error

    def read_status(self, resource: VideoGeneration) -> VideoGenerationStatus:
        """The status that the last command left, or an empty one. Raises ConfigInvalid for a file that is damaged."""
        path = self._status_path(resource)
        try:
            return VideoGenerationStatus.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return VideoGenerationStatus()
        except ValidationError as error:
            raise ConfigInvalid(f"{path} is damaged or of another version; remove it to start over") from error

    def write_status(self, resource: VideoGeneration, status: VideoGenerationStatus) -> None:
        _write_atomically(
            self._status_path(resource), status.model_dump_json(by_alias=True, exclude_none=True).encode()
        )

    def observe(self, resource: VideoGeneration) -> Observed:  # noqa: ARG002  (one command has one resource at a time)
        for running in self._groups.values():
            running.end_shards_of_failed()
        return Observed(tuple(running.observe() for running in self._groups.values()))

    def create(self, resource: VideoGeneration, plan: Plan, group: Group) -> None:
        metadata = resource.metadata
        prefix = naming.child_prefix(metadata.namespace, metadata.name, metadata.uid, plan.run_id)
        name = naming.child_name(prefix, group.stage, group.pool, group.attempt)
        plan_path = self._state / prefix / naming.PLAN_FILE
        with _explain_write_errors(plan_path):
            plan_path.parent.mkdir(exist_ok=True)
        _write_atomically(plan_path, plan.to_bytes())
        with contextlib.ExitStack() as stack:
            listener = None
            if group.stage == Stage.ENCODE and group.processes > 1:
                # Opened here and inherited, so that nobody else can take the port before shard 0 does.
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            processes: list[LocalProcess] = []
            # What has been started before another one could not be must not stay at work unseen.
            stack.callback(lambda: end(processes) if name not in self._groups else None)
            processes.extend(self._start(name, index, group, plan_path, listener) for index in range(group.processes))
            self._groups[name] = RunningGroup(plan.run_id, group, tuple(processes))

    def delete(self, group: ObservedGroup) -> None:
        for name, running in list(self._groups.items()):
            if (running.run_id, running.group.stage, running.group.pool, running.group.attempt) == (
                group.run_id, group.stage, group.pool, group.attempt,
            ):  # fmt: skip
                end(running.processes)
                del self._groups[name]

    def scale(self, group: ObservedGroup, processes: int) -> None:
        """Never asked for: one command has one plan, and a worker's folder is made for its index."""
        raise AssertionError(f"{group.label} cannot have {processes} processes: the plan of a command does not change")

    def stop(self) -> None:
        """Ends every process: SIGTERM, so that runners checkpoint and hand back; SIGKILL for those that do not end."""
        end([process for running in self._groups.values() for process in running.processes])

    def close(self) -> None:
        """Frees the output folder."""
        os.close(self._lock)

    def wait(self, seconds: float) -> None:
        """Returns when a process has ended, or after `seconds`."""
        deadline = time.monotonic() + seconds
        running = [p.popen for g in self._groups.values() for p in g.processes if p.popen.poll() is None]
        while running and time.monotonic() < deadline and all(popen.poll() is None for popen in running):
            time.sleep(0.02)

    def _start(
        self, group_name: str, index: int, group: Group, plan_path: Path, listener: socket.socket | None
    ) -> LocalProcess:
        name = f"{group_name}-{index}"
        folder = plan_path.parent / name
        with _explain_write_errors(folder):
            folder.mkdir(exist_ok=True)
            for left_over in (folder / "termination.json", folder / "address"):
                left_over.unlink(missing_ok=True)  # of a run whose status somebody removed
            log = (folder / "log").open("wb")
        environment: dict[str, str] = {
            # One thread each: results must not depend on how many processes share the machine.
            "OMP_NUM_THREADS": "1",
            **self._environment,
            Env.ROLE: group.stage.value,
            Env.PLAN: str(plan_path),
            Env.ATTEMPT: str(group.attempt),
            Env.INDEX: str(index),
            Env.POD: name,
            Env.PORT: "0",
            Env.ADDRESS_FILE: str(folder / "address"),
            Env.TERMINATION_LOG: str(folder / "termination.json"),
        }
        if group.pool is not None:
            environment[Env.POOL] = group.pool
        if self._device is not None:
            environment[Env.DEVICE] = self._device
        if self._gpus:
            environment[_VISIBLE_GPUS] = self._gpus[index % len(self._gpus)]
        inherited = [self._lock]
        if listener is not None:
            host, port = listener.getsockname()
            environment[Env.SHARDS_ADDRESS] = f"{host}:{port}"
            environment[Env.START_DEADLINE] = str(_START_DEADLINE_SECONDS)
            if index == 0:
                environment[Env.SHARDS_LISTENER] = str(listener.fileno())
                inherited.append(listener.fileno())
        with log:
            popen = subprocess.Popen(  # noqa: S603  (our own runner)
                list(self._command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this command alone; it ends the processes in order
                pass_fds=inherited,
            )
        return LocalProcess(index, name, popen, folder)

    def _status_path(self, resource: VideoGeneration) -> Path:
        return self._state / f"{resource.metadata.namespace}.{resource.metadata.name}.json"


class OutputBusy(Interrupted):
    """Another command works on the output folder: the same command works later."""


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.new")
    with _explain_write_errors(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _explain_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{path}: cannot be written: {error.strerror}; free some space or choose another --out, and run it again"
        ) from error
