"""Sentences for scenes, in varied wording. Each says shape, colour and motion, and nothing that is not to be seen.

A size is said only of what keeps it, the background only sometimes, a turn's direction only where it has one.
"""

import random
from collections.abc import Sequence

from training.scenes import Background, Motion, Object, Scene, Shape, Size

_SHAPES = {
    Shape.CIRCLE: ("circle", "disc", "round dot"),
    Shape.SQUARE: ("square",),
    Shape.TRIANGLE: ("triangle",),
    Shape.STAR: ("star", "five-pointed star"),
    Shape.CROSS: ("cross", "plus sign"),
    Shape.RING: ("ring", "hoop"),
}
_SIZES = {Size.SMALL: ("small", "little"), Size.MEDIUM: ("medium-sized",), Size.LARGE: ("large", "big")}
_MOTIONS = {
    Motion.LEFT: ("moves to the left", "moves left", "glides to the left", "slides from right to left", "drifts left"),
    Motion.RIGHT: (
        "moves to the right",
        "moves right",
        "glides to the right",
        "slides from left to right",
        "drifts right",
    ),
    Motion.UP: ("moves up", "moves upwards", "rises", "glides up", "floats upwards"),
    Motion.DOWN: ("moves down", "moves downwards", "sinks", "glides down", "goes down"),
    Motion.BOUNCE: ("bounces", "bounces up and down", "hops up and down", "jumps up and down"),
    Motion.ROTATE: ("rotates", "spins in place", "turns around itself", "spins", "rotates on the spot"),
    Motion.GROW: ("grows", "gets bigger", "grows larger", "becomes larger"),
    Motion.SHRINK: ("shrinks", "gets smaller", "becomes smaller"),
    Motion.ORBIT: ("moves in a circle", "orbits around a point", "circles around", "travels along a circle"),
}
_TURNS = {-1: ("counterclockwise", "anticlockwise"), 1: ("clockwise",)}
_BACKGROUNDS = {
    Background.BLACK: ("a black background", "black"),
    Background.WHITE: ("a white background", "white"),
    Background.GREY: ("a grey background", "grey"),
    Background.NAVY: ("a dark blue background", "a navy background"),
    Background.SAND: ("a sand-coloured background", "a beige background"),
    Background.DUSK: ("a background like dusk", "a dusky violet background"),
}
_OPENINGS = ("", "", "", "a video of ", "an animation of ", "a clip of ", "a video in which ", "an animation in which ")


def caption(scene: Scene, seed: int, *, moving: bool = True) -> str:
    """One sentence; equal seeds give equal wording. `moving` is false for a single frame, which shows no motion."""
    chance = random.Random(f"caption-{seed}")  # noqa: S311 - no secrets here
    items = list(scene.objects)
    chance.shuffle(items)
    opening = chance.choice(_OPENINGS)
    relative = moving and bool(opening) and not opening.endswith("which ")
    parts = [_describe(item, chance, moving=moving, relative=relative) for item in items]
    if not moving:
        opening = chance.choice(("", "", "a picture of ", "an image of "))
    text = opening + _join(parts, chance, moving=moving)
    if chance.random() < 0.6:
        text += f" on {chance.choice(_BACKGROUNDS[scene.background])}"
    return _finish(text, chance)


def _describe(item: Object, chance: random.Random, *, moving: bool, relative: bool) -> str:
    keeps_size = item.motion not in (Motion.GROW, Motion.SHRINK)
    words = [chance.choice(_SIZES[item.size])] if keeps_size and chance.random() < 0.4 else []
    words += [item.colour.value, chance.choice(_SHAPES[item.shape])]
    noun = " ".join(words)
    noun = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    if not moving:
        return noun
    motion = chance.choice(_MOTIONS[item.motion])
    if item.motion in (Motion.ROTATE, Motion.ORBIT) and chance.random() < 0.3:
        motion += f" {chance.choice(_TURNS[1 if item.rate > 0 else -1])}"
    return f"{noun} that {motion}" if relative else f"{noun} {motion}"


def _join(parts: Sequence[str], chance: random.Random, *, moving: bool) -> str:
    if len(parts) == 1:
        return parts[0]
    joint = chance.choice((" and ", ", and ", " while ") if moving and " that " not in parts[0] else (" and ",))
    return joint.join(parts)


def _finish(text: str, chance: random.Random) -> str:
    """People write capitals and full stops, or neither."""
    if chance.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + "." if chance.random() < 0.5 else text
