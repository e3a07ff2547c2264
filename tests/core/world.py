"""One resource under an operator that may stop after any write, on a simulated cluster and a simulated clock.

What the API server would keep is durable here: the resource with its status, the plans, the groups. What the operator
has in memory is lost when it stops. A pass is that of cluster/reconciler.py, without what only a cluster has. Whatever
must hold at every single write is asserted where it is written.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from tests.builders import NOW
from tests.core.simulated_cluster import FateOf, SimulatedCluster

from videogen_api.errors import InvalidInput
from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration, parse_resource
from videogen_api.spec import ModelRef, Storage
from videogen_api.status import FINISHED_PHASES, Attempts, VideoGenerationStatus
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.observed import Group, GroupState, Observed, ObservedGroup
from videogen_operator.core.planner import make_plan
from videogen_operator.core.reconcile import is_new, least_shards, reconcile, settle
from videogen_operator.core.refusal import refuse
from videogen_operator.core.writes import REPORT_EVERY, differs, is_news
from videogen_operator.sync import Outcome, apply

Spec = dict[str, Any]
Edit = tuple[float, Callable[[Spec], Spec]]
"""So many seconds after the first pass, the manifest is changed."""

_DEFAULTS = Defaults(storage=Storage(url="s3://videos"), model=ModelRef(name="open-sora-v1.2-tiny", weights="builtin"))


class Stopped(Exception):
    """The operator's process is gone."""


def build_spec(*pools: Spec, **fields: Any) -> Spec:
    prompts = [{"name": "fox", "text": "a red fox", "seed": 1, "samples": 2}]
    video = {"size": {"width": 64, "height": 64}, "frames": 17}
    return {"prompts": prompts, "video": video, "runners": list(pools or [cpu_pool("a")]), **fields}


def cpu_pool(name: str, replicas: int = 1, **fields: Any) -> Spec:
    return {"name": name, "replicas": replicas, "gpu": {"count": 0}, **fields}


@lru_cache(maxsize=256)
def _read(spec: str) -> tuple[VideoGeneration, Plan | InvalidInput]:
    metadata = {"name": "test", "uid": "u1"}
    manifest = {"apiVersion": "videogen.dev/v1alpha1", "kind": "VideoGeneration", "metadata": metadata}
    resource = parse_resource({**manifest, "spec": json.loads(spec)})
    try:
        return resource, make_plan(resource, _DEFAULTS)
    except InvalidInput as error:
        return resource, error


class World:
    """A resource's life. Raises AssertionError for a write that must never be made."""

    def __init__(
        self,
        spec: Spec,
        fate_of: FateOf,
        *,
        edits: Sequence[Edit] = (),
        stops: frozenset[int] = frozenset(),
        outage_seconds: float = 30.0,
    ) -> None:
        self.cluster = SimulatedCluster(fate_of, NOW)
        self.writes: list[str] = []
        self.groups: Counter[tuple[str, str]] = Counter()
        """How often each name was created, by run."""
        self._spec = spec
        self._plan: Plan | InvalidInput
        self._edits = sorted(edits, key=lambda edit: edit[0])
        self._stops = stops
        self._outage = timedelta(seconds=outage_seconds)
        self._status = VideoGenerationStatus()
        self._generation = 0
        self._plans: dict[tuple[str, int], Plan] = {}
        self._reported: datetime | None = None
        self._seen: set[tuple[str, str]] = set()
        self._recorded: set[tuple[str, str]] = set()
        """Names that were seen before a status was written."""
        self._apply(spec)

    @property
    def status(self) -> VideoGenerationStatus:
        return self._status

    @property
    def plans(self) -> list[tuple[str, int]]:
        """Run and revision of every plan that is kept."""
        return sorted(self._plans)

    @property
    def seconds(self) -> float:
        return (self.cluster.now - NOW).total_seconds()

    def live(self, *, most_passes: int) -> None:
        """Passes until the run is finished and nothing more would ever happen."""
        for _ in range(most_passes):
            while self._edits and self._edits[0][0] <= self.seconds:
                self._apply(self._edits.pop(0)[1](self._spec))
            count = len(self.writes)
            try:
                wake_at = self._pass()
            except Stopped:
                self.cluster.now += self._outage
                self._reported = None
                continue
            if len(self.writes) > count:
                continue
            moments = [moment for moment in (wake_at, self.cluster.next_change(), self._next_edit()) if moment]
            if not moments:
                assert self._status.phase in FINISHED_PHASES, f"nothing would ever happen again: {self._status.message}"
                return
            self.cluster.now = max(self.cluster.now, min(moments))
        raise AssertionError(f"no end after {most_passes} passes, {self.seconds} s: {self._status.message}")

    def _next_edit(self) -> datetime | None:
        return NOW + timedelta(seconds=self._edits[0][0]) if self._edits else None

    def _apply(self, spec: Spec) -> None:
        self._spec = spec
        self._generation += 1
        resource, self._plan = _read(json.dumps(spec, sort_keys=True))
        metadata = resource.metadata.model_copy(update={"generation": self._generation})
        self._manifest = resource.model_copy(update={"metadata": metadata})

    def _pass(self) -> datetime | None:
        resource, now = self._manifest.model_copy(update={"status": self._status}), self.cluster.now
        observed = self.observe(resource)
        if resource.status.phase in FINISHED_PHASES and not is_new(resource):
            decision = settle(resource, observed, now)
            if decision.forget_plans:
                self._plans.clear()
                self._written("delete plans")
            return apply(resource, None, decision, self, may_report=True).wake_at
        if isinstance(self._plan, InvalidInput):
            self._refuse(resource, self._plan, observed)
            return None
        least = least_shards(resource, observed)
        wanted = self._plan if least == 1 else make_plan(resource, _DEFAULTS, least_shards=least)
        plan, revision = self._frozen(resource, wanted)
        decision = reconcile(resource, plan, observed, now, plan_revision=revision)
        if self._plans.get((plan.run_id, revision)) != plan:
            self._plans[plan.run_id, revision] = plan
            self._written("plan")
        report_at = now if self._reported is None else self._reported + REPORT_EVERY
        outcome = apply(resource, plan, decision, self, may_report=now >= report_at)
        return self._wake_at(resource, outcome, report_at)

    def _wake_at(self, resource: VideoGeneration, outcome: Outcome, report_at: datetime) -> datetime | None:
        if outcome.written:
            self._reported = self.cluster.now
        unreported = not outcome.written and differs(resource.status, outcome.status)
        times = (outcome.wake_at, report_at if unreported else None)
        return min((time for time in times if time is not None), default=None)

    def _frozen(self, resource: VideoGeneration, wanted: Plan) -> tuple[Plan, int]:
        status = resource.status
        known = None if is_new(resource) else self._plans.get((status.run_id or "", status.plan_revision))
        if known == wanted:
            return wanted, status.plan_revision
        return wanted, status.plan_revision + 1 if status.run_id == wanted.run_id else 1

    def _refuse(self, resource: VideoGeneration, error: InvalidInput, observed: Observed) -> None:
        status = refuse(resource.status, self._generation, error.reason, str(error), self.cluster.now)
        if differs(resource.status, status):
            self.write_status(resource, status)
        for group in observed.groups:
            if group.state == GroupState.RUNNING:
                self.delete(group)

    def _written(self, what: str) -> None:
        self.writes.append(what)
        if len(self.writes) in self._stops:
            raise Stopped

    # What a pass asks of its backend.

    def observe(self, resource: VideoGeneration) -> Observed:
        assert resource.status == self._status, "a pass looks with a status that is not the latest"
        observed = self.cluster.observe()
        self._seen = {(group.run_id, group.label) for group in observed.groups}
        return observed

    def write_status(self, resource: VideoGeneration, status: VideoGenerationStatus) -> None:
        before, self._status = self._status, status
        assert resource.status == before, "a status is written over one that was not read"
        if status.run_id == before.run_id:
            later = _counts(status.attempts)
            assert all(later.get(name, 0) >= count for name, count in _counts(before.attempts).items())
        self._recorded |= self._seen
        self._written("status" if is_news(before, status) else "progress")

    def delete(self, group: ObservedGroup) -> None:
        self.cluster.delete(group)
        self._written(f"delete {group.label}")

    def scale(self, group: ObservedGroup, processes: int) -> None:
        self.cluster.scale(group, processes)
        self._written(f"scale {group.label}")

    def create(self, resource: VideoGeneration, plan: Plan, group: Group) -> None:
        status, told = self._status, resource.status
        assert (told.run_id, told.plan_revision) == (status.run_id, status.plan_revision), "pods of an unwritten ledger"
        assert status.attempts.of(group.stage, group.pool) == group.attempt, "the ledger does not know what is made"
        assert self._plans[plan.run_id, status.plan_revision] == plan, "pods would not find their plan"
        rivals = [
            other.label
            for other in self.cluster.observe().of_run(plan.run_id).attempts(group.stage, group.pool)
            if other.state == GroupState.RUNNING
        ]
        assert rivals == [], f"{group.label} would be at work beside another attempt"
        # A group that came and went while no operator looked cannot be told from one that was never made.
        assert (plan.run_id, group.label) not in self._recorded, f"the name {group.label} is used again"
        self.groups[plan.run_id, group.label] += 1
        self.cluster.create(plan, group)
        self._written(f"create {group.label}")


def _counts(attempts: Attempts) -> dict[str, int]:
    return {**attempts.generate, **attempts.model_dump(exclude={"generate"})}
