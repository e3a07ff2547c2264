"""How a group comes together: real connections on this machine, strangers among them."""

import contextlib
import logging
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from videogen_api.errors import ConfigInvalid, PeerLost
from videogen_runner.shards import rendezvous
from videogen_runner.shards.callers import LINE_SECONDS
from videogen_runner.shards.greeting import Deadline, Hello, send
from videogen_runner.shards.rendezvous import Meeting, join_shards, open_listener, parse_address, receive_shards

GROUP = "film/fox-1/1"
SECONDS = 20.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


def receive(listener: socket.socket, shards: int, seconds: float = SECONDS, group: str = GROUP) -> Meeting:
    me = Hello(group=group, shard=0, shards=shards, port=0, card="gpu-0")
    return receive_shards(listener, me, 4711, Deadline.after(seconds))


def join(address: str, shard: int, shards: int, group: str = GROUP, seconds: float = SECONDS) -> Meeting:
    return join_shards(address, group, shard, shards, f"gpu-{shard}", Deadline.after(seconds))


def close(*meetings: Meeting) -> None:
    for meeting in meetings:
        for link in meeting.links.values():
            link.close()


def test_each_two_shards_get_a_connection_and_all_know_all_cards(
    listener: socket.socket, pool: ThreadPoolExecutor
) -> None:
    address = address_of(listener)
    first = pool.submit(receive, listener, 4)
    others = [pool.submit(join, address, shard, 4) for shard in (3, 1, 2)]
    meetings = [first.result(), *sorted((each.result() for each in others), key=lambda found: 0 not in found.links)]
    by_links = sorted(meetings, key=lambda found: sorted(found.links), reverse=True)
    assert [sorted(found.links) for found in by_links] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    for found in meetings:
        assert found.welcome == first.result().welcome
    assert [place.card for place in meetings[0].welcome.places] == ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]
    assert (meetings[0].welcome.store_port, meetings[0].welcome.places[0].host) == (4711, "127.0.0.1")
    for one in range(4):
        for other in range(one):
            by_links[one].links[other].sendall(b"%d" % one)
            by_links[other].links[one].settimeout(SECONDS)
            assert by_links[other].links[one].recv(9) == b"%d" % one
    close(*meetings)


def say(line: bytes) -> Callable[[str], object]:
    def speak(address: str) -> None:
        with socket.create_connection(parse_address(address)) as connection:
            connection.sendall(line)
            with contextlib.suppress(OSError):  # it may be refused by now
                connection.shutdown(socket.SHUT_WR)
            # Whoever has said more than one line is cut off.
            with contextlib.suppress(ConnectionResetError):
                connection.recv(1000)

    return speak


def come(shard: int, shards: int, group: str = GROUP) -> Callable[[str], object]:
    def call(address: str) -> None:
        with pytest.raises(PeerLost, match="has turned this one away"):
            join(address, shard, shards, group)

    return call


STRANGERS: dict[str, tuple[Callable[[str], object], str]] = {
    "http": (say(b"GET / HTTP/1.1\r\n\r\n"), r"it says b'GET / HTTP/1\.1\\r\\n', and no shard does"),
    "nothing": (say(b""), "it says b'', and no shard does"),
    "half a line": (say(b'{"group"'), """it says b'{"group"', and no shard does"""),
    "other json": (say(b'{"shard": 1}\n'), r"""it says b'{"shard": 1}\\n', and no shard does"""),
    "another group": (
        come(1, 2, "film/fox-1/2"),
        "it belongs to group film/fox-1/2, this is film/fox-1/1",
    ),
    "another size": (
        come(1, 3),
        "it is one of 3 shards, this group has 2",
    ),
    "shard of no place": (
        come(0, 2),
        "shard 0 of 2 is here already, or not to come here",
    ),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_is_refused_with_a_line_in_the_log_and_the_group_comes_together(
    listener: socket.socket, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    call, why = STRANGERS[kind]
    address = address_of(listener)
    with caplog.at_level(logging.WARNING):
        first = pool.submit(receive, listener, 2)
        call(address)
        second = join(address, 1, 2)
        close(first.result(), second)
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert message.startswith("a connection from 127.0.0.1 is refused: ")
    assert re.search(why, message), message


def test_strangers_who_say_nothing_hold_up_nobody(listener: socket.socket, pool: ThreadPoolExecutor) -> None:
    address = address_of(listener)
    with contextlib.ExitStack() as strangers:
        for _ in range(100):
            strangers.enter_context(socket.create_connection(parse_address(address)))
        first = pool.submit(receive, listener, 3, seconds=LINE_SECONDS)
        others = [pool.submit(join, address, shard, 3, seconds=LINE_SECONDS) for shard in (1, 2)]
        close(first.result(), *(other.result() for other in others))


def test_a_shard_that_dies_after_the_welcome_is_missed_by_those_that_it_was_to_call(
    listener: socket.socket, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "_CALL_SECONDS", 1.0)
    address = address_of(listener)
    first, second = pool.submit(receive, listener, 3), pool.submit(join, address, 1, 3)
    with socket.create_connection(parse_address(address)) as third:
        send(third, Hello(group=GROUP, shard=2, shards=3, port=1, card=None))
        close(first.result())
    with pytest.raises(PeerLost, match="shard 2 of 3 did not come within 1 s; see what it ended with"):
        second.result(SECONDS)


def test_whoever_is_turned_away_is_told_why(listener: socket.socket, pool: ThreadPoolExecutor) -> None:
    address = address_of(listener)
    first = pool.submit(receive, listener, 2)
    with pytest.raises(PeerLost, match="has turned this one away: it belongs to group film/owl-1/1, this is film/fox"):
        join(address, 1, 2, "film/owl-1/1")
    close(join(address, 1, 2), first.result())


def test_a_shard_that_never_comes_is_named_at_the_deadline_on_both_sides(
    listener: socket.socket, pool: ThreadPoolExecutor
) -> None:
    second = pool.submit(join, address_of(listener), 1, 3)
    with pytest.raises(PeerLost, match=r"shard 2 of 3 did not come within 2 s; see why it did not start"):
        receive(listener, 3, seconds=2.0)
    with pytest.raises(PeerLost, match=r"shard 0 at 127\.0\.0\.1:[0-9]+ left while the group came together"):
        second.result()


def test_a_first_shard_that_never_comes_is_named_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = address_of(taken)
    with pytest.raises(PeerLost, match=rf"shard 0 was not there within 1 s: {address}: Connection refused"):
        join(address, 1, 2, seconds=1.0)


def test_a_shard_that_leaves_while_others_are_awaited_is_noticed_at_once(
    listener: socket.socket, pool: ThreadPoolExecutor
) -> None:
    first = pool.submit(receive, listener, 3)
    with socket.create_connection(listener.getsockname()) as connection:
        hello = Hello(group=GROUP, shard=1, shards=3, port=1, card=None)
        connection.sendall(hello.model_dump_json(by_alias=True).encode() + b"\n")
    with pytest.raises(PeerLost, match="shard 1 left while the group came together"):
        first.result(SECONDS)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x"])
def test_an_address_that_is_none_is_refused_by_its_key(address: str) -> None:
    with pytest.raises(ConfigInvalid, match="environment key VIDEOGEN_SHARDS_ADDRESS is"):
        parse_address(address)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigInvalid, match=rf"VIDEOGEN_SHARDS_ADDRESS: cannot listen on port {port}"):
            open_listener(f"x:{port}", None)


def test_a_descriptor_that_is_no_socket_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "file"
    with path.open("wb") as file, pytest.raises(ConfigInvalid, match=rf"descriptor {file.fileno()} is no socket"):
        open_listener("127.0.0.1:1", file.fileno())
