"""How right a reading is: what of each object of a scene is there, and how sure a share of right ones is."""

import math
from dataclasses import dataclass
from itertools import permutations

from training.reading import Reading, SeenObject
from training.scenes import Object, Scene


@dataclass(frozen=True)
class ObjectScore:
    """Which attributes of one object are right. An object that is not seen has none of them right."""

    shape: bool
    colour: bool
    motion: bool

    @property
    def right(self) -> int:
        return self.shape + self.colour + self.motion


UNSEEN = ObjectScore(shape=False, colour=False, motion=False)


def score(scene: Scene, reading: Reading) -> tuple[ObjectScore, ...]:
    """A score for each object of the scene, in its order: it is compared with the seen object that suits them best."""
    places: list[SeenObject | None] = [*reading.objects, *[None] * len(scene.objects)]
    matches = (
        tuple(_compare(item, seen) for item, seen in zip(scene.objects, choice, strict=True))
        for choice in permutations(places, len(scene.objects))
    )
    return max(matches, key=lambda scores: sum(one.right for one in scores))


def _compare(item: Object, seen: SeenObject | None) -> ObjectScore:
    if seen is None:
        return UNSEEN
    return ObjectScore(
        shape=seen.shape is item.shape, colour=seen.colour is item.colour, motion=seen.motion is item.motion
    )


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927). Raises ValueError where nothing was counted."""
    if not 0 <= right <= total or not total:
        raise ValueError(f"{right} of {total} is no share; count something first")
    z = 1.959964
    middle = (right + z * z / 2) / (total + z * z)
    half = z / (total + z * z) * math.sqrt(right * (total - right) / total + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
