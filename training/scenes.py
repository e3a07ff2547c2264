"""What a clip can show: one or two shapes, each with a colour, a size and a motion, before a background.

Lengths are in units of the frame's shorter side, positions are seen from the frame's centre with y down, so one scene
fits frames of every size. Knows neither pixels nor words: rendering.py draws scenes, captions.py describes them.
"""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

FRAMES_PER_SECOND = 8
"""Of every clip; the shortest moving one has 17 frames, two seconds."""

_MARGIN = 0.03
_TILT = math.radians(12)


class Shape(StrEnum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"
    CROSS = "cross"
    RING = "ring"


class Colour(StrEnum):
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    CYAN = "cyan"
    BLUE = "blue"
    PURPLE = "purple"
    PINK = "pink"


class Motion(StrEnum):
    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    BOUNCE = "bounce"
    ROTATE = "rotate"
    GROW = "grow"
    SHRINK = "shrink"
    ORBIT = "orbit"


class Size(StrEnum):
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Background(StrEnum):
    BLACK = "black"
    WHITE = "white"
    GREY = "grey"
    NAVY = "navy"
    SAND = "sand"
    DUSK = "dusk"


RADII = {Size.SMALL: (0.13, 0.15), Size.MEDIUM: (0.17, 0.2), Size.LARGE: (0.24, 0.27)}
"""The circle around a shape; of one that grows or shrinks, around its largest form."""

ROUND = frozenset({Shape.CIRCLE, Shape.RING})
"""Shapes that no turn changes."""

_RESIZING = frozenset({Motion.GROW, Motion.SHRINK})
_SIDEWAYS = frozenset({Motion.LEFT, Motion.RIGHT})
_UPRIGHT = frozenset({Motion.UP, Motion.DOWN, Motion.BOUNCE})
_TRANSLATIONS = frozenset({Motion.LEFT, Motion.RIGHT, Motion.UP, Motion.DOWN})

# A colour that is hardly seen before a background, or whose edges look like another colour's.
_FAINT = {
    Background.NAVY: frozenset({Colour.BLUE, Colour.PURPLE}),
    Background.DUSK: frozenset({Colour.BLUE, Colour.PURPLE}),
    Background.SAND: frozenset({Colour.YELLOW, Colour.ORANGE}),
}


@dataclass(frozen=True)
class Object:
    """One shape and its way through the clip.

    `x`, `y`: the middle of its path. `radius`: of the circle around it, at its largest. `angle`: its turn at the
    beginning, clockwise, in radians. `reach`: the length of a straight path, the height of a bounce, the radius of an
    orbit, or the largest radius over the smallest. `rate`: turns or bounces a second; positive is clockwise.
    `phase`: where in its first turn an orbit begins, 0 to 1.
    """

    shape: Shape
    colour: Colour
    size: Size
    motion: Motion
    x: float
    y: float
    radius: float
    angle: float = 0.0
    reach: float = 0.0
    rate: float = 0.0
    phase: float = 0.0

    @property
    def combination(self) -> tuple[Shape, Colour, Motion]:
        """What a caption always says of it."""
        return self.shape, self.colour, self.motion


@dataclass(frozen=True)
class Scene:
    """One object, or two of different colours that never touch."""

    objects: tuple[Object, ...]
    background: Background


@dataclass(frozen=True)
class _Cell:
    """The part of a frame that one object keeps to: a rectangle around (x, y)."""

    x: float
    y: float
    half_width: float
    half_height: float


_WHOLE = _Cell(0.0, 0.0, 0.5, 0.5)
# Two objects: beside each other, so that both can move upright, or above each other, so that both can move sideways.
_BESIDE = (_Cell(-0.25, 0.0, 0.25, 0.5), _Cell(0.25, 0.0, 0.25, 0.5))
_ABOVE = (_Cell(0.0, -0.25, 0.5, 0.25), _Cell(0.0, 0.25, 0.5, 0.25))

Combination = tuple[Shape, Colour, Motion]


def combinations() -> tuple[Combination, ...]:
    """All of shape, colour and motion that a clip can show."""
    return tuple(
        (shape, colour, motion)
        for shape in Shape
        for colour in Colour
        for motion in Motion
        if not (motion is Motion.ROTATE and shape in ROUND)
    )


def is_held_out_combination(combination: Combination) -> bool:
    """Whether training never shows it: one of eight, by a hash that no version of Python changes."""
    return hashlib.sha256("-".join(combination).encode()).digest()[0] % 8 == 0


def is_held_out(scene: Scene) -> bool:
    """Whether any of its objects is a combination that training never shows."""
    return any(is_held_out_combination(item.combination) for item in scene.objects)


def sample_scene(seed: int) -> Scene:
    """Any scene; equal seeds give equal scenes."""
    return _sample(random.Random(f"any-{seed}"), lambda _: True)  # noqa: S311 - no secrets here


def training_scene(seed: int) -> Scene:
    """A scene of which no object is a held-out combination."""
    return _sample(random.Random(f"training-{seed}"), lambda item: not is_held_out_combination(item))  # noqa: S311


def held_out_scene(seed: int) -> Scene:
    """A scene of which every object is a held-out combination."""
    return _sample(random.Random(f"held-out-{seed}"), is_held_out_combination)  # noqa: S311


def _sample(chance: random.Random, accepts: Callable[[Combination], bool]) -> Scene:
    background = chance.choice(list(Background))
    colours = [colour for colour in Colour if colour not in _FAINT.get(background, frozenset())]
    if chance.random() < 0.6:
        everything = list(Motion)
        return Scene((_sample_object(chance, _WHOLE, everything, colours, accepts),), background)
    moves, cells = chance.choice([(_UPRIGHT, _BESIDE), (_SIDEWAYS, _ABOVE)])
    motions = [motion for motion in Motion if motion in moves | _RESIZING | {Motion.ROTATE}]
    first = _sample_object(chance, cells[0], motions, colours, accepts)
    others = [colour for colour in colours if colour is not first.colour]
    return Scene((first, _sample_object(chance, cells[1], motions, others, accepts)), background)


def _sample_object(
    chance: random.Random,
    cell: _Cell,
    motions: Sequence[Motion],
    colours: Sequence[Colour],
    accepts: Callable[[Combination], bool],
) -> Object:
    # The motion first, and then what it allows, so that no motion is rare.
    while True:
        motion = chance.choice(motions)
        shape = chance.choice([shape for shape in Shape if motion is not Motion.ROTATE or shape not in ROUND])
        colour = chance.choice(colours)
        if accepts((shape, colour, motion)):
            return _place(chance, cell, shape, colour, motion)


def _place(chance: random.Random, cell: _Cell, shape: Shape, colour: Colour, motion: Motion) -> Object:
    sizes = [size for size in Size if RADII[size][1] + _MARGIN < min(cell.half_width, cell.half_height)]
    if motion in _RESIZING:  # a small one would shrink to something that nobody can tell
        sizes.remove(Size.SMALL)
    size = chance.choice(sizes)
    radius = chance.uniform(*RADII[size])
    free_x, free_y = (half - radius - _MARGIN for half in (cell.half_width, cell.half_height))
    reach, rate, phase = _path(chance, motion, free_x, free_y)
    along_x = reach / 2 if motion in _SIDEWAYS else reach if motion is Motion.ORBIT else 0.0
    along_y = reach / 2 if motion in _UPRIGHT else reach if motion is Motion.ORBIT else 0.0
    return Object(
        shape=shape,
        colour=colour,
        size=size,
        motion=motion,
        x=cell.x + chance.uniform(-1, 1) * (free_x - along_x),
        y=cell.y + chance.uniform(-1, 1) * (free_y - along_y),
        radius=radius,
        angle=chance.uniform(0, 2 * math.pi) if motion is Motion.ROTATE else chance.uniform(-_TILT, _TILT),
        reach=reach,
        rate=rate,
        phase=phase,
    )


def _path(chance: random.Random, motion: Motion, free_x: float, free_y: float) -> tuple[float, float, float]:
    """Reach, rate and phase. Every motion is plain to see in the shortest clip, and stays inside in the longest."""
    turning = chance.choice((-1.0, 1.0))
    if motion in _TRANSLATIONS:
        longest = 2 * (free_x if motion in _SIDEWAYS else free_y)
        return chance.uniform(0.7, 1.0) * longest, 0.0, 0.0
    if motion is Motion.BOUNCE:
        return chance.uniform(0.7, 1.0) * 2 * free_y, chance.uniform(0.6, 0.8), 0.0
    if motion is Motion.ROTATE:
        return 0.0, turning * chance.uniform(0.15, 0.3), 0.0
    if motion is Motion.ORBIT:
        return chance.uniform(0.75, 1.0) * min(free_x, free_y), turning * chance.uniform(0.3, 0.4), chance.random()
    return chance.uniform(1.6, 1.8), 0.0, 0.0
