import math

import pytest
from training.rendering import pose
from training.scenes import (
    FRAMES_PER_SECOND,
    ROUND,
    Motion,
    Object,
    Scene,
    combinations,
    held_out_scene,
    is_held_out,
    is_held_out_combination,
    sample_scene,
    training_scene,
)

NUM_SCENES = 3000
LENGTHS = (1, 17, 34, 51)


def scenes() -> list[Scene]:
    return [sample_scene(seed) for seed in range(NUM_SCENES)]


def circle_around_way(item: Object, num_frames: int) -> list[tuple[float, float, float]]:
    return [(at.x, at.y, at.radius) for at in (pose(item, frame, num_frames) for frame in range(num_frames))]


@pytest.mark.parametrize("draw", [sample_scene, training_scene, held_out_scene])
def test_equal_seeds_give_equal_scenes(draw) -> None:  # type: ignore[no-untyped-def]
    assert [draw(seed) for seed in range(50)] == [draw(seed) for seed in range(50)]
    assert len({draw(seed) for seed in range(50)}) == 50


def test_training_never_shows_a_held_out_combination() -> None:
    shown = {item.combination for seed in range(NUM_SCENES) for item in training_scene(seed).objects}
    assert {combination for combination in shown if is_held_out_combination(combination)} == set()


def test_training_shows_every_other_combination() -> None:
    shown = {item.combination for seed in range(4 * NUM_SCENES) for item in training_scene(seed).objects}
    assert shown == {combination for combination in combinations() if not is_held_out_combination(combination)}


def test_every_object_of_a_held_out_scene_is_held_out() -> None:
    for seed in range(200):
        scene = held_out_scene(seed)
        assert is_held_out(scene)
        assert all(is_held_out_combination(item.combination) for item in scene.objects)


def test_about_one_combination_of_eight_is_held_out_and_these_are_the_same_for_ever() -> None:
    held_out = [combination for combination in combinations() if is_held_out_combination(combination)]
    assert (len(combinations()), len(held_out)) == (416, 43)
    assert held_out[0] == ("circle", "orange", "right")


def test_nothing_round_rotates() -> None:
    turning = [item for scene in scenes() for item in scene.objects if item.motion is Motion.ROTATE]
    assert turning
    assert ROUND & {item.shape for item in turning} == set()
    assert ROUND & {shape for shape, _, motion in combinations() if motion is Motion.ROTATE} == set()


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_objects_stay_inside_the_frame(num_frames: int) -> None:
    for scene in scenes():
        for item in scene.objects:
            for x, y, radius in circle_around_way(item, num_frames):
                assert max(abs(x), abs(y)) + radius < 0.5


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_two_objects_never_touch_and_have_two_colours(num_frames: int) -> None:
    pairs = [scene.objects for scene in scenes() if len(scene.objects) == 2]
    assert len(pairs) > NUM_SCENES / 4
    for first, second in pairs:
        assert first.colour is not second.colour
        for (x, y, radius), (u, v, other) in zip(
            circle_around_way(first, num_frames), circle_around_way(second, num_frames), strict=True
        ):
            assert math.hypot(x - u, y - v) > radius + other


def test_every_motion_is_plain_in_the_shortest_clip() -> None:
    for scene in scenes():
        for item in scene.objects:
            first, last = pose(item, 0, 17), pose(item, 16, 17)
            match item.motion:
                case Motion.LEFT:
                    moved = first.x - last.x
                case Motion.RIGHT:
                    moved = last.x - first.x
                case Motion.UP:
                    moved = first.y - last.y
                case Motion.DOWN:
                    moved = last.y - first.y
                case Motion.GROW:
                    moved = last.radius / first.radius - 1.4
                case Motion.SHRINK:
                    moved = first.radius / last.radius - 1.4
                case Motion.ROTATE:
                    moved = abs(last.angle - first.angle) / math.pi
                case Motion.BOUNCE | Motion.ORBIT:
                    moved = abs(item.rate) * 17 / FRAMES_PER_SECOND * item.reach
            assert moved > 0.1
