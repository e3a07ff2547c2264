"""One pass: look, decide, write the ledger, act, write the status. The same for the cluster and for one machine.

The backend is the only thing that differs: it observes and applies, it decides nothing.
"""

from datetime import datetime
from typing import Protocol

from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_api.status import VideoGenerationStatus
from videogen_operator.core.observed import Group, Observed, ObservedGroup
from videogen_operator.core.reconcile import reconcile


class Backend(Protocol):
    """What a place that runs processes must offer."""

    def observe(self, resource: VideoGeneration) -> Observed:
        """All groups of the resource, of whatever run."""

    def write_status(self, resource: VideoGeneration, status: VideoGenerationStatus) -> None:
        """Replaces the resource's status, durably."""

    def delete(self, group: ObservedGroup) -> None:
        """Ends a group's processes and forgets it; a group that is gone already is fine."""

    def create(self, resource: VideoGeneration, plan: Plan, group: Group) -> None:
        """Starts a group under its deterministic name."""


def sync(resource: VideoGeneration, plan: Plan, backend: Backend, now: datetime) -> VideoGenerationStatus:
    """One level-triggered pass; returns the status that it left behind."""
    decision = reconcile(resource, plan, backend.observe(resource), now)
    if decision.status != resource.status:
        # Before acting: a crash between the two makes the next attempt, never the same one twice.
        backend.write_status(resource, decision.status)
    for stale in decision.delete:
        backend.delete(stale)
    for group in decision.create:
        backend.create(resource, plan, group)
    return decision.status
