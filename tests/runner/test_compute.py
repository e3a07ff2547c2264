import threading

import pytest

from videogen_api.errors import Interrupted
from videogen_runner.compute import ComputeThread

DEADLINE = 600.0


def test_work_runs_on_one_other_thread_and_its_result_comes_back() -> None:
    compute = ComputeThread(threading.Event())
    first, second = compute.run(threading.get_ident), compute.run(threading.get_ident)
    assert first == second != threading.get_ident()


def test_what_the_work_raises_comes_back_and_the_thread_goes_on() -> None:
    compute = ComputeThread(threading.Event())
    with pytest.raises(ZeroDivisionError):
        compute.run(lambda: 1 / 0)
    assert compute.run(lambda: 1) == 1


def test_a_stop_is_heard_while_work_goes_on() -> None:
    stop, begun, let_go = threading.Event(), threading.Event(), threading.Event()
    compute = ComputeThread(stop)

    def work() -> None:
        begun.set()
        assert let_go.wait(DEADLINE)

    def stop_it() -> None:
        assert begun.wait(DEADLINE)
        stop.set()

    stopper = threading.Thread(target=stop_it)
    stopper.start()
    with pytest.raises(Interrupted):
        compute.run(work)
    assert not let_go.is_set()
    stopper.join()
    let_go.set()


def test_after_a_stop_no_work_begins() -> None:
    stop, begun = threading.Event(), threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        ComputeThread(stop).run(begun.set)
    assert not begun.is_set()


def test_submitted_work_that_has_ended_counts_as_done_even_after_a_stop() -> None:
    stop = threading.Event()
    compute = ComputeThread(stop)
    running = compute.submit(lambda: 1)
    assert running.result(DEADLINE) == 1
    stop.set()
    assert compute.is_done_before_stop(running)
