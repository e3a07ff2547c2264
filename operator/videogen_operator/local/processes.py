"""Groups of local processes while they run: what is seen of them, and how they end."""

import http.client
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from videogen_api.naming import Stage
from videogen_api.report import Progress, TerminationReport
from videogen_operator.core.observed import Group, GroupState, ObservedGroup, ObservedProcess

_PROGRESS_TIMEOUT_SECONDS = 2.0
_MAX_LOG_TAIL_BYTES = 4096
_SIGNAL_EXIT_BASE = 128
# A runner promises to be gone 10 s after SIGTERM; whoever is not has lost that right.
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class LocalProcess:
    """One process; its log, address and report lie in its folder."""

    index: int
    name: str
    popen: "subprocess.Popen[bytes]"
    folder: Path


@dataclass(frozen=True)
class RunningGroup:
    """The processes of one attempt."""

    run_id: str
    group: Group
    processes: tuple[LocalProcess, ...]
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

    def observe(self) -> ObservedGroup:
        """What is seen of it now."""
        processes = tuple(_observe_process(process) for process in self.processes)
        if any(process.exit_code is None for process in processes):
            state = GroupState.RUNNING
        else:
            state = GroupState.FAILED if any(process.exit_code for process in processes) else GroupState.SUCCEEDED
            if not self.ended_at:
                self.ended_at.append(datetime.now(UTC))
        group = self.group
        finished = self.ended_at[0] if self.ended_at else None
        return ObservedGroup(
            self.run_id, group.stage, group.pool, group.attempt, group.round, state, processes, finished=finished
        )


def end(processes: Sequence[LocalProcess]) -> None:
    """SIGTERM, so that runners save what they have; SIGKILL for those that do not end."""
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


def _observe_process(process: LocalProcess) -> ObservedProcess:
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
            return Progress.model_validate_json(reply.read())
    # HTTPException: it ended in the middle of its answer.
    except (FileNotFoundError, urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError):
        return None


def _read_report(path: Path) -> TerminationReport | None:
    return TerminationReport.from_bytes(path.read_bytes()) if path.exists() else None


def _read_tail(path: Path) -> str:
    return path.read_bytes()[-_MAX_LOG_TAIL_BYTES:].decode(errors="replace")
