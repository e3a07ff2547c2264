from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier

import pytest

from videogen_api import keys
from videogen_api.records import Claim, ClaimState
from videogen_runner.claims import FixedShare, Held, Owner, Sighting, StoredClaims
from videogen_runner.store import DirectoryStore, Store, StoreCorrupt

CLIP = "c" * 64
RUN = "fox-1"


class Run:
    """A run's claims as several runners see them; nonces are numbered through all of them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._nonces: Iterator[int] = count()

    def runner(self, name: str, *, pool: str = "t4", attempt: int = 1) -> StoredClaims:
        return StoredClaims(self.store, RUN, Owner(name, pool, attempt), lambda: f"n{next(self._nonces)}")

    def stored(self) -> Claim:
        return Claim.model_validate_json(self.store.get(keys.claim(RUN, CLIP)).body)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(DirectoryStore(tmp_path))


def take(claims: StoredClaims) -> Held:
    held = claims.take(claims.look(CLIP))
    assert held is not None
    return held


def claim(**changes: object) -> Claim:
    plain = Claim(owner="a", pool="t4", attempt=1, epoch=1, nonce="n0", unclean_ends=0, state=ClaimState.HELD)
    return plain.model_copy(update=changes)


def test_a_clip_that_nobody_has_claimed_is_taken_and_written_down(run: Run) -> None:
    held = take(run.runner("a"))
    assert held == Held(CLIP, claim(), run.store.get(keys.claim(RUN, CLIP)).etag)
    assert run.stored() == claim()


def test_a_clip_that_is_held_in_the_same_attempt_is_left_alone(run: Run) -> None:
    take(run.runner("a"))
    other = run.runner("b")
    assert other.take(other.look(CLIP)) is None
    assert run.stored() == claim()


def test_a_runner_does_not_take_what_it_holds_itself_a_second_time(run: Run) -> None:
    claims = run.runner("a")
    take(claims)
    assert claims.take(claims.look(CLIP)) is None


def test_of_many_runners_that_saw_the_same_free_claim_one_gets_it(run: Run) -> None:
    runners = [run.runner(f"r{number}") for number in range(16)]
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
        assert winner.hand_back(held)


def test_a_claim_that_was_handed_back_is_taken_with_the_next_epoch_and_counts_as_no_unclean_end(run: Run) -> None:
    first = run.runner("a")
    assert first.hand_back(take(first))
    assert run.stored() == claim(nonce="n1", state=ClaimState.OPEN)
    assert take(run.runner("b")).claim == claim(owner="b", epoch=2, nonce="n2")


def test_a_claim_that_was_handed_back_by_a_broken_runner_counts_as_an_unclean_end(run: Run) -> None:
    first = run.runner("a")
    assert first.hand_back(take(first), unclean=True)
    assert take(run.runner("b")).claim == claim(owner="b", epoch=2, nonce="n2", unclean_ends=1)


def test_a_claim_of_an_earlier_attempt_is_taken_and_counts_as_an_unclean_end(run: Run) -> None:
    take(run.runner("a"))
    second = take(run.runner("b", attempt=2))
    assert second.claim == claim(owner="b", attempt=2, epoch=2, nonce="n1", unclean_ends=1)
    third = take(run.runner("c", attempt=3))
    assert third.claim == claim(owner="c", attempt=3, epoch=3, nonce="n2", unclean_ends=2)


def test_an_attempt_of_another_pool_says_nothing_about_whether_a_runner_lives(run: Run) -> None:
    take(run.runner("a"))
    other = run.runner("b", pool="l4", attempt=7)
    assert other.take(other.look(CLIP)) is None


def test_a_heartbeat_is_a_new_write_of_the_same_claim(run: Run) -> None:
    claims = run.runner("a")
    held = take(claims)
    beaten = claims.heartbeat(held)
    assert beaten is not None
    assert beaten.claim == run.stored() == claim(nonce="n1")
    assert beaten.etag != held.etag


def test_a_robbed_owner_learns_it_at_whatever_it_writes_next(run: Run) -> None:
    first = run.runner("a")
    held = take(first)
    robber = take(run.runner("b", attempt=2))
    assert first.heartbeat(held) is None
    assert not first.hand_back(held)
    assert not first.settle(held, ClaimState.DONE)
    assert run.stored() == robber.claim


def test_an_outdated_heartbeat_is_refused_even_for_the_owner(run: Run) -> None:
    claims = run.runner("a")
    held = take(claims)
    assert claims.heartbeat(held) is not None
    assert claims.heartbeat(held) is None


@pytest.mark.parametrize("state", [ClaimState.DONE, ClaimState.FAILED])
def test_work_that_has_ended_can_be_taken_anew_and_starts_with_a_clean_record(run: Run, state: ClaimState) -> None:
    first = run.runner("a")
    first.hand_back(take(first), unclean=True)
    second = run.runner("b")
    held = take(second)
    assert second.settle(held, state)
    assert run.stored() == claim(owner="b", epoch=2, nonce="n3", unclean_ends=1, state=state)
    assert take(run.runner("c")).claim == claim(owner="c", epoch=3, nonce="n4")


def test_a_damaged_claim_is_an_error_that_names_it(run: Run) -> None:
    run.store.put(keys.claim(RUN, CLIP), b"{}")
    with pytest.raises(StoreCorrupt, match=rf"claims/{CLIP} is no Claim of this version"):
        run.runner("a").look(CLIP)


def test_a_fixed_share_holds_its_clips_without_writing_anything() -> None:
    claims = FixedShare({CLIP}, Owner("a", "t4", 3))
    held = claims.take(claims.look(CLIP))
    assert held == Held(CLIP, claim(attempt=3, epoch=3, nonce=""), "")
    assert claims.heartbeat(held) == held
    assert claims.hand_back(held)
    assert claims.settle(held, ClaimState.DONE)
    assert claims.take(claims.look("d" * 64)) is None
