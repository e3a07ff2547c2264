"""One pass: look, decide, write the ledger, act, write the status. The same for the cluster and for one machine.

The backend is the only thing that differs: it observes and applies, it decides nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_api.status import VideoGenerationStatus
from videogen_operator.core.observed import Group, Observed, ObservedGroup
from videogen_operator.core.reconcile import Decision, is_new, reconcile
from videogen_operator.core.writes import differs, is_news, ledger_changed


class Backend(Protocol):
    """What a place that runs processes must offer."""

    def observe(self, resource: VideoGeneration) -> Observed:
        """All groups of the resource, of whatever run."""

    def write_status(self, resource: VideoGeneration, status: VideoGenerationStatus) -> None:
        """Replaces the resource's status, durably."""

    def delete(self, group: ObservedGroup) -> None:
        """Ends a group's processes and forgets it; a group that is gone already is fine."""

    def scale(self, group: ObservedGroup, processes: int) -> None:
        """Gives a group of runners another number of processes; those of the lowest indexes stay."""

    def create(self, resource: VideoGeneration, plan: Plan, group: Group) -> None:
        """Starts a group under its deterministic name; one of that name that is ours already is fine."""


@dataclass(frozen=True)
class Outcome:
    """What a pass left behind."""

    status: VideoGenerationStatus
    """The decided status; what is in the resource may be older by its mere progress."""
    written: bool
    wake_at: datetime | None


def sync(resource: VideoGeneration, plan: Plan, backend: Backend, now: datetime) -> VideoGenerationStatus:
    """One level-triggered pass that tells everything; returns the status that it left behind."""
    decision = reconcile(resource, plan, backend.observe(resource), now)
    return apply(resource, plan, decision, backend, may_report=True).status


def apply(
    resource: VideoGeneration, plan: Plan | None, decision: Decision, backend: Backend, *, may_report: bool
) -> Outcome:
    """Carries out a decision. `plan` is None for one that creates nothing; `may_report`: mere progress may be written.

    The ledger goes before the act: a crash between the two makes the same attempt, or the next one, never two of them.
    Only what a new try finds of older ones goes even before that: were it left over, its failures would count again.
    """
    before, after = resource.status, decision.status
    told = resource.model_copy(update={"status": after})
    begins = is_new(resource)
    if begins:
        _delete(decision, backend)
    first = ledger_changed(before, after) or bool(decision.delete and differs(before, after))
    if first:
        backend.write_status(resource, after)
    if not begins:
        _delete(decision, backend)
    for scaling in decision.scale:
        backend.scale(scaling.group, scaling.processes)
    for group in decision.create:
        if plan is None:
            raise AssertionError("only a plan creates groups")
        backend.create(told, plan, group)
    if first:
        return Outcome(after, written=True, wake_at=decision.wake_at)
    due = is_news(before, after) or (may_report and differs(before, after))
    if due:
        backend.write_status(resource, after)
    return Outcome(after, written=due, wake_at=decision.wake_at)


def _delete(decision: Decision, backend: Backend) -> None:
    for stale in decision.delete:
        backend.delete(stale)
