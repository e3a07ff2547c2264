"""An HTTP proxy that loses things: requests, replies, halves of replies; and one that arrives long after it was sent.

It reads one whole request per connection, looks up what shall happen to it, and closes the connection afterwards, so
that every request of the client can be told apart. Requests are passed on byte for byte (signatures stay valid) but
for the headers `Connection` and `Expect`, which are not signed.
"""

import socket
import threading
from collections import defaultdict, deque
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Self

_BUFFER = 1 << 16


class Fault(Enum):
    """What happens to one request."""

    NONE = auto()
    DROP_REQUEST = auto()  # the server never sees it; the client's connection breaks
    DROP_REPLY = auto()  # the server carries it out; the client's connection breaks
    HANG = auto()  # the server carries it out; the client waits until it gives up
    CUT_REPLY = auto()  # the client gets the first half of the reply
    LATE = auto()  # the client's connection breaks; the server gets the request when `deliver_late` is called
    DUPLICATE = auto()  # as usual, and the server gets it a second time when `deliver_late` is called
    HALF_REQUEST = auto()  # the server gets the first half; the rest waits for ever, until the client is gone


@dataclass(frozen=True)
class Reply:
    """An error that the proxy itself answers, in S3's form."""

    status: int
    code: str

    def encode(self) -> bytes:
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>made up</Message></Error>".encode()
        head = f"HTTP/1.1 {self.status} Error\r\nContent-Length: {len(body)}\r\nContent-Type: application/xml\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + body


class Proxy:
    """Listens on loopback in front of `port`; a context manager."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._faults: dict[str, deque[Fault | Reply]] = defaultdict(deque)
        self._late: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self.methods: list[str] = []
        self.reply_bytes = 0
        self.half_sent = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def plan(self, method: str, *faults: Fault | Reply) -> None:
        """What happens to the next requests of this method; later ones pass."""
        self._faults[method].extend(faults)

    def reset(self) -> dict[str, list[Fault | Reply]]:
        """Forgets everything; returns the faults that were planned and did not happen."""
        left = {method: list(faults) for method, faults in self._faults.items() if faults}
        self._faults.clear()
        self._late.clear()
        self.methods.clear()
        self.reply_bytes = 0
        self.half_sent.clear()
        return left

    def deliver_late(self) -> list[int]:
        """Sends the requests that were held back; returns the server's answers as HTTP statuses."""
        held, self._late = self._late, []
        return [int(self._ask(request).split(b" ", 2)[1]) for request in held]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]  # any callable
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client:
            head, body, length = _read_head(client)
            if not head:
                return
            method = head.split(b" ", 1)[0].decode()
            self.methods.append(method)
            fault = self._faults[method].popleft() if self._faults[method] else Fault.NONE
            if fault is Fault.HALF_REQUEST:
                self._send_half(client, head, body, length)
                return
            while len(body) < length:
                chunk = _receive(client)
                if not chunk:
                    return
                body += chunk
            self._finish(client, head + body, fault)

    def _finish(self, client: socket.socket, request: bytes, fault: Fault | Reply) -> None:
        if isinstance(fault, Reply):
            client.sendall(fault.encode())
            return
        if fault in (Fault.LATE, Fault.DUPLICATE):
            self._late.append(request)
        if fault in (Fault.LATE, Fault.DROP_REQUEST):
            return
        reply = self._ask(request)
        if fault is Fault.HANG:
            _wait_until_gone(client)
        elif fault is Fault.CUT_REPLY:
            client.sendall(reply[: reply.index(b"\r\n\r\n") + 4 + _body_length(reply) // 2])
        elif fault is not Fault.DROP_REPLY:
            self.reply_bytes += len(reply)  # before the client can know
            client.sendall(reply)

    def _ask(self, request: bytes) -> bytes:
        with socket.create_connection(self._upstream) as server:
            server.sendall(request)
            reply = b""
            while chunk := server.recv(_BUFFER):
                reply += chunk
            return reply

    def _send_half(self, client: socket.socket, head: bytes, body: bytes, length: int) -> None:
        with socket.create_connection(self._upstream) as server:
            while len(body) < length // 2:
                body += client.recv(_BUFFER)
            server.sendall(head + body)
            self.half_sent.set()
            _wait_until_gone(client)


def _receive(client: socket.socket) -> bytes:
    """What comes next; nothing where the client is gone, in order or not."""
    try:
        return client.recv(_BUFFER)
    except ConnectionResetError:
        return b""


def _read_head(client: socket.socket) -> tuple[bytes, bytes, int]:
    """Head as the server shall see it, the beginning of the body, and the body's length."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = _receive(client)
        if not chunk:
            return b"", b"", 0
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if headers.get(b"expect", b"").lower() == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    kept = [line for line in lines if line.split(b":", 1)[0].lower() not in (b"connection", b"expect")]
    return b"\r\n".join([*kept, b"Connection: close", b"", b""]), body, int(headers.get(b"content-length", b"0"))


def _body_length(reply: bytes) -> int:
    return len(reply) - reply.index(b"\r\n\r\n") - 4


def _wait_until_gone(client: socket.socket) -> None:
    try:
        while client.recv(_BUFFER):
            pass
    except ConnectionError:
        pass
