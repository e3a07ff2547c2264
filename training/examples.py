"""Training examples made by other processes: drawings with tokens of several captions, ready for the device.

Inventing scenes and cleaning captions is Python's work, milliseconds a clip: far more than a card needs for a step.

Shape suffixes: B clips, K captions of each, L tokens, Q colours; two labels a colour: shape and motion.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from training.rendering import Drawing, plan_drawing
from training.scenes import Colour, Motion, Scene, Shape, training_scene

MAX_TOKENS = 48
"""Of a caption; the longest that is written has fewer."""

NUM_WORDINGS = 4
NUM_SHAPES, NUM_MOTIONS = len(Shape) + 1, len(Motion) + 1
ABSENT = 0
UNKNOWN_LABEL = -100
"""What cross entropy ignores: the motion of a still, and padding."""


@dataclass(frozen=True)
class Examples:
    """Clips of one length. Labels say of every colour which shape has it and how that moves; 0 where none has it."""

    drawing: Drawing
    ids_BKL: Tensor  # 0 beyond the end
    labels_BQ2: Tensor


def make_examples(tokenizer: Path, seed: int, count: int, num_frames: int) -> Examples:
    """Scenes `seed` to `seed + count - 1` of training. Raises ValueError for a caption of too many tokens."""
    # Not at the top: whoever only draws needs neither.
    from training.texts import encoder_text
    from videogen_runner.models.opensora.tokenizer import load_tokenizer

    tokenize = load_tokenizer(tokenizer)
    scenes = [training_scene(number) for number in range(seed, seed + count)]
    moving = num_frames > 1
    ids_BKL = torch.zeros(count, NUM_WORDINGS, MAX_TOKENS, dtype=torch.int16)
    for row, scene in enumerate(scenes):
        for wording in range(NUM_WORDINGS):
            text = encoder_text(scene, (seed + row) * NUM_WORDINGS + wording, moving=moving)
            ids = tokenize(text)
            if len(ids) > MAX_TOKENS:
                raise ValueError(f"caption {text!r} has {len(ids)} tokens; raise MAX_TOKENS above {MAX_TOKENS}")
            ids_BKL[row, wording, : len(ids)] = torch.tensor(ids, dtype=torch.int16)
    labels_BQ2 = torch.tensor([_labels(scene, moving=moving) for scene in scenes])
    return Examples(plan_drawing(scenes, num_frames), ids_BKL, labels_BQ2)


def _labels(scene: Scene, *, moving: bool) -> list[list[int]]:
    by_colour = {item.colour: item for item in scene.objects}
    rows = [[ABSENT, ABSENT] for _ in Colour]
    for row, colour in enumerate(Colour):
        if colour in by_colour:
            item = by_colour[colour]
            motion = list(Motion).index(item.motion) + 1 if moving else UNKNOWN_LABEL
            rows[row] = [list(Shape).index(item.shape) + 1, motion]
    return rows


class Makers:
    """Processes that work ahead. Use as a context manager; results come in the order they were asked for."""

    def __init__(self, workers: int) -> None:
        # Not forked: a fork of a process that uses a card can hang.
        self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_be_modest)
        # Of each stream; there are about ten.
        self.ahead = max(2, workers // 4)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def examples(self, tokenizer: Path, seed: int, count: int, num_frames: int) -> Iterator[Examples]:
        """Chunk after chunk, without end."""
        waiting: deque[Future[Examples]] = deque()
        while True:
            while len(waiting) < self.ahead:
                waiting.append(self._pool.submit(make_examples, tokenizer, seed, count, num_frames))
                seed += count
            yield waiting.popleft().result()


def _be_modest() -> None:
    torch.set_num_threads(1)
