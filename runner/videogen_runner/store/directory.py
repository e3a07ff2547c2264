"""A folder as an object store: for one machine, or for several that share a file system with hard links.

An object is a plain file under its key's name, so that people can open `videos/…/snow-42.mp4` where it lies. Only
`swap` adds something: the replaced object's successors are `.NAME.versions/1`, `2`, … beside it, and the highest number
is the object. Winning a swap is the exclusive link of the next number; there are no locks, because a stopped holder
would block everyone. Superseded versions are emptied but keep their names: a name that came free could be linked again
by a process that had slept since it read, and there would be two winners.

Everything is written to `.tmp/` first, synced, and then linked or renamed: a crash leaves at most a file there.
"""

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from videogen_runner.store.base import (
    Entry,
    NotFound,
    Object,
    Store,
    check_digest,
    check_key,
    check_prefix,
    is_key,
    sha256_of_file,
)
from videogen_runner.store.files import file_errors

_TMP = ".tmp"
_LEFTOVER_SECONDS = 86400.0
_VERSIONS = re.compile(r"\.(?P<name>.+)\.versions")

T = TypeVar("T")


class DirectoryStore(Store):
    """Objects as files under `root`, which the first write makes; one that is only read may be read-only."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        with self._errors("open", ""):
            _remove_leftovers(self._root / _TMP)

    def url(self, key: str) -> str:
        return str(self._root / key)

    def get(self, key: str, sha256: str | None = None) -> Object:
        number, body = self._read(key, Path.read_bytes)
        digest = hashlib.sha256(body).hexdigest()
        check_digest(self.url(key), digest, sha256)
        return Object(body, _etag(number, digest))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        def read(path: Path) -> bytes:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)

        return self._read(key, read)[1]

    def get_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with file_errors("write", str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._read(key, lambda stored: shutil.copyfile(stored, partial))
                if sha256 is not None:
                    check_digest(self.url(key), sha256_of_file(partial), sha256)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def put(self, key: str, body: bytes) -> None:
        self._put(self._path(key), body)

    def put_file(self, key: str, path: Path) -> None:
        self._put(self._path(key), path)

    def copy(self, source: str, target: str) -> None:
        path = self._path(target)
        self._read(source, lambda stored: self._put(path, stored))

    def create(self, key: str, body: bytes) -> str | None:
        target = self._path(key)
        with self._errors("write", key), self._staged(body) as staged:
            if _versions(target) or not _link(staged, target):
                return None
        return _etag(0, hashlib.sha256(body).hexdigest())

    def swap(self, key: str, body: bytes, etag: str) -> str | None:
        target = self._path(key)
        try:
            number, current = self._read(key, Path.read_bytes)
        except NotFound:
            return None
        if _etag(number, hashlib.sha256(current).hexdigest()) != etag:
            return None
        with self._errors("write", key), self._staged(body) as staged:
            if not _link(staged, _version_path(target, number + 1)):
                return None
            if number > 0:
                os.truncate(_version_path(target, number), 0)
        return _etag(number + 1, hashlib.sha256(body).hexdigest())

    def list(self, prefix: str = "") -> Iterator[Entry]:
        with self._errors("list", check_prefix(prefix)):
            keys = sorted(self._keys(self._root / prefix))
        for key in keys:
            with suppress(NotFound):  # deleted since
                yield self.head(key)

    def head(self, key: str) -> Entry:
        with self._errors("read", key):
            return Entry(key, self._newest(key)[1].stat().st_size)

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            target = self._path(key)
            # Where there are versions the plain file does not count, so the object goes in one step: with the rename.
            target.unlink(missing_ok=True)
            if _versions(target):
                removed = self._root / _TMP / uuid.uuid4().hex
                removed.parent.mkdir(exist_ok=True)
                _versions_folder(target).rename(removed)
                shutil.rmtree(removed)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _newest(self, key: str) -> tuple[int, Path]:
        """Number and path of the object as it is now; 0 is the plain file."""
        target = self._path(key)
        number = max(_versions(target), default=0)
        path = _version_path(target, number) if number else target
        if not path.is_file():
            raise NotFound(f"no object {self.url(key)}")
        return number, path

    def _read(self, key: str, read: Callable[[Path], T]) -> tuple[int, T]:
        """Number, and what `read` made of the file. Only superseded versions are ever emptied: one that still has no
        successor was read whole."""
        with self._errors("read", key):
            while True:
                number, path = self._newest(key)
                result = read(path)
                if not _version_path(self._path(key), number + 1).exists():
                    return number, result

    def _put(self, target: Path, content: bytes | Path) -> None:
        with file_errors("write", str(target)), self._staged(content) as staged:
            while versions := _versions(target):
                if _link(staged, _version_path(target, max(versions) + 1)):
                    return
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(target)
            _sync_folder(target.parent)

    def _keys(self, folder: Path) -> set[str]:
        keys: set[str] = set()
        for parent, folders, files in os.walk(folder, onerror=_raise_unless_missing):
            relative = Path(parent).relative_to(self._root)
            # What has versions and no plain file is an object whose deletion was cut short.
            versioned = [match["name"] for name in folders if (match := _VERSIONS.fullmatch(name))]
            folders[:] = [name for name in folders if not name.startswith(".")]
            keys.update((relative / name).as_posix() for name in [*files, *versioned])
        return {key for key in keys if is_key(key)}

    @contextmanager
    def _staged(self, content: bytes | Path) -> Iterator[Path]:
        """A synced file in `.tmp/` with this content; gone afterwards unless it was renamed."""
        staged = self._root / _TMP / uuid.uuid4().hex
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            with staged.open("xb") as file:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield staged
        finally:
            staged.unlink(missing_ok=True)

    def _errors(self, action: str, key: str) -> AbstractContextManager[None]:
        return file_errors(action, self.url(key))


def _etag(number: int, digest: str) -> str:
    return f"{number}-{digest}"


def _versions_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.versions")


def _version_path(target: Path, number: int) -> Path:
    return _versions_folder(target) / str(number)


def _versions(target: Path) -> list[int]:
    try:
        return [int(path.name) for path in _versions_folder(target).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _link(staged: Path, target: Path) -> bool:
    """Gives the staged file its name if the name is free."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(staged, target)
    except FileExistsError:
        # NFS repeats a request whose reply was lost, and finds the link that it has just made itself: a second name.
        if staged.stat().st_nlink < 2:
            return False
    _sync_folder(target.parent)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """What killed writers left behind; a day is longer than any write takes."""
    if not os.access(folder, os.W_OK):
        return
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
