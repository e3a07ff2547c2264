"""Names, keys, errors, reports and status: what operator and runner rely on without asking each other."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videogen_api import keys, naming
from videogen_api.errors import FINAL_REASONS, ExitCode, InvalidInput, Reason, VideogenError, reason_of_exit
from videogen_api.naming import Stage
from videogen_api.report import Bitmap, ClipFailureLine, CollectReport, EncodeReport, TerminationReport
from videogen_api.status import (
    Attempts,
    ClipCounts,
    Condition,
    ConditionStatus,
    ConditionType,
    Output,
    Phase,
    VideoGenerationStatus,
)

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
DIGEST = "0" * 64


# ---- Errors ----


def test_every_error_has_a_reason_and_the_exit_code_that_stands_for_it() -> None:
    table = {error.__name__: (error.reason, int(error.exit_code)) for error in VideogenError.__subclasses__()}

    assert table == {
        "InvalidInput": (Reason.INVALID_INPUT, 65),
        "WeightsMissing": (Reason.WEIGHTS_MISSING, 66),
        "WeightsInvalid": (Reason.WEIGHTS_INVALID, 66),
        "StoreUnavailable": (Reason.STORE_UNAVAILABLE, 69),
        "Internal": (Reason.INTERNAL, 70),
        "OutOfMemory": (Reason.OUT_OF_MEMORY, 71),
        "EmbeddingMissing": (Reason.EMBEDDING_MISSING, 73),
        "Interrupted": (Reason.INTERRUPTED, 75),
        "PeerLost": (Reason.PEER_LOST, 76),
        "StoreDenied": (Reason.STORE_DENIED, 77),
        "ConfigInvalid": (Reason.CONFIG_INVALID, 78),
    }


@pytest.mark.parametrize(
    ("exit_code", "oom_killed", "reason"),
    [
        (0, False, None),
        (65, False, Reason.INVALID_INPUT),
        (66, False, Reason.WEIGHTS_INVALID),
        (71, False, Reason.OUT_OF_MEMORY),
        (75, False, Reason.INTERRUPTED),
        (137, True, Reason.OUT_OF_MEMORY),
        (137, False, Reason.INTERNAL),
        (134, False, Reason.INTERNAL),
        (139, False, Reason.INTERNAL),
        (1, False, Reason.INTERNAL),
    ],
)
def test_an_exit_code_stands_for_a_reason(exit_code: int, oom_killed: bool, reason: Reason | None) -> None:
    assert reason_of_exit(exit_code, oom_killed=oom_killed) == reason


def test_final_reasons_are_those_that_the_same_input_gives_again() -> None:
    assert {reason.value for reason in FINAL_REASONS} == {
        "InvalidInput", "WeightsMissing", "WeightsInvalid", "StoreDenied", "ConfigInvalid",
    }  # fmt: skip


# ---- Names ----


@given(st.text(), st.text(), st.text(), st.text(), st.sampled_from(Stage), st.none() | st.text(), st.integers(1, 9999))
def test_a_childs_name_and_its_pods_are_dns_labels(
    namespace: str, name: str, uid: str, run_id: str, stage: Stage, pool: str | None, attempt: int
) -> None:
    child = naming.child_name(naming.child_prefix(namespace, name, uid, run_id), stage, pool, attempt)

    assert DNS_LABEL.fullmatch(f"{child}-9999")


@given(st.text(max_size=80))
def test_a_slug_is_a_dns_label_whatever_the_text(text: str) -> None:
    slug = naming.slug(text)

    assert DNS_LABEL.fullmatch(slug)
    assert len(slug) <= 30


def test_children_of_different_runs_stages_pools_and_attempts_have_different_names() -> None:
    prefixes = [naming.child_prefix("ns", "fox", "u1", run_id) for run_id in ("r1", "r2")]
    names = {
        naming.child_name(prefix, stage, pool, attempt)
        for prefix in prefixes
        for stage in Stage
        for pool in (None, "a", "b")
        for attempt in (1, 2)
    }

    assert len(names) == 2 * 4 * 3 * 2
    assert naming.child_name("fox-1", Stage.GENERATE, "t4", 2) == f"fox-1-gen-{naming.short_hash('t4', length=4)}-2"


# ---- Keys ----


def test_keys_lie_where_the_design_says() -> None:
    sha256_of_text = "5ebbe2a2650a5e157c4f8e6720167485236ce883498722718171efe14efab41c"
    assert keys.embedding("e1", "a fox") == f"embeddings/e1/{sha256_of_text}.safetensors"
    assert keys.clip_done("c1") == "clips/c1/done"
    assert keys.clip_video("c1", 3, DIGEST, "mp4") == f"clips/c1/video/3-{DIGEST}.mp4"
    assert keys.inputs("fox-1") == "runs/fox-1/inputs.json"
    assert keys.claim("fox-1", "c1") == "runs/fox-1/claims/c1"
    assert keys.clip_failure("fox-1", "c1") == "runs/fox-1/failures/c1.json"
    assert keys.manifest("fox-1") == "runs/fox-1/manifest.json"
    assert keys.video("ns", "fox", "snow-42", "mp4") == "videos/ns/fox/snow-42.mp4"
    assert keys.page("ns", "fox") == "videos/ns/fox/index.html"
    assert keys.run_page("fox-1") == "runs/fox-1/index.html"
    assert keys.overview() == "runs/index.html"


def test_a_checkpoints_key_is_read_back_and_the_furthest_comes_last() -> None:
    checkpoints = [
        keys.CheckpointKey(loop=1, step=2, epoch=1, sha256=DIGEST),
        keys.CheckpointKey(loop=0, step=30, epoch=4, sha256=DIGEST),
        keys.CheckpointKey(loop=1, step=10, epoch=1, sha256=DIGEST),
    ]

    assert [keys.parse_checkpoint(checkpoint.key("c1")) for checkpoint in checkpoints] == checkpoints
    assert max(checkpoints) == checkpoints[2]
    with pytest.raises(InvalidInput, match=r"^clips/c1/done is no checkpoint's key$"):
        keys.parse_checkpoint("clips/c1/done")


# ---- Reports ----


@given(st.lists(st.booleans(), max_size=2000))
def test_a_bitmap_keeps_its_flags(flags: list[bool]) -> None:
    bitmap = Bitmap.of(flags)

    assert bitmap.flags() == tuple(flags)
    assert bitmap.count == sum(flags)


def output(index: int) -> Output:
    return Output(
        clip=f"p{index:03d}-1", prompt=f"p{index:03d}", seed=1, url=f"s3://videos/team-a/videos/ns/fox/p{index:03d}-1.mp4",
        sha256=DIGEST, frames=51, width=424, height=240, seconds=1.0,
    )  # fmt: skip


@given(st.text(max_size=9000), st.integers(0, 60), st.integers(0, 60), st.lists(st.text(max_size=300), max_size=40))
def test_a_termination_report_fits_what_kubernetes_keeps_and_is_read_back(
    message: str, outputs: int, failures: int, warnings: list[str]
) -> None:
    report = TerminationReport(
        stage=Stage.COLLECT, pool=None, index=0, attempt=1, exit_code=65, reason=Reason.INVALID_INPUT, message=message,
        seconds=1.5, peak_memory_bytes=2**40,
        encode=EncodeReport(encoded=3, seconds=1.0, load_seconds=2.0, truncated=tuple(warnings)),
        collect=CollectReport(
            succeeded=outputs, failed=failures, missing=0, manifest="s3://m",
            failures=tuple(
                ClipFailureLine(clip=f"c{n}", reason=Reason.INTERNAL, message="x" * n) for n in range(failures)
            ),
            outputs=tuple(output(n) for n in range(outputs)),
        ),
    )  # fmt: skip

    content = report.to_bytes()
    read = TerminationReport.from_bytes(content)

    assert len(content) <= 4096
    assert read is not None
    assert read.collect is not None
    assert (read.exit_code, read.reason) == (65, Reason.INVALID_INPUT)
    assert (read.collect.succeeded, read.collect.failed) == (outputs, failures)
    assert read.collect.outputs == tuple(output(n) for n in range(len(read.collect.outputs)))


def test_a_log_tail_is_no_report() -> None:
    assert TerminationReport.from_bytes(b"Traceback (most recent call last):") is None
    assert TerminationReport.from_bytes(b"") is None


# ---- Status ----


def test_status_is_read_back_as_it_was_written() -> None:
    status = VideoGenerationStatus(
        observed_generation=3,
        run_id="r1",
        attempts=Attempts(preflight=1, encode=2, generate={"t4": 1}),
        start_time=datetime(2026, 11, 24, 10, 0, tzinfo=UTC),
        phase=Phase.GENERATING,
        conditions=(
            Condition(
                type=ConditionType.READY,
                status=ConditionStatus.FALSE,
                reason="Generating",
                message="denoising",
                last_transition_time=datetime(2026, 11, 24, 10, 0, tzinfo=UTC),
                observed_generation=3,
            ),
        ),
        clips=ClipCounts(total=2, running=1),
        outputs=(output(1),),
    )

    written = status.model_dump_json(by_alias=True, exclude_none=True)

    assert VideoGenerationStatus.model_validate_json(written) == status
    assert '"startTime":"2026-11-24T10:00:00Z"' in written


def test_times_are_written_in_utc() -> None:
    status = VideoGenerationStatus(start_time=datetime(2026, 11, 24, 12, 30, tzinfo=timezone(timedelta(hours=2))))

    assert status.model_dump(mode="json")["start_time"] == "2026-11-24T10:30:00Z"


def test_a_fresh_object_counts_as_not_observed() -> None:
    assert VideoGenerationStatus().observed_generation == -1


def test_exit_codes_are_those_of_sysexits() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0, "INVALID_INPUT": 65, "WEIGHTS": 66, "STORE_UNAVAILABLE": 69, "INTERNAL": 70, "OUT_OF_MEMORY": 71,
        "EMBEDDING_MISSING": 73, "INTERRUPTED": 75, "PEER_LOST": 76, "STORE_DENIED": 77, "CONFIG_INVALID": 78,
    }  # fmt: skip
