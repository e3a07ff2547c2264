import re

from training.captions import caption
from training.scenes import Background, Colour, Motion, Object, Scene, Shape, Size, sample_scene

# Words that say which, whatever the wording.
MOTION_WORDS = {
    Motion.LEFT: r"\bleft\b",
    Motion.RIGHT: r"\bright\b",
    Motion.UP: r"\bup\b|upwards|rises",
    Motion.DOWN: r"\bdown\b|downwards|sinks",
    Motion.BOUNCE: r"bounces|up and down",
    Motion.ROTATE: r"rotates|spins|turns",
    Motion.GROW: r"grows|bigger|larger",
    Motion.SHRINK: r"shrinks|smaller",
    Motion.ORBIT: r"circle\b|orbits|circles",
}
SHAPE_WORDS = {
    Shape.CIRCLE: r"circle|disc|dot",
    Shape.SQUARE: "square",
    Shape.TRIANGLE: "triangle",
    Shape.STAR: "star",
    Shape.CROSS: "cross|plus sign",
    Shape.RING: "ring|hoop",
}


def test_equal_seeds_give_equal_words_and_other_seeds_give_others() -> None:
    scene = sample_scene(3)
    assert [caption(scene, seed) for seed in range(20)] == [caption(scene, seed) for seed in range(20)]
    assert len({caption(scene, seed) for seed in range(20)}) > 10


def test_a_caption_says_shape_colour_and_motion_of_every_object() -> None:
    for seed in range(2000):
        scene = sample_scene(seed)
        text = caption(scene, seed)
        for item in scene.objects:
            assert item.colour in text
            assert re.search(SHAPE_WORDS[item.shape], text), text
            assert re.search(MOTION_WORDS[item.motion], text), text


def test_a_picture_has_no_motion() -> None:
    verbs = r"moves|glides|slides|drifts|rises|sinks|bounces|rotates|spins|grows|shrinks|gets|becomes|orbits|circles"
    for seed in range(500):
        text = caption(sample_scene(seed), seed, moving=False)
        assert not re.search(verbs, text), text


def test_a_caption_says_no_size_of_what_changes_it() -> None:
    item = Object(Shape.STAR, Colour.RED, Size.LARGE, Motion.GROW, 0, 0, 0.25, reach=1.7)
    texts = [caption(Scene((item,), Background.BLACK), seed).lower() for seed in range(200)]
    assert not [text for text in texts if re.search(r"\b(small|little|medium-sized|large|big)\b", text)]


def test_a_or_an_fits_the_next_word() -> None:
    for seed in range(1000):
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", caption(sample_scene(seed), seed))
