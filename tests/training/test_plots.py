import math

import pytest
from PIL import Image
from training.plots import COLOURS, SIZE, Axis, plot


def columns_of(image: Image.Image, colour: tuple[int, int, int]) -> set[int]:
    """Those with a pixel of that colour."""
    pixels = image.load()
    assert pixels is not None
    return {x for x in range(image.width) for y in range(41, 370) if pixels[x, y] == colour}


def test_ticks_are_round_numbers_within_the_axis() -> None:
    assert Axis(1500, 26000, 0, 100).ticks() == [5000, 10000, 15000, 20000, 25000]
    assert Axis(-0.05, 0.31, 0, 100).ticks() == pytest.approx([-0.05, 0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
    assert Axis(30.0, 42.0, 0, 100).ticks() == [30, 32, 34, 36, 38, 40, 42]


def test_an_axis_places_its_ends_at_its_ends() -> None:
    axis = Axis(10.0, 20.0, 100, 0)
    assert [axis.place(value) for value in (10.0, 15.0, 20.0)] == [100, 50, 0]


def test_every_line_has_a_colour_and_reaches_from_the_first_point_to_the_last() -> None:
    image = plot([0, 1, 2], {"loss": [3.0, 2.0, 1.0], "reading": [1.0, 1.5, 1.5]}, across="step")
    assert image.size == SIZE
    for colour in COLOURS[:2]:
        columns = columns_of(image, colour)
        assert max(columns) - min(columns) > 700
    assert columns_of(image, COLOURS[2]) == set()


def test_what_is_no_number_is_left_out() -> None:
    of_two = columns_of(plot([0, 1, 2], {"loss": [3.0, 2.0, math.nan]}, across="step"), COLOURS[0])
    assert of_two == columns_of(plot([0, 1], {"loss": [3.0, 2.0]}, across="step"), COLOURS[0])
    assert columns_of(plot([0], {"loss": [math.inf]}, across="step"), COLOURS[0]) == set()


def test_one_point_is_drawn_in_the_middle() -> None:
    assert 470 <= min(columns_of(plot([5], {"loss": [0.5]}, across="step"), COLOURS[0])) <= 475
