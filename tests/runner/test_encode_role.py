import logging
import threading
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from shutil import copytree

import pytest
import torch
from tests.runner.role_contexts import changed
from tests.runner.tiny_model import TinyRun, Watched, build_prompt, tiny_plan

from videogen_api import keys
from videogen_api.errors import ConfigInvalid, EmbeddingMissing, Interrupted, Reason, WeightsInvalid
from videogen_api.naming import Stage
from videogen_api.plan import Dtype
from videogen_api.records import ClipFailure
from videogen_api.report import EncodeReport, RunnerState
from videogen_runner.embeddings import Embeddings
from videogen_runner.models.opensora.text import clean_caption
from videogen_runner.roles import encode
from videogen_runner.store import DirectoryStore, NotFound
from videogen_runner.store.tensors import get_tensors
from videogen_runner.weights.components import Component
from videogen_runner.weights.loading import load_encoder
from videogen_runner.weights.location import LocalWeights
from videogen_runner.weights.random_weights import PRESETS, write_random

FOX, OWL = "A red Fox &amp; snow, aesthetic score: 6.5.", "an owl"


@pytest.fixture
def run(tmp_path: Path, tiny_weights: Path) -> TinyRun:
    prompts = (build_prompt("fox", FOX), build_prompt("owl", OWL), build_prompt("again", FOX, seed=9))
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights, prompts=prompts))
    run.preflight()
    return run


def embeddings_of(run: TinyRun) -> Embeddings:
    return Embeddings(run.store, run.plan, run.inputs)


def key_of(run: TinyRun, text: str) -> str:
    return keys.embedding(run.plan.embedding_digest(run.inputs), text)


def test_every_text_is_encoded_once_cleaned_and_at_its_own_length(run: TinyRun, tiny_weights: Path) -> None:
    report = run.encode()
    assert (report.encoded, report.truncated) == (2, ())
    encoder = load_encoder(LocalWeights(tiny_weights), device="cpu", dtype=torch.float32)
    for text in (FOX, OWL):
        expected_LC = encoder.encode(clean_caption(text)).y_LC
        assert torch.equal(embeddings_of(run).read(text), expected_LC)
        tensors, metadata = get_tensors(run.store, key_of(run, text))
        assert {name: tensor.dtype for name, tensor in tensors.items()} == {"y_LC": torch.float32}
        assert metadata == {"tokens": str(len(expected_LC)), "dropped": "0"}


@pytest.mark.parametrize("dtype", [Dtype.BFLOAT16, Dtype.FLOAT16])
def test_an_embedding_is_stored_in_the_dtype_that_it_was_computed_in(
    run: TinyRun, tiny_weights: Path, dtype: Dtype
) -> None:
    half = TinyRun(run.folder, changed(run.plan, encoder=run.plan.encoder.model_copy(update={"dtype": dtype})))
    half.encode()
    y_LC = embeddings_of(half).read(OWL)
    assert y_LC.dtype == getattr(torch, dtype)
    encoder = load_encoder(LocalWeights(tiny_weights), device="cpu", dtype=getattr(torch, dtype))
    assert torch.equal(y_LC.float(), encoder.encode(OWL).y_LC)
    assert not embeddings_of(run).is_stored(OWL)


def test_what_is_there_is_not_encoded_again_and_the_model_is_not_loaded_for_it(
    run: TinyRun, caplog: pytest.LogCaptureFixture
) -> None:
    run.encode()
    before = run.store.get(key_of(run, FOX)).etag
    context = run.context(Stage.ENCODE, attempt=2)
    weightless = replace(context, environment=replace(context.environment, weights="/nowhere"))
    with caplog.at_level(logging.WARNING):
        report = encode.run(weightless)
    assert report == EncodeReport(encoded=0, seconds=0.0, load_seconds=0.0)
    assert run.store.get(key_of(run, FOX)).etag == before
    assert context.progress.snapshot().done == context.progress.snapshot().total == 2


def test_a_damaged_embedding_is_encoded_again(run: TinyRun) -> None:
    run.encode()
    whole = run.store.get(key_of(run, FOX)).body
    run.store.put(key_of(run, FOX), whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run.encode(attempt=2).encoded == 1
    assert run.store.get(key_of(run, FOX)).body == whole


def test_a_text_over_the_token_limit_is_cut_with_a_warning_that_counts(
    tmp_path: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = " ".join(["fox"] * 1200)
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights, prompts=(build_prompt("long", text),)))
    run.preflight()
    with caplog.at_level(logging.WARNING):
        report = run.encode()
    [warning] = report.truncated
    assert warning.startswith("prompt long: the prompt has ")
    assert warning.endswith(" tokens; the first 299 and the end mark were kept")
    assert warning in caplog.messages
    _, metadata = get_tensors(run.store, key_of(run, text))
    assert metadata["tokens"] == "300"
    assert f"has {300 + int(metadata['dropped'])} tokens" in warning


def test_a_text_of_which_cleaning_leaves_nothing_fails_its_clips_and_no_others(
    tmp_path: Path, tiny_weights: Path
) -> None:
    empty = "一只狐狸 aesthetic score: 6.5. motion score: 5.0. camera motion: pan left."
    prompts = (build_prompt("fox", empty), build_prompt("owl", OWL))
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights, prompts=prompts))
    run.preflight()
    assert run.encode().encoded == 1
    fox, owl = run.plan.work
    failure = run.failure(fox)
    assert failure is not None
    assert "is empty once cleaned" in failure.message
    assert failure == ClipFailure(
        clip="fox-1",
        clip_digest=run.digests[0],
        reason=Reason.INVALID_INPUT,
        message=failure.message,
        runner="encode-1-0",
    )
    assert run.failure(owl) is None


class StoppingStore(DirectoryStore):
    """SIGTERM arrives right after the first embedding is written."""

    def __init__(self, root: Path, stop: threading.Event) -> None:
        super().__init__(root)
        self._stop = stop

    def put(self, key: str, body: bytes) -> None:
        super().put(key, body)
        self._stop.set()


def test_a_stop_keeps_what_is_encoded_and_the_next_attempt_goes_on(run: TinyRun) -> None:
    context = run.context(Stage.ENCODE)
    with pytest.raises(Interrupted):
        encode.run(replace(context, store=StoppingStore(run.folder / "store", context.stop)))
    assert (embeddings_of(run).is_stored(FOX), embeddings_of(run).is_stored(OWL)) == (True, False)
    assert run.encode(attempt=2).encoded == 1


def test_a_stop_while_the_model_loads_ends_the_role(run: TinyRun) -> None:
    context = run.context(Stage.ENCODE)
    context.stop.set()
    with pytest.raises(Interrupted):
        encode.run(context)


@pytest.mark.parametrize(
    ("index", "address", "message"),
    [
        (0, None, "environment key VIDEOGEN_SHARDS_ADDRESS is not set, and the plan has encoder.shards = 2"),
        (0, "nowhere", "environment key VIDEOGEN_SHARDS_ADDRESS is 'nowhere'; set it to host:port of shard 0"),
        (2, "x:1", "environment key JOB_COMPLETION_INDEX is 2, and the plan has encoder.shards = 2"),
    ],
)
def test_a_shard_without_a_place_in_its_group_says_which_key_is_wrong(
    run: TinyRun, index: int, address: str | None, message: str
) -> None:
    plan = changed(run.plan, encoder=run.plan.encoder.model_copy(update={"shards": 2}))
    context = TinyRun(run.folder, plan).context(Stage.ENCODE, index=index)
    with pytest.raises(ConfigInvalid) as caught:
        encode.run(replace(context, environment=replace(context.environment, shards_address=address)))
    assert message in str(caught.value)


def test_weights_that_are_not_those_of_the_run_are_refused_with_both_digests(
    tmp_path: Path, tiny_weights: Path
) -> None:
    copytree(tiny_weights, tmp_path / "weights")
    run = TinyRun(tmp_path, tiny_plan(tmp_path, tmp_path / "weights"))
    expected = run.preflight().weights.encoder
    other = write_random(PRESETS["tiny"], tmp_path / "other", seed=1)[Component.ENCODER].digest
    context = run.context(Stage.ENCODE)
    with pytest.raises(WeightsInvalid, match=rf"the encoder's weights have digest {other}, .* began with {expected}"):
        encode.run(replace(context, environment=replace(context.environment, weights=str(tmp_path / "other"))))
    assert not embeddings_of(run).is_stored("a red fox")


def test_encoding_before_preflight_is_an_error_that_names_the_missing_object(
    tmp_path: Path, tiny_weights: Path
) -> None:
    with pytest.raises(NotFound, match=r"inputs\.json"):
        TinyRun(tmp_path, tiny_plan(tmp_path, tiny_weights)).encode()


def test_a_missing_or_damaged_embedding_is_named_when_it_is_read(run: TinyRun) -> None:
    with pytest.raises(EmbeddingMissing, match=rf"no embedding .*{key_of(run, OWL)} of 'an owl'; encode it first"):
        embeddings_of(run).read(OWL)
    run.store.put(key_of(run, OWL), b"nothing")
    with pytest.raises(EmbeddingMissing, match="the embedding of 'an owl' is damaged"):
        embeddings_of(run).read(OWL)


def test_progress_says_what_the_encoder_does(run: TinyRun) -> None:
    context = run.context(Stage.ENCODE)
    progress = Watched(context.progress.snapshot())
    encode.run(replace(context, progress=progress))
    states = [state for state, _ in groupby(seen.state for seen in progress.seen)]
    assert states == [RunnerState.CHECKING, RunnerState.LOADING, RunnerState.ENCODING]
    assert (progress.seen[-1].done, progress.seen[-1].total, progress.seen[-1].device) == (2, 2, "cpu")
