"""A tokenizer for random weights: a handful of words and every printable ASCII character, in T5's file layout.

Like the public one it is a unigram model with <pad> 0, </s> 1, <unk> 2; the rest of the vocabulary is never used.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit

_SPACE = "\u2581"
_SPECIAL = ("<pad>", "</s>", "<unk>")
_UNKNOWN_ID = 2
# fmt: off
_WORDS = (
    "a", "an", "and", "are", "as", "at", "below", "beside", "between", "by", "down", "for", "from", "in",
    "into", "is", "it", "its", "of", "off", "on", "over", "the", "their", "through", "to", "toward", "under",
    "up", "with", "aesthetic", "camera", "cinematic", "close", "detailed", "handheld", "motion", "pan", "score",
    "shot", "static", "tilt", "wide", "zoom", "left", "right", "black", "blue", "bright", "brown", "calm",
    "cold", "dark", "golden", "gray", "green", "high", "large", "light", "long", "low", "old", "orange", "pink",
    "red", "slow", "small", "soft", "tall", "warm", "white", "yellow", "young", "beach", "bird", "boat",
    "building", "car", "cat", "city", "cloud", "dog", "field", "fire", "flower", "forest", "fox", "house",
    "lake", "man", "moon", "mountain", "ocean", "people", "person", "rain", "river", "road", "sea", "sky",
    "snow", "star", "street", "sun", "sunset", "train", "tree", "water", "wave", "wind", "woman", "drives",
    "falls", "flies", "flows", "glides", "runs", "shines", "sits", "stands", "turns", "walks",
)
# fmt: on
_ENDINGS = ("ed", "er", "es", "ing", "ly", "s", "tion")
_WORD_SCORE, _ENDING_SCORE, _CHARACTER_SCORE, _UNUSED_SCORE = -6.0, -7.0, -9.0, -100.0


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json. Raises ValueError for too few ids."""
    pieces = [
        *((piece, 0.0) for piece in _SPECIAL),
        (_SPACE, _CHARACTER_SCORE),
        *((chr(code), _CHARACTER_SCORE) for code in range(ord("!"), ord("~") + 1)),
        *((ending, _ENDING_SCORE) for ending in _ENDINGS),
        *((_SPACE + word, _WORD_SCORE) for word in _WORDS),
    ]
    unused = vocab_size - len(pieces)
    if unused < 0:
        raise ValueError(f"a vocabulary of {vocab_size} is too small: {len(pieces)} pieces are needed")
    pieces += [(f"<unused_{i}>", _UNUSED_SCORE) for i in range(unused)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=_UNKNOWN_ID, byte_fallback=False))
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Metaspace(replacement=_SPACE, prepend_scheme="always")])
    tokenizer.decoder = MetaspaceDecoder(replacement=_SPACE, prepend_scheme="always")
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict(zip(("pad_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", {**special, "tokenizer_class": "T5Tokenizer", "extra_ids": 0})


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
