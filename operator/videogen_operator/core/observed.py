"""What was seen of a run's children, as small sorted values: the only thing besides the resource that decides."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from videogen_api.errors import Reason, reason_of_exit
from videogen_api.naming import Stage
from videogen_api.report import Progress, TerminationReport


class GroupState(StrEnum):
    """A group of processes as a whole (a Job, or local processes)."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    ENDING = "Ending"
    """Deleted, but some of its processes may still be at work."""


class WaitingReason(StrEnum):
    """Why something that should run does not, in words that users know from Kubernetes."""

    QUEUED = "Queued"
    """Its Job is suspended from outside: Kueue has not admitted it."""
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    """ImagePullBackOff, ErrImagePull, InvalidImageName."""
    CONFIG_MISSING = "ConfigMissing"
    """CreateContainerConfigError: a secret, or a key of it, is not there."""
    POD_REFUSED = "PodRefused"
    """FailedCreate: quota, Pod Security, a missing service account."""
    NODE_LOST = "NodeLost"
    """Its node does not answer any more, so nobody knows whether it still runs."""


@dataclass(frozen=True)
class Waiting:
    """What holds a process or a group back; `message` is one sentence that names the object and the remedy."""

    reason: WaitingReason
    message: str
    since: datetime


@dataclass(frozen=True)
class Group:
    """Processes to be started together: a Job with that many completions."""

    stage: Stage
    pool: str | None
    attempt: int
    processes: int
    round: int
    """The preflight attempt whose findings it works on."""
    template: str = ""
    """Digest of what the manifest says about these processes: where it changes, they are replaced."""

    @property
    def label(self) -> str:
        """Short unique name within a run, for the ledger."""
        return "-".join(part for part in (self.stage, self.pool, str(self.attempt)) if part)


@dataclass(frozen=True)
class ObservedProcess:
    """One pod, or one local process; `exit_code` is None while it runs."""

    index: int
    name: str
    node: str | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    disrupted: bool = False
    """Preempted, drained or evicted: the pod has the condition DisruptionTarget."""
    started: bool = True
    """Whether its container has ever run."""
    waiting: Waiting | None = None
    report: TerminationReport | None = None
    log_tail: str = ""
    progress: Progress | None = None

    @property
    def reason(self) -> Reason | None:
        """Why it ended badly; None while it runs and after a good end."""
        if self.exit_code is None:
            return None
        if self.report is not None and self.report.exit_code == self.exit_code:
            return self.report.reason
        if self.disrupted:
            return Reason.INTERRUPTED
        return reason_of_exit(self.exit_code, oom_killed=self.oom_killed)

    @property
    def message(self) -> str:
        """One sentence on how it ended."""
        if self.report is not None and self.report.exit_code == self.exit_code:
            return self.report.message
        last_line = self.log_tail.strip().rpartition("\n")[2]
        return f"{self.name} ended with exit code {self.exit_code} and left no report; its last line: {last_line!r}"


@dataclass(frozen=True)
class ObservedGroup:
    """One group of one run."""

    run_id: str
    stage: Stage
    pool: str | None
    attempt: int
    round: int
    state: GroupState
    processes: tuple[ObservedProcess, ...]
    """By index, the oldest first; an index that was tried again has several."""
    expected: int | None = None
    """Processes that it should have; None: those it has."""
    created: datetime | None = None
    finished: datetime | None = None
    waiting: Waiting | None = None
    """What holds back the group as a whole."""
    failure: str = ""
    """Why it failed as a whole, where no process of it says so."""
    lost: bool = False
    """It counts as failed because its nodes do not answer. They may come back, and its processes with them."""
    template: str = ""
    """As in Group; empty where it is not known."""
    uid: str = ""
    """By which the backend finds it again."""

    @property
    def label(self) -> str:
        """As in Group."""
        return Group(self.stage, self.pool, self.attempt, 0, 0).label

    @property
    def unstarted(self) -> int:
        """Processes that should run and have never run."""
        started = {process.index for process in self.processes if process.started}
        return max(0, self.size - len(started))

    @property
    def size(self) -> int:
        """Processes that it should have."""
        return len({process.index for process in self.processes}) if self.expected is None else self.expected

    @property
    def failed_processes(self) -> tuple[ObservedProcess, ...]:
        return tuple(process for process in self.processes if process.exit_code)

    @property
    def report(self) -> TerminationReport | None:
        """The report of a stage that is one process."""
        return self.processes[0].report if self.processes else None

    @property
    def lost_its_report(self) -> bool:
        """Whether it ended well without the report that is its result: the pod vanished, or could not write it."""
        if self.state != GroupState.SUCCEEDED or self.stage not in (Stage.PREFLIGHT, Stage.COLLECT):
            return False
        found = self.report and (self.report.preflight if self.stage == Stage.PREFLIGHT else self.report.collect)
        return found is None


@dataclass(frozen=True)
class Scaling:
    """A group at work that is to have another number of processes; those that stay do not notice."""

    group: ObservedGroup
    processes: int


@dataclass(frozen=True)
class Observed:
    """All groups that carry the resource's labels, of whatever run."""

    groups: tuple[ObservedGroup, ...] = ()

    def of_run(self, run_id: str) -> "Observed":
        return Observed(tuple(group for group in self.groups if group.run_id == run_id))

    def attempts(self, stage: Stage, pool: str | None = None) -> tuple[ObservedGroup, ...]:
        """Every attempt of one stage and pool that is still there, the oldest first."""
        found = [group for group in self.groups if group.stage == stage and group.pool == pool]
        return tuple(sorted(found, key=lambda group: group.attempt))

    def attempt(self, stage: Stage, pool: str | None, attempt: int) -> ObservedGroup | None:
        return next((group for group in self.attempts(stage, pool) if group.attempt == attempt), None)
