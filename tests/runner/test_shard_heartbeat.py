"""Liveness of a group: real sockets between heartbeats of one process, and real silence."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from videogen_api.errors import Interrupted, OutOfMemory, PeerLost, VideogenError
from videogen_runner.shards.heartbeat import BEAT_SECONDS, SILENCE_SECONDS, Heartbeat, Liveness

DEADLINE = 15.0  # what the issue promises of every kind of death

Links = dict[int, dict[int, socket.socket]]


@pytest.fixture
def links() -> Iterator[Links]:
    """Three shards, each two connected; a test gives what it needs to heartbeats."""
    made: Links = {0: {}, 1: {}, 2: {}}
    for one, other in ((0, 1), (0, 2), (1, 2)):
        made[one][other], made[other][one] = socket.socketpair()
    yield made
    for of_shard in made.values():
        for link in of_shard.values():
            link.close()


def loss_of(heartbeat: Heartbeat) -> tuple[type[VideogenError], str, float]:
    """What a heartbeat says when it says that somebody is lost, and after how many seconds."""
    started = time.monotonic()
    try:
        while time.monotonic() - started < DEADLINE:
            heartbeat.wait_for_verdict()
    except VideogenError as error:
        return type(error), str(error), time.monotonic() - started
    raise AssertionError("nobody was lost")


def test_every_peer_is_told_every_second_that_this_one_lives(links: Links) -> None:
    with Heartbeat(links[0]):
        for shard in (1, 2):
            links[shard][0].settimeout(DEADLINE)
            assert [links[shard][0].recv(5) for _ in range(3)] == [b"beat\n"] * 3


def test_a_connection_that_ends_is_a_loss_at_once(links: Links) -> None:
    with Heartbeat(links[0]) as beat:
        links[2][0].close()
        kind, message, seconds = loss_of(beat)
    assert (kind, message) == (PeerLost, "shard 2 is gone: its connection has ended")
    assert seconds < 2


def test_a_shard_that_says_nothing_is_lost_in_time_although_its_connection_stands(links: Links) -> None:
    with Heartbeat({1: links[0][1]}) as beat:
        kind, message, seconds = loss_of(beat)
    assert (kind, message) == (PeerLost, "shard 1 has said nothing for 10 s")
    assert SILENCE_SECONDS - 1 < seconds < DEADLINE - 2


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (Interrupted("stopped by a signal"), Interrupted, "shard 1 ended with Interrupted: stopped by a signal"),
        (OutOfMemory("no memory\nleft"), PeerLost, "shard 1 ended with OutOfMemory: no memory left"),
        (ZeroDivisionError("x"), PeerLost, "shard 1 ended with Internal: x"),
    ],
)
def test_the_others_learn_what_a_shard_ended_with(
    links: Links, error: Exception, expected: type[VideogenError], message: str
) -> None:
    with Heartbeat({1: links[0][1]}) as watching:
        with pytest.raises(type(error)), Heartbeat({0: links[1][0]}):
            raise error
        assert loss_of(watching)[:2] == (expected, message)


def test_nobody_leaves_before_all_are_done_and_then_nobody_is_lost(links: Links) -> None:
    with ExitStack() as stack:
        beats = [stack.enter_context(Heartbeat(links[shard])) for shard in range(3)]
        early = [threading.Thread(target=beats[shard].finish) for shard in (0, 1)]
        for thread in early:
            thread.start()
        early[0].join(1.5 * BEAT_SECONDS)
        assert all(thread.is_alive() for thread in early)
        beats[2].finish()
        for thread in early:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        for beat in beats:
            beat.raise_if_lost()


def fill(link: socket.socket) -> None:
    """Until not one more byte fits."""
    link.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            link.send(b"beat\n")


def test_done_is_said_again_to_a_shard_whose_connection_was_too_full_for_it(links: Links) -> None:
    ours, theirs = links[0][1], links[1][0]
    fill(ours)
    theirs.setblocking(False)
    with Heartbeat({1: ours}) as beat:
        waiting = threading.Thread(target=beat.finish)
        waiting.start()
        waiting.join(1.5 * BEAT_SECONDS)
        with Heartbeat({0: theirs}) as other:  # reads from now on
            other.finish()
        waiting.join(DEADLINE)
        assert not waiting.is_alive()


def test_whoever_waits_for_the_end_hears_of_a_loss(links: Links) -> None:
    with Heartbeat({1: links[0][1]}) as beat:
        links[1][0].close()
        with pytest.raises(PeerLost, match="shard 1 is gone"):
            beat.finish()


def test_silence_is_counted_from_the_last_word() -> None:
    liveness = Liveness([1, 2], now=100.0)
    for second in range(1, 30):
        liveness.look(100.0 + second)
        liveness.hear(1, 100.0 + second)
        assert liveness.silent(100.0 + second) == ([2] if second >= SILENCE_SECONDS else [])


def test_a_pause_of_ones_own_is_not_the_silence_of_others() -> None:
    liveness = Liveness([1], now=0.0)
    liveness.look(1.0)
    liveness.look(1000.0)
    assert liveness.silent(1000.0) == []
    for second in range(1, 12):
        liveness.look(1000.0 + second)
    assert liveness.silent(1011.0) == [1]
