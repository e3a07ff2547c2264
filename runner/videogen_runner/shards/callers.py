"""Those who have called a shard that waits for others: each has a while to say who it is, and none holds up another.

Whoever belongs to another group, or speaks another language, is turned away with a line in the log and hurts nobody.
"""

import logging
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from videogen_runner.shards.greeting import MAX_LINE_BYTES, Deadline, Hello, Refusal, send

log = logging.getLogger("videogen")

LINE_SECONDS = 5.0
_MOST = 64  # at a time; a group has no more shards than its encoder has blocks, 24
_MAX_REFUSED_TEXT = 80  # bytes of a stranger's line in the log


@dataclass
class _Caller:
    connection: socket.socket
    host: str
    deadline: Deadline
    line: bytearray = field(default_factory=bytearray)


class Callers:
    """Connections whose hello is not complete yet."""

    def __init__(self, me: Hello) -> None:
        self._me = me
        self._callers: list[_Caller] = []

    @property
    def connections(self) -> list[socket.socket]:
        """To be waited for."""
        return [caller.connection for caller in self._callers]

    @property
    def seconds_left(self) -> float:
        """Until the first of them has had its time."""
        return min((caller.deadline.left for caller in self._callers), default=float("inf"))

    def add(self, connection: socket.socket, host: str) -> None:
        """The one that has waited longest makes room where there are too many."""
        connection.setblocking(False)
        self._callers.append(_Caller(connection, host, Deadline.after(LINE_SECONDS)))
        if len(self._callers) > _MOST:
            self._refuse_line(self._callers[0])

    def hellos(self, missing: Collection[int]) -> Iterator[tuple[Hello, socket.socket]]:
        """Shards of those that are missing which have said who they are; refuses others, and who has had its time."""
        missing = set(missing)
        for caller in list(self._callers):
            try:
                is_complete = _read(caller)
            except OSError:
                self._refuse_line(caller)
                continue
            if is_complete:
                hello = self._check(caller, missing)
                if hello is not None:
                    missing.remove(hello.shard)
                    yield hello, caller.connection
            elif not caller.deadline.left:
                self._refuse_line(caller)

    def close(self) -> None:
        """Hangs up on all who are left."""
        for connection in self.connections:
            connection.close()
        self._callers.clear()

    def _check(self, caller: _Caller, missing: Collection[int]) -> Hello | None:
        try:
            hello = Hello.model_validate_json(caller.line)
        except ValidationError:
            self._refuse_line(caller)
            return None
        why = _why_refused(hello, self._me, missing)
        if why is not None:
            self._refuse(caller, why)
            return None
        self._callers.remove(caller)
        return hello

    def _refuse_line(self, caller: _Caller) -> None:
        self._refuse(caller, f"it says {bytes(caller.line[:_MAX_REFUSED_TEXT])!r}, and no shard does")

    def _refuse(self, caller: _Caller, why: str) -> None:
        self._callers.remove(caller)
        log.warning("a connection from %s is refused: %s", caller.host, why)
        with caller.connection:
            try:
                send(caller.connection, Refusal(refused=why))
            except OSError:
                log.info("%s did not wait for the answer", caller.host)


def _read(caller: _Caller) -> bool:
    """Whether its line is whole now. Raises OSError where it ends before, or never does."""
    while not caller.line.endswith(b"\n"):
        try:
            # Byte by byte: what follows the line belongs to whoever reads next.
            byte = caller.connection.recv(1)
        except BlockingIOError:
            return False
        if not byte or len(caller.line) == MAX_LINE_BYTES:
            raise ConnectionError("no whole line")
        caller.line += byte
    return True


def _why_refused(hello: Hello, me: Hello, missing: Collection[int]) -> str | None:
    if hello.group != me.group:
        return f"it belongs to group {hello.group}, this is {me.group}"
    if hello.shards != me.shards:
        return f"it is one of {hello.shards} shards, this group has {me.shards}"
    if hello.shard not in missing:
        return f"shard {hello.shard} of {me.shards} is here already, or not to come here"
    return None
