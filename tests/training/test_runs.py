import csv
from pathlib import Path

import pytest
from PIL import Image
from training.runs import Clock, Curve, learning_rate


def test_the_rate_rises_stays_and_falls_to_a_fiftieth() -> None:
    assert learning_rate(0, 0.0, 1.0, warm_up=100) == pytest.approx(0.01)
    assert learning_rate(49, 0.0, 1.0, warm_up=100) == pytest.approx(0.5)
    assert learning_rate(100, 0.5, 1.0, warm_up=100) == 1.0
    assert learning_rate(100, 0.8, 1.0, warm_up=100) == pytest.approx(0.51)
    assert learning_rate(100, 1.0, 1.0, warm_up=100) == pytest.approx(0.02)


def test_the_clock_says_which_part_of_the_time_is_over_and_never_more_than_all() -> None:
    clock = Clock(minutes=2.0)
    clock.begin -= 30.0
    assert clock.part == pytest.approx(0.25, abs=0.01)
    clock.begin -= 600.0
    assert clock.part == 1.0


def test_a_curve_is_a_table_and_a_picture(tmp_path: Path) -> None:
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
    with Image.open(tmp_path / "run" / "vae.png") as image:
        assert image.size == (900, 420)
        assert (40, 80, 225) in {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1000)}
