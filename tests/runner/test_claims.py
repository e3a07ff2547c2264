import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier, Event

import pytest

from videogen_api import keys
from videogen_api.errors import StoreDenied, StoreUnavailable
from videogen_api.records import Claim, ClaimState, Stint
from videogen_runner.claims import FixedShare, Held, Owner, Sighting, StoredClaims
from videogen_runner.store import DirectoryStore, Object, Store, StoreCorrupt
from videogen_runner.tenure import Tenure

CLIP = "c" * 64
RUN = "fox-1"
LEASE = 60.0
NOON = 1_800_014_400.0


class Clock:
    """A runner's own clock, which the test moves."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Run:
    """A run's claims as several runners see them; nonces are numbered through all of them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._nonces: Iterator[int] = count()

    def runner(
        self,
        name: str,
        *,
        pool: str = "t4",
        attempt: int = 1,
        index: int = 0,
        monotonic: Callable[[], float] | None = None,
        wall: Callable[[], float] = lambda: NOON,
        store: Store | None = None,
    ) -> StoredClaims:
        return StoredClaims(
            store or self.store,
            RUN,
            Owner(name, pool, attempt, index),
            new_nonce=lambda: f"n{next(self._nonces)}",
            monotonic=monotonic or Clock(),
            wall=wall,
            lease_seconds=LEASE,
        )

    def stored(self) -> Claim:
        return Claim.model_validate_json(self.store.get(keys.claim(RUN, CLIP)).body)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(DirectoryStore(tmp_path))


def take(claims: StoredClaims) -> Held:
    held = claims.take(claims.look(CLIP))
    assert held is not None
    return held


def hand_back(claims: StoredClaims, held: Held, *, unclean: bool = False, too_small: bool = False) -> bool:
    return Tenure(claims, held).hand_back(unclean=unclean, too_small=too_small)


def claim(owner: str = "a", *, after: tuple[str, ...] = (), **changes: object) -> Claim:
    """A claim that goes on from these owners."""
    plain = Claim(
        owner=owner, pool="t4", attempt=1, index=0, epoch=1, nonce="n0", unclean_ends=0, state=ClaimState.HELD,
        stints=tuple(Stint(runner=name, began=NOON, ended=NOON) for name in (*after, owner)),
    )  # fmt: skip
    return plain.model_copy(update=changes)


def test_a_clip_that_nobody_has_claimed_is_taken_and_written_down(run: Run) -> None:
    held = take(run.runner("a"))
    assert held == Held(CLIP, claim(), run.store.get(keys.claim(RUN, CLIP)).etag)
    assert run.stored() == claim()


def test_a_clip_that_is_held_in_the_same_attempt_is_left_alone(run: Run) -> None:
    take(run.runner("a"))
    other = run.runner("b", index=1)
    assert other.take(other.look(CLIP)) is None
    assert run.stored() == claim()


def test_a_runner_does_not_take_what_it_holds_itself_a_second_time(run: Run) -> None:
    claims = run.runner("a")
    take(claims)
    assert claims.take(claims.look(CLIP)) is None


def test_of_many_runners_that_saw_the_same_free_claim_one_gets_it(run: Run) -> None:
    runners = [run.runner(f"r{number}", index=number) for number in range(16)]
    for first in (True, False):
        sightings = [claims.look(CLIP) for claims in runners]
        start = Barrier(len(runners))

        def contend(claims: StoredClaims, seen: Sighting, start: Barrier = start) -> tuple[StoredClaims, Held] | None:
            start.wait(30)
            held = claims.take(seen)
            return None if held is None else (claims, held)

        with ThreadPoolExecutor(len(runners)) as pool:
            winners = [won for won in pool.map(contend, runners, sightings) if won is not None]
        [(winner, held)] = winners
        assert run.stored() == held.claim
        assert held.claim.epoch == (1 if first else 2)
        assert hand_back(winner, held)


def test_a_claim_that_was_handed_back_is_taken_with_the_next_epoch_and_counts_as_no_unclean_end(run: Run) -> None:
    first = run.runner("a")
    assert hand_back(first, take(first))
    assert run.stored() == claim(nonce="n1", state=ClaimState.OPEN)
    assert take(run.runner("b")).claim == claim(owner="b", after=("a",), epoch=2, nonce="n2")


def test_a_claim_that_was_handed_back_by_a_broken_runner_counts_as_an_unclean_end(run: Run) -> None:
    first = run.runner("a")
    assert hand_back(first, take(first), unclean=True)
    assert take(run.runner("b")).claim == claim(owner="b", after=("a",), epoch=2, nonce="n2", unclean_ends=1)


def test_a_claim_of_an_earlier_attempt_is_taken_and_counts_as_an_unclean_end(run: Run) -> None:
    take(run.runner("a"))
    second = take(run.runner("b", attempt=2))
    assert second.claim == claim(owner="b", after=("a",), attempt=2, epoch=2, nonce="n1", unclean_ends=1)
    third = take(run.runner("c", attempt=3))
    assert third.claim == claim(owner="c", after=("a", "b"), attempt=3, epoch=3, nonce="n2", unclean_ends=2)


def test_an_attempt_of_another_pool_says_nothing_about_whether_a_runner_lives(run: Run) -> None:
    take(run.runner("a"))
    other = run.runner("b", pool="l4", attempt=7)
    assert other.take(other.look(CLIP)) is None


def test_a_heartbeat_is_a_new_write_of_the_same_claim(run: Run) -> None:
    claims = run.runner("a")
    held = take(claims)
    beaten = claims.change(held)
    assert beaten is not None
    assert beaten.claim == run.stored() == claim(nonce="n1")
    assert beaten.etag != held.etag


def test_a_robbed_owner_learns_it_at_whatever_it_writes_next(run: Run) -> None:
    first = run.runner("a")
    held = take(first)
    robber = take(run.runner("b", attempt=2))
    assert first.change(held) is None
    assert not Tenure(first, held).hand_back()
    assert not Tenure(first, held).settle(ClaimState.DONE)
    assert run.stored() == robber.claim


def test_an_outdated_heartbeat_is_refused_even_for_the_owner(run: Run) -> None:
    claims = run.runner("a")
    held = take(claims)
    assert claims.change(held) is not None
    assert claims.change(held) is None


@pytest.mark.parametrize("state", [ClaimState.DONE, ClaimState.FAILED])
def test_work_that_has_ended_can_be_taken_anew_and_starts_with_a_clean_record(run: Run, state: ClaimState) -> None:
    first = run.runner("a")
    hand_back(first, take(first), unclean=True)
    second = run.runner("b")
    held = take(second)
    assert Tenure(second, held).settle(state)
    assert run.stored() == claim(owner="b", after=("a",), epoch=2, nonce="n3", unclean_ends=1, state=state)
    assert take(run.runner("c")).claim == claim(owner="c", epoch=3, nonce="n4")


def test_a_damaged_claim_is_an_error_that_names_it(run: Run) -> None:
    run.store.put(keys.claim(RUN, CLIP), b"{}")
    with pytest.raises(StoreCorrupt, match=rf"claims/{CLIP} is no Claim of this version"):
        run.runner("a").look(CLIP)


def test_a_fixed_share_holds_its_clips_without_writing_anything() -> None:
    claims = FixedShare(Owner("a", "t4", 3, 0), wall=lambda: NOON)
    held = claims.take(claims.look(CLIP))
    assert held == Held(CLIP, claim(attempt=3, epoch=3, nonce=""), "")
    assert claims.change(held) == held
    assert claims.claimed() == frozenset()
    assert Tenure(claims, held).settle(ClaimState.DONE)


def test_the_clips_that_were_ever_claimed_are_told_in_one_request(run: Run) -> None:
    claims = run.runner("a")
    assert claims.claimed() == frozenset()
    hand_back(claims, take(claims))
    assert claims.claimed() == {CLIP}


def test_the_pod_that_replaces_another_takes_what_it_held_at_once(run: Run) -> None:
    take(run.runner("a", index=3))
    successor = run.runner("b", index=3)
    assert take(successor).claim == claim(owner="b", after=("a",), index=3, epoch=2, nonce="n1", unclean_ends=1)


def test_a_claim_that_does_not_change_for_a_whole_lease_is_taken_and_counts_as_an_unclean_end(run: Run) -> None:
    take(run.runner("a"))
    clock = Clock(1000.0)
    thief = run.runner("b", pool="l4", index=1, monotonic=clock)
    assert thief.take(thief.look(CLIP)) is None
    clock.now += LEASE - 0.1
    assert thief.take(thief.look(CLIP)) is None
    clock.now += 0.1
    assert take(thief).claim == claim(owner="b", after=("a",), pool="l4", index=1, epoch=2, nonce="n1", unclean_ends=1)


def test_a_sign_of_life_begins_the_lease_anew(run: Run) -> None:
    owner = run.runner("a")
    held = take(owner)
    clock = Clock()
    thief = run.runner("b", index=1, monotonic=clock)
    thief.look(CLIP)
    clock.now += LEASE - 1
    assert owner.change(held) is not None
    clock.now += LEASE - 1
    assert thief.take(thief.look(CLIP)) is None
    clock.now += LEASE - 1
    assert thief.take(thief.look(CLIP)) is None
    clock.now += 1
    assert thief.take(thief.look(CLIP)) is not None


def test_a_thief_that_slept_through_a_sign_of_life_takes_nothing(run: Run) -> None:
    owner = run.runner("a")
    held = take(owner)
    clock = Clock()
    thief = run.runner("b", index=1, monotonic=clock)
    thief.look(CLIP)
    clock.now += LEASE
    seen = thief.look(CLIP)  # and now it is stopped for a while
    renewed = owner.change(held)
    assert renewed is not None
    assert thief.take(seen) is None
    assert run.stored() == renewed.claim


def test_the_time_of_a_slow_request_is_no_part_of_a_lease(run: Run) -> None:
    clock = Clock()

    class SlowStore(DirectoryStore):
        def get(self, key: str, sha256: str | None = None) -> object:  # type: ignore[override]  # the same object
            clock.now += LEASE
            return super().get(key, sha256)

    take(run.runner("a"))
    thief = run.runner("b", index=1, monotonic=clock, store=SlowStore(Path(run.store.url(""))))
    thief.look(CLIP)
    seen = thief.look(CLIP)
    assert (seen.unchanged_seconds, thief.may_take(seen)) == (0.0, False)


def test_what_a_claim_says_of_the_work_goes_to_the_next_owner_and_the_pace_does_not(run: Run) -> None:
    first = run.runner("a")
    held = first.change(take(first), left=0.25, pace=2.0)
    assert held is not None
    assert hand_back(first, held)
    assert run.stored() == claim(nonce="n2", left=0.25, pace=2.0, state=ClaimState.OPEN)
    assert take(run.runner("b")).claim == claim(owner="b", after=("a",), epoch=2, nonce="n3", left=0.25)


def test_a_pool_whose_cards_were_too_small_does_not_take_the_clip_again_and_another_does(run: Run) -> None:
    first = run.runner("a")
    assert hand_back(first, take(first), unclean=True, too_small=True)
    again = run.runner("b", attempt=2)
    assert again.take(again.look(CLIP)) is None
    larger = run.runner("c", pool="l4")
    assert take(larger).claim == claim(
        owner="c", after=("a",), pool="l4", epoch=2, nonce="n2", unclean_ends=1, too_small=("t4",)
    )


def test_a_claim_tells_when_each_owner_took_the_clip_and_when_it_gave_the_last_sign_of_life(run: Run) -> None:
    now = Clock(NOON)
    first, second = run.runner("a", wall=now), run.runner("b", attempt=2, wall=now)
    held = take(first)
    now.now = NOON + 15
    assert first.change(held) is not None
    now.now = NOON + 90
    held = take(second)
    now.now = NOON + 95
    assert Tenure(second, held).settle(ClaimState.DONE)
    assert run.stored().stints == (
        Stint(runner="a", began=NOON, ended=NOON + 15),
        Stint(runner="b", began=NOON + 90, ended=NOON + 95),
    )


def test_a_clip_that_is_handed_back_a_hundred_times_does_not_make_its_claim_grow(run: Run) -> None:
    for number in range(100):
        runner = run.runner(f"r{number}")
        assert hand_back(runner, take(runner))
    assert [stint.runner for stint in run.stored().stints] == [f"r{number}" for number in range(84, 100)]


def test_a_claim_of_an_earlier_version_is_gone_on_from(run: Run) -> None:
    plain = claim(state=ClaimState.OPEN).model_dump_json(by_alias=True, exclude={"stints"}).encode()
    run.store.create(keys.claim(RUN, CLIP), plain)
    assert take(run.runner("b")).claim == claim(owner="b", epoch=2, nonce="n0")


def test_what_a_later_version_adds_to_a_claim_is_passed_over(run: Run) -> None:
    later = {**claim(state=ClaimState.OPEN).model_dump(mode="json", by_alias=True), "mood": "calm"}
    run.store.create(keys.claim(RUN, CLIP), json.dumps(later).encode())
    assert take(run.runner("b")).claim == claim("b", after=("a",), epoch=2, nonce="n0")


class LossyStore(DirectoryStore):
    """Fails at what it is told to: before the write, or after it as when only the reply is lost."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.faults: list[str | None] = []

    def get(self, key: str, sha256: str | None = None) -> Object:
        if self.faults[:1] == ["look"]:
            del self.faults[0]
            raise StoreUnavailable("lost the question")
        return super().get(key, sha256)

    def swap(self, key: str, body: bytes, etag: str) -> str | None:
        fault = self.faults.pop(0) if self.faults else None
        if fault == "denied":
            raise StoreDenied("no")
        if fault == "request":
            raise StoreUnavailable("lost the request")
        written = super().swap(key, body, etag)
        if fault == "reply":
            raise StoreUnavailable("lost the reply")
        return written


@pytest.mark.parametrize("fault", ["request", "reply"])
def test_a_write_that_nobody_knows_the_end_of_is_sent_again_before_the_next_one(run: Run, fault: str) -> None:
    store = LossyStore(Path(run.store.url("")))
    claims = run.runner("a", store=store)
    held = take(claims)
    store.faults = [fault]
    with pytest.raises(StoreUnavailable):
        claims.change(held)
    renewed = claims.change(held, left=0.5)
    assert renewed is not None
    assert run.stored() == renewed.claim == claim(nonce="n2", left=0.5)


@pytest.mark.parametrize("then", ["look", "request"])
def test_a_write_that_came_through_is_found_although_the_store_fails_once_more(run: Run, then: str) -> None:
    """At the first question for it, or at the next write, which never comes."""
    store = LossyStore(Path(run.store.url("")))
    claims = run.runner("a", store=store)
    held = take(claims)
    store.faults = ["reply"]
    with pytest.raises(StoreUnavailable):
        claims.change(held)
    store.faults = [None, then]
    with pytest.raises(StoreUnavailable):
        claims.change(held)
    renewed = claims.change(held, left=0.5)
    assert renewed is not None
    assert renewed.claim.left == 0.5
    assert run.stored() == renewed.claim


def test_a_clip_that_was_stolen_while_the_store_did_not_answer_is_lost(run: Run) -> None:
    store = LossyStore(Path(run.store.url("")))
    claims = run.runner("a", store=store)
    held = take(claims)
    store.faults = ["request"]
    with pytest.raises(StoreUnavailable):
        claims.change(held)
    thief = take(run.runner("b", attempt=2))
    assert claims.change(held) is None
    assert run.stored() == thief.claim


class TellingStore(LossyStore):
    """Sets an event after each swap that was tried."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.tried = Event()

    def swap(self, key: str, body: bytes, etag: str) -> str | None:
        try:
            return super().swap(key, body, etag)
        finally:
            self.tried.set()

    def wait_for_try(self) -> None:
        self.tried.clear()
        assert self.tried.wait(30)


@pytest.fixture
def telling(run: Run) -> TellingStore:
    return TellingStore(Path(run.store.url("")))


def test_a_claim_is_renewed_while_its_tenure_is_open_and_not_after(run: Run, telling: TellingStore) -> None:
    claims = run.runner("a", store=telling)
    with Tenure(claims, take(claims), heartbeat_seconds=0.01) as tenure:
        tenure.tell(left=0.5, pace=3.0)
        telling.wait_for_try()
        telling.wait_for_try()
        assert not tenure.is_lost()
        assert tenure.settle(ClaimState.DONE)
        tenure._thread.join(30)
    assert run.stored() == tenure.held.claim
    assert (tenure.held.claim.state, tenure.held.claim.left, tenure.held.claim.pace) == (ClaimState.DONE, 0.5, 3.0)


def test_a_robbed_owner_learns_it_from_its_heartbeat(run: Run, telling: TellingStore) -> None:
    claims = run.runner("a", store=telling)
    with Tenure(claims, take(claims), heartbeat_seconds=0.01) as tenure:
        while not tenure.is_lost():
            seen = run.runner("b", attempt=2).look(CLIP)
            stolen = run.runner("b", attempt=2).take(seen)
            if stolen is not None:
                tenure._thread.join(30)
                assert tenure.is_lost()
        assert not tenure.renew()
        assert not tenure.hand_back()
    assert run.stored().owner == "b"


def test_a_heartbeat_that_finds_the_store_away_is_tried_again(run: Run, telling: TellingStore) -> None:
    claims = run.runner("a", store=telling)
    held = take(claims)
    telling.faults = ["request", "reply", "request", None]
    with Tenure(claims, held, heartbeat_seconds=0.01) as tenure:
        while telling.faults:
            telling.wait_for_try()
        telling.wait_for_try()
        assert not tenure.is_lost()
        assert tenure.settle(ClaimState.DONE)


def test_what_the_heartbeat_cannot_cope_with_is_raised_to_who_works(run: Run, telling: TellingStore) -> None:
    claims = run.runner("a", store=telling)
    held = take(claims)
    telling.faults = ["denied"]
    with Tenure(claims, held, heartbeat_seconds=0.01) as tenure:
        tenure._thread.join(30)
        with pytest.raises(StoreDenied):
            tenure.is_lost()
