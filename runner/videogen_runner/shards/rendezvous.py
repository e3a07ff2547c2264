"""How shards find each other: shard 0 waits at an address that all know, then each two shards get a connection.

A shard says hello in one line of JSON; when the last has come, shard 0 answers each with one line that says where all
are. A shard then connects to those before it and is called by those after it. Nothing here knows torch.
"""

import select
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from videogen_api.errors import ConfigInvalid, PeerLost
from videogen_api.naming import Env
from videogen_runner.shards.callers import Callers
from videogen_runner.shards.greeting import Deadline, Hello, Place, Refusal, Welcome, read_line, send

_CONNECT_SECONDS = 5.0
_CALL_SECONDS = 10.0
_LATER_SECONDS = 5.0
_RETRY_SECONDS = 0.2

_ANSWER: TypeAdapter[Welcome | Refusal] = TypeAdapter(Welcome | Refusal)


@dataclass(frozen=True)
class Meeting:
    """A group that is complete: a connection to every other shard, and where all are."""

    links: dict[int, socket.socket]
    welcome: Welcome


def parse_address(address: str) -> tuple[str, int]:
    """Host and port. Raises ConfigInvalid."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigInvalid(f"environment key {Env.SHARDS_ADDRESS} is {address!r}; set it to host:port of shard 0")
    return host, int(port)


def open_listener(address: str, fileno: int | None) -> socket.socket:
    """Shard 0's socket: one that it has inherited, or a new one on the port of the address.

    Raises ConfigInvalid where the port is taken, or the descriptor is no socket.
    """
    if fileno is not None:
        try:
            return socket.socket(fileno=fileno)
        except OSError as error:
            raise ConfigInvalid(
                f"environment key {Env.SHARDS_LISTENER}: descriptor {fileno} is no socket ({error.strerror})"
            ) from error
    port = parse_address(address)[1]
    try:
        return _listen(port)
    except OSError as error:
        raise ConfigInvalid(
            f"environment key {Env.SHARDS_ADDRESS}: cannot listen on port {port} ({error.strerror}); set a free one"
        ) from error


def receive_shards(listener: socket.socket, me: Hello, store_port: int, deadline: Deadline) -> Meeting:
    """Shard 0's part; closes the listener. Raises PeerLost for a shard that does not come in time, or leaves."""
    links: dict[int, socket.socket] = {}
    with listener, _closed_at_failure(links):
        hellos = _accept(listener, links, me, range(1, me.shards), deadline)
        welcome = _welcome(links, me, hellos, store_port)
    return Meeting(links, welcome)


def _welcome(links: dict[int, socket.socket], me: Hello, hellos: dict[int, Hello], store_port: int) -> Welcome:
    mine = Place(host=_host(links[1].getsockname()), port=me.port, card=me.card)
    others = (
        Place(host=_host(links[shard].getpeername()), port=hello.port, card=hello.card)
        for shard, hello in sorted(hellos.items())
    )
    welcome = Welcome(store_port=store_port, places=(mine, *others))
    for shard, link in links.items():
        try:
            send(link, welcome)
        except OSError as error:
            raise PeerLost(f"shard {shard} left while the group came together: {error.strerror}") from error
    return welcome


def join_shards(address: str, group: str, shard: int, shards: int, card: str | None, deadline: Deadline) -> Meeting:
    """The part of every shard but 0.

    Raises PeerLost where shard 0 is not there in time, leaves, or turns this one away; ConfigInvalid for an address
    that is none.
    """
    links: dict[int, socket.socket] = {}
    with _listen(0) as listener, _closed_at_failure(links):
        me = Hello(group=group, shard=shard, shards=shards, port=listener.getsockname()[1], card=card)
        links[0] = _connect_when_there(parse_address(address), deadline)
        # Shard 0 may have begun to wait later; it knows who is missing, so it is the one to give up and say so.
        welcome = _ask_first(links[0], me, address, Deadline(deadline.at + _LATER_SECONDS, deadline.seconds))
        for other in range(1, shard):
            place = welcome.places[other]
            try:
                links[other] = _connect((place.host, place.port))
                send(links[other], me)
            except OSError as error:
                raise PeerLost(f"shard {other} cannot be reached at {place.host}: {error.strerror}") from error
        # They have all been told where this one is: who does not call now has died.
        _accept(listener, links, me, range(shard + 1, shards), Deadline.after(_CALL_SECONDS))
    return Meeting(links, welcome)


@contextmanager
def _closed_at_failure(links: dict[int, socket.socket]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for link in links.values():
            link.close()
        raise


def _accept(
    listener: socket.socket, links: dict[int, socket.socket], me: Hello, wanted: Iterable[int], deadline: Deadline
) -> dict[int, Hello]:
    """Fills `links` with the wanted shards as they call."""
    hellos: dict[int, Hello] = {}
    callers = Callers(me)
    with closing(callers):
        while missing := sorted(set(wanted) - set(hellos)):
            if not deadline.left:
                remedy = "see why it did not start, or set schedule.startDeadlineSeconds higher"
                raise PeerLost(
                    f"shard {', '.join(map(str, missing))} of {me.shards} did not come within "
                    f"{deadline.seconds:.0f} s; {remedy if me.shard == 0 else 'see what it ended with'}"
                )
            # Before the welcome no shard has anything to say; after it those that are complete begin their heartbeat.
            silent = {links[shard]: shard for shard in hellos} if me.shard == 0 else {}
            timeout = min(deadline.left, callers.seconds_left)
            ready, _, _ = select.select([listener, *callers.connections, *silent], [], [], timeout)
            for link in silent.keys() & set(ready):
                raise PeerLost(f"shard {silent[link]} left while the group came together")
            if listener in ready:
                connection, address = listener.accept()
                callers.add(connection, _host(address))
            for hello, connection in callers.hellos(missing):
                hellos[hello.shard], links[hello.shard] = hello, connection
    return hellos


def _ask_first(connection: socket.socket, me: Hello, address: str, deadline: Deadline) -> Welcome:
    try:
        send(connection, me)
        answer = _ANSWER.validate_json(read_line(connection, deadline))
    except TimeoutError as error:
        raise PeerLost(
            f"the other shards did not come within {deadline.seconds:.0f} s; see why they did not start"
        ) from error
    except (OSError, ValidationError) as error:
        raise PeerLost(f"shard 0 at {address} left while the group came together") from error
    if isinstance(answer, Refusal):
        raise PeerLost(f"shard 0 at {address} has turned this one away: {answer.refused}")
    return answer


def _connect_when_there(address: tuple[str, int], deadline: Deadline) -> socket.socket:
    """Tries until shard 0 listens, and its name is known."""
    while True:
        try:
            return _connect(address)
        except OSError as error:
            if not deadline.left:
                raise PeerLost(
                    f"shard 0 was not there within {deadline.seconds:.0f} s: {address[0]}:{address[1]}: "
                    f"{error.strerror or error}; see why it did not start"
                ) from error
            time.sleep(min(_RETRY_SECONDS, deadline.left))


def _connect(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address, _CONNECT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _listen(port: int) -> socket.socket:
    # IPv6 with IPv4 inside it, where there is IPv6: a cluster may have either.
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _host(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """An IPv4 address is one, also where an IPv6 socket has it."""
    return address[0].removeprefix("::ffff:")
