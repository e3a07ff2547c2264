import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, groupby
from pathlib import Path
from shutil import copytree
from uuid import uuid4

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tests.builders import build_pool
from tests.runner.role_contexts import changed
from tests.runner.tiny_model import FRAMES, STEPS, UNHURRIED, TinyRun, Watched, build_prompt, tiny_plan
from tests.store.store_backends import moto

from videogen_api import keys
from videogen_api.errors import EmbeddingMissing, Interrupted, OutOfMemory, Reason, StoreUnavailable, WeightsInvalid
from videogen_api.naming import Stage
from videogen_api.plan import Plan, PlannedReference, PlannedVideo
from videogen_api.records import ClaimState, ClipFailure, DoneMarker
from videogen_api.report import Progress, RunnerState
from videogen_runner.claims import Held, Owner, StoredClaims
from videogen_runner.done import is_intact
from videogen_runner.embeddings import Embeddings
from videogen_runner.models.opensora.generation import ClipState
from videogen_runner.roles import clip, generate
from videogen_runner.roles.context import Clock, RoleContext
from videogen_runner.store import DirectoryStore, Store, StoreCorrupt
from videogen_runner.tenure import Tenure
from videogen_runner.weights import Component
from videogen_runner.weights.random_weights import PRESETS, write_random

PICTURE = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)


@pytest.fixture
def run(tmp_path: Path, tiny_weights: Path) -> TinyRun:
    """One clip, ready to be made."""
    return TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights)).prepare()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> DoneMarker:
    """The marker of the same clip, made in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = TinyRun(folder, tiny_plan(folder, tiny_weights)).prepare()
    run.generate()
    return marker_of(run)


def marker_of(run: TinyRun) -> DoneMarker:
    marker = run.marker()
    assert marker is not None
    return marker


def content(marker: DoneMarker) -> tuple[str, str, str]:
    """What a clip is: digests of latents, frames and video."""
    return marker.latents.sha256, marker.frames_sha256, marker.video.sha256


def claim_of(run: TinyRun) -> tuple[ClaimState, int, int]:
    claim = run.claim()
    assert claim is not None
    return claim.state, claim.epoch, claim.unclean_ends


def at_step(step: int, act: Callable[[RoleContext], None]) -> Callable[[RoleContext, Progress], None]:
    """Acts once the clip has done so many steps."""

    def then(context: RoleContext, seen: Progress) -> None:
        if (seen.state, seen.step) == (RunnerState.DENOISING, step):
            act(context)

    return then


def stop(context: RoleContext) -> None:
    context.stop.set()


def claims_of(store: Store, plan: Plan, name: str, *, attempt: int = 1, index: int = 0) -> StoredClaims:
    owner = Owner(name, "local", attempt, index)
    return StoredClaims(store, plan.run, owner, new_nonce=lambda: uuid4().hex, monotonic=time.monotonic, wall=time.time)


def rob(context: RoleContext) -> tuple[StoredClaims, Held]:
    """The next attempt takes the clip while this runner is at it."""
    [entry] = context.store.list(f"{keys.run_prefix(context.plan.run)}claims/")
    robber = claims_of(context.store, context.plan, "robber", attempt=9)
    held = robber.take(robber.look(entry.key.rpartition("/")[2]))
    assert held is not None
    return robber, held


def test_a_clip_is_made_and_its_marker_names_what_is_in_the_store(run: TinyRun) -> None:
    report = run.generate()
    counts = report.model_dump(exclude={"step_seconds", "load_seconds"})
    assert counts == {"finished": 1, "reused": 0, "failed": 0, "resumed": 0, "steps": STEPS, "adapted": 0}
    marker = marker_of(run)
    assert marker == DoneMarker(
        clip_digest=run.digests[0],
        epoch=1,
        video=marker.video,
        latents=marker.latents,
        frames_sha256=marker.frames_sha256,
        frames=FRAMES,
        width=64,
        height=64,
        fps=24,
        runner="generate-1-0",
        timings=marker.timings,
        stints=marker.stints,
    )
    assert marker.timings.steps == STEPS
    [stint] = marker.stints
    spent = marker.timings
    assert stint.runner == "generate-1-0"
    assert stint.ended - stint.began >= spent.encode + spent.denoise + spent.decode + spent.write
    assert (is_intact(run.store, marker.video), is_intact(run.store, marker.latents)) == (True, True)
    assert run.checkpoints() == [(1, 0, STEPS)]
    assert claim_of(run) == (ClaimState.DONE, 1, 0)
    with av.open(run.store.url(marker.video.key)) as video:
        assert [(frame.width, frame.height) for frame in video.decode(video=0)] == [(64, 64)] * FRAMES


def test_nothing_is_left_in_the_scratch_folder(run: TinyRun) -> None:
    before = sorted(path.name for path in run.folder.iterdir())
    run.generate()
    assert sorted(path.name for path in run.folder.iterdir()) == before


def test_one_frame_becomes_a_png(tmp_path: Path, tiny_weights: Path) -> None:
    video = PlannedVideo(height=64, width=96, frames=1, fps=24, loops=1, condition_frames=17)
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights, video=video)).prepare()
    run.generate()
    marker = marker_of(run)
    assert marker.video.key.endswith(f"/video/1-{marker.video.sha256}.png")
    with Image.open(run.store.url(marker.video.key)) as image:
        assert (image.format, image.size) == ("PNG", (96, 64))
        assert hashlib.sha256(np.asarray(image).tobytes()).hexdigest() == marker.frames_sha256


def test_the_order_is_that_of_the_manifest_and_progress_counts(tmp_path: Path, tiny_weights: Path) -> None:
    prompts = (build_prompt("owl", "an owl", samples=2), build_prompt("fox", "a red fox"))
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights, prompts=prompts)).prepare()
    context = run.context(Stage.GENERATE)
    progress = Watched(context.progress.snapshot())
    generate.run(replace(context, progress=progress), UNHURRIED)
    clips = [name for name, _ in groupby(seen.clip for seen in progress.seen) if name is not None]
    assert clips == ["owl-1", "owl-2", "fox-1"]
    states = [state for state, _ in groupby(seen.state for seen in progress.seen if seen.done == 0)]
    assert states == [
        RunnerState.STARTING,
        RunnerState.CHECKING,
        RunnerState.LOADING,
        RunnerState.ENCODING,
        RunnerState.DENOISING,
        RunnerState.DECODING,
        RunnerState.WRITING,
    ]
    first = [seen for seen in progress.seen if seen.clip == "owl-1" and seen.state is RunnerState.DENOISING]
    assert [(seen.loop, seen.loops, seen.step, seen.steps) for seen in first] == [
        (0, 1, step, STEPS) for step in range(STEPS + 1)
    ]
    assert [seen.seconds_per_step is None for seen in first] == [True] + [False] * STEPS
    assert (progress.seen[-1].done, progress.seen[-1].total) == (3, 3)


def test_the_same_clip_under_two_names_is_made_once(tmp_path: Path, tiny_weights: Path) -> None:
    prompts = (build_prompt("fox", "a red fox"), build_prompt("same", "a red fox"))
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights, prompts=prompts)).prepare()
    assert run.generate().finished == 1


def test_what_a_run_of_another_name_has_made_is_reused(run: TinyRun) -> None:
    run.generate()
    before = marker_of(run)
    other = TinyRun(run.folder, changed(run.plan, name="other"))
    other.preflight()
    report = other.generate()
    assert (report.finished, report.reused, report.steps, report.load_seconds) == (0, 1, 0, 0.0)
    assert marker_of(other) == before
    assert claim_of(other) == (ClaimState.DONE, 1, 0)


def test_a_finished_clip_is_left_alone_by_the_next_attempt(run: TinyRun) -> None:
    run.generate()
    report = run.generate(attempt=2)
    assert (report.finished, report.reused, report.steps) == (0, 0, 0)
    assert claim_of(run) == (ClaimState.DONE, 1, 0)


@pytest.mark.parametrize("damage", ["cut", "flipped", "deleted"])
def test_a_video_that_is_not_the_one_of_its_marker_is_made_again(run: TinyRun, damage: str) -> None:
    run.generate()
    before = marker_of(run)
    body = run.store.get(before.video.key).body
    if damage == "deleted":
        run.store.delete(before.video.key)
    else:
        run.store.put(before.video.key, body[:-1] + (b"" if damage == "cut" else bytes([body[-1] ^ 1])))
    report = run.generate(attempt=2)
    assert (report.finished, report.resumed, report.steps) == (1, 1, 0)  # its final latents are still there
    after = marker_of(run)
    assert (after.epoch, content(after)) == (2, content(before))
    assert is_intact(run.store, after.video)


def test_a_damaged_marker_is_replaced(run: TinyRun, undisturbed: DoneMarker) -> None:
    run.store.put(keys.clip_done(run.digests[0]), b"{")
    run.generate()
    assert content(marker_of(run)) == content(undisturbed)


@pytest.mark.parametrize("step", [1, 4])
def test_a_stop_checkpoints_the_last_step_and_hands_the_clip_back(
    run: TinyRun, undisturbed: DoneMarker, step: int
) -> None:
    with pytest.raises(Interrupted, match="stopped by a signal in clip fox-1"):
        run.generate(then=at_step(step, stop))
    assert run.checkpoints() == [(1, 0, step)]
    assert claim_of(run) == (ClaimState.OPEN, 1, 0)
    assert run.marker() is None
    report = run.generate()
    assert (report.finished, report.resumed, report.steps) == (1, 1, STEPS - step)
    assert content(marker_of(run)) == content(undisturbed)
    assert [stint.runner for stint in marker_of(run).stints] == ["generate-1-0", "generate-1-0"]
    assert claim_of(run) == (ClaimState.DONE, 2, 0)


@pytest.mark.parametrize("state", [RunnerState.LOADING, RunnerState.ENCODING, RunnerState.DECODING])
def test_a_stop_in_any_other_state_hands_the_clip_back_too(
    run: TinyRun, undisturbed: DoneMarker, state: RunnerState
) -> None:
    with pytest.raises(Interrupted):
        run.generate(then=lambda context, seen: stop(context) if seen.state is state else None)
    assert run.checkpoints() == ([(1, 0, STEPS)] if state is RunnerState.DECODING else [])
    assert claim_of(run) == (ClaimState.OPEN, 1, 0)
    run.generate()
    assert content(marker_of(run)) == content(undisturbed)


def test_a_stop_between_clips_takes_no_other(run: TinyRun) -> None:
    with pytest.raises(Interrupted):
        run.generate(then=lambda context, seen: stop(context) if seen.state is RunnerState.CHECKING else None)
    assert run.claim() is None


class SlowStep:
    """In place of the function that computes a step: SIGTERM arrives inside the fourth, which ends when let go."""

    def __init__(self, stop: threading.Event, error: Exception | None = None) -> None:
        self.let_go = threading.Event()
        self.error = error
        self._stop = stop
        self._next_state = clip._next_state

    def __call__(self, states: Iterator[ClipState], name: str) -> ClipState | None:
        state = self._next_state(states, name)
        if state is not None and state.next_step == 4:
            self._stop.set()
            assert self.let_go.wait(60)
            if self.error is not None:
                raise self.error
        return state


class ReleasingStore(DirectoryStore):
    """Lets the slow step go on once the first checkpoint is written."""

    slow: SlowStep

    def put(self, key: str, body: bytes) -> None:
        super().put(key, body)
        self.slow.let_go.set()


def test_a_stop_inside_a_step_saves_the_last_one_at_once_and_the_running_one_if_it_ends_soon(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = run.context(Stage.GENERATE)
    store = ReleasingStore(run.folder / "store")
    store.slow = SlowStep(context.stop)
    monkeypatch.setattr(clip, "_next_state", store.slow)
    with pytest.raises(Interrupted):
        generate.run(replace(context, store=store), UNHURRIED)
    assert run.checkpoints() == [(1, 0, 3), (1, 0, 4)]
    assert claim_of(run) == (ClaimState.OPEN, 1, 0)


def test_a_step_that_fails_after_a_stop_leaves_the_one_before_it_and_the_stop_a_stop(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = run.context(Stage.GENERATE)
    store = ReleasingStore(run.folder / "store")
    store.slow = SlowStep(context.stop, OutOfMemory("no room"))
    monkeypatch.setattr(clip, "_next_state", store.slow)
    with pytest.raises(Interrupted):
        generate.run(replace(context, store=store), UNHURRIED)
    assert run.checkpoints() == [(1, 0, 3)]
    assert claim_of(run) == (ClaimState.OPEN, 1, 0)


def test_a_step_that_does_not_end_soon_after_a_stop_is_left_behind(
    run: TinyRun, undisturbed: DoneMarker, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = run.context(Stage.GENERATE)
    slow = SlowStep(context.stop)
    with monkeypatch.context() as patched:
        patched.setattr(clip, "_next_state", slow)
        patched.setattr(clip, "_GRACE_SECONDS", 0.1)
        with pytest.raises(Interrupted):
            generate.run(context)
    assert run.checkpoints() == [(1, 0, 3)]
    assert claim_of(run) == (ClaimState.OPEN, 1, 0)
    slow.let_go.set()
    run.generate()
    assert content(marker_of(run)) == content(undisturbed)


def test_checkpoints_are_written_on_the_way_as_seldom_as_they_are_slow(run: TinyRun, undisturbed: DoneMarker) -> None:
    ticks = count()  # a clock on which every look takes a second, and so every write
    context = run.context(Stage.GENERATE)
    generate.run(replace(context, clock=Clock(monotonic=lambda: float(next(ticks)))))
    assert run.checkpoints() == [(1, 0, 1), (1, 0, STEPS)]
    assert content(marker_of(run)) == content(undisturbed)


def test_a_runner_whose_clip_was_taken_leaves_it(run: TinyRun, caplog: pytest.LogCaptureFixture) -> None:
    robbers: list[tuple[StoredClaims, Held]] = []

    def rob_and_live(context: RoleContext, seen: Progress) -> None:
        at_step(3, lambda context: robbers.append(rob(context)))(context, seen)
        if seen.state is RunnerState.WAITING:
            robber, held = robbers[0]
            robber.change(held)  # a sign of life, for which the runner waits

    with caplog.at_level(logging.WARNING):
        report = run.generate(then=rob_and_live)
    assert (report.finished, report.failed) == (0, 0)
    assert "clip fox-1 went to another runner" in caplog.text
    assert run.marker() is None
    claim = run.claim()
    assert claim is not None
    assert (claim.owner, claim.state) == ("robber", ClaimState.HELD)


def test_a_stop_after_the_clip_was_taken_writes_nothing(run: TinyRun) -> None:
    def rob_and_stop(context: RoleContext) -> None:
        rob(context)
        stop(context)

    with pytest.raises(Interrupted):
        run.generate(then=at_step(3, rob_and_stop))
    assert run.checkpoints() == []
    assert claim_of(run)[0] is ClaimState.HELD


def test_a_clip_of_two_loops_with_a_reference_goes_on_from_any_step(tmp_path: Path, tiny_weights: Path) -> None:
    plan = two_loops_with_reference(tmp_path, tiny_weights)
    whole = TinyRun(tmp_path / "whole", changed(plan, storage=storage_in(plan, tmp_path / "whole")))
    whole.folder.mkdir()
    whole.prepare().generate()
    assert marker_of(whole).frames == 2 * 34 - 17
    parts = TinyRun(tmp_path / "parts", changed(plan, storage=storage_in(plan, tmp_path / "parts")))
    parts.folder.mkdir()
    parts.prepare()
    for loop, step in ((0, 2), (1, 0), (1, 5)):

        def stop_there(context: RoleContext, seen: Progress, loop: int = loop, step: int = step) -> None:
            if (seen.state, seen.loop, seen.step) == (RunnerState.DENOISING, loop, step):
                stop(context)

        with pytest.raises(Interrupted):
            parts.generate(then=stop_there)
    assert parts.checkpoints() == [(1, 0, 2), (2, 1, 0), (3, 1, 5)]
    assert parts.generate().resumed == 1
    assert content(marker_of(parts)) == content(marker_of(whole))


def storage_in(plan: Plan, folder: Path) -> object:
    return plan.storage.model_copy(update={"url": str(folder / "store")})


def two_loops_with_reference(folder: Path, weights: Path) -> Plan:
    Image.fromarray(PICTURE).save(folder / "picture.png")
    reference = PlannedReference(
        url=str(folder / "picture.png"), sha256=None, loop=0, start=0, at=0, length=1, edit=0.0
    )
    prompt = build_prompt("fox", "a red fox", "an owl").model_copy(update={"references": (reference,)})
    video = PlannedVideo(height=64, width=64, frames=34, fps=24, loops=2, condition_frames=17)
    return tiny_plan(folder, weights, prompts=(prompt,), video=video)


def test_a_reference_that_has_changed_fails_its_clip_and_the_runner_goes_on(tmp_path: Path, tiny_weights: Path) -> None:
    plan = two_loops_with_reference(tmp_path, tiny_weights)
    run = TinyRun(tmp_path, changed(plan, prompts=(*plan.prompts, build_prompt("owl", "an owl")))).prepare()
    Image.fromarray(PICTURE[::-1]).save(tmp_path / "picture.png")
    report = run.generate()
    assert (report.finished, report.failed) == (1, 1)
    fox, owl = run.plan.work
    failure = run.failure(fox)
    assert failure is not None
    assert failure == ClipFailure(
        clip="fox-1",
        clip_digest=run.digests[0],
        reason=Reason.INVALID_INPUT,
        message=failure.message,
        runner="generate-1-0",
        stints=failure.stints,
    )
    assert [stint.runner for stint in failure.stints] == ["generate-1-0"]
    assert "picture.png has sha256" in failure.message
    assert claim_of(run) == (ClaimState.FAILED, 1, 0)
    assert run.marker(owl) is not None
    assert (run.marker(fox), run.failure(owl)) == (None, None)
    assert run.generate(attempt=2).failed == 0  # the record stands: nobody tries again


def test_a_failed_clip_whose_record_was_removed_is_tried_again(run: TinyRun, undisturbed: DoneMarker) -> None:
    claims = claims_of(run.store, run.plan, "a")
    held = claims.take(claims.look(run.digests[0]))
    assert held is not None
    assert Tenure(claims, held).settle(ClaimState.FAILED)
    assert run.generate(attempt=2).finished == 1
    assert content(marker_of(run)) == content(undisturbed)


def test_a_clip_that_the_encoder_could_not_encode_is_not_tried(tmp_path: Path, tiny_weights: Path) -> None:
    prompts = (build_prompt("fox", "一只狐狸"), build_prompt("owl", "an owl"))
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights, prompts=prompts)).prepare()
    report = run.generate()
    assert (report.finished, report.failed) == (1, 0)
    assert claim_of(run) == (ClaimState.FAILED, 1, 0)


def test_latents_that_are_not_finite_fail_the_clip_and_name_the_step(run: TinyRun) -> None:
    embeddings = Embeddings(run.store, run.plan, run.inputs)
    embeddings.write("a red fox", torch.full_like(embeddings.read("a red fox"), torch.nan), 0)
    assert run.generate().failed == 1
    failure = run.failure()
    assert failure is not None
    assert failure.reason is Reason.INTERNAL
    # At this size rounding puts the first timestep above 1000, where no frame moves: the second step is the first.
    assert failure.message.startswith("clip fox-1 has no finite latents after loop 0, step 2;")
    assert run.checkpoints() == []


def test_a_missing_embedding_ends_the_runner_and_not_the_clip(tmp_path: Path, tiny_weights: Path) -> None:
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights))
    run.preflight()
    with pytest.raises(EmbeddingMissing, match="'a red fox'; encode it first"):
        run.generate()
    assert claim_of(run) == (ClaimState.OPEN, 1, 0)


def test_other_weights_than_those_of_the_run_are_refused_with_both_digests(tmp_path: Path, tiny_weights: Path) -> None:
    copytree(tiny_weights, tmp_path / "weights")
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tmp_path / "weights")).prepare()
    for component in ("denoiser", "vae"):
        (tmp_path / "weights" / component).rename(tmp_path / f"old-{component}")
    other = write_random(PRESETS["tiny"], tmp_path / "other", seed=1)
    for component in ("denoiser", "vae"):
        (tmp_path / "other" / component).rename(tmp_path / "weights" / component)
    expected = run.inputs.weights.denoiser
    with pytest.raises(
        WeightsInvalid, match=rf"digest {other[Component.DENOISER].digest}, the run began with {expected}"
    ):
        run.generate()
    assert claim_of(run) == (ClaimState.OPEN, 1, 0)


class BrokenStore(DirectoryStore):
    """Raises where a video is written."""

    def __init__(self, root: Path, error: Exception) -> None:
        super().__init__(root)
        self._error = error

    def put_file(self, key: str, path: Path) -> None:
        raise self._error if key.endswith(path.suffix) else AssertionError(key)


@pytest.mark.parametrize(
    ("error", "unclean_ends"),
    [(MemoryError(), 1), (RuntimeError("device gone"), 1), (StoreCorrupt("x"), 1), (StoreUnavailable("gone"), 0)],
)
def test_a_runner_that_breaks_hands_its_clip_back_and_counts_only_what_the_clip_may_have_caused(
    run: TinyRun, error: Exception, unclean_ends: int, undisturbed: DoneMarker
) -> None:
    with pytest.raises(type(error)):
        run.generate(store=BrokenStore(run.folder / "store", error))
    assert claim_of(run) == (ClaimState.OPEN, 1, unclean_ends)
    report = run.generate()
    assert (report.resumed, report.steps) == (1, 0)  # the final latents were there before decoding
    assert content(marker_of(run)) == content(undisturbed)


def test_a_clip_whose_runners_end_uncleanly_too_often_is_failed_by_who_finds_it(run: TinyRun) -> None:
    for attempt in (1, 2):  # two runners that were killed: retries are 1
        claims = claims_of(run.store, run.plan, "killed", attempt=attempt)
        assert claims.take(claims.look(run.digests[0])) is not None
    report = run.generate(attempt=3)
    assert (report.finished, report.failed, report.load_seconds) == (0, 1, 0.0)
    failure = run.failure()
    assert failure is not None
    assert failure.message.startswith("2 runners ended uncleanly in this clip, retries allow 1;")
    assert claim_of(run) == (ClaimState.FAILED, 3, 2)


def test_as_many_unclean_ends_as_retries_are_allowed(run: TinyRun) -> None:
    claims = claims_of(run.store, run.plan, "killed")
    assert claims.take(claims.look(run.digests[0])) is not None
    assert run.generate(attempt=2).finished == 1
    assert claim_of(run) == (ClaimState.DONE, 2, 1)


def test_a_clip_is_stopped_and_finished_on_an_object_store_as_in_a_folder(
    tmp_path: Path, tiny_weights: Path, undisturbed: DoneMarker
) -> None:
    with moto() as server:
        run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights), server.elsewhere().open()).prepare()
        assert run.inputs.claims
        with pytest.raises(Interrupted):
            run.generate(then=at_step(2, stop))
        assert claim_of(run) == (ClaimState.OPEN, 1, 0)
        assert run.generate(attempt=2).resumed == 1
        assert claim_of(run) == (ClaimState.DONE, 2, 0)
        assert content(marker_of(run)) == content(undisturbed)
        assert is_intact(run.store, marker_of(run).video)


def test_without_trustworthy_claims_each_runner_of_all_pools_has_its_share(tmp_path: Path, tiny_weights: Path) -> None:
    plan = tiny_plan(
        tmp_path,
        tiny_weights,
        prompts=(build_prompt("fox", "a red fox", samples=4),),
        pools=(build_pool("local", 2), build_pool("other", 1)),
    )
    run = TinyRun(tmp_path, plan).prepare()
    run.store.put(keys.inputs(plan.run), run.inputs.model_copy(update={"claims": False}).model_dump_json().encode())
    made: list[list[str]] = []
    for index, pool in ((0, "local"), (1, "local"), (0, "other")):
        before = {work.name for work in plan.work if run.marker(work)}
        generate.run(run.context(Stage.GENERATE, index=index, pool=pool))
        made.append([work.name for work in plan.work if run.marker(work) and work.name not in before])
    assert made == [["fox-1", "fox-4"], ["fox-2"], ["fox-3"]]
    assert list(run.store.list(f"{keys.run_prefix(plan.run)}claims/")) == []
