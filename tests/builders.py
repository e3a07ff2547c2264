"""Small values for tests: a resource, its plan, and what might be seen of its processes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from videogen_api.naming import Stage
from videogen_api.plan import (
    Device,
    Dtype,
    FormBytes,
    Plan,
    PlannedEncoder,
    PlannedModel,
    PlannedPool,
    PlannedPrompt,
    PlannedSampling,
    PlannedStorage,
    PlannedVideo,
    Segment,
    StageCost,
    WeightsDigests,
)
from videogen_api.report import (
    Bitmap,
    ClipFailureLine,
    CollectReport,
    EncodeReport,
    GenerateReport,
    PreflightReport,
    TerminationReport,
)
from videogen_api.resource import VideoGeneration, parse_resource
from videogen_api.spec import Precision, Strategy
from videogen_api.status import Attempts, VideoGenerationStatus
from videogen_operator.core.asked import asked_digest
from videogen_operator.core.observed import GroupState, ObservedGroup, ObservedProcess, Waiting, WaitingReason

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
COST = StageCost(flops=1e12, seconds=10.0, weight_bytes=1000, activation_bytes=100)


def build_resource(**spec: Any) -> VideoGeneration:
    prompts = [{"name": "fox", "text": "a red fox", "seed": 1, "samples": 2}]
    return parse_resource(
        {
            "apiVersion": "videogen.dev/v1alpha1",
            "kind": "VideoGeneration",
            "metadata": {"name": "test", "uid": "u1"},
            "spec": {"prompts": prompts, **spec},
        }
    )


def build_plan(
    *, storage: str = "/store", pools: tuple[tuple[str, int], ...] = (("local", 2),), retries: int = 1
) -> Plan:
    prompt = PlannedPrompt(
        name="fox", text="a red fox", seed=1, samples=2, segments=(Segment(loop=0, text="a red fox"),), references=()
    )
    return Plan.with_run_id(
        name="test",
        namespace="default",
        numerics_version=1,
        prompts=(prompt,),
        video=PlannedVideo(height=64, width=64, frames=17, fps=24, loops=1, condition_frames=17),
        sampling=PlannedSampling(steps=4, guidance=7.0),
        model=PlannedModel(name="open-sora-v1.2-tiny", weights="/weights", precision=Precision.EXACT),
        storage=PlannedStorage(url=storage, endpoint=None, region=None),
        strategy=Strategy.SEQUENTIAL,
        why="one machine",
        encoder=PlannedEncoder(shards=1, device=Device.CPU, dtype=Dtype.FLOAT32, cost=COST),
        pools=tuple(build_pool(name, replicas) for name, replicas in pools),
        retries=retries,
    )


def build_status(plan: Plan, resource: VideoGeneration, attempts: Attempts) -> VideoGenerationStatus:
    """The ledger of a run whose attempts have all existed."""
    return VideoGenerationStatus(
        run_id=plan.run_id,
        asked=asked_digest(resource.spec),
        retry=resource.spec.retry,
        plan_revision=1,
        attempts=attempts,
        created=attempts,
        start_time=NOW,
    )


def build_pool(name: str, replicas: int) -> PlannedPool:
    return PlannedPool(
        name=name,
        replicas=replicas,
        device=Device.CPU,
        gpus=0,
        product=None,
        dtype=Dtype.FLOAT32,
        vae_dtype=Dtype.FLOAT32,
        guidance_batch=2,
        decode_batch_frames=4,
        form_bytes=FormBytes(denoise={2: 1, 1: 1}, decode={4: 1, 3: 1, 2: 1, 1: 1}),
        seconds_per_step=1.0,
        cost=COST,
    )


def build_report(stage: Stage, exit_code: int = 0, message: str = "", **fields: Any) -> TerminationReport:
    from videogen_api.errors import reason_of_exit

    return TerminationReport(
        stage=stage,
        pool=None,
        index=0,
        attempt=1,
        exit_code=exit_code,
        reason=reason_of_exit(exit_code),
        message=message,
        seconds=1.0,
        peak_memory_bytes=1,
        **fields,
    )


def preflight_report(
    embeddings: tuple[bool, ...] = (False,), clips: tuple[bool, ...] = (False, False), *, claims: bool = True
) -> TerminationReport:
    found = PreflightReport(
        weights=WeightsDigests(encoder="e", denoiser="d", vae="v"),
        embeddings=Bitmap.of(embeddings),
        clips=Bitmap.of(clips),
        claims=claims,
    )
    return build_report(Stage.PREFLIGHT, preflight=found)


def encode_report() -> TerminationReport:
    return build_report(Stage.ENCODE, encode=EncodeReport(encoded=1, seconds=1.0, load_seconds=1.0))


def generate_report(finished: int = 1) -> TerminationReport:
    made = GenerateReport(finished=finished, failed=0, reused=0, resumed=0, steps=4, step_seconds=1.0, load_seconds=1.0)
    return build_report(Stage.GENERATE, generate=made)


def collect_report(
    succeeded: int = 2, failures: tuple[ClipFailureLine, ...] = (), missing: int = 0
) -> TerminationReport:
    found = CollectReport(
        succeeded=succeeded, failed=len(failures), missing=missing, failures=failures, manifest="/store/manifest.json"
    )
    return build_report(Stage.COLLECT, collect=found)


def build_group(
    plan: Plan,
    stage: Stage,
    attempt: int,
    *reports: TerminationReport | None,
    pool: str | None = None,
    in_round: int | None = None,
) -> ObservedGroup:
    """A group whose processes ended as their reports say; None is one that still runs."""
    processes = tuple(
        ObservedProcess(
            index, f"{stage}-{attempt}-{index}", exit_code=report.exit_code if report else None, report=report
        )
        for index, report in enumerate(reports)
    )
    if any(process.exit_code is None for process in processes):
        state = GroupState.RUNNING
    else:
        state = GroupState.FAILED if any(process.exit_code for process in processes) else GroupState.SUCCEEDED
    round_of_group = in_round or (attempt if stage == Stage.PREFLIGHT else 1)
    return ObservedGroup(plan.run_id, stage, pool, attempt, round_of_group, state, processes)


def write_script(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def after(seconds: float) -> datetime:
    """A moment of a test's own clock, which starts at NOW."""
    return NOW + timedelta(seconds=seconds)


def build_waiting(reason: WaitingReason, message: str = "", *, since: float = 0.0) -> Waiting:
    return Waiting(reason, message or f"{reason} for a test", after(since))


def hold_back(group: ObservedGroup, waiting: Waiting | None, *, started: int = 0) -> ObservedGroup:
    """The group with all but its first `started` processes never started, each for the reason given."""
    processes = tuple(
        process if process.index < started else replace(process, started=False, waiting=waiting)
        for process in group.processes
    )
    return replace(group, created=NOW, processes=processes)
