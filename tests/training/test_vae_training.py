import csv
import sys
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training.reels import FORMS
from training.runs import Clock
from training.vae import BOTH, FRAMES, PIXELS, TIME, Run, arguments, forms_within, main

ONE_STEP = "1e-6"  # minutes: every stage has one step at least
HALVES = {"spatial_vae", "temporal_vae"}


def arguments_of(out: Path, *more: str) -> list[str]:
    return [
        "--out",
        str(out),
        "--device",
        "cpu",
        "--minutes",
        ONE_STEP,
        "--pixels",
        "2048",
        "--store-pixels",
        "9000",
        *more,
    ]


def build_run(out: Path, *more: str) -> Run:
    return Run(arguments().parse_args(arguments_of(out, *more)))


def weights(run: Run) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in run.vae.named_parameters()}


def changes(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, float]:
    """The greatest of each half."""
    return {
        half: max((after[name] - before[name]).abs().max().item() for name in before if name.startswith(half))
        for half in HALVES
    }


def test_each_stage_changes_its_half_at_its_rate_and_not_one_bit_of_the_other(tmp_path: Path) -> None:
    run = build_run(tmp_path, "--rate", "0.3")
    found = [weights(run)]
    for learn in (run.learn_frames, run.learn_time, run.learn_both):
        learn()
        found.append(weights(run))
    first, second, third = (changes(*pair) for pair in pairwise(found))
    # The first of 300 steps of warm-up; the first step of Adam is as long as the rate.
    assert first == {"spatial_vae": pytest.approx(1e-3 * FRAMES.rate, rel=1e-3), "temporal_vae": 0.0}
    assert second == {"spatial_vae": 0.0, "temporal_vae": pytest.approx(1e-3 * TIME.rate, rel=1e-3)}
    assert third == dict.fromkeys(HALVES, pytest.approx(1e-3 * BOTH.rate, rel=1e-3))


def test_stages_end_at_their_parts_of_the_time(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    seconds = count()
    run.clock = Clock(20 / 60, lambda: next(seconds))  # one second passes whenever the clock is looked at
    ends = []
    for learn, stage in ((run.learn_frames, FRAMES), (run.learn_time, TIME), (run.learn_both, BOTH)):
        learn()
        ends.append(run.clock.part - stage.until)
    assert FRAMES.until < TIME.until < BOTH.until == 1.0
    assert all(0 <= end <= 0.15 for end in ends)


def steps_of(out: Path) -> int:
    with (out / "vae.csv").open() as file:
        return int(list(csv.DictReader(file))[-1]["step"])


def test_a_new_run_has_three_stages_and_one_that_goes_on_has_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["vae", *arguments_of(tmp_path / "first")])
    main()
    monkeypatch.setattr(sys, "argv", ["vae", *arguments_of(tmp_path / "second", "--from", str(tmp_path / "first"))])
    main()
    assert (steps_of(tmp_path / "first"), steps_of(tmp_path / "second")) == (3, 1)


def test_equal_seeds_give_equal_weights_and_clips_and_other_seeds_give_others(tmp_path: Path) -> None:
    def begin(seed: int) -> tuple[dict[str, Tensor], Tensor]:
        run = build_run(tmp_path, "--seed", str(seed))
        return weights(run), run._reels[0].all()

    (first, clips), (again, again_clips), (other, other_clips) = begin(1), begin(1), begin(2)
    assert changes(first, again) == dict.fromkeys(HALVES, 0.0)
    assert torch.equal(clips, again_clips)
    assert min(changes(first, other).values()) > 0
    assert not torch.equal(clips, other_clips)


def test_only_forms_of_which_a_chunk_fits_into_the_last_stages_step_are_drawn() -> None:
    assert forms_within(PIXELS) == list(FORMS)
    assert {(form.chunk_frames, form.height) for form in forms_within(25_000)} == {(1, 64), (17, 64), (1, 144)}
    assert forms_within(2048) == [form for form in FORMS if form.chunk_pixels == 64 * 64]
    with pytest.raises(ValueError, match="--pixels 1365 is less than the smallest clips need; give 1366 or more"):
        forms_within(1365)
