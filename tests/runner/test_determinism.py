"""Real processes: the same clips whoever makes them, and after whatever end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import pytest
from tests.runner.role_contexts import build_variables, changed
from tests.runner.tiny_model import TinyRun, build_prompt, tiny_plan

from videogen_api.errors import ExitCode
from videogen_api.naming import Env, Stage
from videogen_api.plan import Clip, PlannedSampling
from videogen_api.records import ClaimState
from videogen_api.report import GenerateReport, TerminationReport

STEPS = 150  # some seconds of denoising: long enough to be killed in, with a checkpoint behind
DEADLINE = 600.0
TICK = 0.05

Digests = list[tuple[str, str, str]]


class Processes:
    """The processes of one run; what is still alive is killed in the end."""

    def __init__(self, run: TinyRun) -> None:
        self.run = run
        self._alive: list[subprocess.Popen[bytes]] = []

    def start(self, stage: Stage, index: int = 0, attempt: int = 1) -> "subprocess.Popen[bytes]":
        folder = self._folder(stage, index, attempt)
        folder.mkdir()
        variables = {
            **os.environ,
            **build_variables(folder, self.run.plan, stage),
            "OMP_NUM_THREADS": "1",
            Env.DEVICE: "cpu",
            Env.INDEX: str(index),
            Env.ATTEMPT: str(attempt),
            Env.POD: folder.name,
        }
        if stage is Stage.GENERATE:
            variables[Env.POOL] = "local"
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "videogen_runner.main"], env=variables, stderr=log)
        self._alive.append(process)
        return process

    def report(self, index: int = 0, attempt: int = 1) -> GenerateReport:
        path = self._folder(Stage.GENERATE, index, attempt) / "termination.json"
        report = TerminationReport.from_bytes(path.read_bytes())
        assert report is not None
        assert report.generate is not None
        return report.generate

    def kill(self) -> None:
        for process in self._alive:
            process.kill()
            process.wait()

    def _folder(self, stage: Stage, index: int, attempt: int) -> Path:
        return self.run.folder / f"{stage}-{attempt}-{index}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> TinyRun:
    """Three clips whose text is encoded."""
    folder = tmp_path_factory.mktemp("prepared")
    prompts = (build_prompt("fox", "a red fox", samples=3),)
    plan = tiny_plan(folder, tiny_weights, prompts=prompts, sampling=PlannedSampling(steps=STEPS, guidance=7.0))
    processes = Processes(TinyRun(folder, plan))
    for stage in (Stage.PREFLIGHT, Stage.ENCODE):
        assert processes.start(stage).wait(DEADLINE) == ExitCode.OK
    return processes.run


@pytest.fixture(scope="module")
def expected(prepared: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Digests:
    """What one undisturbed process makes."""
    processes = Processes(copy_of(prepared, tmp_path_factory.mktemp("expected")))
    assert processes.start(Stage.GENERATE).wait(DEADLINE) == ExitCode.OK
    digests = digests_of(processes.run)
    assert len(set(digests)) == 3
    return digests


@pytest.fixture
def processes(prepared: TinyRun, tmp_path: Path) -> Iterator[Processes]:
    started = Processes(copy_of(prepared, tmp_path))
    yield started
    started.kill()


def copy_of(run: TinyRun, folder: Path) -> TinyRun:
    copytree(run.folder / "store", folder / "store")
    storage = run.plan.storage.model_copy(update={"url": str(folder / "store")})
    return TinyRun(folder, changed(run.plan, storage=storage))


def digests_of(run: TinyRun) -> Digests:
    """Latents, frames and video of every clip."""
    markers = [run.marker(clip) for clip in run.plan.work]
    return [(marker.latents.sha256, marker.frames_sha256, marker.video.sha256) for marker in markers if marker]


def wait_until(condition: Callable[[], Clip | None], process: "subprocess.Popen[bytes]") -> Clip:
    """Looks again and again while the process works; the condition must come true before it ends."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        found = condition()
        if found is not None:
            return found
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(TICK)
    raise TimeoutError("nothing happened before the deadline")


def clip_under_way(run: TinyRun) -> Clip | None:
    """A clip with a checkpoint in the middle of its steps, which nobody has finished."""
    for clip in run.plan.work:
        steps = [step for _, _, step in run.checkpoints(clip)]
        if steps and max(steps) < STEPS:
            return clip
    return None


def test_a_clip_whose_worker_was_killed_goes_on_in_the_next_attempt_to_the_same_end(
    processes: Processes, expected: Digests
) -> None:
    run = processes.run
    workers = {f"generate-1-{index}": processes.start(Stage.GENERATE, index) for index in range(3)}
    clip = wait_until(lambda: clip_under_way(run), workers["generate-1-0"])
    claim = run.claim(clip)
    assert claim is not None
    victim = workers.pop(claim.owner)
    victim.kill()
    assert victim.wait(DEADLINE) == -signal.SIGKILL
    # The others would take it over in the same attempt, were they at work for a whole lease yet.
    for worker in workers.values():
        worker.send_signal(signal.SIGTERM)
    assert {worker.wait(DEADLINE) for worker in workers.values()} <= {ExitCode.OK, ExitCode.INTERRUPTED}
    assert run.marker(clip) is None
    left = [other for other in run.plan.work if run.marker(other) is None]

    assert processes.start(Stage.GENERATE, attempt=2).wait(DEADLINE) == ExitCode.OK
    report = processes.report(attempt=2)
    assert (report.finished, report.resumed > 0) == (len(left), True)
    assert 0 < report.steps < len(left) * STEPS
    claim = run.claim(clip)
    assert claim is not None
    assert (claim.state, claim.epoch, claim.unclean_ends) == (ClaimState.DONE, 2, 1)
    assert digests_of(run) == expected


def test_a_worker_that_gets_sigterm_checkpoints_and_ends_with_75_within_ten_seconds(
    processes: Processes, expected: Digests
) -> None:
    run = processes.run
    worker = processes.start(Stage.GENERATE)
    clip = wait_until(lambda: clip_under_way(run), worker)
    before = max(run.checkpoints(clip))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10.0) == ExitCode.INTERRUPTED
    assert max(run.checkpoints(clip)) > before
    claim = run.claim(clip)
    assert claim is not None
    assert (claim.state, claim.unclean_ends) == (ClaimState.OPEN, 0)

    assert processes.start(Stage.GENERATE, attempt=2).wait(DEADLINE) == ExitCode.OK
    assert processes.report(attempt=2).resumed == 1
    assert digests_of(run) == expected
