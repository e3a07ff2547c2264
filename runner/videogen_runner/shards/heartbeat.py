"""Whether the other shards live: every second a line to each of them, on connections that carry nothing else.

A shard that computes, loads or waits for hidden states for an hour is alive; one that is killed, stopped, or behind a
network that swallows packets is not, and nothing else would tell: torch.distributed would wait for ever. Whoever ends
says so and why, so that a shard that was told to stop does not look like one that broke.
"""

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from videogen_api.errors import Interrupted, PeerLost, Reason, VideogenError

log = logging.getLogger("videogen")

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""After which a shard counts as lost. All others are gone within 15 s of its death, whatever it died of."""

_BEAT, _DONE, _LEFT = b"beat", b"done", b"left"
_POLL_SECONDS = 0.1
_MAX_WORDS = 500  # characters of an error that others are told
_RECEIVE_BYTES = 65_536


class Liveness:
    """When each peer was heard last. Pure: times come from the caller's monotonic clock."""

    def __init__(self, peers: Iterable[int], now: float) -> None:
        self._heard = dict.fromkeys(peers, now)
        self._looked = now

    def look(self, now: float) -> None:
        """To be told before each look at the connections, at least once a beat.

        Whoever was paused itself (a frozen container, a starved machine) has not heard anybody: that is not the
        others' silence.
        """
        pause = now - self._looked - 2 * BEAT_SECONDS
        if pause > 0:
            self._heard = {peer: heard + pause for peer, heard in self._heard.items()}
        self._looked = now

    def hear(self, peer: int, now: float) -> None:
        self._heard[peer] = now

    def silent(self, now: float) -> list[int]:
        """Peers that count as lost."""
        return sorted(peer for peer, heard in self._heard.items() if now - heard >= SILENCE_SECONDS)


class Heartbeat:
    """A thread that beats on the links and listens; a context manager that tells the others how this shard ended."""

    def __init__(self, links: Mapping[int, socket.socket], clock: Callable[[], float] = time.monotonic) -> None:
        self._links = dict(links)
        self._unread = {peer: bytearray() for peer in links}
        self._done: set[int] = set()
        self._line = _BEAT
        self._clock = clock
        self._liveness = Liveness(links, clock())
        self._verdict: VideogenError | None = None
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        for link in self._links.values():
            link.setblocking(False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            reason = error.reason if isinstance(error, VideogenError) else Reason.INTERNAL
            words = " ".join(f"{error}".split())[:_MAX_WORDS]
            self._tell(b"%s %s %s" % (_LEFT, reason.encode(), words.encode()))
        self._closing.set()
        self._thread.join()
        for link in self._links.values():
            link.close()

    def raise_if_lost(self) -> None:
        """Raises PeerLost once a shard is lost, Interrupted once one was told to stop."""
        if self._verdict is not None:
            raise type(self._verdict)(str(self._verdict))

    def wait_for_verdict(self) -> None:
        """For a connection that broke: raises what the shard at its other end died of, as soon as that is known."""
        with self._changed:
            self._changed.wait_for(lambda: self._verdict is not None, SILENCE_SECONDS)
        self.raise_if_lost()

    def finish(self) -> None:
        """Returns when every shard has come here: nobody leaves before the last result is safe. Raises as above."""
        self._line = _DONE  # with each beat from now on: a connection may be too full for the first one
        self._tell(_DONE)
        with self._changed:
            self._changed.wait_for(lambda: self._verdict is not None or self._done == set(self._links))
        self.raise_if_lost()

    def _tell(self, line: bytes) -> None:
        with self._sending:
            for peer, link in self._links.items():
                try:
                    link.send(line + b"\n")
                except BlockingIOError:
                    continue  # it has not read for minutes; the next beat tells it, or its own silence tells us
                except OSError:
                    self._end_of(peer)

    def _run(self) -> None:
        next_beat = self._clock()
        with selectors.DefaultSelector() as selector:
            for peer, link in self._links.items():
                selector.register(link, selectors.EVENT_READ, peer)
            while not self._closing.is_set():
                ready = selector.select(_POLL_SECONDS)
                now = self._clock()
                self._liveness.look(now)
                for key, _ in ready:
                    if not self._read(key.data, now):
                        selector.unregister(key.fileobj)
                for peer in self._liveness.silent(now):
                    self._lose(PeerLost(f"shard {peer} has said nothing for {SILENCE_SECONDS:.0f} s"))
                if now >= next_beat:
                    self._tell(self._line)
                    next_beat = now + BEAT_SECONDS

    def _read(self, peer: int, now: float) -> bool:
        """False at the end of the connection."""
        try:
            received = self._links[peer].recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            received = b""
        if not received:
            self._end_of(peer)
            return False
        self._liveness.hear(peer, now)
        *lines, rest = (self._unread[peer] + received).split(b"\n")
        self._unread[peer] = bytearray(rest)
        for line in lines:
            self._hear(peer, bytes(line))
        return True

    def _hear(self, peer: int, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if word == _DONE:
            with self._changed:
                self._done.add(peer)
                self._changed.notify_all()
        elif word == _LEFT:
            reason, _, words = rest.decode(errors="replace").partition(" ")
            told = f"shard {peer} ended with {reason}: {words}"
            self._lose(Interrupted(told) if reason == Reason.INTERRUPTED else PeerLost(told))

    def _end_of(self, peer: int) -> None:
        """A shard that is done may go: all others have been told."""
        if peer not in self._done:
            self._lose(PeerLost(f"shard {peer} is gone: its connection has ended"))

    def _lose(self, verdict: VideogenError) -> None:
        with self._changed:
            if self._verdict is None:
                log.error("%s", verdict)
                self._verdict = verdict
                self._changed.notify_all()
