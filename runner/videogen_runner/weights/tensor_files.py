"""Tensors as they lie in files: where each one's bytes are. The safetensors format, read and written without torch.

A safetensors file is 8 bytes of little-endian header length, a JSON header, then the bytes of all tensors without
gaps; https://github.com/huggingface/safetensors. Nothing here holds a whole tensor in memory.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import SEEK_END, BufferedReader, RawIOBase
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter

from videogen_api.errors import WeightsInvalid, WeightsMissing

CHUNK_BYTES = 16 * 2**20

ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64"), 8),
    **dict.fromkeys(("F32", "I32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16"), 2),
    **dict.fromkeys(("BOOL", "I8", "U8"), 1),
}
"""Bytes of one value, by the format's name of the dtype."""

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_ALIGNMENT = 8
_METADATA = "__metadata__"


def never_stop() -> None:
    """The check of a writer that nobody stops."""


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without its values; `dtype` is the format's name (F32, BF16 ...)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.num_values * ITEM_BYTES[self.dtype]


class TensorFile(Protocol):
    """A file that holds tensors: a Path, or an object of a store. As text it is what a message calls it."""

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    def open(self, mode: Literal["rb"], /) -> BufferedReader | RawIOBase:
        """The file as bytes, from its start; one that is not buffered reads as much as it is asked for."""
        ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, its values contiguous from byte `offset` on."""

    name: str
    spec: TensorSpec
    file: TensorFile
    offset: int

    def chunks(self, sha256: str | None = None) -> Iterator[memoryview]:
        """Its bytes, CHUNK_BYTES at a time, each piece valid until the next one is asked for.

        Raises WeightsInvalid where the file ends before the tensor does and, after the last piece, where all of them
        have another digest than `sha256` (hex).
        """
        left = self.spec.nbytes
        buffer = memoryview(bytearray(min(left, CHUNK_BYTES)))
        digest = hashlib.sha256()
        with open_tensor_file(self.file) as file:
            file.seek(self.offset)
            while left:
                piece = buffer[: min(left, CHUNK_BYTES)]
                if file.readinto(piece) != len(piece):
                    raise WeightsInvalid(f"{self.file} ends inside tensor {self.name}; copy it again")
                left -= len(piece)
                if sha256 is not None:
                    digest.update(piece)
                yield piece
        if sha256 is not None and digest.hexdigest() != sha256:
            raise WeightsInvalid(
                f"{self.file}: tensor {self.name} has sha256 {digest.hexdigest()}, {sha256} is recorded: damaged or "
                "replaced since; copy the weights again"
            )

    def read(self, start: int, length: int) -> bytearray:
        """`length` of its bytes from byte `start` on. Raises WeightsInvalid where the file ends before."""
        data = bytearray(length)
        with open_tensor_file(self.file) as file:
            file.seek(self.offset + start)
            if file.readinto(data) != length:
                raise WeightsInvalid(f"{self.file} ends inside tensor {self.name}; copy it again")
        return data

    def sha256(self) -> str:
        """Hex digest of its bytes."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


def open_tensor_file(file: TensorFile) -> BufferedReader | RawIOBase:
    """The file, opened for reading. Raises WeightsMissing or WeightsInvalid naming it."""
    try:
        return file.open("rb")
    except FileNotFoundError as error:
        raise WeightsMissing(f"{file} is missing; copy it again") from error
    except OSError as error:
        raise WeightsInvalid(f"{file} cannot be read: {error.strerror}") from error


def size_of(file: TensorFile) -> int:
    """Bytes of the file. Raises as `open_tensor_file`."""
    with open_tensor_file(file) as opened:
        return opened.seek(0, SEEK_END)


class _HeaderEntry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


_HEADER = TypeAdapter(dict[str, _HeaderEntry])


def read_safetensors(file: TensorFile) -> list[StoredTensor]:
    """The tensors of a file, by its header alone, in the order of their bytes.

    Raises WeightsMissing where there is no file, WeightsInvalid where it is no safetensors file, or not a whole one.
    """
    with open_tensor_file(file) as opened:
        size = opened.seek(0, SEEK_END)
        opened.seek(0)
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        start = _LENGTH_BYTES + length
        if size < _LENGTH_BYTES or length > _MAX_HEADER_BYTES:
            raise WeightsInvalid(f"{file} is no safetensors file; copy it again")
        if size < start:
            raise WeightsInvalid(f"{file} has {size} bytes, its header alone takes {start}: cut short; copy it again")
        entries = _parse_header(opened.read(length), file)
    tensors, end = [], 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end_of_this = entry.data_offsets
        spec = _spec(name, entry, file)
        if begin != end or end_of_this - begin != spec.nbytes:
            raise WeightsInvalid(f"{file}: the header gives tensor {name} the wrong bytes; copy the file again")
        tensors.append(StoredTensor(name, spec, file, start + begin))
        end = end_of_this
    if size < start + end:
        raise WeightsInvalid(f"{file} has {size} bytes, its header describes {start + end}: cut short; copy it again")
    if size > start + end:
        raise WeightsInvalid(f"{file} has {size} bytes, its header describes only {start + end}; copy it again")
    return tensors


def _parse_header(text: bytes, file: TensorFile) -> dict[str, _HeaderEntry]:
    try:
        header = json.loads(text)
        if isinstance(header, dict):
            header.pop(_METADATA, None)
        # Through JSON again, because in strict mode only JSON's lists count as tuples.
        return _HEADER.validate_json(json.dumps(header))
    except (ValueError, RecursionError) as error:
        raise WeightsInvalid(f"{file} is no safetensors file: its header cannot be read; copy it again") from error


def _spec(name: str, entry: _HeaderEntry, file: TensorFile) -> TensorSpec:
    if entry.dtype not in ITEM_BYTES:
        raise WeightsInvalid(f"{file}: tensor {name} has dtype {entry.dtype}; only {', '.join(ITEM_BYTES)} are read")
    return TensorSpec(entry.dtype, entry.shape)


def safetensors_header(specs: Mapping[str, TensorSpec]) -> bytes:
    """The start of a file that holds these tensors, in this order; their bytes follow without gaps."""
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    offset = 0
    for name, spec in specs.items():
        header[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def write_safetensors(
    path: Path,
    specs: Mapping[str, TensorSpec],
    values: Iterable[tuple[str, Iterable[memoryview]]],
    check: Callable[[], None],
) -> dict[str, str]:
    """Writes a file tensor by tensor; `values` gives the bytes of each tensor in chunks, in the order of `specs`.

    Returns the sha256 of each tensor's bytes, hex. Raises what `check` raises, which is called before each chunk.
    """
    digests: dict[str, str] = {}
    with path.open("xb") as file:
        file.write(safetensors_header(specs))
        for (name, spec), (given, chunks) in zip(specs.items(), values, strict=True):
            digest, written = hashlib.sha256(), 0
            for chunk in chunks:
                check()
                file.write(chunk)
                digest.update(chunk)
                written += len(chunk)
            if given != name or written != spec.nbytes:
                raise ValueError(f"got {written} bytes of {given}, {spec.nbytes} of {name} come next")
            digests[name] = digest.hexdigest()
    return digests
