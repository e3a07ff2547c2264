"""A whole run, played through on cards that take the predicted seconds."""

from dataclasses import dataclass
from datetime import UTC, datetime

from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_operator.core.fleet import Fleet, Scenario, Span
from videogen_operator.core.simulate import Moment, simulate

_BEGIN = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Played:
    """A simulated run: what happened, and what each card did when."""

    scenario: Scenario
    moments: tuple[Moment, ...]
    spans: tuple[Span, ...]
    losses: int

    @property
    def seconds(self) -> float:
        return self.age(self.moments[-1])

    @property
    def redone_seconds(self) -> float:
        """Work that was lost with its pods."""
        return sum((span.end - span.begin) * (1 - span.kept) for span in self.spans)

    @staticmethod
    def age(moment: Moment) -> float:
        """Seconds from the beginning of the run."""
        return (moment.time - _BEGIN).total_seconds()


def play(resource: VideoGeneration, plan: Plan, scenario: Scenario) -> Played:
    """The operator's own decisions, on the plan's cards as the scenario has them."""
    fleet = Fleet(plan, scenario, _BEGIN)
    moments = simulate(resource, plan, fleet)
    return Played(scenario, moments, tuple(fleet.spans), fleet.losses)
