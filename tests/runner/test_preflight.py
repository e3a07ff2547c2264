"""Preflight on real files: what it finds, what it refuses, and what it freezes for the run."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from tests.runner.role_contexts import (
    build_context,
    build_inputs,
    changed,
    finish_clip,
    plan_in,
    with_references,
    write_weights,
)
from tests.store.store_backends import ENV, moto

from videogen_api import keys
from videogen_api.errors import Interrupted, InvalidInput, Reason, StoreDenied, WeightsInvalid, WeightsMissing
from videogen_api.naming import Stage
from videogen_api.plan import Inputs, Plan
from videogen_api.records import ClipFailure
from videogen_api.report import Bitmap, PreflightReport, RunnerState
from videogen_runner.embeddings import Embeddings
from videogen_runner.probe import conditional_writes_work
from videogen_runner.roles import preflight
from videogen_runner.roles.preflight import freeze_inputs
from videogen_runner.store import ConditionsUnsupported, DirectoryStore, Store, open_store
from videogen_runner.store.records import get_record, put_record


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_weights(tmp_path / "weights")
    return plan_in(tmp_path)


def check(tmp_path: Path, plan: Plan) -> PreflightReport:
    return preflight.run(build_context(tmp_path, plan, Stage.PREFLIGHT))


def stored_inputs(plan: Plan) -> Inputs:
    return get_record(open_store(plan.storage.url, {}), keys.inputs(plan.run), Inputs).record


def test_an_empty_store_lacks_everything_and_keeps_only_the_inputs(tmp_path: Path, plan: Plan) -> None:
    context = build_context(tmp_path, plan, Stage.PREFLIGHT)
    report = preflight.run(context)
    inputs = stored_inputs(plan)
    assert report == PreflightReport(
        weights=inputs.weights, embeddings=Bitmap.of([False]), clips=Bitmap.of([False, False]), claims=True
    )
    assert (inputs.references, inputs.claims) == ({}, True)
    assert [entry.key for entry in context.store.list()] == [keys.inputs(plan.run)]
    progress = context.progress.snapshot()
    assert (progress.state, progress.done, progress.total) == (RunnerState.CHECKING, 3, 3)


def test_what_is_there_is_found_and_a_second_look_changes_nothing(tmp_path: Path, plan: Plan) -> None:
    weights = check(tmp_path, plan).weights
    store, inputs = open_store(plan.storage.url, {}), stored_inputs(plan)
    Embeddings(store, plan, inputs).write(plan.texts[0], torch.ones(2, 4), num_dropped=0)
    finish_clip(store, plan, inputs, plan.work[1])
    before = [(entry, store.get(entry.key)) for entry in store.list()]
    assert check(tmp_path, plan) == PreflightReport(
        weights=weights, embeddings=Bitmap.of([True]), clips=Bitmap.of([False, True]), claims=True
    )
    assert [(entry, store.get(entry.key)) for entry in store.list()] == before


@pytest.mark.parametrize("damage", ["deleted", "flipped", "cut", "grown"])
def test_a_damaged_video_counts_as_absent_and_is_logged(
    tmp_path: Path, plan: Plan, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    check(tmp_path, plan)
    store, inputs = open_store(plan.storage.url, {}), stored_inputs(plan)
    done, _ = (finish_clip(store, plan, inputs, clip) for clip in plan.work)
    body = store.get(done.video.key).body
    match damage:
        case "deleted":
            store.delete(done.video.key)
        case "flipped":
            store.put(done.video.key, bytes([body[0] ^ 1]) + body[1:])
        case "cut":
            store.put(done.video.key, body[:-1])
        case "grown":
            store.put(done.video.key, body + b"\0")
    assert check(tmp_path, plan).clips == Bitmap.of([False, True])
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"clip fox-1 is made again: its video is not the one that {keys.clip_done(done.clip_digest)} names"
    ]


def test_a_marker_that_does_not_parse_counts_as_absent(tmp_path: Path, plan: Plan) -> None:
    check(tmp_path, plan)
    store, inputs = open_store(plan.storage.url, {}), stored_inputs(plan)
    finish_clip(store, plan, inputs, plan.work[0])
    store.put(keys.clip_done(plan.clip_digest(plan.work[0], inputs)), b'{"clipDigest":')
    assert check(tmp_path, plan).clips == Bitmap.of([False, False])


def test_a_damaged_embedding_counts_as_absent(tmp_path: Path, plan: Plan) -> None:
    check(tmp_path, plan)
    store, inputs = open_store(plan.storage.url, {}), stored_inputs(plan)
    Embeddings(store, plan, inputs).write(plan.texts[0], torch.ones(2, 4), num_dropped=0)
    key = keys.embedding(plan.embedding_digest(inputs), plan.texts[0])
    body = store.get(key).body
    store.put(key, body[:-1] + bytes([body[-1] ^ 1]))
    assert check(tmp_path, plan).embeddings == Bitmap.of([False])


def test_an_earlier_failure_is_forgotten(tmp_path: Path, plan: Plan) -> None:
    check(tmp_path, plan)
    store, inputs = open_store(plan.storage.url, {}), stored_inputs(plan)
    digest = plan.clip_digest(plan.work[0], inputs)
    failure = ClipFailure(
        clip="fox-1", clip_digest=digest, reason=Reason.OUT_OF_MEMORY, message="too big", runner="local-0"
    )
    put_record(store, keys.clip_failure(plan.run, digest), failure)
    check(tmp_path, plan)
    assert [entry.key for entry in store.list()] == [keys.inputs(plan.run)]


def test_missing_weights_are_named(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "weights" / "vae" / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"vae/model\.safetensors"):
        check(tmp_path, plan)


def test_weights_that_change_during_a_run_are_refused_with_both_digests(tmp_path: Path, plan: Plan) -> None:
    before = check(tmp_path, plan).weights
    shutil.rmtree(tmp_path / "weights")
    write_weights(tmp_path / "weights", value=1.0)
    with pytest.raises(WeightsInvalid, match="weights had digest") as caught:
        check(tmp_path, plan)
    assert before.encoder in str(caught.value)
    assert stored_inputs(plan).weights == before


def test_references_are_hashed_by_path_and_by_file_url(tmp_path: Path, plan: Plan) -> None:
    image, second = tmp_path / "fox.png", tmp_path / "snow fox.png"
    image.write_bytes(b"picture")
    second.write_bytes(b"another")
    digest = hashlib.sha256(b"picture").hexdigest()
    by_url = second.as_uri()
    plan = with_references(plan, (str(image), digest), (by_url, None))
    check(tmp_path, plan)
    assert stored_inputs(plan).references == {str(image): digest, by_url: hashlib.sha256(b"another").hexdigest()}


@pytest.mark.parametrize(
    ("content", "pinned", "said"),
    [
        (None, None, r"fox\.png cannot be read: No such file or directory"),
        (b"", None, r"fox\.png is empty"),
        (b"picture", "0" * 64, rf"has sha256 {hashlib.sha256(b'picture').hexdigest()}, expected {'0' * 64}"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused_before_anything_is_frozen(
    tmp_path: Path, plan: Plan, content: bytes | None, pinned: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "fox.png").write_bytes(content)
    plan = with_references(plan, (str(tmp_path / "fox.png"), pinned))
    context = build_context(tmp_path, plan, Stage.PREFLIGHT)
    with pytest.raises(InvalidInput, match=said):
        preflight.run(context)
    assert list(context.store.list()) == []


def test_a_reference_that_changes_during_a_run_is_refused(tmp_path: Path, plan: Plan) -> None:
    image = tmp_path / "fox.png"
    image.write_bytes(b"picture")
    plan = with_references(plan, (str(image), None))
    check(tmp_path, plan)
    image.write_bytes(b"another")
    with pytest.raises(InvalidInput, match=r"fox\.png had sha256 .* when the run began and has"):
        check(tmp_path, plan)


def test_references_are_read_from_any_bucket_that_the_credentials_open(tmp_path: Path, plan: Plan) -> None:
    with moto() as server:
        backend = server.elsewhere()  # moto keeps its objects as long as this process lives
        backend.open().put("pictures/fox.png", b"picture")
        there, missing = f"{backend.url}/pictures/fox.png", f"{backend.url}/pictures/hare.png"
        plan = changed(plan, storage=plan.storage.model_copy(update={"endpoint": backend.endpoint}))
        context = build_context(tmp_path, with_references(plan, (there, None)), Stage.PREFLIGHT, ENV)
        preflight.run(context)
        assert stored_inputs(context.plan).references == {there: hashlib.sha256(b"picture").hexdigest()}
        context = build_context(tmp_path, with_references(plan, (missing, None)), Stage.PREFLIGHT, ENV)
        with pytest.raises(InvalidInput, match=r"hare\.png does not exist"):
            preflight.run(context)


def test_a_file_in_the_place_of_the_store_is_denied(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(StoreDenied, match="store"):
        check(tmp_path, plan)


def test_a_stop_interrupts(tmp_path: Path, plan: Plan) -> None:
    context = build_context(tmp_path, plan, Stage.PREFLIGHT)
    context.stop.set()
    with pytest.raises(Interrupted):
        preflight.run(context)


class CarelessAtSwaps(DirectoryStore):
    """Takes If-Match, and ignores it."""

    def swap(self, key: str, body: bytes, etag: str) -> str | None:  # noqa: ARG002 - that is the fault
        self.put(key, body)
        return self.get(key).etag


class Careless(CarelessAtSwaps):
    """Ignores If-None-Match as well: the last writer wins."""

    def create(self, key: str, body: bytes) -> str | None:
        self.put(key, body)
        return self.get(key).etag


class Refusing(DirectoryStore):
    """Does not know conditions."""

    def create(self, key: str, body: bytes) -> str | None:  # noqa: ARG002 - it never gets so far
        raise ConditionsUnsupported(f"PUT of {key}: 501 NotImplemented")


@pytest.mark.parametrize("kind", [Careless, CarelessAtSwaps, Refusing])
def test_a_store_without_conditional_writes_is_found_out(tmp_path: Path, kind: type[DirectoryStore]) -> None:
    store = kind(tmp_path)
    assert not conditional_writes_work(store, "runs/r/probe-1")
    assert list(store.list()) == []


def test_a_store_that_keeps_conditions_is_trusted_and_left_clean(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert conditional_writes_work(store, "runs/r/probe-1")
    assert list(store.list()) == []


@pytest.mark.parametrize("claims", [True, False])
def test_inputs_are_frozen_by_the_first_look(tmp_path: Path, plan: Plan, claims: bool) -> None:
    store: Store = (DirectoryStore if claims else Refusing)(tmp_path / "store")
    first = build_inputs(plan).model_copy(update={"claims": claims})
    assert freeze_inputs(store, plan.run, first) == first
    later = first.model_copy(update={"claims": not claims})
    assert freeze_inputs(store, plan.run, later) == first
