"""Scenes drawn as video: anti-aliased, of any size and length, many at once, on any device.

Shapes are signed distances, so a frame has the same look at every size. One input on one device gives the same bits.

Shape suffixes: B clips, C channels, T frames, H height, W width; N objects of one shape, drawn together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from training.scenes import FRAMES_PER_SECOND, Background, Colour, Motion, Object, Scene, Shape

PALETTE = {
    Colour.RED: (220, 35, 40),
    Colour.ORANGE: (250, 130, 20),
    Colour.YELLOW: (250, 225, 50),
    Colour.GREEN: (40, 165, 70),
    Colour.CYAN: (40, 205, 220),
    Colour.BLUE: (40, 80, 225),
    Colour.PURPLE: (135, 50, 185),
    Colour.PINK: (250, 130, 185),
}
"""Red, green and blue of each colour, 0 to 255."""

BACKGROUNDS = {
    Background.BLACK: ((12, 12, 14), (12, 12, 14)),
    Background.WHITE: ((244, 244, 242), (244, 244, 242)),
    Background.GREY: ((128, 130, 132), (128, 130, 132)),
    Background.NAVY: ((20, 30, 70), (20, 30, 70)),
    Background.SAND: ((220, 205, 175), (220, 205, 175)),
    Background.DUSK: ((36, 32, 72), (110, 76, 98)),
}
"""Colours at the top and at the bottom of the frame; between them it changes evenly."""

RING_HOLE = 0.52
"""Radius of a ring's hole, in units of its own."""

_STAR_NOTCH = 0.45
_CROSS_ARM = 0.36  # half the width of an arm

# One half of one of a shape's equal sectors, from its axis on: folding by symmetry makes the rest. (x, y) of corners.
_SECTORS: dict[Shape, tuple[int, tuple[tuple[float, float], ...]]] = {
    Shape.TRIANGLE: (3, ((1.0, 0.0), (0.5 * math.cos(math.pi / 3), 0.5 * math.sin(math.pi / 3)))),
    Shape.SQUARE: (4, ((1.0, 0.0), (0.5, 0.5))),
    Shape.STAR: (5, ((1.0, 0.0), (_STAR_NOTCH * math.cos(math.pi / 5), _STAR_NOTCH * math.sin(math.pi / 5)))),
    Shape.CROSS: (
        4,
        (
            (math.sqrt(1 - _CROSS_ARM**2), 0.0),
            (math.sqrt(1 - _CROSS_ARM**2), _CROSS_ARM),
            (_CROSS_ARM, _CROSS_ARM),
        ),
    ),
}
# Clockwise from the x axis, in radians, at which the first corner stands upright.
_UPRIGHT = {Shape.SQUARE: math.pi / 4, Shape.TRIANGLE: -math.pi / 2, Shape.STAR: -math.pi / 2}


@dataclass(frozen=True)
class Pose:
    """Where an object is in one frame, in the units of `Object`."""

    x: float
    y: float
    radius: float
    angle: float


def pose(item: Object, frame: int, num_frames: int) -> Pose:
    """Straight paths and changes of size take the whole clip, whatever its length; what repeats keeps its rate."""
    part = frame / (num_frames - 1) if num_frames > 1 else 0.0
    turns = item.rate * frame / FRAMES_PER_SECOND
    x, y, radius, angle = item.x, item.y, item.radius, item.angle
    match item.motion:
        case Motion.LEFT:
            x += item.reach * (0.5 - part)
        case Motion.RIGHT:
            x += item.reach * (part - 0.5)
        case Motion.UP:
            y += item.reach * (0.5 - part)
        case Motion.DOWN:
            y += item.reach * (part - 0.5)
        case Motion.BOUNCE:
            y += item.reach * (0.5 - 4 * (turns % 1) * (1 - turns % 1))
        case Motion.ROTATE:
            angle += 2 * math.pi * turns
        case Motion.GROW:
            radius *= item.reach ** (part - 1)
        case Motion.SHRINK:
            radius *= item.reach**-part
        case Motion.ORBIT:
            x += item.reach * math.cos(2 * math.pi * (item.phase + turns))
            y += item.reach * math.sin(2 * math.pi * (item.phase + turns))
    return Pose(x, y, radius, angle)


@dataclass(frozen=True)
class Layer:
    """Objects of one shape that are drawn together, at most one of each clip."""

    shape: Shape
    clips_N: Tensor
    colours_N3: Tensor
    poses_NT4: Tensor  # x, y, radius, and the angle of the first corner, clockwise from the x axis


@dataclass(frozen=True)
class Drawing:
    """Clips as numbers, of any size in pixels: what takes Python's time is done, and may be done elsewhere."""

    num_frames: int
    backgrounds_B23: Tensor  # at the top, at the bottom
    layers: tuple[Layer, ...]


def render(
    scenes: Sequence[Scene], num_frames: int, height: int, width: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """The clips, B 3 T H W, float32 in [-1, 1]. Raises ValueError where there is nothing to draw."""
    return draw(plan_drawing(scenes, num_frames), height, width, device=device)


def plan_drawing(scenes: Sequence[Scene], num_frames: int) -> Drawing:
    """What `draw` needs of the scenes, on the host. Raises ValueError without a scene or a frame."""
    if not scenes or num_frames < 1:
        raise ValueError("a clip needs a scene and a frame; give at least one of each")
    layers = []
    for layer in range(max(len(scene.objects) for scene in scenes)):
        for shape in Shape:
            clips = [
                position
                for position, scene in enumerate(scenes)
                if layer < len(scene.objects) and scene.objects[layer].shape is shape
            ]
            if clips:
                items = [scenes[position].objects[layer] for position in clips]
                colours_N3 = _levels([PALETTE[item.colour] for item in items])
                layers.append(Layer(shape, torch.tensor(clips), colours_N3, _poses(items, num_frames)))
    backgrounds_B23 = torch.stack([_levels(BACKGROUNDS[scene.background]) for scene in scenes])
    return Drawing(num_frames, backgrounds_B23, tuple(layers))


def draw(drawing: Drawing, height: int, width: int, *, device: torch.device | str = "cpu") -> Tensor:
    """The clips, B 3 T H W, float32 in [-1, 1]. Raises ValueError for a size without pixels."""
    if min(height, width) < 1:
        raise ValueError(f"a frame of {height} x {width} pixels shows nothing; give at least one of each")
    top_B3, bottom_B3 = drawing.backgrounds_B23.to(device).unbind(1)
    down_H = (torch.arange(height, device=device) + 0.5) / height
    background_BCH = torch.lerp(top_B3[:, :, None], bottom_B3[:, :, None], down_H)
    video_BCTHW = background_BCH[:, :, None, :, None].repeat(1, 1, drawing.num_frames, 1, width)
    for layer in drawing.layers:
        coverage_N1THW = _coverage(layer.shape, layer.poses_NT4.to(device), height, width)[:, None]
        colours_N3111 = layer.colours_N3.to(device)[:, :, None, None, None]
        index_N = layer.clips_N.to(device)
        under_NCTHW = video_BCTHW[index_N]
        video_BCTHW[index_N] = torch.lerp(under_NCTHW, colours_N3111.expand_as(under_NCTHW), coverage_N1THW)
    return video_BCTHW


def _levels(colours: Sequence[tuple[int, int, int]]) -> Tensor:
    return torch.tensor(colours, dtype=torch.float32) / 127.5 - 1


def _poses(items: Sequence[Object], num_frames: int) -> Tensor:
    rows = [[pose(item, frame, num_frames) for frame in range(num_frames)] for item in items]
    turned = [_UPRIGHT.get(item.shape, 0.0) for item in items]
    return torch.tensor(
        [[(at.x, at.y, at.radius, at.angle + turn) for at in row] for row, turn in zip(rows, turned, strict=True)]
    )


def _coverage(shape: Shape, poses_NT4: Tensor, height: int, width: int) -> Tensor:
    """How much of each pixel each object covers, N T H W in [0, 1]."""
    device = poses_NT4.device
    x_NT11, y_NT11, radius_NT11, angle_NT11 = poses_NT4[..., None, None, :].unbind(-1)
    side = min(height, width)
    across_W = (torch.arange(width, device=device) + 0.5 - width / 2) / side
    down_H1 = ((torch.arange(height, device=device) + 0.5 - height / 2) / side)[:, None]
    distance_NTHW = signed_distance(
        shape, (across_W - x_NT11) / radius_NT11, (down_H1 - y_NT11) / radius_NT11, angle_NT11
    )
    return (0.5 - distance_NTHW * radius_NT11 * side).clamp(0, 1)


def signed_distance(shape: Shape, x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
    """From the outline of a shape of radius 1 around the origin, turned by `angle`; negative inside."""
    distance = torch.hypot(x, y)
    if shape is Shape.CIRCLE:
        return distance - 1
    if shape is Shape.RING:
        return (distance - (1 + RING_HOLE) / 2).abs() - (1 - RING_HOLE) / 2
    fold, corners = _SECTORS[shape]
    sector = 2 * math.pi / fold
    turned = torch.atan2(y, x) - angle
    folded = (turned - sector * torch.round(turned / sector)).abs()
    x, y = distance * torch.cos(folded), distance * torch.sin(folded)
    nearest = torch.full_like(x, math.inf)
    side = torch.full_like(x, -1.0)
    for number, ((ax, ay), (bx, by)) in enumerate(pairwise(corners), start=2):
        along_x, along_y = bx - ax, by - ay
        part = (((x - ax) * along_x + (y - ay) * along_y) / (along_x**2 + along_y**2)).clamp(0, 1)
        nearest = torch.minimum(nearest, torch.hypot(x - ax - part * along_x, y - ay - part * along_y))
        # Seen from the centre, the edge hides what is beyond it.
        behind = (along_x * (y - ay) - along_y * (x - ax) < 0) & (ax * y - ay * x >= 0)
        if number < len(corners):  # the last one hides all that is left: rounding may put a pixel beyond the sector
            behind &= bx * y - by * x <= 0
        side = torch.where(behind, 1.0, side)
    return nearest * side
