import pytest
import torch
from einops import rearrange
from torch import Tensor
from training import reels
from training.reels import FORMS, Reel, ReelForm
from training.rendering import render
from training.scenes import training_scene

CPU = torch.device("cpu")
STILLS, LONG = ReelForm(1, 16, 24, 1.0), ReelForm(51, 16, 16, 1.0)


def build_reel(form: ReelForm, num_clips: int, first_scene: int = 0) -> Reel:
    return Reel(form, num_clips * form.num_frames * form.height * form.width, first_scene, CPU)


def clips(form: ReelForm, scenes: list[int]) -> Tensor:
    """x_BCTHW, as they are kept."""
    return render([training_scene(scene) for scene in scenes], form.num_frames, form.height, form.width).half()


def rows(x: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in x.flatten(1).tolist()}


def test_a_long_clip_is_kept_as_chunks_of_17_frames_one_after_the_other() -> None:
    reel = build_reel(LONG, num_clips=2, first_scene=5)
    first_BCTHW, second_BCTHW, third_BCTHW = clips(LONG, [5, 6]).split(17, dim=2)
    expected_BNCTHW = torch.stack([first_BCTHW, second_BCTHW, third_BCTHW], dim=1)
    assert torch.equal(reel.all(), expected_BNCTHW.flatten(0, 1))
    assert len(reel) == 6


def test_new_clips_take_the_places_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reels, "CLIPS_AT_ONCE", 2)
    reel = build_reel(STILLS, num_clips=3)
    assert torch.equal(reel.all(), clips(STILLS, [3, 1, 2]))
    reel.add()
    assert torch.equal(reel.all(), clips(STILLS, [3, 4, 5]))


def test_a_reel_has_no_more_pixels_than_it_may_but_at_least_one_clip() -> None:
    assert len(Reel(STILLS, 3 * 16 * 24 + 1, 0, CPU)) == 3
    assert len(Reel(LONG, 1, 0, CPU)) == 3


def test_one_number_gives_equal_reels_and_another_one_other_clips() -> None:
    reel = build_reel(LONG, num_clips=2, first_scene=7)
    assert torch.equal(reel.all(), build_reel(LONG, num_clips=2, first_scene=7).all())
    assert rows(reel.all()).isdisjoint(rows(build_reel(LONG, num_clips=2, first_scene=9).all()))


def test_a_sample_is_of_kept_chunks_and_in_time_of_all() -> None:
    torch.manual_seed(0)
    reel = build_reel(LONG, num_clips=2)
    x_BCTHW = reel.sample(60)
    assert (x_BCTHW.shape, x_BCTHW.dtype) == ((60, 3, 17, 16, 16), torch.float32)
    assert rows(x_BCTHW) == rows(reel.all())


def test_a_sample_of_frames_is_of_frames_of_kept_chunks_and_in_time_of_all() -> None:
    torch.manual_seed(0)
    reel = build_reel(LONG, num_clips=1)
    x_BCTHW = reel.sample_frames(1000)
    assert (x_BCTHW.shape, x_BCTHW.dtype) == ((1000, 3, 1, 16, 16), torch.float32)
    assert rows(x_BCTHW) == rows(rearrange(reel.all(), "n c t h w -> (n t) c h w"))


def test_every_form_is_a_still_or_a_whole_number_of_chunks_and_their_weights_are_parts_of_one() -> None:
    assert {form.num_frames % 17 for form in FORMS if form.num_frames > 1} == {0}
    assert [(form.chunk_frames, form.num_chunks) for form in (STILLS, ReelForm(34, 8, 8, 1.0), LONG)] == [
        (1, 1),
        (17, 2),
        (17, 3),
    ]
    assert sum(form.weight for form in FORMS) == pytest.approx(1.0)
