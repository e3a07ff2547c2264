"""How well weights of the model `shapes` draw what held-out captions say.

    python -m benchmarks.shapes_eval --weights DIR --out DIR [--clips 200] [--size 64x64] [--frames 17|34|51]

Captions of combinations that training never shows become clips, once as asked and once with a guidance of 1; the clips
are written as mp4, decoded and read by training/reading.py, and each object's shape, colour and motion is right or
wrong. Held-out clips through the VAE and back give its PSNR, a still repeated as a clip gives its flicker. Writes
results.json, sheet.png and a few clips. The figures are in docs/benchmarks/shapes.md.

Shape suffixes: B clips, C channels, F frames, H W rows and columns.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.shapes_clips import Models, build_plan, encode_texts, load_models, make_clips, reconstruct
from benchmarks.shapes_reader import through_file
from torch import Tensor
from training.captions import caption
from training.reading import Pixels, Reading, read
from training.rendering import render
from training.scenes import FRAMES_PER_SECOND, Object, Scene, held_out_scene
from training.scoring import ObjectScore, score, wilson_interval
from training.sheets import contact_sheet

from videogen_api.plan import Plan
from videogen_runner.media import to_uint8, write_mp4, write_png
from videogen_runner.weights.location import LocalWeights

NO_GUIDANCE = 1.0
ATTRIBUTES = ("shape", "colour", "motion")
VAE_CLIPS = 32
SHEET_CLIPS, EXAMPLE_CLIPS = 12, 6


@dataclass(frozen=True)
class MadeClip:
    """One clip, what it should show and what it shows."""

    scene: Scene
    text: str
    frames_FHWC: Pixels
    reading: Reading

    @property
    def scores(self) -> tuple[ObjectScore, ...]:
        return score(self.scene, self.reading)


def make_and_read(
    models: Models, plan: Plan, scenes: Sequence[Scene], tokens_LX: Sequence[Tensor], guidance: float
) -> list[MadeClip]:
    """A clip for each scene, as it is after the video file."""
    made = []
    with tempfile.TemporaryDirectory(prefix="shapes-eval-") as folder:
        for first in range(0, len(scenes), models.batch):
            chosen = slice(first, first + models.batch)
            prompts = plan.prompts[chosen]
            clips_BCFHW = make_clips(models, plan, prompts, tokens_LX[chosen], guidance)
            for scene, prompt, x_CFHW in zip(scenes[chosen], prompts, clips_BCFHW, strict=True):
                frames_FHWC = through_file(to_uint8(x_CFHW), Path(folder))
                made.append(MadeClip(scene, prompt.text, frames_FHWC, read(frames_FHWC)))
            print(f"guidance {guidance:g}: {len(made)} of {len(scenes)} clips", file=sys.stderr, flush=True)
    return made


def count(clips: Sequence[MadeClip], attributes: Sequence[str]) -> dict[str, Any]:
    """Right ones of all objects, with 95 % intervals, and for each value that an attribute should have."""
    scored: list[tuple[Object, ObjectScore]] = []
    for clip in clips:
        scored += zip(clip.scene.objects, clip.scores, strict=True)
    shares = {name: _share(sum(getattr(one, name) for _, one in scored), len(scored)) for name in attributes}
    totals = Counter(str(getattr(item, name)) for item, _ in scored for name in attributes)
    right = Counter(str(getattr(item, name)) for item, one in scored for name in attributes if getattr(one, name))
    return {
        "objects": len(scored),
        **shares,
        "backgrounds": _share(sum(clip.reading.background is clip.scene.background for clip in clips), len(clips)),
        "extra objects": sum(max(0, len(clip.reading.objects) - len(clip.scene.objects)) for clip in clips),
        "nothing seen": sum(not clip.reading.objects for clip in clips),
        "by value": {value: f"{right[value]} / {totals[value]}" for value in totals},
    }


def _share(right: int, total: int) -> dict[str, float]:
    low, high = wilson_interval(right, total)
    return {"right": right, "share": right / total, "low": low, "high": high}


def measure_vae(models: Models, scenes: Sequence[Scene], num_frames: int, size_HW: tuple[int, int]) -> dict[str, float]:
    """PSNR in dB, of pixels from 0 to 1; flicker in levels of 255, between neighbours of a still that is repeated.

    The flicker is a mean over pixels: of all neighbours, and of the two that differ most. The error of the same frames
    is what it compares with.
    """
    psnr, flicker, worst, error = [], [], [], []
    for scene in scenes:
        x_BCFHW = render([scene], num_frames, *size_HW)
        mean_square = (reconstruct(models, x_BCFHW) - x_BCFHW).square().mean() / 4
        psnr.append(-10 * float(torch.log10(mean_square)))
        if num_frames > 1:
            still_BCFHW = x_BCFHW[:, :, :1].expand_as(x_BCFHW).contiguous()
            seen_BCFHW = reconstruct(models, still_BCFHW)
            change_F = seen_BCFHW.diff(dim=2).abs().mean(dim=(0, 1, 3, 4)) * 127.5
            flicker.append(float(change_F.mean()))
            worst.append(float(change_F.max()))
            error.append(float((seen_BCFHW - still_BCFHW).abs().mean()) * 127.5)
    figures = {"clips": float(len(psnr)), "psnr": _mean(psnr), "least psnr": min(psnr)}
    if flicker:
        figures |= {"flicker": _mean(flicker), "worst flicker": max(worst), "error of stills": _mean(error)}
    return figures


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def table(results: dict[str, dict[str, Any]], attributes: Sequence[str]) -> str:
    """In percent with 95 % intervals, a line for each guidance."""
    lines = [f"| guidance | objects | {' | '.join(attributes)} |", f"|{'---|' * (2 + len(attributes))}"]
    for guidance, counts in results.items():
        shares = (counts[name] for name in attributes)
        cells = [f"{100 * s['share']:.1f} ({100 * s['low']:.1f} to {100 * s['high']:.1f})" for s in shares]
        lines.append(f"| {guidance} | {counts['objects']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def say(reading: Reading) -> str:
    """What was read, for people."""
    seen = [f"{item.colour} {item.shape or 'blob'}, {item.motion or 'no motion'}" for item in reading.objects]
    return f"read: {'; '.join(seen) or 'nothing'} on {reading.background or 'no background'}"


def write_pictures(clips: Sequence[MadeClip], out: Path) -> None:
    scale = max(1, 128 // min(clips[0].frames_FHWC.shape[1:3]))
    rows = [(f"{clip.text}\n{say(clip.reading)}", clip.frames_FHWC) for clip in clips[:SHEET_CLIPS]]
    write_png(out / "sheet.png", contact_sheet(rows, scale=scale))
    for number, clip in enumerate(clips[:EXAMPLE_CLIPS]):
        if len(clip.frames_FHWC) > 1:
            write_mp4(out / f"clip-{number:02d}.mp4", clip.frames_FHWC, FRAMES_PER_SECOND)


def _describe(clips: Sequence[MadeClip]) -> list[dict[str, Any]]:
    return [
        {
            "text": clip.text,
            "wanted": [[str(value) for value in item.combination] for item in clip.scene.objects],
            "background": clip.scene.background,
            "reading": asdict(clip.reading),
            "scores": [asdict(one) for one in clip.scores],
        }
        for clip in clips
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="weights directory of the model shapes")
    parser.add_argument("--out", type=Path, required=True, help="directory for results.json, sheet.png and clips")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--size", default="64x64", help="height x width in pixels")
    parser.add_argument("--frames", type=int, choices=(1, 17, 34, 51), default=17)
    parser.add_argument("--guidance", type=float, help="left out: what videogen run takes")
    parser.add_argument("--steps", type=int, help="left out: what videogen run takes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    arguments.size_HW = tuple(int(number) for number in arguments.size.split("x"))
    return arguments


def main() -> int:
    arguments = _parse()
    scenes = [held_out_scene(seed) for seed in range(arguments.clips)]
    moving = arguments.frames > 1
    plan = build_plan(
        [caption(scene, seed, moving=moving) for seed, scene in enumerate(scenes)],
        arguments.weights,
        arguments.size_HW,
        arguments.frames,
        arguments.device,
        steps=arguments.steps,
        guidance=arguments.guidance,
    )
    models = load_models(plan, arguments.weights)
    tokens_LX = encode_texts(plan, arguments.weights)
    attributes = ATTRIBUTES if moving else ATTRIBUTES[:2]
    results, clips = {}, {}
    started = time.perf_counter()
    for guidance in dict.fromkeys((plan.sampling.guidance, NO_GUIDANCE)):
        made = make_and_read(models, plan, scenes, tokens_LX, guidance)
        results[f"{guidance:g}"] = count(made, attributes)
        clips[f"{guidance:g}"] = made
    seconds = time.perf_counter() - started
    vae = measure_vae(models, scenes[:VAE_CLIPS], arguments.frames, arguments.size_HW)

    arguments.out.mkdir(parents=True, exist_ok=True)
    write_pictures(next(iter(clips.values())), arguments.out)
    written = {
        "size": arguments.size,
        "frames": arguments.frames,
        "steps": plan.sampling.steps,
        "device": arguments.device,
        "weights": LocalWeights(arguments.weights).digests().model_dump(),
        "seconds per clip": seconds / (len(results) * len(scenes)),
        "results": results,
        "vae": vae,
        "clips": {guidance: _describe(made) for guidance, made in clips.items()},
    }
    (arguments.out / "results.json").write_text(json.dumps(written, indent=1) + "\n")
    print(f"{arguments.clips} captions, {arguments.size}, {arguments.frames} frames, {plan.sampling.steps} steps")
    print(table(results, attributes))
    counts = next(iter(results.values()))
    print("by value, right of all:", ", ".join(f"{value} {ratio}" for value, ratio in counts["by value"].items()))
    print(f"clips with nothing in them: {counts['nothing seen']}; objects nobody asked for: {counts['extra objects']}")
    print("VAE:", ", ".join(f"{name} {value:.2f}" for name, value in vae.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
