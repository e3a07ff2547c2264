"""What shards say to each other when they meet: one line of JSON each."""

import socket
import time
from dataclasses import dataclass

from videogen_api.spec import Model

MAX_LINE_BYTES = 65_536


class Hello(Model):
    """What a shard says of itself."""

    group: str
    """Run and attempt: shards of different ones never mix."""
    shard: int
    shards: int
    port: int
    """At which it can be called by the shards after it."""
    card: str | None
    """UUID of its GPU; None on a CPU."""


class Place(Model):
    """Where a shard is."""

    host: str
    port: int
    card: str | None


class Welcome(Model):
    """Shard 0's answer when all have come."""

    store_port: int
    """Of the store by which torch.distributed connects, beside shard 0."""
    places: tuple[Place, ...]


class Refusal(Model):
    refused: str


@dataclass(frozen=True)
class Deadline:
    """When to stop waiting, on the monotonic clock."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds, seconds)

    @property
    def left(self) -> float:
        return max(0.0, self.at - time.monotonic())


def send(connection: socket.socket, message: Model) -> None:
    """Raises OSError."""
    connection.sendall(message.model_dump_json(by_alias=True).encode() + b"\n")


def read_line(connection: socket.socket, deadline: Deadline) -> bytes:
    """Raises TimeoutError, and ConnectionError at an end before the line's."""
    line = bytearray()
    while not line.endswith(b"\n"):
        if not deadline.left:
            raise TimeoutError
        connection.settimeout(deadline.left)
        # Byte by byte: what follows the line belongs to whoever reads next.
        byte = connection.recv(1)
        if not byte or len(line) == MAX_LINE_BYTES:
            raise ConnectionError("no whole line")
        line += byte
    return bytes(line)
