"""The rules of `videogen_api.balancing`, alone and played through by runners that live, slow down and die."""

import math
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from videogen_api.balancing import OpenClip, Worker, choose, longest_first, share_out

FAST, SLOW = "fast", "slow"


def build_clip(key: str, fast_seconds: float) -> OpenClip:
    return OpenClip(key, {FAST: fast_seconds, SLOW: 4 * fast_seconds})


def test_the_longest_clip_goes_first_and_equal_ones_keep_their_order() -> None:
    clips = [build_clip("a", 1), build_clip("b", 3), build_clip("c", 3), build_clip("d", 2)]
    assert [clip.key for clip in longest_first(clips)] == ["b", "c", "d", "a"]


def test_a_runner_that_is_alone_takes_the_longest_clip() -> None:
    clips = longest_first([build_clip("short", 1), build_clip("long", 9)])
    assert choose(Worker(SLOW), clips, []) == clips[0]


def test_a_slow_card_leaves_the_last_clip_to_a_fast_one_that_finishes_it_sooner() -> None:
    last = build_clip("last", 10)
    assert choose(Worker(SLOW), [last], [Worker(FAST, free_in=29.9)]) is None
    assert choose(Worker(SLOW), [last], [Worker(FAST, free_in=30)]) == last


def test_a_slow_card_takes_a_short_clip_instead_of_the_long_one_that_it_leaves() -> None:
    clips = longest_first([build_clip("long", 10), build_clip("short", 5)])
    assert choose(Worker(SLOW), clips, [Worker(FAST, free_in=12)]) == clips[1]


def test_a_fast_card_gets_no_more_clips_left_to_it_than_it_finishes_in_time() -> None:
    clips = [build_clip(str(number), 10) for number in range(5)]
    # The fast one would end at 15, 25, 35 and 45: the fourth is done sooner here.
    assert choose(Worker(SLOW), clips, [Worker(FAST, free_in=5)]) == clips[3]


def test_the_measured_pace_counts_and_not_the_prediction() -> None:
    last = build_clip("last", 10)
    assert choose(Worker(SLOW), [last], [Worker(FAST, pace=4.0, free_in=1)]) == last
    assert choose(Worker(SLOW, pace=0.25), [last], [Worker(FAST, free_in=1)]) == last


def test_nobody_waits_longer_for_a_faster_card_than_the_clip_takes_on_its_own() -> None:
    last, late = build_clip("last", 10), Worker(FAST, free_in=1)  # it says so for ever
    assert choose(Worker(SLOW, free_in=-28), [last], [late]) is None
    assert choose(Worker(SLOW, free_in=-29), [last], [late]) == last


def test_a_clip_that_fits_no_card_of_a_pool_is_never_its_own() -> None:
    big = OpenClip("big", {FAST: 10.0})
    assert choose(Worker(SLOW), [big], []) is None
    assert choose(Worker(SLOW), [big], [Worker(FAST, free_in=1e6)]) is None
    assert choose(Worker(FAST), [big], []) == big


def test_a_clip_that_fits_only_others_keeps_them_busy() -> None:
    clips = [OpenClip("big", {FAST: 10.0}), build_clip("small", 1)]
    assert choose(Worker(SLOW), clips, [Worker(FAST)]) == clips[1]


def test_fixed_shares_follow_the_predicted_speeds() -> None:
    clips = [build_clip(str(number), 1) for number in range(9)]
    shares = share_out(clips, [Worker(SLOW), Worker(FAST), Worker(FAST)])
    assert [len(share) for share in shares] == [1, 4, 4]


seconds = st.floats(0.1, 1000)
workers = st.builds(Worker, st.sampled_from([FAST, SLOW]), st.floats(0.1, 10), st.floats(0, 1000))
clip_lists = st.lists(st.dictionaries(st.sampled_from([FAST, SLOW]), seconds, max_size=2), min_size=1, max_size=12).map(
    lambda items: longest_first(OpenClip(str(number), of) for number, of in enumerate(items))
)


@given(clips=clip_lists, worker=workers, others=st.lists(workers, max_size=6))
def test_a_clip_is_declined_only_for_runners_that_are_busy_now_and_would_finish_it_sooner(
    clips: list[OpenClip], worker: Worker, others: list[Worker]
) -> None:
    free = replace(worker, free_in=0.0)
    if choose(free, clips, others) is not None:
        return
    for clip in clips:
        own = free.seconds_for(clip)
        assert math.isinf(own) or min(other.free_in + other.seconds_for(clip) for other in others) < own


@given(clips=clip_lists, everybody=st.lists(workers, min_size=1, max_size=6))
def test_where_nobody_is_at_work_whoever_looks_takes_a_clip_that_fits(
    clips: list[OpenClip], everybody: list[Worker]
) -> None:
    for worker in everybody:
        chosen = choose(replace(worker, free_in=0.0), clips, [])
        fitting = [clip for clip in clips if worker.pool in clip.seconds]
        assert chosen == (fitting[0] if fitting else None)


@given(clips=clip_lists, everybody=st.lists(workers, min_size=1, max_size=6))
def test_fixed_shares_hold_each_clip_that_fits_somebody_once(clips: list[OpenClip], everybody: list[Worker]) -> None:
    shares = share_out(clips, everybody)
    dealt = [clip.key for share in shares for clip in share]
    assert sorted(dealt) == sorted(
        clip.key for clip in clips if any(worker.pool in clip.seconds for worker in everybody)
    )
    for worker, share in zip(everybody, shares, strict=True):
        assert all(worker.pool in clip.seconds for clip in share)


@dataclass
class Runner:
    """A runner in the play below; `dies_after` so many seconds of the play, and is noticed one lease later."""

    worker: Worker
    dies_after: float
    clip: OpenClip | None = None
    busy_until: float = 0.0
    waiting_since: float | None = None


LEASE = 5.0


def play(clips: list[OpenClip], runners: list[Runner]) -> dict[str, float]:
    """When each clip was finished; a clip whose runner died is open again a lease after. Time goes on by a second."""
    left, ended, now = list(clips), dict[str, float](), 0.0
    while len(ended) < len(clips):
        for runner in runners:
            if runner.clip is None:
                continue
            if runner.busy_until <= min(now, runner.dies_after):
                ended[runner.clip.key] = runner.busy_until
                runner.clip = None
            elif runner.dies_after + LEASE <= now:
                left = longest_first([*left, runner.clip])
                runner.clip = None
        for runner in runners:
            if runner.clip is not None or now > runner.dies_after or not left:
                continue
            since = now if runner.waiting_since is None else runner.waiting_since
            free = replace(runner.worker, free_in=since - now)
            busy = [
                replace(other.worker, free_in=max(0.0, other.busy_until - now))
                for other in runners
                if other.clip is not None
            ]
            chosen = choose(free, left, busy)
            runner.waiting_since = since if chosen is None else None
            if chosen is not None:
                left.remove(chosen)
                runner.clip, runner.busy_until = chosen, now + runner.worker.seconds_for(chosen)
        now += 1.0
        assert now < 1e5, f"nobody takes {[clip.key for clip in left]}"
    return ended


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=12)
paces = st.floats(0.25, 4.0)


@given(lengths=lengths, paces=st.lists(paces, min_size=1, max_size=5), deaths=st.lists(st.integers(0, 100), max_size=5))
def test_every_clip_is_made_as_long_as_one_runner_lives(
    lengths: list[int], paces: list[float], deaths: list[int]
) -> None:
    clips = longest_first(build_clip(str(number), length) for number, length in enumerate(lengths))
    lives = [float(death) for death in deaths[: len(paces) - 1]]
    lives += [math.inf] * (len(paces) - len(lives))
    runners = [Runner(Worker(FAST, pace), life) for pace, life in zip(paces, lives, strict=True)]
    assert set(play(clips, runners)) == {clip.key for clip in clips}


def test_a_fast_runner_that_died_is_waited_for_no_longer_than_its_lease() -> None:
    clips = [build_clip("first", 20), build_clip("last", 20)]
    fast = Runner(Worker(FAST), dies_after=10.0)
    slow = Runner(Worker(SLOW), dies_after=math.inf)
    # At first the slow one leaves the last clip to the fast one, which would be done with it at 40 instead of 80.
    ended = play(clips, [fast, slow])
    assert min(ended.values()) == 10 + LEASE + 80
