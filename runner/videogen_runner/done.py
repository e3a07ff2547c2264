"""Done markers: what makes a clip finished. No torch: preflight and collect read them too.

A marker is written last, and vouches for files by their digests. One whose video is gone or damaged counts as none:
the clip is made again, and the marker replaced.
"""

import hashlib
from dataclasses import dataclass

from videogen_api import keys
from videogen_api.records import DoneMarker, StoredFile
from videogen_runner.store import NotFound, Store, StoreCorrupt
from videogen_runner.store.records import get_record, record_bytes

_PIECE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class MarkerSighting:
    """A clip's marker as it was seen: None unless it holds; the ETag of whatever is there."""

    marker: DoneMarker | None
    etag: str | None


def look_for_marker(store: Store, clip_digest: str) -> MarkerSighting:
    """The clip's marker, if its video is the one that it names."""
    key = keys.clip_done(clip_digest)
    try:
        stored = get_record(store, key, DoneMarker)
    except NotFound:
        return MarkerSighting(None, None)
    except StoreCorrupt:
        return MarkerSighting(None, store.get(key).etag)
    return MarkerSighting(stored.record if is_intact(store, stored.record.video) else None, stored.etag)


def write_marker(store: Store, marker: DoneMarker, seen: MarkerSighting, *, conditional: bool) -> bool:
    """Writes the marker where nothing has changed since `seen`; False where another runner finished the clip first.

    A store that cannot be trusted with conditions (`Inputs.claims`) is simply written to: each clip has one owner.
    """
    key, body = keys.clip_done(marker.clip_digest), record_bytes(marker)
    if not conditional:
        store.put(key, body)
        return True
    written = store.create(key, body) if seen.etag is None else store.swap(key, body, seen.etag)
    return written is not None


def has_outputs(store: Store, clip_digest: str) -> bool:
    """Whether there is a marker, and a video of the size that it names; the video's bytes are not read."""
    try:
        video = get_record(store, keys.clip_done(clip_digest), DoneMarker).record.video
        return store.head(video.key).size == video.bytes
    except (NotFound, StoreCorrupt):
        return False


def is_intact(store: Store, file: StoredFile) -> bool:
    """Whether the object is there with the size and the sha256 that the marker names; it is read in pieces."""
    try:
        if store.head(file.key).size != file.bytes:
            return False
        digest = hashlib.sha256()
        for start in range(0, file.bytes, _PIECE_BYTES):
            digest.update(store.get_range(file.key, start, _PIECE_BYTES))
    except NotFound:
        return False
    return digest.hexdigest() == file.sha256
