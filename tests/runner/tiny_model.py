"""Runs of the tiny model for tests of encode and generate: the real roles, in this process, on a directory store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tests.builders import build_plan
from tests.runner.role_contexts import build_context, changed

from videogen_api import keys, report
from videogen_api.naming import Env, Stage
from videogen_api.plan import Clip, Inputs, Plan, PlannedPrompt, PlannedSampling, PlannedVideo, Segment
from videogen_api.records import Claim, ClipFailure, DoneMarker
from videogen_api.report import EncodeReport, GenerateReport
from videogen_api.spec import Model
from videogen_runner.checkpoint import CheckpointInterval
from videogen_runner.progress import ProgressHolder
from videogen_runner.roles import encode, generate, preflight
from videogen_runner.roles.context import RoleContext
from videogen_runner.store import DirectoryStore, NotFound, Store
from videogen_runner.store.records import get_record

R = TypeVar("R", bound=Model)

# Checkpoints are written where a test makes them, and not because the machine is slow.
UNHURRIED = generate.Times(new_interval=lambda now: CheckpointInterval(now, least_seconds=3600.0))

STEPS = 6
FRAMES = 17


def build_prompt(name: str, *texts: str, seed: int = 1, samples: int = 1) -> PlannedPrompt:
    """A prompt with one text for each loop."""
    segments = tuple(Segment(loop=loop, text=text) for loop, text in enumerate(texts))
    return PlannedPrompt(name=name, text=texts[0], seed=seed, samples=samples, segments=segments, references=())


def tiny_plan(folder: Path, weights: Path, **fields: Any) -> Plan:
    """A plan of one small clip; its store lies in `folder`."""
    plan = build_plan(storage=str(folder / "store"), pools=(("local", 1),), retries=1)
    standard = {
        "prompts": (build_prompt("fox", "a red fox"),),
        "video": PlannedVideo(height=64, width=64, frames=FRAMES, fps=24, loops=1, condition_frames=17),
        "sampling": PlannedSampling(steps=STEPS, guidance=7.0),
        "model": plan.model.model_copy(update={"weights": str(weights)}),
    }
    return changed(plan, **{**standard, **fields})


class Watched(ProgressHolder):
    """Keeps every update, and calls `then` with it: so a test acts in the middle of a clip."""

    def __init__(self, initial: report.Progress, then: Callable[[report.Progress], None] | None = None) -> None:
        super().__init__(initial)
        self.seen: list[report.Progress] = []
        self._then = then

    def update(self, **changes: Any) -> None:
        super().update(**changes)
        self.seen.append(self.snapshot())
        if self._then is not None:
            self._then(self.seen[-1])


class TinyRun:
    """One run of a plan, and what it leaves in the store."""

    def __init__(self, folder: Path, plan: Plan, store: Store | None = None) -> None:
        self.folder = folder
        self.plan = plan
        self.store = store or DirectoryStore(folder / "store")

    def context(self, stage: Stage, *, index: int = 0, attempt: int = 1, pool: str = "local") -> RoleContext:
        context = build_context(
            self.folder,
            self.plan,
            stage,
            {
                Env.INDEX: str(index),
                Env.ATTEMPT: str(attempt),
                Env.POOL: pool,
                Env.POD: f"{stage}-{attempt}-{index}",
                Env.DEVICE: "cpu",
                Env.SCRATCH: str(self.folder),
            },
        )
        return replace(context, store=self.store)

    def preflight(self) -> Inputs:
        preflight.run(self.context(Stage.PREFLIGHT))
        return self.inputs

    def encode(self, *, attempt: int = 1) -> EncodeReport:
        return encode.run(self.context(Stage.ENCODE, attempt=attempt))

    def prepare(self) -> "TinyRun":
        """Everything that generate needs."""
        self.preflight()
        self.encode()
        return self

    def generate(
        self,
        *,
        index: int = 0,
        attempt: int = 1,
        store: Store | None = None,
        then: Callable[[RoleContext, report.Progress], None] | None = None,
    ) -> GenerateReport:
        """Runs the role; `then` is called at every change of its progress."""
        context = self.context(Stage.GENERATE, index=index, attempt=attempt)
        progress = Watched(context.progress.snapshot(), None if then is None else lambda seen: then(context, seen))
        return generate.run(replace(context, progress=progress, store=store or context.store), UNHURRIED)

    @property
    def inputs(self) -> Inputs:
        return get_record(self.store, keys.inputs(self.plan.run), Inputs).record

    @property
    def digests(self) -> list[str]:
        return [self.plan.clip_digest(clip, self.inputs) for clip in self.plan.work]

    def marker(self, clip: Clip | None = None) -> DoneMarker | None:
        return self._read(keys.clip_done(self._digest(clip)), DoneMarker)

    def claim(self, clip: Clip | None = None) -> Claim | None:
        return self._read(keys.claim(self.plan.run, self._digest(clip)), Claim)

    def failure(self, clip: Clip | None = None) -> ClipFailure | None:
        return self._read(keys.clip_failure(self.plan.run, self._digest(clip)), ClipFailure)

    def checkpoints(self, clip: Clip | None = None) -> list[tuple[int, int, int]]:
        """Epoch, loop and step of each, sorted."""
        entries = self.store.list(keys.checkpoint_prefix(self._digest(clip)))
        found = (keys.parse_checkpoint(entry.key) for entry in entries)
        return sorted((key.epoch, key.loop, key.step) for key in found)

    def _digest(self, clip: Clip | None) -> str:
        return self.plan.clip_digest(clip or self.plan.work[0], self.inputs)

    def _read(self, key: str, kind: type[R]) -> R | None:
        try:
            return get_record(self.store, key, kind).record
        except NotFound:
            return None
