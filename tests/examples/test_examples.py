"""Every file of examples/ that a CPU can make, made by `videogen run`: real processes, real clips, few steps.

That each file parses, is planned, comes to its end when it is played, and is taken by an API server, is tested where
those are: tests/core/test_cli_plan.py, tests/cluster/test_render.py, test_crd.py and test_admission.py.

Shape suffixes: B = 1 sample, C channels, T latent frames, F frames, H W rows and columns.
"""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from training.rendering import render
from training.scenes import Background, Colour, Motion, Object, Scene, Shape, Size

from videogen_api.architecture import architecture_of
from videogen_api.errors import ExitCode
from videogen_api.naming import Env
from videogen_api.plan import NUMERICS_VERSION
from videogen_api.report import TerminationReport
from videogen_api.status import VideoGenerationStatus
from videogen_operator.cli.main import main
from videogen_runner.checkpoint import Checkpoints
from videogen_runner.media import to_uint8
from videogen_runner.models.opensora.conditioning import image_to_tensor
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipState
from videogen_runner.store import open_store
from videogen_runner.weights.components import Component
from videogen_runner.weights.loading import load_vae
from videogen_runner.weights.random_weights import PRESETS, write_random

# Several processes that import torch, one after the other: minutes where two other tests share two slow cores.
pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples"
VIDEOGEN = (sys.executable, "-m", "videogen_operator.cli.main")
STEPS = 2  # instead of an example's own: random weights draw nothing in any number of them


@dataclass(frozen=True)
class Clips:
    """What an example makes, and the arguments with which its own comment runs it."""

    names: tuple[str, ...]
    size: tuple[int, int]  # width, height
    frames: int
    fps: int
    arguments: tuple[str, ...] = ()


MADE_HERE = {
    "image-to-video": Clips(("grows-1", "moves-1", "rotates-1"), size=(96, 96), frames=34, fps=8),
    "long-video": Clips(("bounce-2", "story-3"), size=(64, 64), frames=51 + 34 + 34, fps=8),
    "quickstart": Clips(
        ("boat-2924012254", "harbour-430294447", "rain-3088015815", "snow-42", "snow-43"),
        size=(256, 144),
        frames=51,
        fps=24,
    ),
    "two-workers": Clips(
        (
            *("circle-1", "circle-2", "cross-1", "disc-1", "pair-1", "ring-1"),
            *("square-1", "square-2", "star-1", "star-2", "star-3", "triangle-1"),
        ),
        size=(64, 64),
        frames=17,
        fps=8,
        arguments=("--workers", "2"),
    ),
}
NEED_FULL_SIZE_WEIGHTS = {"four-t4", "own-storage", "queue", "two-pools"}


@dataclass(frozen=True)
class Finished:
    """An example after `videogen run`."""

    out: Path
    status: VideoGenerationStatus

    @property
    def videos(self) -> Path:
        return self.out / "videos" / "default" / self.out.name

    def state(self, clip: str) -> ClipState:
        """The clip before it was decoded, as the store keeps it."""
        done = json.loads((self.videos / f"{clip}.json").read_text())["done"]
        state = Checkpoints(open_store(str(self.out), {}), done["clipDigest"], NUMERICS_VERSION).furthest()
        assert state is not None
        return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `weights: builtin` stands for."""
    folder = tmp_path_factory.mktemp("weights")
    for preset in (PRESETS["tiny"], PRESETS["shapes"]):
        write_random(preset, folder / preset.model, seed=0)
    return folder


@pytest.fixture(scope="module")
def finish(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Callable[[str], Finished]:
    """Runs an example once, from the root of the repository."""
    folder = tmp_path_factory.mktemp("examples")

    @functools.cache
    def run(name: str) -> Finished:
        document = read(FOLDER / f"{name}.yaml")
        document["spec"]["sampling"]["steps"] = STEPS
        manifest, out = folder / f"{name}.yaml", folder / name
        manifest.write_text(yaml.safe_dump(document))
        command = [*VIDEOGEN, "run", str(manifest), "--out", str(out), "--output", "json", *MADE_HERE[name].arguments]
        environment = {**os.environ, Env.BUILTIN_WEIGHTS: str(weights)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == ExitCode.OK, done.stderr
        return Finished(out, VideoGenerationStatus.model_validate_json(done.stdout))

    return run


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def form_of(video: Path) -> tuple[tuple[int, int], int, float]:
    """Width and height, number of frames, and frames a second."""
    with av.open(str(video)) as container:
        (stream,) = container.streams.video
        rate = stream.average_rate
        sizes = [(frame.width, frame.height) for frame in container.decode(stream)]
    (size,) = set(sizes)
    assert rate is not None
    return size, len(sizes), float(rate)


def test_every_example_with_weights_that_are_built_in_is_made_here() -> None:
    is_builtin = {path.stem: read(path)["spec"]["model"]["weights"] == "builtin" for path in FOLDER.glob("*.yaml")}
    assert is_builtin == dict.fromkeys(MADE_HERE, True) | dict.fromkeys(NEED_FULL_SIZE_WEIGHTS, False)


def test_the_table_of_examples_has_a_row_for_each() -> None:
    rows = re.findall(r"^\| \[(.+?)\]\((.+?)\) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((path.name, path.name) for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", MADE_HERE)
def test_an_example_becomes_its_clips_and_their_page(finish: Callable[[str], Finished], name: str) -> None:
    clips, finished = MADE_HERE[name], finish(name)
    assert sorted(path.name for path in finished.videos.iterdir()) == sorted(
        ["index.html", *(f"{clip}.{suffix}" for clip in clips.names for suffix in ("json", "mp4"))]
    )
    form = (clips.size, clips.frames, clips.fps)
    assert {clip: form_of(finished.videos / f"{clip}.mp4") for clip in clips.names} == dict.fromkeys(clips.names, form)


def test_each_clip_of_image_to_video_keeps_the_picture_as_its_first_latent_frame(
    finish: Callable[[str], Finished], weights: Path
) -> None:
    # Pixels would show it only with trained weights: what random ones encode, they do not decode.
    finished = finish("image-to-video")
    vae = load_vae(
        weights / "shapes" / Component.VAE, device="cpu", dtype=torch.float32, architecture=architecture_of("shapes")
    )
    picture_CHW = image_to_tensor(Image.open(FOLDER / "star.png"), 96, 96)
    with torch.no_grad():
        encoded_CTHW = vae.encode(picture_CHW[None, :, None], SeededDraws(1).posterior(0, 0), batch_frames=4)[0]

    states = [finished.state(clip) for clip in MADE_HERE["image-to-video"].names]

    for state in states:
        assert state.mask_BT.tolist() == [[0, *[1] * 9]]
        torch.testing.assert_close(state.z_BCTHW[0, :, :1], encoded_CTHW, rtol=0, atol=1e-4)
    moves, rotates, grows = (state.z_BCTHW[:, :, 1:] for state in states)
    assert not any(torch.equal(one, other) for one, other in ((moves, rotates), (rotates, grows), (grows, moves)))


def test_the_picture_of_image_to_video_is_one_that_training_draws() -> None:
    star = Object(Shape.STAR, Colour.PINK, Size.MEDIUM, Motion.RIGHT, x=0, y=0, radius=0.18, angle=0.1, reach=0.5)
    drawn_HWC = to_uint8(render([Scene((star,), Background.NAVY)], 17, 96, 96)[0])[0]
    with Image.open(FOLDER / "star.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (96, 96))
        # Processors may round a sine otherwise.
        np.testing.assert_allclose(np.asarray(picture, dtype=int), drawn_HWC, atol=1)


def test_pods_do_not_have_the_picture_of_image_to_video(capsys: pytest.CaptureFixture[str]) -> None:
    path = FOLDER / "image-to-video.yaml"
    assert main(["render", str(path)]) == ExitCode.INVALID_INPUT
    assert capsys.readouterr().err == (
        f"error: {path}: spec.prompts[0].references[0].url: examples/star.png is a file of one machine, "
        "which pods do not have; want s3://bucket/key\n"
    )


def test_each_loop_of_a_long_video_begins_with_the_end_of_the_one_before(finish: Callable[[str], Finished]) -> None:
    finished = finish("long-video")
    for clip in MADE_HERE["long-video"].names:
        state = finished.state(clip)
        loops_CTHW = [*state.finished, state.z_BCTHW[0]]
        assert [z_CTHW.shape[1] for z_CTHW in loops_CTHW] == [15, 15, 15]
        # Encoded again from the frames of the loop before, and then kept.
        ends_CTHW = [piece_CTHW[:, -5:] for piece_CTHW in state.references]
        torch.testing.assert_close([z_CTHW[:, :5] for z_CTHW in loops_CTHW[1:]], ends_CTHW, rtol=0, atol=0)


def test_each_loop_of_a_long_video_may_have_a_text_of_its_own(finish: Callable[[str], Finished]) -> None:
    encoder = finish("long-video").status.encoder
    assert encoder is not None
    assert encoder.prompts.model_dump() == {"total": 4, "cached": 0, "encoded": 4}


def test_two_workers_make_each_clip_once(finish: Callable[[str], Finished]) -> None:
    # Who makes how many is a matter of who starts first.
    out = finish("two-workers").out
    reports = [
        TerminationReport.model_validate_json(path.read_bytes())
        for path in sorted(out.glob(".videogen/*/*-gen-*/termination.json"))
    ]
    assert [(report.index, report.exit_code) for report in reports] == [(0, ExitCode.OK), (1, ExitCode.OK)]
    generated = [report.generate for report in reports if report.generate is not None]
    assert sum(each.finished for each in generated) == len(MADE_HERE["two-workers"].names)
