"""The object store: `base` is the interface, `directory` and `s3` implement it, `tensors` puts safetensors in it."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from videogen_api.errors import ConfigInvalid
from videogen_runner.store.base import (
    ConditionsUnsupported,
    Entry,
    NotFound,
    Object,
    Store,
    StoreCorrupt,
    sha256_of_file,
)
from videogen_runner.store.directory import DirectoryStore

__all__ = [
    "ConditionsUnsupported",
    "DirectoryStore",
    "Entry",
    "NotFound",
    "Object",
    "Store",
    "StoreCorrupt",
    "open_store",
    "sha256_of_file",
]


def open_store(url: str, env: Mapping[str, str], *, endpoint: str | None = None, region: str | None = None) -> Store:
    """The store at `url`: a path or file:// url is a folder, s3://bucket/prefix an S3-compatible service.

    `env` holds the credentials under AWS's own names; nothing is asked of the network yet. Raises ConfigInvalid for a
    url or endpoint of another form, StoreDenied without credentials or where the folder cannot be made.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from videogen_runner.store.s3 import S3Store, parse_url
        from videogen_runner.store.s3_clients import Limits, connect

        bucket, prefix = parse_url(url)
        return S3Store(connect(env, endpoint, region, Limits()), bucket, prefix)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ConfigInvalid(f"storage url {url!r} names a host: write file:///absolute/path")
        return DirectoryStore(Path(unquote(parts.path)))
    if "://" in url or not url:
        raise ConfigInvalid(f"storage url {url!r} is neither s3://bucket/prefix nor file:///path nor a path")
    return DirectoryStore(Path(url))
