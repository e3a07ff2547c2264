"""How soon runners begin when each embedding is published at once, and when all of them are encoded first.

    python -m benchmarks.streaming [--prompts 64] [--runners 4] [--prompt-seconds 1.0]

Four runners (the real generate role, with a stand-in for the networks) are warm and wait; then an encoder begins that
takes a second for each prompt. The figures are in docs/benchmarks/streaming.md.
"""

import argparse
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tests.builders import build_plan, build_pool
from tests.loss.stand_in import TOKENS_LX, StandInDenoiser, StandInVae
from tests.runner.role_contexts import build_context, build_inputs, changed
from tests.runner.tiny_model import build_prompt, tiny_plan

from videogen_api import keys, report
from videogen_api.naming import Env, Stage
from videogen_api.plan import Plan, PlannedSampling
from videogen_api.report import RunnerState
from videogen_api.spec import Strategy
from videogen_runner.embeddings import Embeddings
from videogen_runner.progress import ProgressHolder
from videogen_runner.roles import generate
from videogen_runner.store import DirectoryStore
from videogen_runner.store.records import put_record

STEPS = 30
STEP_SECONDS = 0.05
LONGEST_SECONDS = 600.0


@dataclass
class Watch:
    """When things happened, on the monotonic clock."""

    waiting: threading.Barrier
    first_steps: list[float] = field(default_factory=list)


class WatchedProgress(ProgressHolder):
    """Tells when this runner waits for the first time, and when it has done its first step."""

    def __init__(self, initial: report.Progress, watch: Watch) -> None:
        super().__init__(initial)
        self._watch = watch
        self._is_warm = self._has_begun = False

    def update(self, **changes: Any) -> None:
        super().update(**changes)
        seen = self.snapshot()
        if seen.state is RunnerState.WAITING and not self._is_warm:
            self._is_warm = True
            self._watch.waiting.wait(LONGEST_SECONDS)
        if seen.state is RunnerState.DENOISING and seen.step == 1 and not self._has_begun:
            self._has_begun = True
            self._watch.first_steps.append(time.monotonic())


def build(folder: Path, prompts: int, runners: int) -> Plan:
    """One clip for each prompt, Overlapped."""
    texts = [f"a red fox, take {number}" for number in range(prompts)]
    plan = tiny_plan(folder, folder, prompts=tuple(build_prompt(f"p{n:03d}", text) for n, text in enumerate(texts)))
    return changed(
        plan,
        pools=(build_pool("local", runners),),
        sampling=PlannedSampling(steps=STEPS, guidance=7.0),
        strategy=Strategy.OVERLAPPED,
    )


def play(
    folder: Path, prompts: int, runners: int, prompt_seconds: float, *, streams: bool
) -> tuple[list[float], float]:
    """Seconds from the encoder's start to the first step of each runner, and to the end of all clips."""
    folder.mkdir()
    plan, store, inputs = build(folder, prompts, runners), DirectoryStore(folder / "store"), build_inputs(build_plan())
    put_record(store, keys.inputs(plan.run), inputs)
    embeddings = Embeddings(store, plan, inputs)
    watch = Watch(threading.Barrier(runners + 1))

    def run(index: int) -> report.GenerateReport:
        variables = {Env.INDEX: str(index), Env.POOL: "local", Env.POD: f"r{index}", Env.DEVICE: "cpu"}
        context = build_context(folder, plan, Stage.GENERATE, {**variables, Env.SCRATCH: str(folder)})
        progress = WatchedProgress(context.progress.snapshot(), watch)
        return generate.run(replace(context, store=store, progress=progress))

    with (
        mock.patch.multiple(
            generate,
            checked_weights=mock.Mock(),
            load_denoiser=lambda *_, **__: StandInDenoiser(STEP_SECONDS),
            load_vae=lambda *_, **__: StandInVae(),
        ),
        ThreadPoolExecutor(runners) as pool,
    ):
        reports = [pool.submit(run, index) for index in range(runners)]
        watch.waiting.wait(LONGEST_SECONDS)
        ready = time.monotonic()
        encoded: list[str] = []
        for text in plan.texts:
            threading.Event().wait(prompt_seconds)
            encoded.append(text)
            if streams:
                embeddings.write(encoded.pop(), TOKENS_LX, 0)
        for text in encoded:
            embeddings.write(text, TOKENS_LX, 0)
        finished = sum(one.result().finished for one in reports)
    if finished != prompts:
        raise AssertionError(f"{finished} of {prompts} clips were made")
    return sorted(step - ready for step in watch.first_steps), time.monotonic() - ready


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--runners", type=int, default=4)
    parser.add_argument("--prompt-seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first = {}
    with tempfile.TemporaryDirectory(prefix="streaming-") as folder:
        for name, streams in (("overlapped", True), ("encode all first", False)):
            steps, end = play(
                Path(folder) / name.replace(" ", "-"),
                arguments.prompts,
                arguments.runners,
                arguments.prompt_seconds,
                streams=streams,
            )
            first[name] = steps[0]
            told = ", ".join(f"{step:.2f}" for step in steps)
            print(f"{name}: first steps after {told} s, all clips after {end:.1f} s", flush=True)
    share = first["overlapped"] / first["encode all first"]
    print(f"time to the first step: {share:.3f} of encode-all-first")
    return 0 if share <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
