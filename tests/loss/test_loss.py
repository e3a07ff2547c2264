"""A reduced number of the runs of benchmarks/loss.py; the full figures are in docs/benchmarks/loss.md."""

from pathlib import Path

import pytest
from tests.loss.play import Contents, Workload, play, problems, stand_in_workload
from tests.store.store_backends import directory, moto

from videogen_runner.roles.generate import Times

TIMES = Times(lease=1.0, heartbeat=0.2, poll=0.1)
STORE_ERRORS = 0.01


@pytest.fixture(scope="module")
def workload() -> Workload:
    return stand_in_workload()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, workload: Workload) -> Contents:
    folder = tmp_path_factory.mktemp("undisturbed")
    with directory(folder / "store") as backend:
        return play(folder / "run", backend, workload, seed=0, times=TIMES, disturbed=False).contents


@pytest.mark.parametrize("seed", [1, 5, 11])
def test_killed_stopped_and_failing_runners_lose_no_clip_in_a_folder(
    tmp_path: Path, workload: Workload, undisturbed: Contents, seed: int
) -> None:
    with directory(tmp_path / "store") as backend:
        outcome = play(tmp_path / "run", backend, workload, seed=seed, times=TIMES, store_errors=STORE_ERRORS)
    assert problems(outcome, undisturbed, TIMES) == []


def test_killed_stopped_and_failing_runners_lose_no_clip_in_an_object_store(
    tmp_path: Path, workload: Workload, undisturbed: Contents
) -> None:
    times = Times(lease=2.0, heartbeat=0.4, poll=0.2)
    with moto() as backend:
        outcome = play(tmp_path / "run", backend, workload, seed=2, times=times, store_errors=STORE_ERRORS)
    assert problems(outcome, undisturbed, times) == []
