"""Collect on real files: what it counts, copies, names, leaves alone and removes."""

import json
from pathlib import Path

import pytest
from tests.runner.role_contexts import build_context, build_inputs, changed, finish_clip, plan_in, write_weights
from tests.store.store_backends import ENV, moto

from videogen_api import keys
from videogen_api.errors import Interrupted, Reason
from videogen_api.naming import Stage
from videogen_api.plan import Inputs, Plan
from videogen_api.records import ClipFailure, Manifest, ManifestClip, Sidecar
from videogen_api.report import Bitmap, ClipFailureLine, CollectReport
from videogen_api.status import Output
from videogen_runner.roles import collect, preflight
from videogen_runner.roles.inputs import read_inputs
from videogen_runner.store import NotFound, Store, open_store
from videogen_runner.store.records import put_record

FOLDER = "videos/default/test"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_in(tmp_path)


@pytest.fixture
def store(plan: Plan) -> Store:
    return open_store(plan.storage.url, {})


@pytest.fixture
def inputs(plan: Plan, store: Store) -> Inputs:
    """What preflight has written."""
    inputs = build_inputs(plan)
    put_record(store, keys.inputs(plan.run), inputs)
    return inputs


def run(tmp_path: Path, plan: Plan) -> CollectReport:
    return collect.run(build_context(tmp_path, plan, Stage.COLLECT))


def read_manifest(store: Store, plan: Plan) -> Manifest:
    return Manifest.model_validate_json(store.get(keys.manifest(plan.run)).body)


def visible(store: Store) -> list[str]:
    """Names in the folder that people open."""
    return [entry.key.removeprefix(f"{FOLDER}/") for entry in store.list("videos/")]


def everything(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key).body for entry in store.list()}


def test_done_clips_get_names_sidecars_a_page_and_a_manifest(
    tmp_path: Path, plan: Plan, store: Store, inputs: Inputs
) -> None:
    markers = [finish_clip(store, plan, inputs, clip) for clip in plan.work]
    report = run(tmp_path, plan)
    assert visible(store) == ["fox-1.json", "fox-1.mp4", "fox-2.json", "fox-2.mp4", "index.html"]
    sidecars = [
        Sidecar(
            clip=f"fox-{seed}", prompt="fox", text="a red fox", seed=seed, video=plan.video, sampling=plan.sampling,
            model="open-sora-v1.2-tiny", weights=inputs.weights, run_id=plan.run_id, done=done,
        )
        for seed, done in zip((1, 2), markers, strict=True)
    ]  # fmt: skip
    urls = [str(tmp_path / "store" / FOLDER / f"fox-{seed}.mp4") for seed in (1, 2)]
    assert read_manifest(store, plan) == Manifest(
        plan=plan,
        weights=inputs.weights,
        clips=tuple(
            ManifestClip(clip=sidecar.clip, prompt="fox", seed=sidecar.seed, url=url, sidecar=sidecar, failure=None)
            for sidecar, url in zip(sidecars, urls, strict=True)
        ),
    )
    for sidecar, url in zip(sidecars, urls, strict=True):
        assert Path(url).read_bytes() == store.get(sidecar.done.video.key, sidecar.done.video.sha256).body
        assert Sidecar.model_validate_json(Path(url).with_suffix(".json").read_bytes()) == sidecar
    assert report == CollectReport(
        succeeded=2,
        failed=0,
        missing=0,
        outputs=tuple(
            Output(
                clip=sidecar.clip, prompt="fox", seed=sidecar.seed, url=url, sha256=sidecar.done.video.sha256,
                frames=17, width=64, height=64, seconds=17 / 24,
            )
            for sidecar, url in zip(sidecars, urls, strict=True)
        ),
        manifest=str(tmp_path / "store" / keys.manifest(plan.run)),
    )  # fmt: skip


def test_a_second_collect_writes_nothing(tmp_path: Path, plan: Plan, store: Store, inputs: Inputs) -> None:
    for clip in plan.work:
        finish_clip(store, plan, inputs, clip)
    first = run(tmp_path, plan)

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}

    before = written()
    assert run(tmp_path, plan) == first
    assert written() == before


def test_an_image_keeps_its_suffix(tmp_path: Path, plan: Plan, store: Store, inputs: Inputs) -> None:
    finish_clip(store, plan, inputs, plan.work[0], suffix="png")
    run(tmp_path, plan)
    assert visible(store) == ["fox-1.json", "fox-1.png", "index.html"]


def test_failed_and_missing_clips_are_reported_and_no_error(
    tmp_path: Path, plan: Plan, store: Store, inputs: Inputs
) -> None:
    digest = plan.clip_digest(plan.work[0], inputs)
    failure = ClipFailure(
        clip="fox-1", clip_digest=digest, reason=Reason.INVALID_INPUT, message="no image", runner="local-0"
    )
    put_record(store, keys.clip_failure(plan.run, digest), failure)
    assert run(tmp_path, plan) == CollectReport(
        succeeded=0,
        failed=1,
        missing=1,
        failures=(ClipFailureLine(clip="fox-1", reason=Reason.INVALID_INPUT, message="no image"),),
        manifest=store.url(keys.manifest(plan.run)),
    )
    assert [clip.failure for clip in read_manifest(store, plan).clips] == [failure, None]
    assert visible(store) == ["index.html"]


def test_a_clip_that_was_made_after_all_has_not_failed(
    tmp_path: Path, plan: Plan, store: Store, inputs: Inputs
) -> None:
    digest = plan.clip_digest(plan.work[0], inputs)
    failure = ClipFailure(
        clip="fox-1", clip_digest=digest, reason=Reason.OUT_OF_MEMORY, message="too big", runner="local-0"
    )
    put_record(store, keys.clip_failure(plan.run, digest), failure)
    finish_clip(store, plan, inputs, plan.work[0])
    report = run(tmp_path, plan)
    assert (report.succeeded, report.failed, report.missing) == (1, 0, 1)


def test_a_damaged_video_is_missing_and_its_copy_goes(tmp_path: Path, plan: Plan, store: Store, inputs: Inputs) -> None:
    done = finish_clip(store, plan, inputs, plan.work[0])
    assert run(tmp_path, plan).succeeded == 1
    store.put(done.video.key, b"another video")
    report = run(tmp_path, plan)
    assert (report.succeeded, report.failed, report.missing) == (0, 0, 2)
    assert visible(store) == ["index.html"]


def test_a_damaged_copy_is_made_again(tmp_path: Path, plan: Plan, store: Store, inputs: Inputs) -> None:
    finish_clip(store, plan, inputs, plan.work[0])
    run(tmp_path, plan)
    before = everything(store)
    store.put(f"{FOLDER}/fox-1.mp4", b"damaged")
    store.put(f"{FOLDER}/fox-1.json", b"{}")
    run(tmp_path, plan)
    assert everything(store) == before


def test_two_names_of_one_clip_share_its_work(tmp_path: Path, plan: Plan, store: Store, inputs: Inputs) -> None:
    twin = plan.prompts[0].model_copy(update={"name": "twin"})
    plan = changed(plan, prompts=(plan.prompts[0], twin))
    assert (len(plan.clips), len(plan.work)) == (4, 2)
    finish_clip(store, plan, inputs, plan.work[0])
    report = run(tmp_path, plan)
    assert (report.succeeded, report.missing) == (2, 2)
    assert visible(store) == ["fox-1.json", "fox-1.mp4", "index.html", "twin-1.json", "twin-1.mp4"]


def test_old_copies_go_and_what_is_not_ours_stays(tmp_path: Path, plan: Plan, store: Store, inputs: Inputs) -> None:
    finish_clip(store, plan, inputs, plan.work[0])
    for name in ("owl-7.mp4", "owl-7.json", "fox-1.png", "notes.txt", "holiday.mp4"):
        store.put(f"{FOLDER}/{name}", b"old")
    store.put("videos/default/other/owl-7.mp4", b"another resource's")
    run(tmp_path, plan)
    assert visible(store) == [
        "videos/default/other/owl-7.mp4", "fox-1.json", "fox-1.mp4", "holiday.mp4", "index.html", "notes.txt",
    ]  # fmt: skip


def test_only_the_last_checkpoint_of_a_done_clip_stays(
    tmp_path: Path, plan: Plan, store: Store, inputs: Inputs
) -> None:
    done = finish_clip(store, plan, inputs, plan.work[0])
    unfinished = plan.clip_digest(plan.work[1], inputs)
    early = [
        keys.CheckpointKey(loop=0, step=2, epoch=1, sha256="0" * 64).key(digest)
        for digest in (done.clip_digest, unfinished)
    ]
    for key in early:
        store.put(key, b"checkpoint")
    run(tmp_path, plan)
    left = [entry.key for entry in store.list("clips/") if "/latents/" in entry.key]
    assert sorted(left) == sorted([done.latents.key, early[1]])


def test_sidecars_are_indented_for_people(tmp_path: Path, plan: Plan, store: Store, inputs: Inputs) -> None:
    finish_clip(store, plan, inputs, plan.work[0])
    run(tmp_path, plan)
    body = store.get(f"{FOLDER}/fox-1.json").body
    assert body.decode() == json.dumps(json.loads(body), indent=2, sort_keys=True, ensure_ascii=False)


def test_an_object_store_serves_as_well_as_a_folder(tmp_path: Path, plan: Plan) -> None:
    write_weights(tmp_path / "weights")
    with moto() as server:
        backend = server.elsewhere()  # moto keeps its objects as long as this process lives
        storage = plan.storage.model_copy(update={"url": backend.url, "endpoint": backend.endpoint})
        context = build_context(tmp_path, changed(plan, storage=storage), Stage.COLLECT, ENV)
        assert preflight.run(context).claims
        done = finish_clip(context.store, context.plan, read_inputs(context), context.plan.work[0])
        assert preflight.run(context).clips == Bitmap.of([True, False])
        first = collect.run(context)
        assert (first.succeeded, first.missing, first.outputs[0].url) == (1, 1, f"{backend.url}/{FOLDER}/fox-1.mp4")
        assert visible(context.store) == ["fox-1.json", "fox-1.mp4", "index.html"]
        assert context.store.get(f"{FOLDER}/fox-1.mp4", done.video.sha256).body == b"video of 1"
        assert collect.run(context) == first


def test_without_preflight_there_is_nothing_to_collect(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(NotFound, match=r"inputs\.json"):
        run(tmp_path, plan)


def test_a_stop_interrupts(tmp_path: Path, plan: Plan, store: Store, inputs: Inputs) -> None:
    finish_clip(store, plan, inputs, plan.work[0])
    context = build_context(tmp_path, plan, Stage.COLLECT)
    context.stop.set()
    with pytest.raises(Interrupted):
        collect.run(context)
