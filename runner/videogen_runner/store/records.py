"""JSON records in the store: the values of `videogen_api` under the keys of `videogen_api.keys`."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import ValidationError

from videogen_api.spec import Model
from videogen_runner.store.base import Store, StoreCorrupt

R = TypeVar("R", bound=Model)


@dataclass(frozen=True)
class Stored(Generic[R]):
    """A record and the ETag that `Store.swap` wants of it."""

    record: R
    etag: str


def record_bytes(record: Model) -> bytes:
    """The record as it is stored."""
    return record.model_dump_json(by_alias=True).encode()


def put_record(store: Store, key: str, record: Model) -> None:
    """Writes the record, replacing what is there."""
    store.put(key, record_bytes(record))


def get_record(store: Store, key: str, kind: type[R]) -> Stored[R]:
    """The record under `key`. Raises NotFound, and StoreCorrupt where the object is no record of that kind."""
    found = store.get(key)
    try:
        return Stored(kind.model_validate_json(found.body), found.etag)
    except ValidationError as error:
        raise StoreCorrupt(
            f"{store.url(key)} is no {kind.__name__} of this version; delete it, and run again to make it anew"
        ) from error
