"""The values of stored tensors as torch sees them, a bounded piece at a time."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from videogen_runner.weights.tensor_files import StoredTensor

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""torch's dtypes by safetensors' names."""

DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


def pieces(stored: StoredTensor, sha256: str | None = None) -> Iterator[Tensor]:
    """Its values in the file's dtype, flat, in order; each piece valid until the next one is asked for.

    With `sha256` they are verified at the end, as by `StoredTensor.chunks`.
    """
    for chunk in stored.chunks(sha256):
        yield torch.frombuffer(chunk, dtype=DTYPES[stored.spec.dtype])


def as_bytes(piece: Tensor) -> memoryview:
    """The bytes of a flat tensor on the host, not copied."""
    return piece.view(torch.uint8).numpy().data
