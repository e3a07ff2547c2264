"""Tensors in the store: safetensors files that carry the digest of what they hold.

Embeddings are found by the digest of their text, so a reader cannot know the digest of the bytes beforehand; the file
says it itself, in its metadata under `sha256`: the sha256 of the header without that entry (as compact JSON with sorted
keys) followed by the tensor bytes. `verify_tensors` needs neither torch nor safetensors: preflight can call it.

File format: 8 bytes little-endian header length, JSON header, tensor bytes; https://github.com/huggingface/safetensors.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from videogen_runner.store.base import Store, StoreCorrupt, check_digest

if TYPE_CHECKING:
    import torch

DIGEST = "sha256"
_METADATA = "__metadata__"
_LENGTH_BYTES = 8
_ALIGNMENT = 8


def pack_tensors(tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file for contiguous tensors of any shape and dtype, and text about them; equal arguments give equal bytes.

    Raises ValueError where `metadata` holds `sha256`, which is computed.
    """
    from safetensors.torch import save

    metadata = dict(metadata or {})
    if DIGEST in metadata:
        raise ValueError(f"metadata may not hold {DIGEST!r}: it is computed")
    # safetensors writes metadata in an order that differs from call to call (seen with 0.8.0); this header is ours.
    header, data = _split(save(dict(tensors)))
    header[_METADATA] = metadata
    header[_METADATA] = metadata | {DIGEST: _digest(header, data)}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text + data


def put_tensors(
    store: Store, key: str, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str] | None = None
) -> str:
    """Writes `pack_tensors`; returns the sha256 of the whole object, hex."""
    body = pack_tensors(tensors, metadata)
    store.put(key, body)
    return hashlib.sha256(body).hexdigest()


def get_tensors(store: Store, key: str, sha256: str | None = None) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Tensors on the CPU and the metadata without its digest; raises NotFound, and StoreCorrupt where the object is
    not one that `pack_tensors` made, was damaged since, or (with `sha256`, hex) is another one."""
    from safetensors.torch import load

    body = store.get(key, sha256).body
    metadata = verify_tensors(body, store.url(key))
    return load(body), metadata


def verify_tensors(body: bytes, where: str) -> dict[str, str]:
    """The metadata without its digest; raises StoreCorrupt, naming `where` and both digests, if the two disagree."""
    try:
        header, data = _split(body)
        metadata = header[_METADATA]
        expected = metadata[DIGEST]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorrupt(
            f"{where} is no tensor file of ours, or was cut short; delete it to make it again"
        ) from error
    check_digest(f"{where} (its tensors)", _digest(header, data), expected)
    return {name: value for name, value in metadata.items() if name != DIGEST}


def _split(body: bytes) -> tuple[dict[str, dict[str, str]], memoryview]:
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
    return json.loads(body[_LENGTH_BYTES:end]), memoryview(body)[end:]


def _digest(header: Mapping[str, Mapping[str, str]], data: memoryview) -> str:
    unsigned = dict(header)
    if _METADATA in header:
        unsigned[_METADATA] = {name: value for name, value in header[_METADATA].items() if name != DIGEST}
    digest = hashlib.sha256(json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode())
    digest.update(data)
    return digest.hexdigest()
