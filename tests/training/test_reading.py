from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.shapes_reader import through_file, worsen
from numpy.typing import NDArray
from training import paths
from training.reading import Pixels, Reading, read
from training.rendering import BACKGROUNDS, PALETTE, pose, render
from training.scenes import Background, Colour, Motion, Object, Scene, Shape, Size, sample_scene
from training.scoring import UNSEEN, ObjectScore, score, wilson_interval

from videogen_runner.media import to_uint8

Said = tuple[Background | None, frozenset[tuple[Colour, Shape | None, Motion | None]]]

ALL_RIGHT = ObjectScore(shape=True, colour=True, motion=True)


def draw(scene: Scene, num_frames: int = 17, height: int = 64, width: int = 64) -> Pixels:
    return to_uint8(render([scene], num_frames, height, width)[0])


def draw_all(scenes: Sequence[Scene], num_frames: int, height: int, width: int) -> list[Pixels]:
    return [to_uint8(x_CTHW) for x_CTHW in render(scenes, num_frames, height, width)]


def said(reading: Reading) -> Said:
    return reading.background, frozenset((item.colour, item.shape, item.motion) for item in reading.objects)


def truth(scene: Scene, *, moving: bool = True) -> Said:
    return scene.background, frozenset(
        (item.colour, item.shape, item.motion if moving else None) for item in scene.objects
    )


def build_object(**fields: object) -> Object:
    standard = {"shape": Shape.STAR, "colour": Colour.RED, "size": Size.LARGE, "motion": Motion.LEFT}
    return Object(**{**standard, "x": 0.0, "y": 0.0, "radius": 0.25, "reach": 0.35, **fields})  # type: ignore[arg-type]


def plain(background: Background, num_frames: int = 17) -> Pixels:
    return draw(Scene((build_object(radius=1e-6),), background), num_frames)


# 144 x 256 is read at half its size, and 51 frames are as long as it gets.
@pytest.mark.parametrize(("num_frames", "height", "width", "first", "count"), [
    (17, 64, 64, 0, 50), (51, 64, 64, 100, 12), (34, 64, 112, 200, 12), (17, 96, 96, 300, 12), (17, 144, 256, 400, 12),
])  # fmt: skip
def test_clips_as_they_are_drawn_are_read_right(
    num_frames: int, height: int, width: int, first: int, count: int
) -> None:
    scenes = [sample_scene(seed) for seed in range(first, first + count)]
    clips = draw_all(scenes, num_frames, height, width)
    assert [said(read(clip_THWC)) for clip_THWC in clips] == [truth(scene) for scene in scenes]


def test_worsened_clips_that_were_a_video_file_are_read_right(tmp_path: Path) -> None:
    scenes = [sample_scene(seed) for seed in range(1000, 1030)]
    clips = [
        through_file(worsen(clip_THWC, seed), tmp_path) for seed, clip_THWC in enumerate(draw_all(scenes, 17, 64, 64))
    ]
    assert [said(read(clip_THWC)) for clip_THWC in clips] == [truth(scene) for scene in scenes]


def test_a_single_frame_shows_shape_and_colour_but_no_motion() -> None:
    scenes = [sample_scene(seed) for seed in range(2000, 2060)]
    clips = draw_all(scenes, 1, 64, 64)
    assert [said(read(clip_THWC)) for clip_THWC in clips] == [truth(scene, moving=False) for scene in scenes]


def test_places_and_sizes_are_in_the_units_of_a_scene() -> None:
    item = build_object(shape=Shape.CIRCLE, radius=0.2, x=-0.1, y=0.15, motion=Motion.GROW, reach=1.0)
    (seen,) = read(draw(Scene((item,), Background.NAVY), height=96, width=160)).objects
    assert (seen.x, seen.y, seen.radius) == pytest.approx((-0.1, 0.15, 0.2), abs=0.005)


@pytest.mark.parametrize("background", Background)
def test_a_plain_background_shows_nothing(background: Background) -> None:
    assert read(plain(background)) == Reading(background, ())


def test_noise_shows_nothing() -> None:
    noise_THWC = np.random.default_rng(1).integers(0, 256, (17, 64, 64, 3), np.uint8)
    assert read(noise_THWC).objects == ()


def test_clouds_of_colours_show_no_shape() -> None:
    """What an untrained network makes: smooth, colourful, and without edges."""
    coarse_TCHW = torch.rand((17, 3, 6, 6), generator=torch.Generator().manual_seed(2))
    clouds_TCHW = torch.nn.functional.interpolate(coarse_TCHW, size=(64, 64), mode="bicubic").clamp(0, 1)
    seen = read((clouds_TCHW * 255).byte().permute(0, 2, 3, 1).numpy())
    assert [item.shape for item in seen.objects] == [None] * len(seen.objects)


def test_an_object_that_is_there_half_of_the_time_is_none() -> None:
    clip_THWC = draw(Scene((build_object(),), Background.WHITE))
    clip_THWC[8:] = plain(Background.WHITE)[8:]
    assert read(clip_THWC) == Reading(Background.WHITE, ())


def blob(outline: str) -> NDArray[np.bool_]:
    """Something in the middle of 64 x 64 pixels that no scene shows."""
    y_HW, x_HW = np.mgrid[:64, :64] - 31.5
    in_disc_HW = np.hypot(x_HW, y_HW) < 14
    outlines = {
        "half a disc": in_disc_HW & (y_HW > 0),
        "crescent": in_disc_HW & (np.hypot(x_HW - 6, y_HW) > 14),
        "bar": (abs(x_HW) < 16) & (abs(y_HW) < 8),
        "L": (abs(x_HW) < 12) & (abs(y_HW) < 12) & ((x_HW < -2) | (y_HW > 2)),
        "ellipse": np.hypot(x_HW / 1.3, y_HW * 1.3) < 14,
        "two discs": np.hypot(abs(x_HW) - 9, y_HW) < 8,
    }
    return np.asarray(outlines[outline])


@pytest.mark.parametrize("outline", ["half a disc", "crescent", "bar", "L", "ellipse", "two discs"])
def test_a_blob_that_is_no_shape_is_seen_but_has_none(outline: str) -> None:
    clip_THWC = plain(Background.BLACK)
    clip_THWC[:, blob(outline)] = PALETTE[Colour.YELLOW]
    assert said(read(clip_THWC)) == (Background.BLACK, frozenset({(Colour.YELLOW, None, None)}))


@pytest.mark.parametrize("colour", Colour)
def test_colours_that_are_a_little_off_are_still_those(colour: Colour) -> None:
    clip_THWC = draw(Scene((build_object(colour=colour),), Background.WHITE)).astype(int)
    off_by = np.random.default_rng(list(Colour).index(colour)).integers(-20, 21, 3)
    seen = read((clip_THWC + off_by).clip(0, 255).astype(np.uint8))
    assert said(seen) == (Background.WHITE, frozenset({(colour, Shape.STAR, Motion.LEFT)}))


def test_the_edge_of_a_red_object_on_white_is_no_pink_object() -> None:
    item = build_object(shape=Shape.RING, radius=0.27, motion=Motion.SHRINK, reach=1.7)
    clip_THWC = worsen(draw(Scene((item,), Background.WHITE), height=144, width=256), 3)
    assert said(read(clip_THWC)) == (Background.WHITE, frozenset({(Colour.RED, Shape.RING, Motion.SHRINK)}))


@pytest.mark.parametrize("frames_THWC", [
    np.zeros((17, 64, 64), np.uint8), np.zeros((17, 3, 64, 64), np.uint8), np.zeros((2, 64, 64, 3), np.float32),
    np.zeros((0, 64, 64, 3), np.uint8),
])  # fmt: skip
def test_anything_but_frames_of_rgb_bytes_is_refused(frames_THWC: Pixels) -> None:
    with pytest.raises(ValueError, match="decode them as rgb24"):
        read(frames_THWC)


def follow(item: Object, num_frames: int = 17) -> paths.Path:
    poses = [pose(item, frame, num_frames) for frame in range(num_frames)]
    columns = zip(*((at.x, at.y, at.radius, at.angle) for at in poses), strict=True)
    return paths.Path(*(np.array(column, np.float32) for column in columns))


def test_what_stands_still_has_no_motion() -> None:
    assert paths.classify(follow(build_object(reach=0.0))) is None


def test_a_slanted_path_has_no_name() -> None:
    across = follow(build_object(motion=Motion.RIGHT))
    assert paths.classify(across) is Motion.RIGHT
    assert paths.classify(paths.Path(across.x_T, across.x_T, across.radius_T, across.turn_T)) is None


def test_there_and_back_sideways_has_no_name() -> None:
    bounce = follow(build_object(motion=Motion.BOUNCE, rate=0.7))
    assert paths.classify(bounce) is Motion.BOUNCE
    assert paths.classify(paths.Path(bounce.y_T, bounce.x_T, bounce.radius_T, bounce.turn_T)) is None


def test_an_arc_is_no_orbit() -> None:
    assert paths.classify(follow(build_object(motion=Motion.ORBIT, reach=0.2, rate=0.35))) is Motion.ORBIT
    assert paths.classify(follow(build_object(motion=Motion.ORBIT, reach=0.2, rate=0.125))) is None


def test_one_wrong_frame_changes_no_motion() -> None:
    path = follow(build_object(motion=Motion.ROTATE, rate=0.2))
    path.x_T[5] += 0.4
    assert paths.classify(path) is Motion.ROTATE


def test_objects_are_scored_against_those_that_suit_them_best() -> None:
    scene = next(scene for seed in range(99) if len((scene := sample_scene(seed)).objects) == 2)
    seen = read(draw(scene))
    swapped = Scene(scene.objects[::-1], scene.background)
    assert score(scene, seen) == score(swapped, seen) == (ALL_RIGHT, ALL_RIGHT)
    first = Reading(seen.background, tuple(item for item in seen.objects if item.colour is scene.objects[0].colour))
    assert score(scene, first) == (ALL_RIGHT, UNSEEN)
    assert score(scene, Reading(None, ())) == (UNSEEN, UNSEEN)


def test_wilson_intervals_are_those_of_the_textbook() -> None:
    assert wilson_interval(190, 200) == pytest.approx((0.9104, 0.9726), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    with pytest.raises(ValueError, match="count something first"):
        wilson_interval(0, 0)


def test_no_background_is_taken_for_another_that_is_a_little_off() -> None:
    for background, (top, _) in BACKGROUNDS.items():
        off_THWC = (plain(background, 1).astype(int) + 12).clip(0, 255).astype(np.uint8)
        assert read(off_THWC) == Reading(background, ()), top
