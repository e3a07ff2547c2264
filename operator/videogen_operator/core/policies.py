"""Small decisions, one function each: what to do with a stage, given its attempts."""

from dataclasses import dataclass
from enum import StrEnum

from videogen_api.errors import FINAL_REASONS, FREE_REASONS, Reason
from videogen_operator.core.observed import GroupState, ObservedGroup, ObservedProcess


class Verdict(StrEnum):
    START = "Start"
    """The next attempt is due."""
    WAIT = "Wait"
    """The current attempt is at work."""
    DONE = "Done"
    CHECK_AGAIN = "CheckAgain"
    """Preflight must look again before the next attempt: something that it had found is gone."""
    STOP = "Stop"
    """The run has failed for good."""


@dataclass(frozen=True)
class Ruling:
    verdict: Verdict
    reason: str = ""
    message: str = ""


def rule_stage(attempts: tuple[ObservedGroup, ...], last_attempt: int, this_round: int, retries: int) -> Ruling:
    """What is due for one stage (and pool): `last_attempt` is the ledger's, 0 before the first.

    A child that the ledger knows and nobody sees any more was removed by somebody: the next attempt is due, and costs
    nothing. `this_round` is the latest preflight attempt; what ended in an earlier round decides nothing.
    """
    if last_attempt == 0:
        return Ruling(Verdict.START)
    current = next((group for group in attempts if group.attempt == last_attempt), None)
    if current is None:
        return Ruling(Verdict.START)
    if current.state == GroupState.RUNNING:
        return Ruling(Verdict.WAIT)
    if current.round != this_round:
        return Ruling(Verdict.START)
    if current.state == GroupState.SUCCEEDED and not current.lost_its_report:
        return Ruling(Verdict.DONE)
    return _rule_failed(attempts, current, retries)


def _rule_failed(attempts: tuple[ObservedGroup, ...], current: ObservedGroup, retries: int) -> Ruling:
    reason, message = _why_failed(current)
    if reason in FINAL_REASONS:
        return Ruling(Verdict.STOP, reason, message)
    charged = sum(is_charged(group) for group in attempts)
    if charged > retries:
        return Ruling(Verdict.STOP, reason, f"{message} (after {charged} attempts)")
    verdict = Verdict.CHECK_AGAIN if reason == Reason.EMBEDDING_MISSING else Verdict.START
    return Ruling(verdict, reason, message)


def _why_failed(group: ObservedGroup) -> tuple[Reason, str]:
    if group.lost_its_report:
        return Reason.INTERNAL, f"the {group.stage} stage ended well but its report was lost"
    worst = worst_process(group)
    return worst.reason or Reason.INTERNAL, worst.message


def is_charged(group: ObservedGroup) -> bool:
    """Whether an attempt costs one of `spec.retries`."""
    return group.lost_its_report or (
        group.state == GroupState.FAILED
        and any(process.reason not in FREE_REASONS for process in group.failed_processes)
    )


def worst_process(group: ObservedGroup) -> ObservedProcess:
    """The failed process whose reason decides: a final one before one that counts before one that is free."""
    return min(group.failed_processes, key=lambda process: (_severity(process.reason), process.index))


def _severity(reason: Reason | None) -> int:
    if reason in FINAL_REASONS:
        return 0
    return 2 if reason in FREE_REASONS else 1
