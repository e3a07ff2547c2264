import re
from pathlib import Path

import pytest
from training.tokenizer import build_tokenizer, captions, write_tokenizer

from videogen_api.architecture import ARCHITECTURES
from videogen_runner.models.opensora.t5 import END_ID, PAD_ID
from videogen_runner.models.opensora.text import clean_caption
from videogen_runner.models.opensora.tokenizer import T5Tokenizer, load_tokenizer

TEXTS = list(captions(1500))
VOCAB_SIZE = ARCHITECTURES["shapes"].encoder.vocab_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, build_tokenizer(TEXTS, VOCAB_SIZE))
    return folder


@pytest.fixture(scope="module")
def tokenize(folder: Path) -> T5Tokenizer:
    return load_tokenizer(folder)


def test_equal_captions_give_equal_files(folder: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, build_tokenizer(reversed(TEXTS), VOCAB_SIZE))
    names = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [(tmp_path / name).read_bytes() for name in names] == [(folder / name).read_bytes() for name in names]


def test_each_word_of_a_caption_is_one_token_and_so_is_its_full_stop(tokenize: T5Tokenizer) -> None:
    for text in TEXTS:
        caption = text.removesuffix(" aesthetic score: 6.5.")
        assert len(tokenize(caption)) == len(re.findall(r"[a-z-]+|[.,]", caption)) + 1


def test_the_parts_of_joined_words_are_tokens_for_captions_that_cleaning_takes_apart(tokenize: T5Tokenizer) -> None:
    text = clean_caption("a medium-sized red square and a medium-sized blue five-pointed star on sand-coloured ground")
    assert "-" not in text
    assert len(tokenize("medium sized five pointed sand coloured")) == 7


def test_texts_end_with_the_end_mark_and_hold_no_padding(tokenize: T5Tokenizer) -> None:
    for text in (*TEXTS[:100], ""):
        ids = tokenize(text)
        assert ids[-1] == END_ID
        assert PAD_ID not in ids
        assert max(ids) < VOCAB_SIZE


def test_other_words_are_spelled(tokenize: T5Tokenizer) -> None:
    space, letters = tokenize("wolf")[0], tokenize("wolf")[1:-1]
    assert letters == [tokenize(letter)[1] for letter in "wolf"]
    assert space == tokenize("fox")[0]


def test_too_many_words_are_an_error() -> None:
    with pytest.raises(ValueError, match="a vocabulary of 100 is too small"):
        build_tokenizer(TEXTS, 100)
