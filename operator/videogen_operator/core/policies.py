"""Small decisions, one function each: what to do with a stage, given its attempts."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from videogen_api.errors import FINAL_REASONS, FREE_REASONS, Reason
from videogen_api.naming import Stage
from videogen_api.status import Attempts
from videogen_operator.core.deadlines import LATE_START, starts_late
from videogen_operator.core.observed import GroupState, Observed, ObservedGroup, ObservedProcess

_FIRST_DELAY_SECONDS = 10
_MAX_DELAY_SECONDS = 300


class Verdict(StrEnum):
    START = "Start"
    """The next attempt is due."""
    WAIT = "Wait"
    """The current attempt is at work, or the next one is not due yet."""
    DONE = "Done"
    CHECK_AGAIN = "CheckAgain"
    """Preflight must look again before the next attempt: something that it had found is gone."""
    GIVE_UP = "GiveUp"
    """The current attempt did not start in time: it makes room for the next one."""
    STOP = "Stop"
    """The run has failed for good."""


@dataclass(frozen=True)
class Ruling:
    verdict: Verdict
    reason: str = ""
    message: str = ""
    wake_at: datetime | None = None
    """When to look again, where nothing needs to happen before."""


@dataclass(frozen=True)
class Ledger:
    """What the status remembers of the attempts, and the limits that hold for them."""

    attempts: Attempts
    created: Attempts
    late_starts: tuple[str, ...]
    retries: int
    start_deadline_seconds: int | None
    shards: int = 1
    """Of the encoder, in the plan that is in force."""
    gave_way: int = 0
    """The round in which runners left their cards to the encoder."""

    def next_attempt(self, stage: Stage, pool: str | None) -> int:
        """One that was never created keeps its number: the crash came between the ledger and the child."""
        last = self.attempts.of(stage, pool)
        return last if self.created.of(stage, pool) < last else last + 1


def rule_stage(
    observed: Observed, stage: Stage, pool: str | None, ledger: Ledger, this_round: int, now: datetime
) -> Ruling:
    """What is due for one stage (and pool).

    A child that the ledger knows and nobody sees any more was removed by somebody: the next attempt is due, and costs
    nothing. `this_round` is the latest preflight attempt; what ended in an earlier round decides nothing.
    """
    seen = observed.attempts(stage, pool)
    ruling = _rule_attempts(seen, ledger.attempts.of(stage, pool), ledger, this_round, now)
    ending = next((group for group in seen if group.state == GroupState.ENDING), None)
    if ending is not None and ruling.verdict in (Verdict.START, Verdict.CHECK_AGAIN):
        # Two groups of one stage at a time would share cards; old pods have their grace period to leave.
        return Ruling(Verdict.WAIT, "Ending", f"waiting for the pods of attempt {ending.attempt} to end")
    return ruling


def _rule_attempts(
    seen: tuple[ObservedGroup, ...], last: int, ledger: Ledger, this_round: int, now: datetime
) -> Ruling:
    current = next((group for group in seen if group.attempt == last), None)
    if current is None or current.state == GroupState.ENDING:
        return Ruling(Verdict.START)
    if current.state == GroupState.RUNNING:
        return _rule_running(seen, current, ledger, now)
    if current.round != this_round:
        return Ruling(Verdict.START)
    if current.state == GroupState.SUCCEEDED and not current.lost_its_report:
        return Ruling(Verdict.DONE)
    return _rule_failed(seen, current, ledger, now)


def _rule_running(seen: tuple[ObservedGroup, ...], current: ObservedGroup, ledger: Ledger, now: datetime) -> Ruling:
    if current.label not in ledger.late_starts:
        late_at = starts_late(current, ledger.start_deadline_seconds)
        if late_at is None or now < late_at:
            return Ruling(Verdict.WAIT, wake_at=late_at)
    held = current.waiting or next((process.waiting for process in current.processes if process.waiting), None)
    why = f": {held.message}" if held is not None else ""
    message = f"attempt {current.attempt} of {current.stage} did not start in time{why}"
    charged = _charged(seen, current, ledger, {*ledger.late_starts, current.label})
    if charged > ledger.retries:
        return Ruling(Verdict.STOP, LATE_START, f"{message} (after {charged} attempts)")
    return Ruling(Verdict.GIVE_UP, LATE_START, message)


def _rule_failed(seen: tuple[ObservedGroup, ...], current: ObservedGroup, ledger: Ledger, now: datetime) -> Ruling:
    reason, message = _why_failed(current)
    if reason in FINAL_REASONS:
        return Ruling(Verdict.STOP, reason, message)
    if _is_outgrown(current, ledger.shards):
        return Ruling(Verdict.START, reason, f"{message}; in {ledger.shards} shards now")
    charged = _charged(seen, current, ledger, set(ledger.late_starts))
    if charged > ledger.retries:
        if reason == Reason.OUT_OF_MEMORY and current.stage == Stage.ENCODE:
            message = f"{message}; raise spec.encoder.shards or leave it out, or name cards with more memory"
        return Ruling(Verdict.STOP, reason, f"{message} (after {charged} attempts)")
    failures = sum(group.state == GroupState.FAILED or group.lost_its_report for group in seen)
    due = current.finished + retry_delay(reason, failures) if current.finished is not None else now
    if now < due:
        return Ruling(Verdict.WAIT, reason, f"{message}; trying again soon", wake_at=due)
    verdict = Verdict.CHECK_AGAIN if reason == Reason.EMBEDDING_MISSING else Verdict.START
    return Ruling(verdict, reason, message)


def _charged(seen: tuple[ObservedGroup, ...], current: ObservedGroup, ledger: Ledger, late_starts: set[str]) -> int:
    """What all attempts up to now have cost; those that were given up are gone, so the ledger remembers them."""
    labels = {replace(current, attempt=attempt).label for attempt in range(1, current.attempt + 1)}
    cost = sum(charge(group) for group in seen if not _is_outgrown(group, ledger.shards))
    return cost + len(labels & late_starts)


def _is_outgrown(group: ObservedGroup, shards: int) -> bool:
    """Whether an encoder group ran out of memory in fewer shards than the plan has now: that cannot happen again."""
    return has_run_out_of_memory(group) and group.size < shards


def has_run_out_of_memory(group: ObservedGroup) -> bool:
    """Whether an encoder group ended because a shard did not fit its card, or its host."""
    if group.stage != Stage.ENCODE or group.state != GroupState.FAILED:
        return False
    return any(process.reason == Reason.OUT_OF_MEMORY for process in group.failed_processes)


def retry_delay(reason: Reason, failures: int) -> timedelta:
    """10, 20, 40 s and so on, at most 5 minutes; a first failure that is not the store's is tried again at once."""
    doublings = failures - 1 if reason == Reason.STORE_UNAVAILABLE else failures - 2
    if doublings < 0:
        return timedelta(0)
    return timedelta(seconds=min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(doublings, 10)))


def _why_failed(group: ObservedGroup) -> tuple[Reason, str]:
    if group.lost_its_report:
        return Reason.INTERNAL, f"the {group.stage} stage ended well but its report was lost"
    if not group.failed_processes:
        return Reason.INTERNAL, group.failure or f"attempt {group.attempt} of {group.stage} failed and left no pod"
    worst = worst_process(group)
    return worst.reason or Reason.INTERNAL, worst.message


def charge(group: ObservedGroup) -> int:
    """What an attempt costs of `spec.retries`: its failures that are not free, of the index that has most of them."""
    if group.lost_its_report:
        return 1
    if group.state != GroupState.FAILED:
        return 0
    if not group.failed_processes:
        return 1
    charged = [process.index for process in _culprits(group) if process.reason not in FREE_REASONS]
    return max((charged.count(index) for index in charged), default=0)


def worst_process(group: ObservedGroup) -> ObservedProcess:
    """The failed process whose reason decides: a final one before one that counts before one that is free."""
    return min(_culprits(group), key=lambda process: (_severity(process.reason), process.index))


def _culprits(group: ObservedGroup) -> tuple[ObservedProcess, ...]:
    """The processes that failed on their own account.

    A shard that lost another one, or that was stopped because another one had ended, tells nothing of the cause; where
    nobody knows it, they stand for it.
    """
    own = tuple(
        process
        for process in group.failed_processes
        if process.disrupted or process.reason not in (*FREE_REASONS, Reason.PEER_LOST)
    )
    return own or group.failed_processes


def _severity(reason: Reason | None) -> int:
    if reason in FINAL_REASONS:
        return 0
    return 2 if reason in FREE_REASONS else 1
