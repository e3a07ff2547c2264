"""A run played through without a cluster: `reconcile` folded over what a simulated one shows.

Time is a number that moves; nothing here waits. `videogen plan --simulate` plays on a `Fleet` (core/fleet.py).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_api.status import FINISHED_PHASES, Phase
from videogen_operator.core.observed import Group, Observed, ObservedGroup
from videogen_operator.core.reconcile import reconcile


class Cluster(Protocol):
    """What a run is played on."""

    @property
    def now(self) -> datetime: ...

    def observe(self) -> Observed:
        """All groups that can be seen now."""

    def create(self, plan: Plan, group: Group) -> None: ...

    def delete(self, group: ObservedGroup) -> None: ...

    def wait(self, until: datetime | None) -> bool:
        """Moves on to when something can be seen that could not be seen before, at most to `until`.

        Returns whether there is such a moment.
        """


@dataclass(frozen=True)
class Moment:
    """A pass that did something, or found something to tell."""

    time: datetime
    phase: Phase
    message: str
    created: tuple[Group, ...]
    deleted: tuple[ObservedGroup, ...]


def simulate(
    resource: VideoGeneration, plan: Plan, cluster: Cluster, *, most_passes: int = 10_000
) -> tuple[Moment, ...]:
    """Every moment of a run up to its end; up to where nothing would ever happen again, where it has no end."""
    moments = list[Moment]()
    for _ in range(most_passes):
        decision = reconcile(resource, plan, cluster.observe(), cluster.now)
        for stale in decision.delete:
            cluster.delete(stale)
        for group in decision.create:
            cluster.create(plan, group)
        status = decision.status
        phase, message = status.phase or Phase.PENDING, status.message or ""
        if decision.acts or not moments or (phase, message) != (moments[-1].phase, moments[-1].message):
            moments.append(Moment(cluster.now, phase, message, decision.create, decision.delete))
        resource = resource.model_copy(update={"status": status})
        if status.phase in FINISHED_PHASES:
            break
        if not decision.acts and not cluster.wait(decision.wake_at):
            break
    return tuple(moments)
