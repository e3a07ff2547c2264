"""Which clip a runner takes, on a clock that moves while the runner waits, and a little with each look at it."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from tests.builders import build_plan, build_pool
from tests.runner.role_contexts import build_context, build_inputs, changed, finish_clip
from tests.runner.tiny_model import build_prompt

from videogen_api import keys
from videogen_api.errors import EmbeddingMissing, Interrupted, Reason
from videogen_api.naming import Env, Stage
from videogen_api.plan import Inputs, Plan
from videogen_api.records import ClaimState, ClipFailure
from videogen_api.spec import Strategy
from videogen_runner.claims import Held, Owner, StoredClaims
from videogen_runner.embeddings import Embeddings
from videogen_runner.roles.context import Clock
from videogen_runner.roles.next_clip import NextClip
from videogen_runner.store import DirectoryStore
from videogen_runner.store.records import put_record
from videogen_runner.tenure import Tenure

LEASE = 60.0
POLL = 2.0
SECONDS = 10.0  # of a clip, as tests.builders plans it
TICK = 1e-4


class World:
    """A run's store, and time: whoever waits moves it on, and `meanwhile` acts at each wait."""

    def __init__(self, folder: Path, plan: Plan, inputs: Inputs | None = None) -> None:
        self.folder, self.plan = folder, plan
        self.inputs = inputs or build_inputs(plan)
        self.store = DirectoryStore(folder / "store")
        self.now = 0.0
        self.waited = 0.0
        self.meanwhile: Callable[[], None] = lambda: None
        self.ready = 0
        self._nonces: Iterator[int] = count()

    @property
    def digests(self) -> list[str]:
        return [self.plan.clip_digest(clip, self.inputs) for clip in self.plan.work]

    def look_at_clock(self) -> float:
        self.now += TICK
        return self.now

    def claims(self, name: str, pool: str, index: int, attempt: int = 1) -> StoredClaims:
        return StoredClaims(
            self.store,
            self.plan.run,
            Owner(name, pool, attempt, index),
            new_nonce=lambda: str(next(self._nonces)),
            monotonic=self.look_at_clock,
            wall=lambda: 0.0,
            lease_seconds=LEASE,
        )

    def hold(self, position: int, pool: str = "local", index: int = 9, **said: object) -> tuple[StoredClaims, Held]:
        """Another runner takes the clip and says something of its work."""
        claims = self.claims(f"other-{index}", pool, index)
        held = claims.take(claims.look(self.digests[position]))
        assert held is not None
        told = claims.change(held, **said)
        assert told is not None
        return claims, told

    def settle(self, position: int, state: ClaimState, pool: str = "local", index: int = 9) -> None:
        claims, held = self.hold(position, pool, index)
        assert Tenure(claims, held).settle(state)

    def runner(self, pool: str = "local", index: int = 0) -> NextClip:
        name = f"{pool}-{index}"
        variables = {Env.INDEX: str(index), Env.POOL: pool, Env.POD: name, Env.DEVICE: "cpu"}
        context = build_context(self.folder, self.plan, Stage.GENERATE, variables)
        context = replace(
            context, store=self.store, stop=_Stop(self), clock=Clock(self.look_at_clock, context.clock.wall)
        )
        claims = self.claims(name, pool, index)
        owner = Owner(name, pool, 1, index)
        return NextClip(context, self.inputs, owner, claims, get_ready=self._get_ready, poll_seconds=POLL)

    def take(self, pool: str = "local", index: int = 0, pace: float | None = 1.0) -> str | None:
        """The name of the clip that such a runner takes."""
        held = self.runner(pool, index).take(pace)
        return None if held is None else self.plan.work[self.digests.index(held.clip_digest)].name

    def encode(self, text: str) -> None:
        Embeddings(self.store, self.plan, self.inputs).write(text, torch.zeros(2, 3), 0)

    def _get_ready(self) -> None:
        self.ready += 1


class _Stop(threading.Event):
    """Waiting moves the time on."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._world.now += timeout
        self._world.waited += timeout
        assert self._world.waited < 1e5, "it waits for ever"
        self._world.meanwhile()
        if self._world.plan.name == "stops":
            self.set()
        return self.is_set()


def plan_of(clips: int, *pools: tuple[str, int, float], strategy: Strategy = Strategy.SEQUENTIAL) -> Plan:
    """Clips of one prompt; pools as (name, replicas, seconds of a clip)."""
    planned = []
    for name, replicas, seconds in pools or (("local", 4, SECONDS),):
        pool = build_pool(name, replicas)
        planned.append(pool.model_copy(update={"cost": pool.cost.model_copy(update={"seconds": seconds})}))
    prompts = (build_prompt("fox", "a red fox", samples=clips),)
    return changed(build_plan(), prompts=prompts, pools=tuple(planned), strategy=strategy)


def texts_plan(*texts: str, **fields: object) -> Plan:
    """Overlapped, with one clip for each text, named after it."""
    prompts = tuple(build_prompt(text, text) for text in texts)
    return changed(plan_of(1), prompts=prompts, strategy=Strategy.OVERLAPPED, **fields)


def test_clips_are_taken_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    runner = (world := World(tmp_path, plan_of(3))).runner()
    taken = [runner.take(1.0) for _ in range(3)]
    assert [held.clip_digest for held in taken if held is not None] == world.digests


def test_runners_that_begin_together_begin_with_different_clips(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(8, ("local", 2, SECONDS), ("other", 2, SECONDS)))
    runners = [world.runner(pool, index) for pool in ("local", "other") for index in (0, 1)]
    views = [runner._look() for runner in runners]
    assert [view.open[0].key for view in views] == world.digests[:4]


def test_what_is_done_or_failed_is_left_alone_and_the_runner_ends(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2))
    finish_clip(world.store, world.plan, world.inputs, world.plan.work[0])
    world.settle(0, ClaimState.DONE)
    failure = ClipFailure(clip="fox-2", clip_digest=world.digests[1], reason=Reason.INTERNAL, message="no", runner="r")
    put_record(world.store, keys.clip_failure(world.plan.run, world.digests[1]), failure)
    world.settle(1, ClaimState.FAILED)
    assert (world.take(), world.waited) == (None, 0.0)


def test_a_clip_that_another_pool_calls_done_and_whose_outputs_are_gone_is_taken(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(1, ("local", 1, SECONDS), ("other", 1, SECONDS)))
    world.settle(0, ClaimState.DONE, pool="other")
    assert world.take() == "fox-1"


def test_a_runner_waits_for_a_sign_of_life_of_every_holder_and_then_ends(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2))
    holders = [world.hold(position, index=7 + position) for position in range(2)]

    def beat() -> None:
        if world.now >= 15:
            holders[:] = [(claims, told) for claims, held in holders if (told := claims.change(held)) is not None]

    world.meanwhile = beat
    assert world.take() is None
    assert 15 <= world.waited <= 15 + 2 * POLL


def test_a_clip_whose_holder_has_died_is_taken_after_one_lease(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(1))
    world.hold(0)
    assert world.take() == "fox-1"
    assert LEASE <= world.waited <= LEASE + POLL


def test_the_last_clip_is_left_to_a_faster_card_that_finishes_it_sooner_and_takes_it(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2, ("slow", 1, 100.0), ("fast", 1, 10.0)))
    claims, held = world.hold(0, pool="fast", left=0.5, pace=1.0)

    def finish() -> None:
        if world.now >= 5:
            finish_clip(world.store, world.plan, world.inputs, world.plan.work[0])
            assert Tenure(claims, held).settle(ClaimState.DONE)
            claims_of_next, next_held = world.hold(1, pool="fast", left=1.0, pace=1.0)
            world.meanwhile = lambda: claims_of_next.change(next_held)

    world.meanwhile = finish
    assert world.take("slow") is None
    assert 5 <= world.waited <= 5 + 3 * POLL


def test_a_faster_card_that_has_died_is_not_waited_for_longer_than_its_lease(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2, ("slow", 1, 100.0), ("fast", 1, 10.0)))
    world.hold(0, pool="fast", left=0.5, pace=1.0)
    assert world.take("slow") in ("fox-1", "fox-2")
    assert world.waited <= LEASE + POLL


def test_a_faster_card_that_says_nothing_new_is_not_waited_for_longer_than_the_clip_takes(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2, ("slow", 1, 30.0), ("fast", 1, 10.0)))
    claims, held = world.hold(0, pool="fast", left=0.1, pace=1.0)
    alive = [held]

    def beat() -> None:
        told = claims.change(alive[0])
        assert told is not None
        alive[0] = told

    world.meanwhile = beat
    assert world.take("slow") == "fox-2"
    assert 30.0 - 11.0 <= world.waited <= 30.0


def test_the_measured_pace_of_a_slow_card_is_told_to_those_who_wait_for_it(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2, ("slow", 1, 30.0), ("fast", 1, 10.0)))
    world.hold(0, pool="fast", left=0.5, pace=4.0)
    assert (world.take("slow"), world.waited) == ("fox-2", 0.0)


def test_a_clip_too_large_for_a_pool_is_neither_taken_nor_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2, ("small", 1, SECONDS), ("large", 1, SECONDS)))
    for position, index in ((0, 5), (1, 6)):
        claims, held = world.hold(position, pool="small", index=index)
        assert Tenure(claims, held).hand_back(unclean=True, too_small=True)
    assert (world.take("small"), world.waited) == (None, 0.0)
    assert world.take("large", 0) is not None


def test_overlapped_the_clips_whose_embeddings_exist_are_taken_first(tmp_path: Path) -> None:
    world = World(tmp_path, texts_plan("owl", "fox"))
    world.encode("fox")
    assert (world.take(), world.waited, world.ready) == ("fox-1", 0.0, 0)


def test_overlapped_a_runner_gets_ready_and_waits_for_the_first_embedding(tmp_path: Path) -> None:
    world = World(tmp_path, texts_plan("owl", "fox"))
    world.meanwhile = lambda: world.encode("owl") if world.now >= 5 else None
    assert world.take() == "owl-1"
    assert 5 <= world.waited <= 5 + POLL
    assert world.ready > 0


def test_overlapped_a_runner_does_not_wait_longer_than_the_plan_says(tmp_path: Path) -> None:
    world = World(tmp_path, texts_plan("owl", embedding_wait_seconds=30.0))
    with pytest.raises(EmbeddingMissing, match=r"clip owl-1 has no embedding after 3[0-2] s of waiting for one;"):
        world.take()
    assert 30 <= world.waited <= 30 + POLL


def test_overlapped_the_wait_begins_anew_with_each_embedding_that_comes_though_others_take_its_clips(
    tmp_path: Path,
) -> None:
    texts = ("owl", "fox", "hen", "cow")
    world = World(tmp_path, texts_plan(*texts, embedding_wait_seconds=30.0))
    holders: list[tuple[StoredClaims, Held]] = []

    def encode_for_others() -> None:
        holders[:] = [(claims, told) for claims, held in holders if (told := claims.change(held)) is not None]
        if len(holders) < 3 and world.now >= 20 * (len(holders) + 1):
            world.encode(texts[len(holders)])
            holders.append(world.hold(len(holders), index=5 + len(holders)))
        elif world.now >= 80:
            world.encode("cow")

    world.meanwhile = encode_for_others
    assert world.take() == "cow-1"
    assert 80 <= world.waited <= 80 + POLL


def test_overlapped_a_clip_that_was_handed_back_is_taken_while_many_others_wait_for_their_embeddings(
    tmp_path: Path,
) -> None:
    texts = tuple(f"text{number}" for number in range(20))
    world = World(tmp_path, texts_plan(*texts))
    world.encode(texts[7])
    claims, held = world.hold(7, index=5)
    assert Tenure(claims, held).hand_back()
    assert (world.take(), world.waited) == ("text7-1", 0.0)


def test_overlapped_a_runner_that_waits_hears_of_a_stop(tmp_path: Path) -> None:
    world = World(tmp_path, texts_plan("owl", name="stops"))
    with pytest.raises(Interrupted):
        world.take()


def test_overlapped_a_clip_whose_text_could_not_be_encoded_is_taken_to_be_settled(tmp_path: Path) -> None:
    world = World(tmp_path, texts_plan("owl"))
    failure = ClipFailure(
        clip="owl-1", clip_digest=world.digests[0], reason=Reason.INVALID_INPUT, message="no", runner="encode"
    )
    put_record(world.store, keys.clip_failure(world.plan.run, world.digests[0]), failure)
    assert (world.take(), world.waited) == ("owl-1", 0.0)


def test_without_claims_each_runner_has_a_share_by_the_speed_of_its_pool(tmp_path: Path) -> None:
    plan = plan_of(9, ("slow", 1, 40.0), ("fast", 2, 10.0))
    world = World(tmp_path, plan, build_inputs(plan).model_copy(update={"claims": False}))
    shares = [set(world.runner(pool, index).clips) for pool, index in (("slow", 0), ("fast", 0), ("fast", 1))]
    assert [len(share) for share in shares] == [1, 4, 4]
    assert set().union(*shares) == set(world.digests)


def test_with_plenty_of_unclaimed_clips_nobody_looks_at_claims_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, plan_of(12, ("local", 2, SECONDS)))
    for position in range(3):
        world.hold(position, index=20 + position)
    runner = world.runner()
    monkeypatch.setattr(runner._claims, "look", None)
    held = runner.take(1.0)
    assert held is not None
    assert held.clip_digest == world.digests[3]
