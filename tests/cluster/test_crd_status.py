"""Status writes: the schema takes what the models write, and nothing else."""

import re
from datetime import UTC, datetime

import pytest
from tests.cluster.crd_api import DRY_RUN, STRICT, Api, Refused, api
from tests.manifests import GOOD, changed

from videogen_api.resource import parse_resource
from videogen_api.spec import Strategy
from videogen_api.status import (
    Attempts,
    ClipCounts,
    Condition,
    ConditionStatus,
    ConditionType,
    EncoderStatus,
    Failure,
    Findings,
    Output,
    Phase,
    PlanSummary,
    PromptCounts,
    RunnerStatus,
    ShardStatus,
    VideoGenerationStatus,
)

__all__ = ["api"]

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def build_status(phase: Phase) -> VideoGenerationStatus:
    """Every field that there is."""
    return VideoGenerationStatus(
        observed_generation=1,
        run_id="5f1c",
        retry="1",
        asked="ab",
        plan_revision=2,
        attempts=Attempts(preflight=1, encode=1, generate={"t4": 1}, collect=1),
        created=Attempts(preflight=1, generate={"t4": 1}),
        late_starts=("fox-enc-1",),
        found=Findings(attempt=1, embeddings=3, clips=1, claims=True),
        start_time=NOW,
        completion_time=NOW,
        phase=phase,
        conditions=tuple(
            Condition(
                type=kind,
                status=ConditionStatus.UNKNOWN,
                reason="Because",
                message="",
                last_transition_time=NOW,
                observed_generation=1,
            )
            for kind in ConditionType
        ),
        message="denoising 4 of 8 clips, 3 done",
        progress=47,
        estimated_completion_time=NOW,
        plan=PlanSummary(
            strategy=Strategy.SEQUENTIAL,
            encoder_shards=4,
            encoder_dtype="float16",
            runner_dtype="float16",
            gpu_seconds=1234.5,
            peak_memory_bytes=15 * 2**30,
            why="the encoder takes all cards",
        ),
        clips=ClipCounts(total=8, succeeded=3, running=4, failed=0, reused=1),
        encoder=EncoderStatus(
            prompts=PromptCounts(total=4, cached=3, encoded=1),
            shards=(ShardStatus(index=0, pod="fox-enc-0", node="n1", state="Encoding", memory_bytes=2**40),),
        ),
        runners=(
            RunnerStatus(
                name="t4-0",
                pod="fox-gen-0",
                node="n1",
                gpu="cuda",
                state="Denoising",
                clip="snow-42",
                step=3,
                steps=30,
                seconds_per_step=1.5,
                memory_bytes=2**33,
                memory_total_bytes=2**34,
            ),
        ),
        outputs=(
            Output(
                clip="snow-42",
                prompt="snow",
                seed=2**53 - 1,
                url="s3://videos/snow-42.mp4",
                sha256="ab" * 32,
                frames=51,
                width=854,
                height=480,
                seconds=2.125,
            ),
        ),
        manifest="s3://videos/manifest.json",
        failures=(
            Failure(pod="fox-gen-1", node="n1", exit_code=70, reason="Internal", message="it broke", log_tail="a\nb"),
        ),
    )


@pytest.mark.parametrize("phase", Phase)
def test_the_status_of_every_phase_is_taken_and_read_back(api: Api, phase: Phase) -> None:
    name = f"status-{phase.lower()}"
    created = api.create(changed(GOOD, {"metadata.name": name}), STRICT)
    status = build_status(phase)
    patch = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": created["metadata"]["resourceVersion"]},
        {"op": "add", "path": "/status", "value": status.model_dump(mode="json", by_alias=True, exclude_none=True)},
    ]

    api.request("PATCH", f"/{name}/status", patch, STRICT, "application/json-patch+json")

    assert parse_resource(api.request("GET", f"/{name}")).status == status


def test_the_smallest_status_is_taken(api: Api) -> None:
    created = api.create(changed(GOOD, {"metadata.name": "status-least"}), STRICT)
    status = VideoGenerationStatus().model_dump(mode="json", by_alias=True, exclude_none=True)

    written = api.request("PUT", "/status-least/status", created | {"status": status}, DRY_RUN)

    assert parse_resource(written).status == VideoGenerationStatus()


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("phase", "Thinking", 'status.phase: Unsupported value: "Thinking"'),
        ("progress", "half", "progress in body must be of type integer"),
        ("startTime", "noon", 'startTime in body must be of type date-time: "noon"'),
        ("mood", "good", 'unknown field "status.mood"'),
    ],
)
def test_a_status_that_no_model_writes_is_refused(api: Api, field: str, value: str, told: str) -> None:
    name = f"odd-{field.lower()}"
    created = api.create(changed(GOOD, {"metadata.name": name}), STRICT)

    with pytest.raises(Refused, match=re.escape(told)):
        api.request("PUT", f"/{name}/status", created | {"status": {field: value}}, DRY_RUN)
