"""Tensor files that stay in an object store: read by byte ranges, never fetched whole."""

from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from videogen_api.errors import WeightsMissing
from videogen_runner.store import NotFound, Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@dataclass(frozen=True)
class StoredFile:
    """An object of a store as a file of tensors; `size` in bytes, as it is recorded."""

    store: Store
    key: str
    size: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    def open(self, _mode: Literal["rb"], /) -> "RangeReader":
        """Asks nothing of the store yet."""
        return RangeReader(self)

    def __str__(self) -> str:
        return self.store.url(self.key)


class RangeReader(RawIOBase):
    """Each read is one request for exactly the bytes that are asked for."""

    def __init__(self, file: StoredFile) -> None:
        super().__init__()
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        self._position = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._file.size}[whence] + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Raises WeightsMissing where the object is gone, and what the store raises."""
        target = memoryview(buffer).cast("B")
        if not target:
            return 0
        try:
            data = self._file.store.get_range(self._file.key, self._position, len(target))
        except NotFound as error:
            raise WeightsMissing(
                f"{self._file} is missing; upload all that `videogen weights convert` has written"
            ) from error
        target[: len(data)] = data
        self._position += len(data)
        return len(data)
