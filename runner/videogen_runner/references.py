"""References as bytes: a file of this machine, or an object of any bucket that the store's credentials can read.

What the bytes mean (image or video) is `media.read_reference`'s business; this module needs no torch and no decoder.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from videogen_api.errors import InvalidInput
from videogen_api.plan import PlannedStorage
from videogen_runner.store import NotFound, open_store

# They are held in memory; a reference is an image, or a clip as long as those that the model makes.
MAX_BYTES = 1 << 30


def fetch_reference(
    url: str, storage: PlannedStorage, credentials: Mapping[str, str], sha256: str | None = None
) -> bytes:
    """The content at a path, a file:// or an s3:// url.

    Raises InvalidInput where there is nothing, too much, or (with `sha256`, hex) other content than expected;
    StoreUnavailable and StoreDenied as the store does.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        content = _fetch_object(url, parts.netloc, parts.path.lstrip("/"), storage, credentials)
    else:
        content = _read_file(url, Path(unquote(parts.path)) if parts.scheme == "file" else Path(url))
    if not content:
        raise InvalidInput(f"reference {url} is empty; upload it again")
    if sha256 is not None and (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise InvalidInput(
            f"reference {url} has sha256 {actual}, expected {sha256}: it is not the file that was meant; "
            "restore it, or give the new one another name"
        )
    return content


def _fetch_object(url: str, bucket: str, key: str, storage: PlannedStorage, credentials: Mapping[str, str]) -> bytes:
    store = open_store(f"s3://{bucket}", credentials, endpoint=storage.endpoint, region=storage.region)
    try:
        _check_size(url, store.head(key).size)
        return store.get(key).body
    except NotFound as error:
        raise InvalidInput(f"reference {url} does not exist; upload it, or correct its url") from error


def _read_file(url: str, path: Path) -> bytes:
    try:
        _check_size(url, path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"reference {url} cannot be read: {error.strerror}; correct its path") from error


def _check_size(url: str, size: int) -> None:
    if size > MAX_BYTES:
        raise InvalidInput(f"reference {url} has {size} bytes, at most {MAX_BYTES} are read; cut it to what is used")
