"""The generate role on a device with too little memory: what its marker, report, progress and claim say."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.builders import build_pool
from tests.runner.tiny_model import STEPS, TinyRun, tiny_plan

from videogen_api.errors import ConfigInvalid, Interrupted, OutOfMemory
from videogen_api.naming import Stage
from videogen_api.records import ClaimState
from videogen_api.report import Progress, RunnerState
from videogen_runner import device
from videogen_runner.checkpoint import Checkpoints
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.roles import generate
from videogen_runner.roles.context import RoleContext


@pytest.fixture
def run(tmp_path: Path, tiny_weights: Path) -> TinyRun:
    plan = tiny_plan(tmp_path, tiny_weights, pools=(build_pool("local", 1), build_pool("large", 1)))
    return TinyRun(tmp_path, plan).prepare()


@contextmanager
def memory_for(most_rows: int, monkeypatch: pytest.MonkeyPatch, calls: int | None = None) -> Iterator[None]:
    """Denoisers have memory for so many samples at once, and where `calls` is given for no more than so many calls."""
    forward = STDiT3.forward
    made = 0

    def limited(self: STDiT3, z_BCTHW: torch.Tensor, *rest: object) -> torch.Tensor:
        nonlocal made
        if len(z_BCTHW) > most_rows or made == calls:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        made += 1
        return forward(self, z_BCTHW, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(STDiT3, "forward", limited)
        yield


def stop_at(step: int, context: RoleContext, seen: Progress) -> None:
    if (seen.state, seen.step) == (RunnerState.DENOISING, step):
        context.stop.set()


def test_a_clip_that_did_not_fit_as_planned_is_finished_and_marked_adapted(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Progress] = []
    with memory_for(1, monkeypatch):
        report = run.generate(then=lambda _, progress: seen.append(progress))
    assert (report.finished, report.adapted, report.steps) == (1, 1, STEPS)
    marker = run.marker()
    assert marker is not None
    assert marker.adapted
    assert [progress.guidance_batch for progress in seen if progress.step == STEPS][-1] == 1


def test_a_clip_in_the_planned_form_is_not_marked(run: TinyRun) -> None:
    report = run.generate()
    marker = run.marker()
    assert marker is not None
    assert (marker.adapted, report.adapted) == (False, 0)


def test_a_clip_adapted_by_one_runner_is_marked_by_the_one_that_finishes_it(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory_for(1, monkeypatch), pytest.raises(Interrupted):
        run.generate(then=lambda context, seen: stop_at(3, context, seen))
    found = Checkpoints(run.store, run.digests[0], run.plan.numerics_version).furthest()
    assert found is not None
    assert found.is_adapted
    report = run.generate(attempt=2)
    assert (report.resumed, report.adapted) == (1, 1)
    marker = run.marker()
    assert marker is not None
    assert marker.adapted


def test_a_clip_that_fits_in_no_form_goes_back_for_a_larger_card_which_goes_on_from_its_last_step(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory_for(2, monkeypatch, calls=3), pytest.raises(OutOfMemory, match="does not fit cpu in any form"):
        run.generate()
    claim = run.claim()
    assert claim is not None
    assert (claim.state, claim.too_small) == (ClaimState.OPEN, ("local",))
    report = generate.run(run.context(Stage.GENERATE, pool="large"))
    assert (report.finished, report.resumed, report.steps) == (1, 1, STEPS - 3)


def test_weights_that_do_not_fit_send_the_clip_to_a_larger_card(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(generate, "load_vae", fail)
    with pytest.raises(
        OutOfMemory, match=r"weights of denoiser and VAE do not fit cpu .* name a card with more memory"
    ):
        run.generate()
    claim = run.claim()
    assert claim is not None
    assert (claim.state, claim.too_small) == (ClaimState.OPEN, ("local",))


def test_a_card_without_the_planned_number_format_is_refused_before_weights_are_read(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "set_up_device", lambda *_: torch.device("cuda:0"))
    monkeypatch.setattr(device.torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(device.torch.cuda, "get_device_capability", lambda _: (7, 5))
    context = run.context(Stage.GENERATE)
    pools = tuple(pool.model_copy(update={"dtype": "bfloat16"}) for pool in context.plan.pools)
    with pytest.raises(ConfigInvalid, match=r"Tesla T4 has compute capability 7\.5, which lacks it"):
        generate.run(replace(context, plan=context.plan.model_copy(update={"pools": pools})))
