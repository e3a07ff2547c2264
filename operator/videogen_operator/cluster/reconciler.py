"""What a worker does with a key: from the cache to a decision, and the decision carried out."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from videogen_api.errors import VideogenError
from videogen_api.naming import Stage
from videogen_api.resource import (
    ManifestInvalid,
    Metadata,
    StatusUnreadable,
    VideoGeneration,
    parse_live_resource,
    parse_status,
)
from videogen_api.status import FINISHED_PHASES, VideoGenerationStatus
from videogen_operator.cluster.api_errors import ApiError, Forbidden, Invalid, NamespaceTerminating
from videogen_operator.cluster.backend import ClusterBackend
from videogen_operator.cluster.cache import ClusterCache
from videogen_operator.cluster.checks import check_for_cluster
from videogen_operator.cluster.events import EventRecorder
from videogen_operator.cluster.gate import EncoderGate, cards_of
from videogen_operator.cluster.ownership import NameTaken
from videogen_operator.cluster.plans import FrozenPlan, PlanBook
from videogen_operator.cluster.progress import ProgressPoller, target_of
from videogen_operator.cluster.resources import Key, Object
from videogen_operator.config import OperatorConfig
from videogen_operator.core.events import events_of
from videogen_operator.core.observed import GroupState, Observed
from videogen_operator.core.planner import keep_strategy, make_plan
from videogen_operator.core.reconcile import Decision, is_new, least_shards, reconcile, settle
from videogen_operator.core.refusal import block, refuse
from videogen_operator.core.writes import REPORT_EVERY, differs
from videogen_operator.sync import Outcome, apply

log = logging.getLogger("videogen")


class Blocked(Exception):
    """The cluster did not let the pass through; the status says why, and the key is to be tried again."""


class Reconciler:
    """One look at one resource at a time; safe to use from many threads with different keys."""

    def __init__(
        self,
        cache: ClusterCache,
        backend: ClusterBackend,
        plans: PlanBook,
        config: OperatorConfig,
        *,
        poller: ProgressPoller[Key],
        recorder: EventRecorder,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._backend = backend
        self._plans = plans
        self._config = config
        self._poller = poller
        self._recorder = recorder
        self._clock = clock
        self._gate = EncoderGate()
        self._reported: dict[Key, datetime] = {}

    def begin(self) -> None:
        """To be called once, when the cache holds everything and before the first key."""
        self._gate.begin(self._cache.keys())

    def reconcile(self, key: Key) -> float | None:
        """One pass. Returns the seconds after which to look again although nothing changes; None: never.

        Raises ApiError where the API server did not carry something out, and Blocked where it will not for now; the
        same pass is then due again after a while.
        """
        try:
            return self._reconcile(key)
        except StatusUnreadable as error:
            # What it has at work is left alone: whoever wrote the status knows what it is.
            self._gate.pass_over(key)
            raise Blocked(str(error)) from error
        except ApiError:
            # Tried again soon. Until then it may have an encoder group that is starting, and the others wait for it.
            raise
        except Exception:
            # This may never go well, and the other encoders must not wait for it.
            self._gate.pass_over(key)
            raise

    def _reconcile(self, key: Key) -> float | None:
        found = self._cache.get(key)
        if found is None or found["metadata"].get("deletionTimestamp") is not None:
            # Kubernetes collects the children through their owner references.
            self._forget(key)
            return None
        now = self._clock()
        try:
            resource = parse_live_resource(found)
        except ManifestInvalid as error:
            self._refuse(_metadata_of(found), parse_status(found), error, now)
            return None
        try:
            outcome = self._pass(key, resource, now)
        except VideogenError as error:
            self._refuse(resource.metadata, resource.status, error, now)
            return None
        except (Forbidden, Invalid, NameTaken) as error:
            self._gate.refused(key, self._backend.observe(resource))
            self._block(key, resource, error, now)
            if isinstance(error, NamespaceTerminating):
                self._end_all(key)
            raise Blocked(str(error)) from error
        if outcome.written:
            self._reported[key] = now
            self._recorder.record(resource.metadata, events_of(resource.status, outcome.status))
        wake_at = min((at for at in (outcome.wake_at, self._backend.changes_at(key)) if at is not None), default=None)
        return max(0.0, (wake_at - now).total_seconds()) if wake_at is not None else None

    def _pass(self, key: Key, resource: VideoGeneration, now: datetime) -> Outcome:
        observed = self._backend.observe(resource)
        if resource.status.phase in FINISHED_PHASES and not is_new(resource):
            self._forget(key)
            decision = settle(resource, observed, now)
            if decision.forget_plans:
                self._plans.delete_others(resource, None)
            return apply(resource, None, decision, self._backend, may_report=True)
        self._follow(key)
        self._backend.check_namespace(key)
        known = None if is_new(resource) else self._plans.read(resource)
        frozen = self._plan(resource, known, observed)
        decision = self._decide(key, resource, frozen, observed, now)
        if frozen != known:
            self._plans.freeze(resource, frozen)
        backend = self._backend.on_plan(frozen.revision, frozen.defaults)
        report_at = self._reported.get(key, now - REPORT_EVERY) + REPORT_EVERY
        if resource.status.run_id not in (None, frozen.plan.run_id):
            # Before the ledger names the new run: after it, nobody would know that there is something to delete.
            self._plans.delete_others(resource, frozen.plan.run_id)
        outcome = apply(resource, frozen.plan, decision, backend, may_report=now >= report_at)
        if outcome.written or not differs(resource.status, outcome.status):
            return outcome
        return replace(outcome, wake_at=min(report_at, outcome.wake_at or report_at))

    def _plan(self, resource: VideoGeneration, known: FrozenPlan | None, observed: Observed) -> FrozenPlan:
        """The placement to go by: the frozen one, unless the manifest asks for another, or the encoder needs one."""
        status, least = resource.status, least_shards(resource, observed)
        is_current = status.observed_generation == resource.metadata.generation
        if known is not None and is_current and known.plan.encoder.shards >= least:
            return known
        defaults = known.defaults if known is not None else self._config.defaults
        plan = make_plan(resource, defaults, least_shards=least)
        if known is not None:
            plan = keep_strategy(resource, plan, known.plan)
        check_for_cluster(resource, plan, self._config.model_copy(update={"defaults": defaults}))
        if known is not None and plan == known.plan:
            return known
        revision = status.plan_revision + 1 if status.run_id == plan.run_id else 1
        return FrozenPlan(plan, revision, defaults)

    def _decide(
        self, key: Key, resource: VideoGeneration, frozen: FrozenPlan, observed: Observed, now: datetime
    ) -> Decision:
        def decide(*, encoder_may_start: bool) -> Decision:
            return reconcile(
                resource,
                frozen.plan,
                observed,
                now,
                plan_revision=frozen.revision,
                encoder_may_start=encoder_may_start,
            )

        cards = cards_of(resource.spec, frozen)
        decision = decide(encoder_may_start=self._gate.look(key, cards, observed))
        encodes = any(group.stage == Stage.ENCODE for group in decision.create)
        if encodes and cards is not None and not self._gate.take(key, cards):
            return decide(encoder_may_start=False)
        return decision

    def _follow(self, key: Key) -> None:
        """Has the running pods of the resource asked for their progress."""
        children = self._cache.children(key)
        targets = (target_of(pod, job["metadata"]["uid"]) for job in children.jobs for pod in children.pods)
        self._poller.follow(key, [target for target in targets if target is not None])

    def _refuse(self, metadata: Metadata, before: VideoGenerationStatus, error: VideogenError, now: datetime) -> None:
        """Nothing can be made of the manifest: it is said, and what runs for an older one ends."""
        status = refuse(before, metadata.generation, error.reason, str(error), now)
        key = Key(metadata.namespace, metadata.name)
        if differs(before, status):
            self._backend.write(metadata, status)
            self._recorder.record(metadata, events_of(before, status))
        self._end_all(key)
        self._forget(key)

    def _end_all(self, key: Key) -> None:
        for group in self._backend.observe_key(key).groups:
            if group.state != GroupState.ENDING:
                self._backend.delete(group)

    def _block(self, key: Key, resource: VideoGeneration, error: Exception, now: datetime) -> None:
        """Says what the cluster refused. The resource is read again: the pass may have written its ledger."""
        found = self._cache.get(key)
        if found is None:
            return
        metadata, before = _metadata_of(found), parse_status(found)
        read_again = resource.model_copy(update={"metadata": metadata, "status": before})
        gone = f"namespace {key.namespace} is being deleted, and this goes with it"
        message = gone if isinstance(error, NamespaceTerminating) else str(error)
        status = block(read_again, _reason_of(error), message, now)
        if not differs(before, status):
            return
        try:
            self._backend.write(metadata, status)
        except ApiError as second:
            log.warning("%s/%s: its status could not be written: %s", key.namespace, key.name, second)
            return
        self._recorder.record(metadata, events_of(before, status))

    def _forget(self, key: Key) -> None:
        self._plans.forget(key)
        self._gate.forget(key)
        self._poller.follow(key, ())
        self._reported.pop(key, None)


def _metadata_of(found: Object) -> Metadata:
    return Metadata.model_validate(found["metadata"])


def _reason_of(error: Exception) -> str:
    if isinstance(error, NameTaken | NamespaceTerminating):
        return type(error).__name__
    return "QuotaExceeded" if "exceeded quota" in str(error) else "Refused"
