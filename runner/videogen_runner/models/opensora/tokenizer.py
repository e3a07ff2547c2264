"""T5's tokenizer from the files of a local checkpoint: `tokenizer.json`, or the `spiece.model` that the public one has.

A SentencePiece model is a protobuf; the three things needed of it (pieces with scores, the unknown piece, the table
that normalizes characters) are read here, which spares two dependencies. Format: sentencepiece_model.proto of
https://github.com/google/sentencepiece.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.normalizers import Precompiled
from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit

from videogen_api.errors import WeightsInvalid, WeightsMissing

END_OF_TEXT = "</s>"

# Field numbers of sentencepiece_model.proto.
_MODEL_PIECES, _MODEL_TRAINER, _MODEL_NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE = 1, 2
_TRAINER_TYPE, _TRAINER_UNKNOWN_ID = 3, 40
_NORMALIZER_TABLE = 2
_TYPE_UNIGRAM = 1


class T5Tokenizer:
    """Text -> token ids, without padding, with the end-of-text token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        end_id = tokenizer.token_to_id(END_OF_TEXT)
        if end_id is None:
            raise WeightsInvalid(f"the tokenizer has no {END_OF_TEXT} token; it is not the one of a T5 encoder")
        self._tokenizer = tokenizer
        self._end_id = end_id

    def __call__(self, text: str) -> list[int]:
        return [*self._tokenizer.encode(text, add_special_tokens=False).ids, self._end_id]


def load_tokenizer(folder: Path) -> T5Tokenizer:
    """Read the tokenizer of a checkpoint's folder; never the network.

    Raises WeightsMissing when neither file is there, WeightsInvalid for one that cannot be read.
    """
    converted, original = folder / "tokenizer.json", folder / "spiece.model"
    if converted.is_file():
        try:
            return T5Tokenizer(Tokenizer.from_file(str(converted)))
        # The library raises nothing more precise for a file that it cannot parse.
        except Exception as error:
            raise WeightsInvalid(f"{converted} is no tokenizer file ({error}); copy it again") from error
    if original.is_file():
        try:
            return T5Tokenizer(_from_sentencepiece(original.read_bytes()))
        except (IndexError, KeyError, UnicodeDecodeError, ValueError, struct.error) as error:
            raise WeightsInvalid(f"{original} is no SentencePiece unigram model ({error!r}); copy it again") from error
    raise WeightsMissing(f"{folder} has neither tokenizer.json nor spiece.model; copy the tokenizer of the checkpoint")


def _from_sentencepiece(data: bytes) -> Tokenizer:
    pieces: list[tuple[str, float]] = []
    trainer: dict[int, bytes | int] = {}
    normalizer: dict[int, bytes | int] = {}
    for field, value in _fields(data):
        if field == _MODEL_PIECES:
            piece = dict(_fields(_as_bytes(value)))
            (score,) = struct.unpack("<f", _as_bytes(piece[_PIECE_SCORE]))
            pieces.append((_as_bytes(piece[_PIECE_TEXT]).decode(), score))
        elif field == _MODEL_TRAINER:
            trainer = dict(_fields(_as_bytes(value)))
        elif field == _MODEL_NORMALIZER:
            normalizer = dict(_fields(_as_bytes(value)))
    if not pieces or trainer.get(_TRAINER_TYPE, _TYPE_UNIGRAM) != _TYPE_UNIGRAM:
        raise ValueError("it holds no unigram pieces")
    tokenizer = Tokenizer(Unigram(pieces, unk_id=int(trainer.get(_TRAINER_UNKNOWN_ID, 0)), byte_fallback=False))
    table = _as_bytes(normalizer.get(_NORMALIZER_TABLE, b""))
    if table:
        tokenizer.normalizer = Precompiled(table)
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Metaspace(replacement="\u2581", prepend_scheme="always")])
    return tokenizer


def _as_bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"a number, {value}, stands where text was expected")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and values of a protobuf message. Numbers of fixed width stay bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire_type = key >> 3, key & 7
        if wire_type == 0:
            number, position = _varint(message, position)
            yield field, number
            continue
        if wire_type == 2:  # bytes of any length; 1 and 5 are numbers of fixed width
            size, position = _varint(message, position)
        else:
            size = {1: 8, 5: 4}[wire_type]
        if position + size > len(message):
            raise ValueError("it was cut short")
        yield field, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:  # a high bit says that more bytes follow
            return value, position
