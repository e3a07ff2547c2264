from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from benchmarks import shapes_eval
from benchmarks.shapes_clips import Models, build_plan, make_clips
from benchmarks.shapes_eval import count, make_and_read, measure_vae, say, table
from tests.runner.small_models import build_denoiser, build_vae
from torch import Tensor
from training.captions import caption
from training.reading import Reading
from training.rendering import render
from training.scenes import Scene, Shape, held_out_scene

from videogen_api.plan import Plan, PlannedPrompt
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipGenerator
from videogen_runner.roles.clip_inputs import build_request

SCENES = [held_out_scene(seed) for seed in range(6)]
MODELS = Models(denoiser=None, vae=None, device=torch.device("cpu"))  # type: ignore[arg-type]  # nothing looks at them


@pytest.fixture(scope="module")
def plan() -> Plan:
    return build_plan(
        [caption(scene, seed) for seed, scene in enumerate(SCENES)], Path("weights"), (64, 64), 17, "cpu", steps=2
    )


def evaluate(plan: Plan, shown: Sequence[Scene]) -> dict[str, Any]:
    """Counts of a model that draws `shown`."""

    def make_clips(_: Models, __: Plan, prompts: Sequence[PlannedPrompt], *___: object) -> Tensor:
        return render([shown[prompt.seed] for prompt in prompts], 17, 64, 64)

    with mock.patch.object(shapes_eval, "make_clips", make_clips):
        made = make_and_read(MODELS, plan, SCENES, [torch.zeros(1, 1)] * len(SCENES), 7.0)
    return count(made, shapes_eval.ATTRIBUTES)


def right(counts: dict[str, Any]) -> list[int]:
    return [counts[name]["right"] for name in ("shape", "colour", "motion")]


def test_a_model_that_draws_what_captions_say_has_everything_right(plan: Plan) -> None:
    counts = evaluate(plan, SCENES)
    objects = sum(len(scene.objects) for scene in SCENES)
    assert (counts["objects"], right(counts), counts["backgrounds"]["share"]) == (objects, [objects] * 3, 1.0)
    assert (counts["extra objects"], counts["nothing seen"]) == (0, 0)
    assert all(part == whole for part, whole in (ratio.split(" / ") for ratio in counts["by value"].values()))


def test_a_model_that_draws_nothing_but_stars_has_no_other_shape_right(plan: Plan) -> None:
    stars = [
        replace(scene, objects=tuple(replace(item, shape=Shape.STAR) for item in scene.objects)) for scene in SCENES
    ]
    items = [item for scene in SCENES for item in scene.objects]
    counts = evaluate(plan, stars)
    assert right(counts) == [sum(item.shape is Shape.STAR for item in items), len(items), len(items)]
    assert counts["by value"]["circle"] == f"0 / {sum(item.shape is Shape.CIRCLE for item in items)}"


def test_a_model_that_draws_nothing_has_nothing_right(plan: Plan) -> None:
    counts = evaluate(plan, [replace(scene, objects=(replace(scene.objects[0], radius=1e-6),)) for scene in SCENES])
    assert (right(counts), counts["nothing seen"]) == ([0, 0, 0], len(SCENES))


def test_the_table_gives_shares_and_intervals_of_each_guidance() -> None:
    share = {"right": 9, "share": 0.9, "low": 0.596, "high": 0.982}
    assert table({"7": {"objects": 10, "shape": share}}, ["shape"]).splitlines() == [
        "| guidance | objects | shape |",
        "|---|---|---|",
        "| 7 | 10 | 90.0 (59.6 to 98.2) |",
    ]


def test_an_autoencoder_that_adds_an_even_grey_has_the_psnr_of_it_and_no_flicker() -> None:
    with mock.patch.object(shapes_eval, "reconstruct", lambda _, x_BCFHW: x_BCFHW + 0.02):
        figures = measure_vae(MODELS, SCENES[:2], 17, (64, 64))
    assert figures == {
        "clips": 2.0,
        "psnr": pytest.approx(40.0, abs=1e-3),
        "least psnr": pytest.approx(40.0, abs=1e-3),
        "flicker": pytest.approx(0.0, abs=1e-4),
        "worst flicker": pytest.approx(0.0, abs=1e-4),
        "error of stills": pytest.approx(2.55, abs=1e-3),
    }


def test_an_autoencoder_whose_every_other_frame_is_brighter_flickers() -> None:
    def reconstruct(_: Models, x_BCFHW: Tensor) -> Tensor:
        seen_BCFHW = x_BCFHW.clone()
        seen_BCFHW[:, :, ::2] += 0.02
        return seen_BCFHW

    with mock.patch.object(shapes_eval, "reconstruct", reconstruct):
        figures = measure_vae(MODELS, SCENES[:1], 17, (64, 64))
    assert figures["flicker"] == figures["worst flicker"] == pytest.approx(2.55, abs=1e-3)


def test_what_is_read_is_said_for_people() -> None:
    assert say(Reading(None, ())) == "read: nothing on no background"


def test_clips_made_together_are_those_that_a_runner_makes_alone(plan: Plan) -> None:
    models = Models(build_denoiser(), build_vae(), torch.device("cpu"))
    prompts = plan.prompts[:2]
    channels = models.denoiser.config.caption_channels
    tokens_LX = [torch.randn(length, channels, generator=torch.Generator().manual_seed(length)) for length in (3, 5)]
    together_BCFHW = make_clips(models, plan, prompts, tokens_LX, 7.0)
    for prompt, y_LX, x_CFHW in zip(prompts, tokens_LX, together_BCFHW, strict=True):
        alone = ClipGenerator(
            models.denoiser, models.vae, build_request(plan, prompt), [y_LX], SeededDraws(prompt.seed)
        )
        *_, last = alone.states(alone.start())
        torch.testing.assert_close(x_CFHW, alone.frames(last), rtol=0, atol=1e-4)
