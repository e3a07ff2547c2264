"""What an operating-system error on a file means to the person who runs this: one sentence, and the right exit code."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from videogen_api.errors import StoreDenied, StoreUnavailable, VideogenError
from videogen_runner.store.base import NotFound

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_WRONG_KIND = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY}


@contextmanager
def file_errors(action: str, path: str) -> Iterator[None]:
    """Raises StoreDenied, StoreUnavailable, or NotFound (for "read") in place of OSError; the text names both words."""
    try:
        yield
    except OSError as error:
        raise _translate(error, action, path) from error


def _translate(error: OSError, action: str, path: str) -> VideogenError:
    if isinstance(error, FileNotFoundError) and action == "read":
        return NotFound(f"no object {path}")
    what = f"cannot {action} {path}: {error.strerror}"
    if error.errno in _DENIED:
        return StoreDenied(f"{what}; give this user the right to {action} there, or choose another folder")
    if error.errno in _WRONG_KIND:
        return StoreDenied(f"{what}; a file and a folder want the same name: move one of them away")
    if error.errno in _NO_ROOM:
        return StoreUnavailable(f"{what}; free some space there and run again")
    return StoreUnavailable(f"{what} ({error.filename}); see to it and run again")
