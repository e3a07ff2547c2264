"""The generate role: take a clip that nobody works on, make it, take the next, until there is none.

All clips of a plan are of one size, so the order is that of the manifest. A clip that cannot be made is that clip's
failure, recorded with its reason; the runner goes on.
"""

import logging
from uuid import uuid4

from videogen_api import keys
from videogen_api.architecture import architecture_of
from videogen_api.errors import InvalidInput, Reason, VideogenError
from videogen_api.plan import Clip, Inputs, Plan, PlannedPool
from videogen_api.records import ClaimState, ClipFailure
from videogen_api.report import GenerateReport, RunnerState
from videogen_runner.claims import Claims, FixedShare, Held, Owner, Sighting, StoredClaims
from videogen_runner.compute import ComputeThread
from videogen_runner.device import set_up_device, torch_dtype
from videogen_runner.done import MarkerSighting, look_for_marker
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.vae import VideoAutoencoder
from videogen_runner.roles.clip import ClipWork, Workshop
from videogen_runner.roles.clip_output import NotFinite
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.inputs import checked_weights, read_inputs
from videogen_runner.store import NotFound
from videogen_runner.store.records import put_record
from videogen_runner.weights import Component
from videogen_runner.weights.loading import load_denoiser, load_vae

log = logging.getLogger("videogen")

# Ends that count against a clip: it may be what broke the runner.
_UNCLEAN_REASONS = frozenset({Reason.INTERNAL, Reason.OUT_OF_MEMORY})


def run(context: RoleContext) -> GenerateReport:
    """Makes clips until none is left to take.

    Raises Interrupted at a stop, EmbeddingMissing, WeightsMissing and WeightsInvalid, StoreUnavailable, StoreDenied,
    ConfigInvalid where the plan has no such pool, and whatever a broken device raises; the claim is handed back first.
    """
    inputs = read_inputs(context)
    pool = context.plan.pool(context.environment.pool or "")
    owner = Owner(context.environment.pod, pool.name, context.environment.attempt)
    claims = _claims_for(context, inputs, owner)
    return _Runner(context, inputs, pool, owner, claims).run()


def _claims_for(context: RoleContext, inputs: Inputs, owner: Owner) -> Claims:
    plan = context.plan
    if inputs.claims:
        return StoredClaims(context.store, plan.run, owner, lambda: uuid4().hex)
    return FixedShare(_fixed_share(plan, inputs, owner.pool, context.environment.index), owner)


def _fixed_share(plan: Plan, inputs: Inputs, pool: str, index: int) -> frozenset[str]:
    """Every n-th clip, n being the runners of all pools."""
    names = [planned.name for planned in plan.pools]
    before = sum(planned.replicas for planned in plan.pools[: names.index(pool)])
    total = sum(planned.replicas for planned in plan.pools)
    return frozenset(plan.clip_digest(clip, inputs) for clip in plan.work[before + index :: total])


class _Runner:
    """One process: its place in the work, its models once a clip needs them, and what it has done."""

    def __init__(self, context: RoleContext, inputs: Inputs, pool: PlannedPool, owner: Owner, claims: Claims) -> None:
        self._context = context
        self._inputs = inputs
        self._pool = pool
        self._owner = owner
        self._claims = claims
        self._clips = {context.plan.clip_digest(clip, inputs): clip for clip in context.plan.work}
        self._settled: set[str] = set()
        self._workshop: Workshop | None = None
        self._finished = self._reused = self._failed = self._resumed = self._steps = 0
        self._step_seconds = self._load_seconds = 0.0

    def run(self) -> GenerateReport:
        self._context.progress.update(total=len(self._clips))
        while (held := self._take_next()) is not None:
            self._process(self._clips[held.clip_digest], held)
            self._context.progress.update(done=self._finished + self._reused, clip=None)
        return GenerateReport(
            finished=self._finished,
            reused=self._reused,
            failed=self._failed,
            resumed=self._resumed,
            steps=self._steps,
            step_seconds=self._step_seconds / self._steps if self._steps else 0.0,
            load_seconds=self._load_seconds,
        )

    def _take_next(self) -> Held | None:
        """The first clip that can be taken. What is done or failed is not looked at again, what others hold is."""
        self._context.progress.update(state=RunnerState.CHECKING)
        for clip_digest in self._clips:
            self._context.raise_if_stopped()
            if clip_digest in self._settled:
                continue
            seen = self._claims.look(clip_digest)
            if self._is_settled(seen):
                self._settled.add(clip_digest)
                continue
            held = self._claims.take(seen)
            if held is not None:
                return held
        return None

    def _is_settled(self, seen: Sighting) -> bool:
        """Whether the claim says that the work has ended, and what it says is still so."""
        claim = seen.claim
        if claim is None or claim.state not in (ClaimState.DONE, ClaimState.FAILED):
            return False
        if claim.state is ClaimState.FAILED:
            return self._has_failure(seen.clip_digest)
        in_this_attempt = claim.pool == self._owner.pool and claim.attempt == self._owner.attempt
        return in_this_attempt or look_for_marker(self._context.store, seen.clip_digest).marker is not None

    def _has_failure(self, clip_digest: str) -> bool:
        try:
            self._context.store.head(keys.clip_failure(self._context.plan.run, clip_digest))
        except NotFound:
            return False
        return True

    def _process(self, clip: Clip, held: Held) -> None:
        retries = self._context.plan.retries
        if self._has_failure(held.clip_digest):
            self._settle(held, ClaimState.FAILED)
            return
        seen = look_for_marker(self._context.store, held.clip_digest)
        if seen.marker is not None:
            self._settle(held, ClaimState.DONE)
            self._reused += 1
        elif held.claim.unclean_ends > retries:
            self._fail(
                clip,
                held,
                Reason.INTERNAL,
                f"{held.claim.unclean_ends} runners ended uncleanly in this clip, retries allow {retries}; "
                "see their logs, then change spec.retry to try again",
            )
        else:
            self._make(clip, held, seen)

    def _make(self, clip: Clip, held: Held, seen: MarkerSighting) -> None:
        try:
            workshop = self._open_workshop()
        except BaseException as error:
            self._hand_back(held, error)
            raise
        work = ClipWork(workshop, clip, held, seen)
        try:
            is_finished = work.run()
        except (InvalidInput, NotFinite) as error:
            self._fail(clip, work.held, error.reason, str(error))
        except BaseException as error:
            self._hand_back(work.held, error)
            raise
        else:
            if is_finished:
                self._settle(work.held, ClaimState.DONE)
                self._finished += 1
                log.info("clip %s is finished", clip.name)
            else:
                log.warning("clip %s went to another runner; leaving it", clip.name)
        self._count(work)

    def _fail(self, clip: Clip, held: Held, reason: Reason, message: str) -> None:
        """The record first: a claim that says FAILED without one counts for nothing."""
        log.error("clip %s cannot be made: %s", clip.name, message)
        failure = ClipFailure(
            clip=clip.name, clip_digest=held.clip_digest, reason=reason, message=message, runner=self._owner.name
        )
        put_record(self._context.store, keys.clip_failure(self._context.plan.run, held.clip_digest), failure)
        self._settle(held, ClaimState.FAILED)
        self._failed += 1

    def _settle(self, held: Held, state: ClaimState) -> None:
        if not self._claims.settle(held, state):
            log.warning("the claim on %s was lost before it could say %s", held.clip_digest, state)
        self._settled.add(held.clip_digest)

    def _hand_back(self, held: Held, error: BaseException) -> None:
        unclean = not isinstance(error, VideogenError) or error.reason in _UNCLEAN_REASONS
        try:
            self._claims.hand_back(held, unclean=unclean)
        except VideogenError as second:
            # The first error is what matters; the next attempt takes what is still held.
            log.warning("the claim on %s could not be handed back: %s", held.clip_digest, second)

    def _count(self, work: ClipWork) -> None:
        self._resumed += work.is_resumed
        self._steps += work.steps.count
        self._step_seconds += work.steps.total

    def _open_workshop(self) -> Workshop:
        """Models are loaded when the first clip needs them, and kept."""
        if self._workshop is not None:
            return self._workshop
        context, pool = self._context, self._pool
        context.progress.update(state=RunnerState.LOADING)
        started = context.clock.monotonic()
        compute = ComputeThread(context.stop)
        device = set_up_device(context.environment.device, pool.device)
        context.progress.update(device=str(device))
        architecture = architecture_of(context.plan.model.name)

        def load() -> tuple[STDiT3, VideoAutoencoder]:
            weights = checked_weights(context, self._inputs, Component.DENOISER, Component.VAE)
            denoiser = load_denoiser(
                weights.folder(Component.DENOISER),
                device=device,
                dtype=torch_dtype(pool.dtype),
                architecture=architecture,
            )
            vae = load_vae(
                weights.folder(Component.VAE),
                device=device,
                dtype=torch_dtype(pool.vae_dtype),
                architecture=architecture,
            )
            return denoiser, vae

        denoiser, vae = compute.run(load)
        self._load_seconds = context.clock.monotonic() - started
        self._workshop = Workshop(context, self._inputs, pool, self._claims, compute, denoiser, vae)
        return self._workshop
