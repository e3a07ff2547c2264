"""The heart: from a resource, its plan and what was seen of its children to what should be done now.

`reconcile` is a pure function and knows nothing of what it did before: the ledger in status and the observed groups say
everything. The shell writes the ledger, then acts, then writes the rest of the status.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from videogen_api.naming import Stage
from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_api.status import FINISHED_PHASES, Attempts, Findings, Phase, VideoGenerationStatus
from videogen_operator.core.asked import asked_digest, template_digest
from videogen_operator.core.deadlines import TOO_LONG, children_expire, runs_too_long
from videogen_operator.core.observed import Group, GroupState, Observed, ObservedGroup, Scaling
from videogen_operator.core.policies import Ledger, has_run_out_of_memory
from videogen_operator.core.stages import Step, next_step
from videogen_operator.core.summary import summarize


@dataclass(frozen=True)
class Decision:
    """What to do now; `status` is complete, with the ledger as it must be written before acting."""

    create: tuple[Group, ...]
    delete: tuple[ObservedGroup, ...]
    status: VideoGenerationStatus
    scale: tuple[Scaling, ...] = ()
    forget_plans: bool = False
    """The plan's ConfigMaps have expired with the other children."""
    wake_at: datetime | None = None
    """When to look again although nothing has changed."""

    @property
    def acts(self) -> bool:
        return bool(self.create or self.scale or self.delete)


def reconcile(
    resource: VideoGeneration,
    plan: Plan,
    observed: Observed,
    now: datetime,
    *,
    plan_revision: int = 1,
    encoder_may_start: bool = True,
) -> Decision:
    """One look at everything. `now` is the wall clock, in UTC.

    `plan_revision` is the number under which `plan` is kept. `encoder_may_start` is False while an encoder group of
    another resource holds some of the cards that this one needs and waits for the rest.
    """
    spec = resource.spec
    begins = is_new(resource)
    ledger = _ledger_of(resource, plan, plan_revision, now) if begins else resource.status
    # What belongs to another run, or to a try that was given up, decides nothing any more.
    seen = Observed() if begins else observed.of_run(plan.run_id)
    if ledger.phase in FINISHED_PHASES:
        return settle(resource, observed, now)
    ledger = _remember(ledger.model_copy(update={"plan_revision": plan_revision}), seen)
    stale = tuple(group for group in observed.groups if group not in seen.groups and group.state != GroupState.ENDING)
    if spec.suspend:
        step = Step(Phase.SUSPENDED, "suspended; set spec.suspend to false to go on", "Suspended")
        # As with Jobs, the clock of the active deadline starts anew when the run is resumed; and preflight looks again,
        # because nobody knows what happens to the store meanwhile.
        ledger = ledger.model_copy(update={"start_time": None, "found": None})
        alive = tuple(group for group in seen.groups if group.state != GroupState.ENDING)
        return Decision((), (*stale, *alive), summarize(resource, plan, seen, ledger, step, now))
    ledger = ledger if ledger.start_time is not None else ledger.model_copy(update={"start_time": now})
    # Without claims each runner has a fixed share of the clips, which depends on how many there are.
    shared = ledger.found is not None and ledger.found.claims
    scaled = _scale(resource, plan, seen) if shared else ()
    outdated = tuple(
        group
        for group in seen.groups
        if _is_outdated(resource, plan, group) and all(group is not scaling.group for scaling in scaled)
    )
    current = Observed(
        tuple(replace(group, state=GroupState.ENDING) if group in outdated else group for group in seen.groups)
    )
    step = _step(resource, plan, current, ledger, now, encoder_may_start=encoder_may_start)
    ledger = ledger.model_copy(
        update={
            "attempts": _count(ledger.attempts, step.due),
            "late_starts": (*ledger.late_starts, *(g.label for g in step.late if g.label not in ledger.late_starts)),
            "gave_way": ledger.attempts.preflight if step.aside else ledger.gave_way,
        }
    )
    at_work = tuple(group for group in current.groups if group.state == GroupState.RUNNING)
    # Their Jobs still stand: with its node, an old attempt would come back beside the new one.
    lost = tuple(group for group in current.groups if group.lost)
    ended = at_work if step.phase in FINISHED_PHASES else (*step.late, *step.aside)
    status = summarize(resource, plan, current, ledger, step, now)
    due = tuple(_templated(resource, group) for group in step.due)
    deadlines = (step.wake_at, runs_too_long(spec, ledger), children_expire(spec, status))
    if step.phase in FINISHED_PHASES:
        scaled = ()
    return Decision(due, (*stale, *outdated, *lost, *ended), status, scaled, wake_at=_earliest(*deadlines))


def least_shards(resource: VideoGeneration, observed: Observed) -> int:
    """Shards that the encoder needs at least, as far as the run has learnt: to be known before it is planned anew."""
    if is_new(resource):
        return 1
    return _least_shards(resource.status, observed.of_run(resource.status.run_id or ""))


def is_new(resource: VideoGeneration) -> bool:
    """Whether the resource asks for another run, or another try, than the one that its status tells of."""
    status = resource.status
    return status.asked != asked_digest(resource.spec) or status.retry != resource.spec.retry


def settle(resource: VideoGeneration, observed: Observed, now: datetime) -> Decision:
    """A finished run: nothing starts, whatever is still at work ends, and all children go when their time is over.

    It needs no plan, so that thousands of finished resources cost nothing.
    """
    seen = {"observed_generation": resource.metadata.generation}
    # `kubectl wait` takes a condition of an older generation for none.
    conditions = tuple(condition.model_copy(update=seen) for condition in resource.status.conditions)
    status = resource.status.model_copy(update={**seen, "conditions": conditions})
    expires = children_expire(resource.spec, status)
    alive = tuple(group for group in observed.groups if group.state != GroupState.ENDING)
    if expires is not None and now >= expires:
        told = status.model_copy(update={"plan_revision": 0})
        return Decision((), alive, told, forget_plans=status.plan_revision > 0)
    # A crash after the status was written must not leave cards busy for a run that is over.
    at_work = tuple(
        group
        for group in alive
        if group.state == GroupState.RUNNING or group.lost or group.run_id != resource.status.run_id
    )
    return Decision((), at_work, status, wake_at=expires)


def _step(
    resource: VideoGeneration,
    plan: Plan,
    observed: Observed,
    status: VideoGenerationStatus,
    now: datetime,
    *,
    encoder_may_start: bool,
) -> Step:
    ends = runs_too_long(resource.spec, status)
    if ends is not None and now >= ends:
        seconds = resource.spec.schedule.active_deadline_seconds if resource.spec.schedule is not None else None
        message = f"not finished within spec.schedule.activeDeadlineSeconds ({seconds}); raise it and change spec.retry"
        return Step(Phase.FAILED, message, TOO_LONG)
    schedule = resource.spec.schedule
    ledger = Ledger(
        attempts=status.attempts,
        created=status.created,
        late_starts=status.late_starts,
        retries=plan.retries,
        start_deadline_seconds=schedule.start_deadline_seconds if schedule is not None else None,
        shards=plan.encoder.shards,
        gave_way=status.gave_way,
    )
    return next_step(plan, observed, ledger, status.found, now, encoder_may_start=encoder_may_start)


def _ledger_of(resource: VideoGeneration, plan: Plan, plan_revision: int, now: datetime) -> VideoGenerationStatus:
    """A fresh status for another run or another try."""
    before = resource.status
    # Attempts count on, because a child's name is never used twice, and a manifest may come back to an earlier run.
    attempts = before.attempts
    return VideoGenerationStatus(
        run_id=plan.run_id,
        retry=resource.spec.retry,
        asked=asked_digest(resource.spec),
        plan_revision=plan_revision,
        attempts=attempts,
        created=attempts,
        start_time=now,
        conditions=before.conditions,
    )


def _remember(ledger: VideoGenerationStatus, seen: Observed) -> VideoGenerationStatus:
    """The ledger with what this look tells for good: which attempts exist, and what preflight found."""
    created = ledger.created
    for group in seen.groups:
        created = created.at_least(group.stage, group.pool, group.attempt)
    learnt = {"created": created, "found": _findings(ledger, seen), "least_shards": _least_shards(ledger, seen)}
    return ledger.model_copy(update=learnt)


def _least_shards(ledger: VideoGenerationStatus, seen: Observed) -> int:
    tried = (group.size for group in seen.attempts(Stage.ENCODE) if has_run_out_of_memory(group))
    # By half as many again: each try loads the encoder, and 2, 3, 4, 6, 9, 13, 19 and 24 shards are few tries.
    return max((ledger.least_shards, *(shards + max(1, shards // 2) for shards in tried)))


def _findings(ledger: VideoGenerationStatus, seen: Observed) -> Findings | None:
    attempt = ledger.attempts.preflight
    group = seen.attempt(Stage.PREFLIGHT, None, attempt)
    if group is None or group.state != GroupState.SUCCEEDED or group.lost_its_report or group.report is None:
        return ledger.found
    report = group.report.preflight
    if report is None:
        return ledger.found
    return Findings(attempt=attempt, embeddings=report.embeddings.count, clips=report.clips.count, claims=report.claims)


def _is_outdated(resource: VideoGeneration, plan: Plan, group: ObservedGroup) -> bool:
    """Whether a group at work is not what the manifest asks for any more."""
    if group.state != GroupState.RUNNING:
        return False
    if group.template and group.template != template_digest(resource.spec, group.stage, group.pool):
        return True
    return group.stage == Stage.GENERATE and _replicas(plan, group) != group.size


def _scale(resource: VideoGeneration, plan: Plan, seen: Observed) -> tuple[Scaling, ...]:
    """The pools at work of which nothing but the number of runners has changed."""
    return tuple(
        Scaling(group, _replicas(plan, group))
        for group in seen.groups
        if group.stage == Stage.GENERATE
        and group.state == GroupState.RUNNING
        and group.template == template_digest(resource.spec, group.stage, group.pool)
        and _replicas(plan, group) not in (0, group.size)
    )


def _replicas(plan: Plan, group: ObservedGroup) -> int:
    return next((pool.replicas for pool in plan.pools if pool.name == group.pool), 0)


def _templated(resource: VideoGeneration, group: Group) -> Group:
    return replace(group, template=template_digest(resource.spec, group.stage, group.pool))


def _count(attempts: Attempts, due: tuple[Group, ...]) -> Attempts:
    for group in due:
        attempts = attempts.at_least(group.stage, group.pool, group.attempt)
    return attempts


def _earliest(*times: datetime | None) -> datetime | None:
    return min((time for time in times if time is not None), default=None)
