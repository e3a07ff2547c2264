import math

import pytest
import torch
from training.rendering import BACKGROUNDS, PALETTE, draw, plan_drawing, render, signed_distance
from training.scenes import Background, Colour, Motion, Object, Scene, Shape, Size, sample_scene

SCENES = [sample_scene(seed) for seed in range(24)]


def still(shape: Shape, *, x: float = 0.0, radius: float = 0.3, angle: float = 0.0) -> Scene:
    item = Object(shape, Colour.RED, Size.LARGE, Motion.RIGHT, x, 0.0, radius, angle=angle)
    return Scene((item,), Background.BLACK)


def as_levels(x_CHW: torch.Tensor, row: int, column: int) -> list[int]:
    return [round((value + 1) * 127.5) for value in x_CHW[:, row, column].tolist()]


def test_one_input_gives_the_same_bits() -> None:
    assert torch.equal(render(SCENES, 17, 48, 80), render(SCENES, 17, 48, 80))


def test_a_clip_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    together_BCTHW = render(SCENES, 17, 48, 80)
    for scene, x_CTHW in zip(SCENES, together_BCTHW, strict=True):
        assert torch.equal(render([scene], 17, 48, 80)[0], x_CTHW)


def test_a_drawing_planned_once_fits_every_size() -> None:
    drawing = plan_drawing(SCENES, 17)
    for height, width in ((32, 32), (48, 80), (72, 40)):
        assert torch.equal(draw(drawing, height, width), render(SCENES, 17, height, width))


def test_the_middle_has_the_colour_of_the_shape_and_the_corner_that_of_the_background() -> None:
    for shape in set(Shape) - {Shape.RING}:
        x_CHW = render([still(shape)], 1, 64, 64)[0, :, 0]
        assert as_levels(x_CHW, 32, 32) == list(PALETTE[Colour.RED])
        assert as_levels(x_CHW, 0, 0) == list(BACKGROUNDS[Background.BLACK][0])
    x_CHW = render([still(Shape.RING)], 1, 64, 64)[0, :, 0]
    assert as_levels(x_CHW, 32, 32) == list(BACKGROUNDS[Background.BLACK][0])


def test_dusk_changes_from_top_to_bottom_and_not_across() -> None:
    scene = Scene(still(Shape.STAR, radius=0.01).objects, Background.DUSK)
    x_CHW = render([scene], 1, 64, 96)[0, :, 0]
    assert torch.equal(x_CHW[:, :, 0], x_CHW[:, :, -1])
    top, bottom = (torch.tensor(colour) / 127.5 - 1 for colour in BACKGROUNDS[Background.DUSK])
    assert torch.allclose(x_CHW[:, 0, 0], torch.lerp(top, bottom, 0.5 / 64), atol=1e-6)
    assert torch.allclose(x_CHW[:, -1, 0], torch.lerp(top, bottom, 63.5 / 64), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (Shape.CIRCLE, math.pi),
        (Shape.SQUARE, 2.0),
        (Shape.TRIANGLE, 3 * math.sqrt(3) / 4),
        (Shape.STAR, 5 * 0.45 * math.sin(math.pi / 5)),
        (Shape.RING, math.pi * (1 - 0.52**2)),
    ],
)
def test_shapes_cover_their_area_however_they_are_turned(shape: Shape, area: float) -> None:
    for angle in (0.0, 0.3, 2.0):
        x_CHW = render([still(shape, angle=angle)], 1, 256, 256)[0, :, 0]
        red, black = PALETTE[Colour.RED][0] / 127.5 - 1, BACKGROUNDS[Background.BLACK][0][0] / 127.5 - 1
        covered = ((x_CHW[0] - black) / (red - black)).mean().item()
        assert covered == pytest.approx(area * 0.3**2, rel=0.01)


def test_distances_are_negative_inside_and_positive_outside_and_reach_no_further_than_the_circle_around() -> None:
    directions = torch.linspace(0, 2 * math.pi, 721)
    for shape in Shape:
        outside = signed_distance(shape, 1.01 * directions.cos(), 1.01 * directions.sin(), torch.tensor(0.4))
        assert outside.min() > 0
        inner = 0.6 if shape is Shape.RING else 0.3
        inside = signed_distance(shape, inner * directions.cos(), inner * directions.sin(), torch.tensor(0.4))
        assert inside.max() < 0


def test_right_moves_to_the_right_over_the_whole_clip_whatever_its_length() -> None:
    item = Object(Shape.CIRCLE, Colour.RED, Size.SMALL, Motion.RIGHT, 0.0, 0.0, 0.15, reach=0.6)
    for num_frames in (17, 51):
        video_CTHW = render([Scene((item,), Background.BLACK)], num_frames, 32, 32)[0]
        red_TW = (video_CTHW[0] - video_CTHW[0, 0, 0, 0]).sum(dim=1)
        columns = torch.arange(32.0) + 0.5
        first, last = ((red_W * columns).sum() / red_W.sum() for red_W in (red_TW[0], red_TW[-1]))
        assert last - first == pytest.approx(0.6 * 32, rel=0.15)


@pytest.mark.parametrize(("num_frames", "height", "width"), [(0, 8, 8), (1, 0, 8), (1, 8, 0)])
def test_nothing_to_draw_is_an_error(num_frames: int, height: int, width: int) -> None:
    with pytest.raises(ValueError, match="give at least one of each"):
        render(SCENES, num_frames, height, width)
    with pytest.raises(ValueError, match="give at least one of each"):
        render([], 1, 8, 8)


def test_no_pixel_outside_of_the_circle_around_a_shape_is_painted_on_any_line_of_symmetry() -> None:
    for shape in Shape:
        for size in (32, 63, 64):
            x_CHW = render([still(shape)], 1, size, size)[0, :, 0]
            across = (torch.arange(size) + 0.5 - size / 2) / size
            outside = torch.hypot(across[:, None], across) > 0.3 + 1 / size
            assert x_CHW[:, outside].unique(dim=1).shape[1] == 1
