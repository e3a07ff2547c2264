"""What the runner asks of an object store: one small interface, and the errors and rules that every store keeps.

A store holds whole objects under keys. Writing is atomic: a reader sees the old object or the new one, never half.
It knows nothing of clips, claims or prompts: `videogen_api.keys` builds the keys, the roles decide what they mean.
Object in memory: `get`, `put`, `create`, `swap`. Object of any size: `get_file`, `put_file`, `copy`.

Errors, beside `StoreUnavailable` (69) and `StoreDenied` (77) that every method raises:

    Internal
    ├── NotFound        no object under this key
    └── StoreCorrupt    the object is not the one that was asked for
    StoreDenied
    └── ConditionsUnsupported   the store does not know conditional PUT: no claims here

Callers that can repair (encode again, make the clip again) catch the first two; what escapes ends a process with 70.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from videogen_api.errors import Internal, InvalidInput, StoreDenied

# A segment starts with no dot: names with one belong to the directory store, and ".." never passes. The lengths leave
# room for what stores add: 255 bytes a file name, 1024 bytes a key in S3 with the prefix of the storage url.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
_MAX_KEY = 700


class NotFound(Internal):
    """No object under this key."""


class StoreCorrupt(Internal):
    """The stored bytes are not those whose digest was expected."""


class ConditionsUnsupported(StoreDenied):
    """The store refuses If-None-Match or If-Match on PUT."""


@dataclass(frozen=True)
class Object:
    """A whole object. `etag` is opaque: valid for `swap` in the store that gave it, and for nothing else."""

    body: bytes
    etag: str


@dataclass(frozen=True)
class Entry:
    """What a listing says of an object; `size` in bytes."""

    key: str
    size: int


class Store(ABC):
    """Objects under keys; safe to use from several threads and processes at once.

    Every method raises StoreUnavailable when the store cannot answer now (after bounded retries), StoreDenied when it
    refuses for good, InvalidInput for a key that no store could hold. Methods that read raise NotFound.
    """

    @abstractmethod
    def url(self, key: str) -> str:
        """Where a person finds the object: an s3:// url, or a path."""

    @abstractmethod
    def get(self, key: str, sha256: str | None = None) -> Object:
        """The whole object; with `sha256` (hex of the body) raises StoreCorrupt where the stored bytes differ."""

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from offset `start`; fewer, or none, where the object ends before."""

    @abstractmethod
    def get_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Streams the object to `path`, which appears whole and verified or not at all; digest as in `get`."""

    @abstractmethod
    def put(self, key: str, body: bytes) -> None:
        """Writes the object, replacing what is there. For keys with one writer or content-addressed bodies: it is not
        ordered against a `swap` of the same key that runs at the same time."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """As `put`, streamed from a file, in parts where it is big."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copies an object inside the store, without the bytes passing through this process where the store can."""

    @abstractmethod
    def create(self, key: str, body: bytes) -> str | None:
        """Writes the object if the key is free; returns its ETag, or None where another object is there.

        `body` must be unique (carry a nonce): where a reply is lost, finding our own body under the key means that we
        won. StoreUnavailable leaves it open whether the write has happened or will: call again with the same body.
        """

    @abstractmethod
    def swap(self, key: str, body: bytes, etag: str) -> str | None:
        """Replaces the object whose ETag is still `etag`; returns the new ETag, or None where it has changed or gone.

        Unique bodies and StoreUnavailable as in `create`. After a lost reply None can also mean that our write came
        through and was replaced at once: either way the object is not ours.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All objects under a folder, in the order of their keys; `prefix` is empty or ends with a slash."""

    @abstractmethod
    def head(self, key: str) -> Entry:
        """The object's size, without its body."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes the object; nothing happens where there is none. Not for keys that are created and swapped: a
        request that arrives late could bring such an object back."""


def is_key(name: str) -> bool:
    """Whether the name is made of plain ASCII segments between single slashes, and short enough."""
    return len(name) <= _MAX_KEY and all(_SEGMENT.fullmatch(segment) for segment in name.split("/"))


def check_key(key: str) -> str:
    """The key itself; raises InvalidInput where it is none."""
    if not is_key(key):
        raise InvalidInput(
            f"object key {key!r} is not allowed: use up to {_MAX_KEY} characters, segments between single slashes of "
            "up to 200 letters, digits, '.', '_' and '-' that start with a letter, a digit or '_'"
        )
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself; raises InvalidInput unless it is empty or a key and a slash."""
    if prefix:
        if not prefix.endswith("/"):
            raise InvalidInput(f"object prefix {prefix!r} is not allowed: end it with a slash")
        check_key(prefix[:-1])
    return prefix


def check_digest(where: str, actual: str, expected: str | None) -> None:
    """Raises StoreCorrupt where both digests (sha256, hex) are known and differ; `where` is the object's url."""
    if expected is not None and actual != expected:
        raise StoreCorrupt(
            f"{where} has sha256 {actual}, expected {expected}: damaged or replaced; delete it to make it again"
        )


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
