"""The queue's rules on a clock that only the test moves, and its threads on the real one."""

import threading
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from videogen_operator.cluster.queue import Backoff, KeySchedule, WorkQueue

KEYS = ("a", "b", "c", "d")
PATIENCE_SECONDS = 120.0


def make_schedule() -> KeySchedule[str]:
    return KeySchedule(Backoff(first=1.0, most=60.0), draw=lambda: 0.0)


def test_keys_come_in_the_order_of_their_first_wakes() -> None:
    schedule = make_schedule()
    for key in ("b", "a", "b", "c", "a"):
        schedule.wake(key)

    assert [schedule.take(0) for _ in range(4)] == ["b", "a", "c", None]


def test_a_key_that_is_looked_at_is_not_handed_out_again_until_it_is_done() -> None:
    schedule = make_schedule()
    schedule.wake("a")
    assert schedule.take(0) == "a"

    schedule.wake("a")
    schedule.wake("a")
    assert schedule.take(0) is None
    schedule.done("a")

    assert [schedule.take(0), schedule.take(0)] == ["a", None]


def test_a_wake_between_two_others_keeps_its_place_when_a_dirty_key_is_done() -> None:
    schedule = make_schedule()
    schedule.wake("a")
    assert schedule.take(0) == "a"
    schedule.wake("a")
    schedule.wake("b")

    schedule.done("a")

    assert [schedule.take(0), schedule.take(0)] == ["b", "a"]


def test_of_several_times_the_earliest_counts() -> None:
    schedule = make_schedule()
    for due in (30.0, 10.0, 20.0):
        schedule.wake_at("a", due)

    assert schedule.take(9.9) is None
    assert schedule.seconds_to_next(9.0) == 1.0
    assert schedule.take(10.0) == "a"
    schedule.done("a")
    assert schedule.take(1000.0) is None


def test_a_look_cancels_the_timed_wake_that_was_set_before_it() -> None:
    schedule = make_schedule()
    schedule.wake_at("a", 10.0)
    schedule.wake("a")
    assert schedule.take(0) == "a"
    schedule.done("a")

    assert schedule.seconds_to_next(0) is None
    assert schedule.take(10.0) is None


def test_a_timed_wake_that_comes_due_during_a_look_makes_another_look() -> None:
    schedule = make_schedule()
    schedule.wake("a")
    assert schedule.take(0) == "a"
    schedule.wake_at("a", 5.0)
    assert schedule.take(6.0) is None

    schedule.done("a")

    assert schedule.take(6.0) == "a"


def test_the_back_off_doubles_to_its_bound_and_starts_anew_after_a_success() -> None:
    schedule = make_schedule()

    assert [schedule.retry("a", 0.0) for _ in range(8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert schedule.retry("b", 0.0) == 1.0
    schedule.forget("a")
    assert schedule.retry("a", 0.0) == 1.0


def test_a_server_that_asks_for_a_longer_pause_gets_it() -> None:
    schedule = make_schedule()

    assert schedule.retry("a", 100.0, at_least=30.0) == 30.0
    assert schedule.take(129.9) is None
    assert schedule.take(130.0) == "a"


@pytest.mark.parametrize(("fraction", "seconds"), [(0.0, 8.0), (0.5, 6.0), (0.999, 4.004)])
def test_jitter_takes_off_up_to_half(fraction: float, seconds: float) -> None:
    assert Backoff(first=1.0, most=60.0).seconds(4, fraction) == pytest.approx(seconds)


def test_any_number_of_failures_has_a_back_off() -> None:
    assert Backoff(first=1.0, most=60.0).seconds(10_000, 0.0) == 60.0


def test_a_key_that_was_not_taken_cannot_be_done() -> None:
    with pytest.raises(ValueError, match="'a' is done but was not taken"):
        make_schedule().done("a")


def test_wakes_that_were_overtaken_do_not_pile_up() -> None:
    schedule = make_schedule()
    for _ in range(10_000):
        schedule.wake_at("a", 1e9)
        schedule.wake("a")
        schedule.take(0)
        schedule.done("a")

    assert len(schedule._timers) < 100


class Schedule(RuleBasedStateMachine):
    """Against a model of what is owed: a look that begins after each wake."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = make_schedule()
        self.now = 0.0
        self.owed: dict[str, None] = {}
        self.due: dict[str, float] = {}
        self.active: set[str] = set()

    @rule(key=st.sampled_from(KEYS))
    def wake(self, key: str) -> None:
        self.schedule.wake(key)
        self.owed[key] = None

    @rule(key=st.sampled_from(KEYS), seconds=st.floats(0, 100))
    def wake_after(self, key: str, seconds: float) -> None:
        self.schedule.wake_at(key, self.now + seconds)
        self.due[key] = min(self.now + seconds, self.due.get(key, float("inf")))

    @rule(key=st.sampled_from(KEYS))
    def retry(self, key: str) -> None:
        seconds = self.schedule.retry(key, self.now)
        self.due[key] = min(self.now + seconds, self.due.get(key, float("inf")))

    @rule(seconds=st.floats(0, 50))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        key = self.schedule.take(self.now)
        for due_key in [due_key for due_key, due in self.due.items() if due <= self.now]:
            self.owed[due_key] = None
            del self.due[due_key]
        if key is None:
            assert set(self.owed) <= self.active
            return
        assert key in self.owed
        assert key not in self.active
        del self.owed[key]
        self.due.pop(key, None)
        self.active.add(key)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.active)))
        self.schedule.done(key)
        self.active.remove(key)

    @invariant()
    def counts_agree(self) -> None:
        assert self.schedule.num_active == len(self.active)
        assert self.schedule.num_ready == len(set(self.owed) - self.active)

    @invariant()
    def never_sleeps_over_a_key(self) -> None:
        seconds = self.schedule.seconds_to_next(self.now)
        if set(self.owed) - self.active:
            assert seconds == 0.0
        elif self.due:
            assert seconds == max(0.0, min(self.due.values()) - self.now)
        else:
            assert seconds is None


TestSchedule = Schedule.TestCase
TestSchedule.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def test_many_threads_look_at_many_keys_but_never_two_at_one() -> None:
    queue = WorkQueue[int](Backoff(first=0.001, most=0.01))
    lock = threading.Lock()
    active: set[int] = set()
    clashes: list[int] = []
    looks: Counter[int] = Counter()
    all_looked = threading.Event()

    def work() -> None:
        while (key := queue.take()) is not None:
            with lock:
                if key in active:
                    clashes.append(key)
                active.add(key)
                looks[key] += 1
                failed = looks[key] < 5
            if failed:
                queue.retry(key)
            else:
                queue.forget(key)
            with lock:
                active.remove(key)
                if len(looks) == 50 and min(looks.values()) >= 5:
                    all_looked.set()
            queue.done(key)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for key in list(range(50)) * 3:
        queue.wake(key)

    assert all_looked.wait(PATIENCE_SECONDS)
    queue.shut_down()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert [thread.is_alive() for thread in threads] == [False] * 8
    assert clashes == []


def test_a_waiting_worker_gets_a_key_at_its_time_also_when_another_one_was_waiting_for_it() -> None:
    queue = WorkQueue[str]()
    taken: dict[str, threading.Event] = {key: threading.Event() for key in ("now", "later")}
    release = threading.Event()

    def work() -> None:
        while (key := queue.take()) is not None:
            taken[key].set()
            release.wait(PATIENCE_SECONDS)
            queue.done(key)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    queue.wake_after("later", 0.2)
    queue.wake("now")  # whoever takes it does not wait for the timer any more

    assert taken["now"].wait(PATIENCE_SECONDS)
    assert taken["later"].wait(PATIENCE_SECONDS)
    release.set()
    queue.shut_down()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in threads)


def test_a_queue_that_was_shut_down_hands_out_nothing_and_lets_the_active_key_finish() -> None:
    queue = WorkQueue[str]()
    queue.wake("a")
    queue.wake("b")
    assert queue.take() == "a"

    queue.shut_down()

    assert queue.take() is None
    queue.done("a")
    assert len(queue) == 1
