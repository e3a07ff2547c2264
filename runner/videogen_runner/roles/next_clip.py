"""Which clip a runner makes next: what it sees of claims and embeddings, put to the rule of `videogen_api.balancing`.

A runner for which there is nothing to do ends, and frees its card. Before that it waits for three things: for clips
that it leaves to faster cards to be taken, for embeddings where the encoder is still at work, and for a sign of life
from everybody who holds a clip. Each of these waits has an end: a clip's own time, the plan's deadline, one lease.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from videogen_api import keys
from videogen_api.balancing import OpenClip, Worker, choose, longest_first
from videogen_api.errors import EmbeddingMissing
from videogen_api.plan import Clip, Inputs, Plan
from videogen_api.records import ClaimState
from videogen_api.report import RunnerState
from videogen_api.spec import Strategy
from videogen_runner.claims import Claims, Held, Owner, Sighting
from videogen_runner.done import has_outputs, look_for_marker
from videogen_runner.embeddings import Embeddings
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.fixed_share import fixed_share, rank_of
from videogen_runner.roles.paces import Paces
from videogen_runner.store import NotFound, Store

log = logging.getLogger("videogen")

POLL_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.1
_PAUSE_GROWTH = 1.5
# Thousands of claims are not looked at every second.
_PAUSE_SECONDS_PER_CLAIM = 0.01

# With this many unclaimed clips for each runner of the plan, it does not matter yet who takes which.
_PLENTY_PER_RUNNER = 2

# Texts are encoded in the order of the plan: behind so many that are not there yet, there are few that are.
_MOST_MISSING = 16


@dataclass
class View:
    """What a runner sees when it looks for work."""

    sightings: dict[str, Sighting] = field(default_factory=dict)
    open: list[OpenClip] = field(default_factory=list)
    """In the order of `longest_first`, without those whose embeddings are missing."""
    missing: list[Clip] = field(default_factory=list)
    """Clips that could be taken if they had their embeddings."""
    held: list[Sighting] = field(default_factory=list)
    """Clips of others, which fit this runner's card."""


class NextClip:
    """Takes one clip after another for one runner."""

    def __init__(
        self,
        context: RoleContext,
        inputs: Inputs,
        owner: Owner,
        claims: Claims,
        *,
        get_ready: Callable[[], object],
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """`get_ready` is called, perhaps several times, when there will be work but there is none yet."""
        self._context = context
        self._plan: Plan = context.plan
        self._store: Store = context.store
        self._owner = owner
        self._claims = claims
        self._get_ready = get_ready
        self._poll_seconds = poll_seconds
        self._embeddings = Embeddings(context.store, self._plan, inputs)
        self._encoded: set[str] = set()
        self._settled: set[str] = set()
        self._has_taken = False
        self._seconds = {
            pool.name: pool.cost.seconds for pool in self._plan.pools if pool.replicas or pool.name == owner.pool
        }
        self._clips = {self._plan.clip_digest(clip, inputs): clip for clip in self._plan.work}
        self._rank = rank_of(self._plan, owner)
        if not inputs.claims:
            mine = fixed_share(self._plan, self._clips, self._rank)
            self._clips = {clip_digest: clip for clip_digest, clip in self._clips.items() if clip_digest in mine}

    @property
    def clips(self) -> dict[str, Clip]:
        """Those that this runner may come to make, by digest."""
        return self._clips

    def settle(self, clip_digest: str) -> None:
        """The clip needs nothing more: it is not looked at again."""
        self._settled.add(clip_digest)

    def take(self, pace: float | None) -> Held | None:
        """The next clip for a runner of that pace (see `records.Claim`); None where there is nothing left for it.

        Raises Interrupted at a stop, EmbeddingMissing where it has waited for one in vain, StoreUnavailable and
        StoreDenied.
        """
        monotonic = self._context.clock.monotonic
        idle_since, pause = monotonic(), _FIRST_PAUSE_SECONDS
        first_etags: dict[str, str | None] = {}
        awaited, awaited_since = None, idle_since
        while True:
            self._context.progress.update(state=RunnerState.CHECKING)
            view = self._look()
            idle_seconds = monotonic() - idle_since
            held = self._take_of(view, pace, idle_seconds)
            if held is not None:
                self._has_taken = True
                return held
            if view.missing:
                if awaited is not view.missing[0]:
                    awaited, awaited_since = view.missing[0], monotonic()
                self._check_wait(awaited, monotonic() - awaited_since)
                self._get_ready()
            elif not self._waits_for_others(view, first_etags):
                return None
            self._context.progress.update(state=RunnerState.WAITING)
            self._context.stop.wait(max(pause, _PAUSE_SECONDS_PER_CLAIM * len(view.held)))
            pause = min(pause * _PAUSE_GROWTH, self._poll_seconds)

    def _look(self) -> View:
        claimed = self._claims.claimed()
        left = [clip_digest for clip_digest in self._clips if clip_digest not in self._settled]
        unclaimed = [clip_digest for clip_digest in left if clip_digest not in claimed]
        if len(unclaimed) > _PLENTY_PER_RUNNER * sum(pool.replicas for pool in self._plan.pools):
            view = self._look_at(unclaimed, claimed)
            if view.open:
                return view
            # They all wait for their embeddings: what has been handed back may have its own.
        return self._look_at(left, claimed)

    def _look_at(self, clip_digests: list[str], claimed: frozenset[str]) -> View:
        view = View()
        candidates = []
        for clip_digest in clip_digests:
            self._context.raise_if_stopped()
            if clip_digest not in claimed:
                seen = Sighting(clip_digest, None, None, 0.0)
            else:
                seen = self._claims.look(clip_digest)
                if self._is_settled(seen):
                    self._settled.add(clip_digest)
                    continue
            if self._claims.may_take(seen):
                candidates.append(seen)
            elif seen.claim is not None and self._owner.pool not in seen.claim.too_small:
                view.held.append(seen)
            view.sightings[clip_digest] = seen
        self._add_open(view, candidates)
        return view

    def _add_open(self, view: View, candidates: list[Sighting]) -> None:
        is_overlapped = self._plan.strategy is Strategy.OVERLAPPED
        for seen in candidates:
            self._context.raise_if_stopped()
            if is_overlapped and not self._is_ready(seen.clip_digest):
                view.missing.append(self._clips[seen.clip_digest])
                if len(view.missing) == _MOST_MISSING:
                    break
            else:
                view.open.append(OpenClip(seen.clip_digest, self._seconds_left(seen)))
        if view.open and not self._has_taken:
            # All runners begin at one moment: with the same clip, all but one would come too late.
            start = self._rank % len(view.open)
            view.open = view.open[start:] + view.open[:start]
        view.open = longest_first(view.open)

    def _seconds_left(self, seen: Sighting) -> dict[str, float]:
        claim = seen.claim
        if claim is None or claim.state in (ClaimState.DONE, ClaimState.FAILED):
            return self._seconds
        return {pool: seconds * claim.left for pool, seconds in self._seconds.items() if pool not in claim.too_small}

    def _take_of(self, view: View, pace: float | None, idle_seconds: float) -> Held | None:
        """Takes what the rule says, and if another runner was faster, what it says without that clip."""
        paces = Paces(view.sightings.values(), self._owner.pool, pace)
        worker = Worker(self._owner.pool, paces.of(self._owner.pool, pace), free_in=-idle_seconds)
        others = [
            Worker(
                claim.pool,
                own_pace := paces.of(claim.pool, claim.pace),
                free_in=own_pace * claim.left * self._seconds.get(claim.pool, 0.0),
            )
            for seen in view.sightings.values()
            if (claim := seen.claim) is not None and claim.state is ClaimState.HELD and not self._claims.may_take(seen)
        ]
        left = view.open
        while (chosen := choose(worker, left, others)) is not None:
            held = self._claims.take(view.sightings[chosen.key])
            if held is not None:
                return held
            left = [clip for clip in left if clip is not chosen]
        return None

    def _waits_for_others(self, view: View, first_etags: dict[str, str | None]) -> bool:
        """Whether something is left to a faster card, or a holder has given no sign of life since this wait began.

        `first_etags` are those that the wait saw first, and are added to.
        """
        is_silent = [first_etags.setdefault(seen.clip_digest, seen.etag) == seen.etag for seen in view.held]
        return any(is_silent) or any(self._owner.pool in clip.seconds for clip in view.open)

    def _check_wait(self, clip: Clip, seconds: float) -> None:
        """Since the first clip without an embedding is this one: the encoder takes texts in the plan's order."""
        if seconds > self._plan.embedding_wait_seconds:
            raise EmbeddingMissing(
                f"clip {clip.name} has no embedding after {seconds:.0f} s of waiting for one; see whether the "
                "encoder runs, or raise spec.schedule.startDeadlineSeconds"
            )

    def _is_ready(self, clip_digest: str) -> bool:
        """Whether the clip's embeddings are there, or never will be: its failure is the next thing to note."""
        prompt = self._plan.prompts[self._clips[clip_digest].prompt]
        for text in {segment.text for segment in prompt.segments} - self._encoded:
            if not self._embeddings.exists(text):
                return has_failure(self._store, self._plan, clip_digest)
            self._encoded.add(text)
        return True

    def _is_settled(self, seen: Sighting) -> bool:
        """Whether the claim says that the work has ended, and what it says is still so."""
        claim = seen.claim
        if claim is None or claim.state not in (ClaimState.DONE, ClaimState.FAILED):
            return False
        if claim.state is ClaimState.FAILED:
            return has_failure(self._store, self._plan, seen.clip_digest)
        if claim.pool != self._owner.pool:
            # Reading every video of every other pool would take longer than it is worth: collect reads them all.
            return has_outputs(self._store, seen.clip_digest)
        if claim.attempt == self._owner.attempt:
            return True
        return look_for_marker(self._store, seen.clip_digest).marker is not None


def has_failure(store: Store, plan: Plan, clip_digest: str) -> bool:
    """Whether it is on record that the clip cannot be made."""
    try:
        store.head(keys.clip_failure(plan.run, clip_digest))
    except NotFound:
        return False
    return True
