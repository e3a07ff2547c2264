"""How right the reader of training/reading.py is about clips of which it is known what they show.

    python -m benchmarks.shapes_reader [--scenes 100]

Clips of several sizes and lengths are drawn, and read as they are, through the runner's mp4 writer and PyAV, and with
colours a little off, blur and noise before that. The figures are in docs/benchmarks/shapes.md.

Shape suffixes: T frames, H height, W width, C = 3 channels RGB.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from training.reading import Pixels, read
from training.rendering import render
from training.scenes import FRAMES_PER_SECOND, Object, Scene, sample_scene
from training.scoring import score, wilson_interval

from videogen_runner.media import read_reference, to_uint8, write_mp4, write_png

SIZES_HW = ((64, 64), (96, 96), (96, 160), (144, 256))
LENGTHS = (1, 17, 34, 51)
NOISE = 0.05 * 255
BLUR_SIDE = 1 / 64  # standard deviation, of the shorter side
OFF_LEVELS = 15  # at most, in each of red, green and blue


def through_file(frames_THWC: Pixels, folder: Path) -> Pixels:
    """Written as the runner writes a clip, and decoded again; lossless where it is a single frame."""
    if len(frames_THWC) == 1:
        path = folder / "frame.png"
        write_png(path, frames_THWC[0])
    else:
        path = folder / "clip.mp4"
        write_mp4(path, frames_THWC, FRAMES_PER_SECOND)
    return read_reference(path, path.name).frames_THWC


def worsen(frames_THWC: Pixels, seed: int) -> Pixels:
    """Colours off by up to 15 levels, a blur by 1/64 of the shorter side, then gaussian noise of 0.05 of the range."""
    generator = np.random.default_rng(seed)
    blurred_THWC = frames_THWC + generator.uniform(-OFF_LEVELS, OFF_LEVELS, 3)
    deviation = BLUR_SIDE * min(frames_THWC.shape[1:3])
    reach = int(np.ceil(3 * deviation))
    weights = np.exp(-((np.arange(-reach, reach + 1) / deviation) ** 2) / 2)
    weights /= weights.sum()
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (reach, reach)
        padded = np.pad(blurred_THWC, padding, mode="edge")
        length = blurred_THWC.shape[axis]
        blurred_THWC = sum(
            weight * np.take(padded, range(first, first + length), axis) for first, weight in enumerate(weights)
        )
    noise_THWC = generator.normal(0, NOISE, frames_THWC.shape)
    return (blurred_THWC + noise_THWC).round().clip(0, 255).astype(np.uint8)


CONDITIONS: dict[str, Callable[[Pixels, int, Path], Pixels]] = {
    "as drawn": lambda frames_THWC, _, __: frames_THWC,
    "mp4": lambda frames_THWC, _, folder: through_file(frames_THWC, folder),
    "worsened, mp4": lambda frames_THWC, seed, folder: through_file(worsen(frames_THWC, seed), folder),
}


@dataclass
class Tally:
    """Counts of objects, and which were taken for what."""

    objects: int = 0
    clips: int = 0
    read_seconds: float = 0.0
    right: Counter[str] = field(default_factory=Counter)
    confusions: Counter[str] = field(default_factory=Counter)

    def add(self, scene: Scene, frames_THWC: Pixels) -> None:
        started = time.perf_counter()
        reading = read(frames_THWC)
        self.read_seconds += time.perf_counter() - started
        self.clips += 1
        self.right["background"] += reading.background is scene.background
        self.right["number of objects"] += len(reading.objects) == len(scene.objects)
        seen = {item.colour: item for item in reading.objects}
        for item, one in zip(scene.objects, score(scene, reading), strict=True):
            self.objects += 1
            self.right.update({name: int(getattr(one, name)) for name in ("shape", "colour", "motion")})
            wrong = [name for name in ("shape", "motion") if not getattr(one, name)]
            if len(frames_THWC) == 1 and "motion" in wrong:
                wrong.remove("motion")
            for name in wrong:
                self.confusions[_confusion(item, name, getattr(seen.get(item.colour), name, "nothing"))] += 1

    def line(self, size_HW: tuple[int, int], num_frames: int, condition: str) -> str:
        shares = [self._share("shape"), self._share("colour"), self._share("motion") if num_frames > 1 else "-"]
        plain = [f"{self.right[name]} / {self.clips}" for name in ("background", "number of objects")]
        height, width = size_HW
        cells = [f"{height} x {width}", str(num_frames), condition, str(self.objects), *shares, *plain]
        return f"| {' | '.join([*cells, f'{1000 * self.read_seconds / self.clips:.0f}'])} |"

    def _share(self, name: str) -> str:
        low, _ = wilson_interval(self.right[name], self.objects)
        return f"{100 * self.right[name] / self.objects:.1f} (> {100 * low:.1f})"


def _confusion(item: Object, name: str, seen: object) -> str:
    return f"{name} {getattr(item, name)} of a {item.size} {item.shape} taken for {seen}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=100, help="for each size, length and condition")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| size | frames | condition | objects | shape | colour | motion | background | number | ms a clip |")
    print(f"|{'---|' * 10}")
    confusions: Counter[str] = Counter()
    least, first = 1.0, 0
    with tempfile.TemporaryDirectory(prefix="shapes-reader-") as folder:
        for size_HW in SIZES_HW:
            for num_frames in LENGTHS:
                tallies = {condition: Tally() for condition in CONDITIONS if num_frames > 1 or condition != "mp4"}
                for seed in range(first, first + arguments.scenes):
                    scene = sample_scene(seed)
                    frames_THWC = to_uint8(render([scene], num_frames, *size_HW)[0])
                    for condition, tally in tallies.items():
                        tally.add(scene, CONDITIONS[condition](frames_THWC, seed, Path(folder)))
                first += arguments.scenes
                for condition, tally in tallies.items():
                    print(tally.line(size_HW, num_frames, condition), flush=True)
                    confusions.update(tally.confusions)
                    names = ("shape", "colour", "motion") if num_frames > 1 else ("shape", "colour")
                    least = min(least, *(tally.right[name] / tally.objects for name in names))
    for confusion, times in confusions.most_common():
        print(f"{times} x {confusion}")
    return 0 if least >= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
