"""A text encoder in several processes: the same embeddings as in one, and what becomes of a group without a shard."""

import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from tests.runner.shard_group import Group, fork_server
from tests.runner.tiny_model import TinyRun, build_prompt, tiny_plan

from videogen_api import keys
from videogen_api.architecture import architecture_of
from videogen_api.errors import ExitCode, Reason
from videogen_api.naming import Env, Stage
from videogen_api.records import ClipFailure
from videogen_runner.roles import encode

# Lengths from 2 tokens to the limit of 300, in no order.
TEXTS = ("an owl", "fox " * 400, "A red Fox &amp; snow, aesthetic score: 6.5.", "x", "a boat " * 40, "rain at night")
PROMISED_SECONDS = 15.0


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    return fork_server()


def tiny_run(folder: Path, weights: Path, texts: tuple[str, ...] = TEXTS) -> TinyRun:
    folder.mkdir(exist_ok=True)
    prompts = tuple(build_prompt(f"p{number}", text) for number, text in enumerate(texts))
    run = TinyRun(folder, tiny_plan(folder, weights, prompts=prompts))
    run.preflight()
    return run


def embeddings(run: TinyRun) -> dict[str, str]:
    """Digest of each embedding that is there."""
    prefix = keys.embedding(run.plan.embedding_digest(run.inputs), "").rpartition("/")[0]
    return {entry.key: run.store.get(entry.key).etag for entry in run.store.list(f"{prefix}/")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> dict[str, str]:
    run = tiny_run(tmp_path_factory.mktemp("alone"), tiny_weights)
    run.encode()
    found = embeddings(run)
    assert len(found) == len(TEXTS)
    return found


@pytest.fixture
def run(tmp_path: Path, tiny_weights: Path) -> TinyRun:
    return tiny_run(tmp_path, tiny_weights)


NUM_BLOCKS = architecture_of("open-sora-v1.2-tiny").encoder.num_layers


@pytest.mark.parametrize("shards", sorted({2, NUM_BLOCKS}))
def test_shards_make_the_very_embeddings_that_one_process_makes(
    processes: ForkServerContext, run: TinyRun, alone: dict[str, str], shards: int
) -> None:
    with Group(processes, run, shards).start() as group:
        assert group.codes() == dict.fromkeys(range(shards), ExitCode.OK), group.log(0)
    assert embeddings(run) == alone
    reports = [group.report(shard).encode for shard in group.shards]
    counts = [(report.encoded, len(report.truncated)) for report in reports if report is not None]
    assert counts == [(0, 0)] * (shards - 1) + [(len(TEXTS), 1)]


def test_only_what_is_missing_is_encoded_and_nothing_is_loaded_where_nothing_is(
    processes: ForkServerContext, run: TinyRun, alone: dict[str, str], tiny_weights: Path
) -> None:
    half = tiny_run(run.folder, tiny_weights, TEXTS[::2])
    half.encode()
    before = embeddings(run)
    assert len(before) == len(TEXTS) // 2
    with Group(processes, run, 2).start() as group:
        assert group.codes() == {0: ExitCode.OK, 1: ExitCode.OK}, group.log(0)
    report = group.report(1).encode
    assert report is not None
    assert report.encoded == len(TEXTS) - len(before)
    assert embeddings(run) == alone

    with Group(processes, run, 2, attempt=2).start(variables={Env.WEIGHTS: "/nowhere"}) as again:
        assert again.codes() == {0: ExitCode.OK, 1: ExitCode.OK}, again.log(0)
    for shard in (0, 1):
        found = again.report(shard).encode
        assert found is not None
        assert (found.encoded, found.load_seconds) == (0, 0.0)
    assert embeddings(run) == alone


def test_a_text_that_cannot_be_cleaned_fails_its_clips_and_no_others(
    processes: ForkServerContext, tmp_path: Path, tiny_weights: Path
) -> None:
    run = tiny_run(tmp_path, tiny_weights, ("一只狐狸", "an owl"))
    with Group(processes, run, 2).start() as group:
        assert group.codes() == {0: ExitCode.OK, 1: ExitCode.OK}, group.log(0)
    fox, owl = run.plan.work
    failure = run.failure(fox)
    assert failure == ClipFailure(
        clip="p0-1",
        clip_digest=run.digests[0],
        reason=Reason.INVALID_INPUT,
        message=failure.message if failure is not None else "",
        runner="shard-0",
    )
    assert run.failure(owl) is None


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_shard_that_is_killed_takes_the_others_along(processes: ForkServerContext, run: TinyRun, killed: int) -> None:
    with Group(processes, run, 3, hanging=1).start() as group:
        group.wait_until(lambda: group.is_stuck and len(embeddings(run)) == 1)
        started = time.monotonic()
        group.signal(killed, signal.SIGKILL)
        others = [shard for shard in group.shards if shard != killed]
        assert group.codes(*others) == dict.fromkeys(others, ExitCode.PEER_LOST), group.log(others[0])
        assert time.monotonic() - started < PROMISED_SECONDS / 3
        for shard in others:
            assert (group.report(shard).reason, group.report(shard).exit_code) == (Reason.PEER_LOST, 76)
    assert len(embeddings(run)) == 1, "what was done before is kept"
    assert encode.run(run.context(Stage.ENCODE, attempt=2)).encoded == len(TEXTS) - 1


def assert_others_miss_the_third_in_time(group: Group) -> None:
    started = time.monotonic()
    assert group.codes(0, 1) == {0: ExitCode.PEER_LOST, 1: ExitCode.PEER_LOST}
    assert time.monotonic() - started < PROMISED_SECONDS
    messages = {group.report(shard).message for shard in (0, 1)}
    assert "shard 2 has said nothing for 10 s" in " ".join(messages)


def test_a_shard_that_is_half_dead_takes_the_others_along_in_time(processes: ForkServerContext, run: TinyRun) -> None:
    with Group(processes, run, 3, hanging=1).start() as group:
        group.wait_until(lambda: group.is_stuck and len(embeddings(run)) == 1)
        group.signal(2, signal.SIGSTOP)
        assert_others_miss_the_third_in_time(group)


def test_a_shard_that_is_stopped_right_after_the_meeting_takes_the_others_along_in_time(
    processes: ForkServerContext, run: TinyRun
) -> None:
    with Group(processes, run, 3, stopping=2).start() as group:
        group.wait_until(lambda: group.is_stopped(2))
        assert_others_miss_the_third_in_time(group)


def test_a_shard_that_is_told_to_stop_makes_the_others_stop_too_and_nobody_is_blamed(
    processes: ForkServerContext, run: TinyRun
) -> None:
    with Group(processes, run, 3, hanging=1).start() as group:
        group.wait_until(lambda: group.is_stuck and len(embeddings(run)) == 1)
        group.signal(2, signal.SIGTERM)
        assert group.codes() == dict.fromkeys(range(3), ExitCode.INTERRUPTED)
        assert group.report(2).message == "stopped by a signal; what is done is kept, run again to continue"
        told = f"shard 2 ended with Interrupted: {group.report(2).message}"
        assert told in " ".join(group.report(shard).message for shard in (0, 1))


def test_shards_whose_first_never_comes_give_up_at_the_start_deadline(
    processes: ForkServerContext, run: TinyRun
) -> None:
    with Group(processes, run, 3).start(1, 2, deadline_seconds=2) as group:
        assert group.codes(1, 2) == {1: ExitCode.PEER_LOST, 2: ExitCode.PEER_LOST}
        assert "did not come within 2 s" in group.report(1).message


def test_a_shard_that_never_comes_is_named_at_the_start_deadline(processes: ForkServerContext, run: TinyRun) -> None:
    # Long enough for the one that does come, also where other tests take both cores.
    with Group(processes, run, 3).start(0, 2, deadline_seconds=20) as group:
        assert group.codes(0, 2) == {0: ExitCode.PEER_LOST, 2: ExitCode.PEER_LOST}
        assert group.report(0).message.startswith("shard 1 of 3 did not come within 20 s; ")


def test_two_groups_at_once_do_not_mix(
    processes: ForkServerContext, tmp_path: Path, tiny_weights: Path, alone: dict[str, str]
) -> None:
    one, other = (tiny_run(tmp_path / name, tiny_weights) for name in ("one", "other"))
    with Group(processes, one, 2).start() as first, Group(processes, other, 3).start() as second:
        assert (first.codes(), second.codes()) == ({0: 0, 1: 0}, {0: 0, 1: 0, 2: 0})
    assert embeddings(one) == embeddings(other) == alone
