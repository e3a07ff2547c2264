"""Groups as processes of this machine: the embedded default, with no cluster and no server.

A process gets the environment and the plan file that a pod would get. The status that Kubernetes would keep lies in the
output folder, next to each process's log and report. One command at a time works on an output folder: the lock is
inherited by the processes, so it also holds while something that a killed command left behind is still at work.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from videogen_api import naming
from videogen_api.errors import ConfigInvalid, Interrupted, StoreDenied, StoreUnavailable
from videogen_api.naming import Env, Stage
from videogen_api.plan import Plan
from videogen_api.report import Progress, TerminationReport
from videogen_api.resource import VideoGeneration
from videogen_api.status import VideoGenerationStatus
from videogen_operator.core.observed import Group, GroupState, Observed, ObservedGroup, ObservedProcess

STATE_FOLDER = ".videogen"
RUNNER_COMMAND: Sequence[str] = (sys.executable, "-m", "videogen_runner.main")

_PROGRESS_TIMEOUT_SECONDS = 2.0
_MAX_PROGRESS_BYTES = 65_536
_MAX_LOG_TAIL_BYTES = 4096
_SIGNAL_EXIT_BASE = 128
# A runner promises to be gone 10 s after SIGTERM; whoever is not has lost that right.
_GRACE_SECONDS = 15.0
_START_DEADLINE_SECONDS = 300
"""For the shards of an encoder to meet: they are started together."""


@dataclass(frozen=True)
class _Process:
    index: int
    name: str
    popen: "subprocess.Popen[bytes]"
    folder: Path


@dataclass(frozen=True)
class _RunningGroup:
    run_id: str
    group: Group
    processes: tuple[_Process, ...]
    ended_at: list[datetime] = field(default_factory=list)
    """Empty while it runs; a back-off counts from here."""
    told_at: dict[int, float] = field(default_factory=dict)
    """When an index was told to stop because another one failed, on the monotonic clock."""

    def end_shards_of_failed(self) -> None:
        """As a Job without retries does it: where one shard has failed, the others must end too."""
        if self.group.stage != Stage.ENCODE or not any(process.popen.poll() for process in self.processes):
            return
        for process in self.processes:
            if process.popen.poll() is None:
                if process.index not in self.told_at:
                    process.popen.send_signal(signal.SIGTERM)
                    self.told_at[process.index] = time.monotonic()
                elif time.monotonic() - self.told_at[process.index] > _GRACE_SECONDS:
                    process.popen.kill()


class LocalBackend:
    """Runs the groups of one output folder. Raises StoreDenied when the folder cannot be used."""

    def __init__(
        self, out: Path, environment: Mapping[str, str], *, device: str | None, command: Sequence[str] = RUNNER_COMMAND
    ) -> None:
        self._state = out / STATE_FOLDER
        self._environment = environment
        self._device = device
        self._command = command
        self._groups: dict[str, _RunningGroup] = {}
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
        return Observed(tuple(self._observe_group(running) for running in self._groups.values()))

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
            processes = tuple(self._start(name, index, group, plan_path, listener) for index in range(group.processes))
        self._groups[name] = _RunningGroup(plan.run_id, group, processes)

    def delete(self, group: ObservedGroup) -> None:
        for name, running in list(self._groups.items()):
            if (running.run_id, running.group.stage, running.group.pool, running.group.attempt) == (
                group.run_id, group.stage, group.pool, group.attempt,
            ):  # fmt: skip
                self._end(running.processes)
                del self._groups[name]

    def scale(self, group: ObservedGroup, processes: int) -> None:
        """Never asked for: one command has one plan, and a worker's folder is made for its index."""
        raise AssertionError(f"{group.label} cannot have {processes} processes: the plan of a command does not change")

    def stop(self) -> None:
        """Ends every process: SIGTERM, so that runners checkpoint and hand back; SIGKILL for those that do not end."""
        self._end([process for running in self._groups.values() for process in running.processes])

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
    ) -> _Process:
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
        return _Process(index, name, popen, folder)

    def _observe_group(self, running: _RunningGroup) -> ObservedGroup:
        processes = tuple(_observe_process(process) for process in running.processes)
        if any(process.exit_code is None for process in processes):
            state = GroupState.RUNNING
        else:
            state = GroupState.FAILED if any(process.exit_code for process in processes) else GroupState.SUCCEEDED
            if not running.ended_at:
                running.ended_at.append(datetime.now(UTC))
        group = running.group
        finished = running.ended_at[0] if running.ended_at else None
        return ObservedGroup(
            running.run_id, group.stage, group.pool, group.attempt, group.round, state, processes, finished=finished
        )

    def _end(self, processes: Sequence[_Process]) -> None:
        alive = [process.popen for process in processes if process.popen.poll() is None]
        for popen in alive:
            popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for popen in alive:
            try:
                popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()

    def _status_path(self, resource: VideoGeneration) -> Path:
        return self._state / f"{resource.metadata.namespace}.{resource.metadata.name}.json"


class OutputBusy(Interrupted):
    """Another command works on the output folder: the same command works later."""


def _observe_process(process: _Process) -> ObservedProcess:
    code = process.popen.poll()
    if code is None:
        return ObservedProcess(process.index, process.name, progress=_ask_progress(process.folder / "address"))
    return ObservedProcess(
        process.index,
        process.name,
        exit_code=code if code >= 0 else _SIGNAL_EXIT_BASE - code,
        report=_read_report(process.folder / "termination.json"),
        log_tail=_read_tail(process.folder / "log"),
    )


def _ask_progress(address_file: Path) -> Progress | None:
    """The process's own word, or None while it starts, ends, or is too busy to answer."""
    try:
        address = address_file.read_text().strip()
        with urllib.request.urlopen(f"http://{address}/progress", timeout=_PROGRESS_TIMEOUT_SECONDS) as reply:
            return Progress.model_validate_json(reply.read(_MAX_PROGRESS_BYTES))
    except (FileNotFoundError, urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def _read_report(path: Path) -> TerminationReport | None:
    return TerminationReport.from_bytes(path.read_bytes()) if path.exists() else None


def _read_tail(path: Path) -> str:
    return path.read_bytes()[-_MAX_LOG_TAIL_BYTES:].decode(errors="replace")


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
