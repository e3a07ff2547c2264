"""The generate role: take a clip, make it, take the next, until there is none.

A clip that cannot be made is that clip's failure, recorded with its reason; the runner goes on.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from videogen_api import keys
from videogen_api.architecture import architecture_of
from videogen_api.errors import InvalidInput, OutOfMemory, Reason, VideogenError
from videogen_api.plan import Clip, Inputs, PlannedPool
from videogen_api.records import ClaimState, ClipFailure
from videogen_api.report import GenerateReport, RunnerState
from videogen_runner.adaptation import Adaptation, NoMemory, attempt
from videogen_runner.checkpoint import CheckpointInterval
from videogen_runner.claims import LEASE_SECONDS, Claims, FixedShare, Held, Owner, StoredClaims
from videogen_runner.compute import ComputeThread
from videogen_runner.device import check_dtypes, set_up_device, torch_dtype
from videogen_runner.done import MarkerSighting, look_for_marker
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.vae import VideoAutoencoder
from videogen_runner.roles.clip import ClipWork, Workshop
from videogen_runner.roles.clip_output import NotFinite
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.inputs import checked_weights, read_inputs
from videogen_runner.roles.next_clip import POLL_SECONDS, NextClip, has_failure
from videogen_runner.store.records import put_record
from videogen_runner.tenure import HEARTBEAT_SECONDS, Tenure
from videogen_runner.weights import Component
from videogen_runner.weights.loading import load_denoiser, load_vae

log = logging.getLogger("videogen")

# Ends that count against a clip: it may be what broke the runner.
_UNCLEAN_REASONS = frozenset({Reason.INTERNAL, Reason.OUT_OF_MEMORY})


@dataclass(frozen=True)
class Times:
    """How a runner keeps in touch with the others, in seconds. Tests live faster."""

    lease: float = LEASE_SECONDS
    heartbeat: float = HEARTBEAT_SECONDS
    poll: float = POLL_SECONDS
    """Longest pause between two looks for work."""
    new_interval: Callable[[float], CheckpointInterval] = CheckpointInterval
    """Between checkpoints, from the moment given on."""


def run(context: RoleContext, times: Times = Times()) -> GenerateReport:
    """Makes clips until none is left to take.

    Raises Interrupted at a stop, EmbeddingMissing, WeightsMissing and WeightsInvalid, StoreUnavailable, StoreDenied,
    ConfigInvalid where the plan has no such pool, and whatever a broken device raises; the claim is handed back first.
    """
    inputs = read_inputs(context)
    environment = context.environment
    pool = context.plan.pool(environment.pool or "")
    owner = Owner(environment.pod, pool.name, environment.attempt, environment.index)
    return _Runner(context, inputs, pool, owner, times).run()


class _Runner:
    """One process: its place in the work, its models once a clip needs them, and what it has done."""

    def __init__(self, context: RoleContext, inputs: Inputs, pool: PlannedPool, owner: Owner, times: Times) -> None:
        self._context = context
        self._inputs = inputs
        self._pool = pool
        self._owner = owner
        self._times = times
        self._claims: Claims = FixedShare(owner, wall=context.clock.wall)
        if inputs.claims:
            self._claims = StoredClaims(
                context.store,
                context.plan.run,
                owner,
                new_nonce=lambda: uuid4().hex,
                monotonic=context.clock.monotonic,
                wall=context.clock.wall,
                lease_seconds=times.lease,
            )
        self._next = NextClip(
            context, inputs, owner, self._claims, get_ready=self._open_workshop, poll_seconds=times.poll
        )
        self._workshop: Workshop | None = None
        self._pace: float | None = None
        self._finished = self._reused = self._failed = self._resumed = self._adapted = self._steps = 0
        self._step_seconds = self._load_seconds = 0.0

    def run(self) -> GenerateReport:
        self._context.progress.update(total=len(self._next.clips))
        while (held := self._next.take(self._pace)) is not None:
            self._process(self._next.clips[held.clip_digest], held)
            self._context.progress.update(done=self._finished + self._reused, clip=None)
        return GenerateReport(
            finished=self._finished,
            reused=self._reused,
            failed=self._failed,
            resumed=self._resumed,
            steps=self._steps,
            adapted=self._adapted,
            step_seconds=self._step_seconds / self._steps if self._steps else 0.0,
            load_seconds=self._load_seconds,
        )

    def _process(self, clip: Clip, held: Held) -> None:
        with Tenure(self._claims, held, heartbeat_seconds=self._times.heartbeat) as tenure:
            try:
                self._work_on(clip, tenure)
            except BaseException as error:
                self._hand_back(tenure, error)
                raise

    def _work_on(self, clip: Clip, tenure: Tenure) -> None:
        plan, claim, clip_digest = self._context.plan, tenure.held.claim, tenure.held.clip_digest
        if has_failure(self._context.store, plan, clip_digest):
            self._settle(tenure, ClaimState.FAILED)
            return
        seen = look_for_marker(self._context.store, clip_digest)
        if seen.marker is not None:
            self._settle(tenure, ClaimState.DONE)
            self._reused += 1
        elif claim.unclean_ends > plan.retries:
            self._fail(
                clip,
                tenure,
                Reason.INTERNAL,
                f"{claim.unclean_ends} runners ended uncleanly in this clip, retries allow {plan.retries}; "
                "see their logs, then change spec.retry to try again",
            )
        else:
            self._make(clip, tenure, seen)

    def _make(self, clip: Clip, tenure: Tenure, seen: MarkerSighting) -> None:
        # Outside the try: what is wrong with the weights is not this clip's failure.
        workshop = self._open_workshop()
        work = ClipWork(workshop, clip, tenure, seen)
        try:
            is_finished = work.run()
        except (InvalidInput, NotFinite) as error:
            self._fail(clip, tenure, error.reason, str(error))
        else:
            if is_finished:
                self._settle(tenure, ClaimState.DONE)
                self._finished += 1
                log.info("clip %s is finished", clip.name)
            else:
                log.warning("clip %s went to another runner; leaving it", clip.name)
        self._count(work)

    def _fail(self, clip: Clip, tenure: Tenure, reason: Reason, message: str) -> None:
        """The record first: a claim that says FAILED without one counts for nothing."""
        log.error("clip %s cannot be made: %s", clip.name, message)
        clip_digest = tenure.held.clip_digest
        failure = ClipFailure(
            clip=clip.name,
            clip_digest=clip_digest,
            reason=reason,
            message=message,
            runner=self._owner.name,
            stints=tenure.held.claim.stints_until(self._context.clock.wall()),
        )
        put_record(self._context.store, keys.clip_failure(self._context.plan.run, clip_digest), failure)
        self._settle(tenure, ClaimState.FAILED)
        self._failed += 1

    def _settle(self, tenure: Tenure, state: ClaimState) -> None:
        if not tenure.settle(state):
            log.warning("the claim on %s was lost before it could say %s", tenure.held.clip_digest, state)
        self._next.settle(tenure.held.clip_digest)

    def _hand_back(self, tenure: Tenure, error: BaseException) -> None:
        unclean = not isinstance(error, VideogenError) or error.reason in _UNCLEAN_REASONS
        try:
            tenure.hand_back(unclean=unclean, too_small=isinstance(error, OutOfMemory) and self._fits_another(tenure))
        except VideogenError as second:
            # The first error is what matters; the claim's lease runs out.
            log.warning("the claim on %s could not be handed back: %s", tenure.held.clip_digest, second)

    def _fits_another(self, tenure: Tenure) -> bool:
        """Whether there is a pool that has not given the clip back yet, beside this one."""
        tried = {self._pool.name, *tenure.held.claim.too_small}
        return any(pool.replicas and pool.name not in tried for pool in self._context.plan.pools)

    def _count(self, work: ClipWork) -> None:
        self._resumed += work.is_resumed
        self._adapted += work.is_adapted
        self._steps += work.times.count
        self._step_seconds += work.times.total
        self._pace = work.times.pace if work.times.pace is not None else self._pace

    def _open_workshop(self) -> Workshop:
        """Models are loaded when the first clip needs them, and kept."""
        if self._workshop is not None:
            return self._workshop
        context, pool = self._context, self._pool
        context.progress.update(state=RunnerState.LOADING)
        started = context.clock.monotonic()
        compute = ComputeThread(context.stop)
        device = set_up_device(context.environment.device, pool.device, pool.card_bytes)
        check_dtypes(device, pool.dtype, pool.vae_dtype)
        context.progress.update(device=str(device))
        architecture = architecture_of(context.plan.model.name)

        def load() -> tuple[STDiT3, VideoAutoencoder, Adaptation]:
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
            return denoiser, vae, Adaptation(pool, denoiser, vae, context.progress)

        loaded = compute.run(lambda: attempt(load))
        if isinstance(loaded, NoMemory):
            raise OutOfMemory(
                f"the weights of denoiser and VAE do not fit {device} ({loaded.why}); "
                "name a card with more memory in spec.runners"
            )
        denoiser, vae, adaptation = loaded
        self._load_seconds = context.clock.monotonic() - started
        interval = self._times.new_interval(context.clock.monotonic())
        self._workshop = Workshop(context, self._inputs, pool, compute, denoiser, vae, adaptation, interval)
        return self._workshop
