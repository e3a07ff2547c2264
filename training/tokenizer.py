"""The tokenizer of the model `shapes`: a unigram model of whole words, counted in captions.

Captions have few words, so each gets a token of its own; its score is the logarithm of its frequency, which for whole
words is the unigram model of greatest likelihood. Other text is spelled. The files are those that the runner reads, the
cleaning of text is the runner's.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit

from training.scenes import training_scene
from training.texts import encoder_text
from videogen_api.architecture import ARCHITECTURES

NUM_CAPTIONS = 20_000
"""All words that captions have are in the first tenth of these."""

_SPACE = "\u2581"
_SPECIAL = ("<pad>", "</s>", "<unk>")
_UNKNOWN_ID = 2
_WORD = re.compile(r"[a-z][a-z-]*")
_SPELLED_SCORE, _UNUSED_SCORE = -15.0, -100.0


def captions(count: int) -> Iterable[str]:
    """Captions of training scenes, cleaned as prompts are."""
    for seed in range(count):
        yield encoder_text(training_scene(seed), seed, moving=seed % 8 != 0)


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Equal texts give equal tokenizers. Raises ValueError where the words are more than `vocab_size` holds."""
    counts = Counter(word for text in texts for word in _words(text))
    total = sum(counts.values())
    words = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    pieces = [
        *((piece, 0.0) for piece in _SPECIAL),
        *((piece, _SPELLED_SCORE) for piece in (_SPACE, *map(chr, range(ord("!"), ord("~") + 1)))),
        *((_SPACE + word, round(math.log(count / total), 4)) for word, count in words),
    ]
    if len(pieces) > vocab_size:
        raise ValueError(f"captions have {len(words)} words, a vocabulary of {vocab_size} is too small for them")
    pieces += [(f"<unused_{i}>", _UNUSED_SCORE) for i in range(vocab_size - len(pieces))]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=_UNKNOWN_ID, byte_fallback=False))
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Metaspace(replacement=_SPACE, prepend_scheme="always")])
    tokenizer.decoder = MetaspaceDecoder(replacement=_SPACE, prepend_scheme="always")
    return tokenizer


def _words(text: str) -> Iterable[str]:
    """Of a joined word the parts as well: cleaning takes the joints out of captions that have many."""
    for word in _WORD.findall(text):
        yield word
        if "-" in word:
            yield from word.split("-")


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json, as `videogen weights random` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict(zip(("pad_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", {**special, "tokenizer_class": "T5Tokenizer", "extra_ids": 0})


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m training.tokenizer", description=__doc__.partition("\n")[0])
    arguments.add_argument("--out", type=Path, required=True, help="folder for its three files")
    folder = arguments.parse_args().out
    tokenizer = build_tokenizer(captions(NUM_CAPTIONS), ARCHITECTURES["shapes"].encoder.vocab_size)
    write_tokenizer(folder, tokenizer)
    print(f"{folder}: {sum(piece.startswith(_SPACE) for piece in tokenizer.get_vocab()) - 1} words")


if __name__ == "__main__":
    main()
