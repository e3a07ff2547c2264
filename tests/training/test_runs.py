import csv
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from training.plots import plot
from training.runs import Clock, Curve, learning_rate


class Time:
    """In seconds; stands still until it is told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_the_rate_rises_stays_and_falls_to_a_fiftieth() -> None:
    assert learning_rate(0, 0.0, 1.0, warm_up=100) == pytest.approx(0.01)
    assert learning_rate(49, 0.0, 1.0, warm_up=100) == pytest.approx(0.5)
    assert learning_rate(100, 0.5, 1.0, warm_up=100) == 1.0
    assert learning_rate(100, 0.8, 1.0, warm_up=100) == pytest.approx(0.51)
    assert learning_rate(100, 1.0, 1.0, warm_up=100) == pytest.approx(0.02)


def test_the_clock_says_which_part_of_the_time_is_over_and_never_more_than_all() -> None:
    now = Time()
    clock = Clock(2.0, now)
    now.seconds = 30.0
    assert (clock.seconds, clock.part) == (30.0, 0.25)
    now.seconds = 630.0
    assert (clock.seconds, clock.part) == (630.0, 1.0)


def parts_of_stage(clock: Clock, now: Time, until: float, seconds: float) -> list[float]:
    """How much of the stage is over before each of its steps, which take so long."""
    parts = []
    for part in clock.stage(until):
        parts.append(part)
        now.seconds += seconds
    return parts


def test_a_stage_ends_at_its_part_of_the_time_and_the_next_one_begins_there() -> None:
    now = Time()
    clock = Clock(1.0, now)
    now.seconds = 4.0  # what comes before the first stage is no part of it
    assert parts_of_stage(clock, now, 0.4, 5.0) == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert parts_of_stage(clock, now, 1.0, 12.0) == pytest.approx([0.0, 1 / 3, 2 / 3])
    assert now.seconds == 60.0


def test_a_stage_whose_time_is_over_has_one_step() -> None:
    now = Time()
    clock = Clock(1.0, now)
    now.seconds = 90.0
    assert parts_of_stage(clock, now, 0.4, 5.0) == [0.0]
    assert parts_of_stage(clock, now, 1.0, 5.0) == [0.0]


def same(path: Path, expected: Image.Image) -> bool:
    with Image.open(path) as image:
        return ImageChops.difference(image, expected).getbbox() is None


def test_a_curve_is_a_table_and_a_picture_of_its_first_figure(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "run", "vae", ("loss", "psnr"))
    curve.add(1.234, 10, 0.5, 20.0)
    curve.add(2.5, 20, 0.25, 25.0)
    curve.write()
    with (tmp_path / "run" / "vae.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["seconds", "step", "loss", "psnr"],
            ["1.2", "10", "0.5", "20"],
            ["2.5", "20", "0.25", "25"],
        ]
    assert same(tmp_path / "run" / "vae.png", plot([10, 20], {"loss": [0.5, 0.25]}, across="step"))


def test_a_curve_draws_the_figures_that_are_named(tmp_path: Path) -> None:
    curve = Curve(tmp_path, "vae", ("loss", "frames_psnr", "psnr"), drawn=("psnr", "frames_psnr"), unit="dB")
    curve.add(1.0, 10, 0.5, 30.0, 20.0)
    curve.write()
    assert same(tmp_path / "vae.png", plot([10], {"psnr": [20.0], "frames_psnr": [30.0]}, across="step", unit="dB"))
