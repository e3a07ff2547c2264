from itertools import islice
from pathlib import Path

import pytest
import torch
from training import examples
from training.examples import MAX_TOKENS, NUM_WORDINGS, UNKNOWN_LABEL, Makers, make_examples
from training.rendering import draw, render
from training.scenes import Colour, Motion, Shape, training_scene
from training.texts import encoder_text
from training.tokenizer import build_tokenizer, captions, write_tokenizer

from videogen_runner.models.opensora.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, build_tokenizer(captions(1500), 512))
    return folder


def test_examples_are_the_training_scenes_of_their_seeds_with_their_captions(tokenizer: Path) -> None:
    made = make_examples(tokenizer, 100, 6, 17)
    scenes = [training_scene(seed) for seed in range(100, 106)]
    assert torch.equal(draw(made.drawing, 32, 48), render(scenes, 17, 32, 48))
    tokenize = load_tokenizer(tokenizer)
    for row, scene in enumerate(scenes):
        for wording in range(NUM_WORDINGS):
            text = encoder_text(scene, (100 + row) * NUM_WORDINGS + wording)
            ids = made.ids_BKL[row, wording].tolist()
            assert [number for number in ids if number] == tokenize(text)
            assert len(ids) == MAX_TOKENS


def test_labels_say_of_each_colour_which_shape_has_it_and_how_it_moves(tokenizer: Path) -> None:
    made = make_examples(tokenizer, 0, 30, 17)
    for seed, labels_Q2 in enumerate(made.labels_BQ2.tolist()):
        said = {
            (colour, tuple(Shape)[shape - 1], tuple(Motion)[motion - 1])
            for colour, (shape, motion) in zip(Colour, labels_Q2, strict=True)
            if shape or motion
        }
        assert said == {(item.colour, item.shape, item.motion) for item in training_scene(seed).objects}


def test_nothing_is_known_of_the_motion_in_a_still(tokenizer: Path) -> None:
    made = make_examples(tokenizer, 0, 10, 1)
    shapes_BQ, motions_BQ = made.labels_BQ2.unbind(-1)
    assert torch.equal(motions_BQ == UNKNOWN_LABEL, shapes_BQ > 0)


def test_a_caption_of_too_many_tokens_is_an_error(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MAX_TOKENS", 4)
    with pytest.raises(ValueError, match="raise MAX_TOKENS above 4"):
        make_examples(tokenizer, 0, 3, 17)


def test_other_processes_make_the_same_examples_in_the_order_of_their_seeds(tokenizer: Path) -> None:
    with Makers(1) as makers:
        made = list(islice(makers.examples(tokenizer, 40, 3, 17), 3))
    expected = [make_examples(tokenizer, seed, 3, 17) for seed in (40, 43, 46)]
    for ours, theirs in zip(made, expected, strict=True):
        assert torch.equal(ours.ids_BKL, theirs.ids_BKL)
        assert torch.equal(draw(ours.drawing, 16, 16), draw(theirs.drawing, 16, 16))
