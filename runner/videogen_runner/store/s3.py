"""An S3-compatible service as an object store, through boto3; `s3_errors` says what its errors mean
here, `s3_clients` how it is reached.

Unconditional requests are repeated by botocore (bounded, with back-off). Conditional PUTs must not be: a repeated
request whose first copy came through is answered 412 although the stored body is ours. They go through a client of
their own that sends once; whatever is not a clear answer is settled by reading the object back and comparing bodies.
"""

import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar
from urllib.parse import urlsplit

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from videogen_api.errors import ConfigInvalid, StoreUnavailable
from videogen_runner.store.base import Entry, NotFound, Object, Store, check_digest, check_key, check_prefix, is_key
from videogen_runner.store.files import file_errors
from videogen_runner.store.s3_clients import Clients
from videogen_runner.store.s3_errors import Request, is_unsettled, status_of, translate

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

T = TypeVar("T")

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PART_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_TRANSFER = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
_BACKOFF_SECONDS = 0.05
_CONTENT_TYPES = {"html": "text/html", "json": "application/json", "mp4": "video/mp4", "png": "image/png"}


class _At(TypedDict):
    """The two parameters by which every request names its object."""

    Bucket: str
    Key: str


def content_type(key: str) -> str:
    """What a browser needs to show an object instead of saving it."""
    return _CONTENT_TYPES.get(key.rpartition(".")[2], "application/octet-stream")


class S3Store(Store):
    """Objects of one bucket under one prefix; the prefix is empty or ends with a slash."""

    def __init__(self, clients: Clients, bucket: str, prefix: str) -> None:
        self._client = clients.repeating
        self._once = clients.once
        self._attempts = clients.attempts
        self._bucket = bucket
        self._prefix = prefix

    def url(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def get(self, key: str, sha256: str | None = None) -> Object:
        with self._errors("GetObject", key):
            stored = self._fetch(key, lambda reply: Object(reply["Body"].read(), reply["ETag"]))
        if sha256 is not None:
            check_digest(self.url(key), hashlib.sha256(stored.body).hexdigest(), sha256)
        return stored

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._errors("GetObject", key):
            try:
                return self._fetch(key, lambda reply: reply["Body"].read(), f"bytes={start}-{start + length - 1}")
            except ClientError as error:
                if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return b""
                raise

    def get_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")

        def save(reply: "GetObjectOutputTypeDef") -> str:
            digest = hashlib.sha256()
            with partial.open("wb") as file:
                for chunk in reply["Body"].iter_chunks(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            return digest.hexdigest()

        with file_errors("write", str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._errors("GetObject", key):
                    digest = self._fetch(key, save)
                check_digest(self.url(key), digest, sha256)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def put(self, key: str, body: bytes) -> None:
        with self._errors("PutObject", key):
            self._client.put_object(**self._at(key), Body=body, ContentType=content_type(key))

    def put_file(self, key: str, path: Path) -> None:
        with self._errors("PutObject", key), file_errors("open", str(path)), path.open("rb") as file:
            extra = {"ContentType": content_type(key)}
            self._client.upload_fileobj(file, **self._at(key), Config=_TRANSFER, ExtraArgs=extra)

    def copy(self, source: str, target: str) -> None:
        with self._errors("CopyObject", source):
            self._client.copy_object(
                **self._at(target),
                CopySource={"Bucket": self._bucket, "Key": self._at(source)["Key"]},
                ContentType=content_type(target),
                MetadataDirective="REPLACE",  # without it the type of the source would stay
            )

    def create(self, key: str, body: bytes) -> str | None:
        return self._put_if(key, body, None)

    def swap(self, key: str, body: bytes, etag: str) -> str | None:
        return self._put_if(key, body, etag)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        start = self._prefix + check_prefix(prefix)
        with self._errors("ListObjectsV2", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start)
            items = [item for page in pages for item in page.get("Contents", [])]
        found = [Entry(item["Key"].removeprefix(self._prefix), item["Size"]) for item in items]
        yield from sorted((entry for entry in found if is_key(entry.key)), key=lambda entry: entry.key)

    def head(self, key: str) -> Entry:
        try:
            with self._errors("HeadObject", key):
                return Entry(key, self._client.head_object(**self._at(key))["ContentLength"])
        except NotFound:
            # A reply to HEAD has no body that could tell a missing key from a missing bucket.
            self.get_range(key, 0, 1)
            raise

    def delete(self, key: str) -> None:
        with self._errors("DeleteObject", key):
            self._client.delete_object(**self._at(key))

    def _put_if(self, key: str, body: bytes, etag: str | None) -> str | None:
        """A conditional PUT: the key is free (`etag` None) or still holds the object with this ETag."""
        for attempt in range(self._attempts):
            try:
                if etag is None:
                    return self._once.put_object(**self._at(key), Body=body, IfNoneMatch="*")["ETag"]
                return self._once.put_object(**self._at(key), Body=body, IfMatch=etag)["ETag"]
            except (ClientError, BotoCoreError) as error:
                if not is_unsettled(error):
                    raise translate(error, self._request("PutObject", key)) from error
                unsettled = error
            stored = self._get_or_none(key)
            if stored is not None and stored.body == body:
                return stored.etag
            if (stored.etag if stored else None) != etag:
                return None
            # Nothing has happened yet, and the lost request may still arrive: sending it again can only be won once.
            time.sleep(_BACKOFF_SECONDS * 2**attempt)
        raise StoreUnavailable(str(translate(unsettled, self._request("PutObject", key)))) from unsettled

    def _get_or_none(self, key: str) -> Object | None:
        try:
            return self.get(key)
        except NotFound:
            return None

    def _fetch(self, key: str, read: Callable[["GetObjectOutputTypeDef"], T], byte_range: str | None = None) -> T:
        """What `read` makes of the reply to GET; asked again where the reply breaks off after its beginning."""
        for _ in range(self._attempts):
            if byte_range is None:
                reply = self._client.get_object(**self._at(key))
            else:
                reply = self._client.get_object(**self._at(key), Range=byte_range)
            try:
                return read(reply)
            except (HTTPClientError, IncompleteReadError) as error:
                broken = error
        raise broken

    def _at(self, key: str) -> "_At":
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _request(self, action: str, key: str) -> Request:
        return Request(action, self._bucket, self._prefix + key, self._client.meta.endpoint_url)

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise translate(error, self._request(action, key)) from error


def parse_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of s3://bucket/prefix, as `S3Store` takes them; raises ConfigInvalid for another form."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not parts.netloc or parts.query or parts.fragment:
        raise ConfigInvalid(f"storage url {url!r} is not of the form s3://bucket/prefix")
    if not _BUCKET.fullmatch(parts.netloc):
        raise ConfigInvalid(f"storage url {url!r}: {parts.netloc!r} is no bucket name (3 to 63 of a-z, 0-9, '.', '-')")
    return parts.netloc, check_prefix(prefix and f"{prefix}/")
