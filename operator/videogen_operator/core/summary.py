"""The derived half of status: phase, counts, progress, time left and conditions, from what was observed.

Progress is a share of planned work: encoding and denoising count as the seconds that the plan predicts for them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.plan import Plan
from videogen_api.report import CollectReport, Progress, RunnerState
from videogen_api.resource import VideoGeneration
from videogen_api.status import (
    FINISHED_PHASES,
    MAX_FAILURES,
    MAX_OUTPUTS,
    MAX_RUNNERS,
    ClipCounts,
    EncoderStatus,
    Failure,
    Findings,
    Phase,
    PlanSummary,
    PromptCounts,
    RunnerStatus,
    ShardStatus,
    VideoGenerationStatus,
)
from videogen_operator.core.conditions import conditions_of
from videogen_operator.core.estimate import estimate_completion
from videogen_operator.core.observed import Observed, ObservedGroup, ObservedProcess
from videogen_operator.core.totals import totals_of

if TYPE_CHECKING:
    from videogen_operator.core.stages import Step

_LOG_TAIL_CHARACTERS = 1000


def summarize(
    resource: VideoGeneration, plan: Plan, observed: Observed, ledger: VideoGenerationStatus, step: Step, now: datetime
) -> VideoGenerationStatus:
    """The whole status: the ledger as given, everything else computed."""
    found = ledger.found
    clips = _count_clips(plan, observed, step, ledger)
    # A process that is too busy to answer has not lost its work: within one run, progress never goes back.
    progress = (
        100 if step.phase == Phase.SUCCEEDED else max(ledger.progress, _percent(plan, observed, clips, step.phase))
    )
    finished = step.phase in FINISHED_PHASES
    message = step.message
    overlaps = step.phase == Phase.ENCODING and _running(observed, Stage.GENERATE)
    if step.phase == Phase.GENERATING or overlaps:
        message = f"{step.message}: {clips.running} at work, {clips.succeeded} of {clips.total} done"
    if step.note:
        message = f"{message}; {step.note}"
    status = ledger.model_copy(
        update={
            "observed_generation": resource.metadata.generation,
            "phase": step.phase,
            "message": message,
            "progress": progress,
            "completion_time": now if finished else None,
            "estimated_completion_time": None
            if finished
            else estimate_completion(plan, _running(observed, Stage.GENERATE), clips, ledger.start_time, progress, now),
            "plan": _summarize_plan(plan),
            "clips": clips,
            "encoder": _summarize_encoder(plan, observed, found),
            "runners": () if finished else _summarize_runners(observed),
            "outputs": step.collect.outputs[:MAX_OUTPUTS] if step.collect is not None else (),
            "manifest": step.collect.manifest if step.collect is not None else None,
            "failures": _summarize_failures(observed, step.collect),
        }
    )
    return status.model_copy(update={"conditions": conditions_of(status, plan, observed, step, now)})


def _running(observed: Observed, stage: Stage) -> tuple[Progress, ...]:
    return tuple(
        process.progress
        for group in observed.groups
        if group.stage == stage
        for process in group.processes
        if process.progress is not None and process.exit_code is None
    )


def _count_clips(plan: Plan, observed: Observed, step: Step, ledger: VideoGenerationStatus) -> ClipCounts:
    """Counts of distinct clips; after collect they are those of the manifest."""
    if step.collect is not None:
        return ClipCounts(total=len(plan.clips), succeeded=step.collect.succeeded, failed=step.collect.failed)
    before = ledger.clips
    reused = ledger.found.clips if ledger.found is not None else 0
    ended = [
        process.report.generate
        for group in observed.groups
        for process in group.processes
        if process.report is not None and process.report.generate is not None
    ]
    running = _running(observed, Stage.GENERATE)
    made = sum(report.finished for report in ended) + sum(progress.done for progress in running)
    succeeded = max(before.succeeded if before is not None else 0, reused + made)
    return ClipCounts(
        total=len(plan.work),
        succeeded=min(succeeded, len(plan.work)),
        running=sum(progress.clip is not None for progress in running),
        failed=sum(report.failed for report in ended),
        reused=reused,
    )


def _percent(plan: Plan, observed: Observed, clips: ClipCounts, phase: Phase) -> int:
    """Planned work that is done, at most 99: only collect makes it 100."""
    steps_of_clip = plan.sampling.steps * plan.video.loops
    seconds_of_clip = max(pool.cost.seconds for pool in plan.pools if not pool.unfit)
    encode_seconds = plan.encoder.cost.seconds
    total = encode_seconds + clips.total * seconds_of_clip
    if total <= 0:
        return 0
    # Every text passes through all shards, so the furthest one tells how many have come how far.
    encoded = max((progress.done for progress in _running(observed, Stage.ENCODE)), default=0) / len(plan.texts)
    if phase != Phase.ENCODING and any(group.stage == Stage.GENERATE for group in observed.groups):
        encoded = 1.0
    under_way = sum(
        (progress.loop * plan.sampling.steps + progress.step) / steps_of_clip
        for progress in _running(observed, Stage.GENERATE)
        if progress.clip is not None
    )
    done = min(1.0, encoded) * encode_seconds + min(clips.total, clips.succeeded + under_way) * seconds_of_clip
    return min(99, int(100 * done / total))


def _summarize_plan(plan: Plan) -> PlanSummary:
    totals = totals_of(plan)
    return PlanSummary(
        strategy=plan.strategy,
        encoder_shards=plan.encoder.shards,
        encoder_dtype=plan.encoder.dtype,
        runner_dtype=next(pool.dtype for pool in plan.pools if not pool.unfit),
        gpu_seconds=round(totals.gpu_seconds, 1),
        peak_memory_bytes=totals.peak_memory_bytes,
        why=plan.why,
        unfit_pools=tuple(pool.unfit for pool in plan.pools if pool.unfit),
    )


def _summarize_encoder(plan: Plan, observed: Observed, found: Findings | None) -> EncoderStatus:
    cached = found.embeddings if found is not None else 0
    groups = observed.attempts(Stage.ENCODE)
    processes = groups[-1].processes if groups else ()
    encoded = max((_count_encoded(process) for process in processes), default=0)
    return EncoderStatus(
        prompts=PromptCounts(total=len(plan.texts), cached=cached, encoded=encoded),
        shards=tuple(
            ShardStatus(
                index=process.index,
                pod=process.name,
                node=process.node,
                state=_state(process),
                memory_bytes=process.progress.memory_bytes if process.progress is not None else None,
            )
            for process in processes
            if process.exit_code is None
        ),
    )


def _count_encoded(process: ObservedProcess) -> int:
    if process.report is not None and process.report.encode is not None:
        return process.report.encode.encoded
    return process.progress.done if process.progress is not None else 0


def _state(process: ObservedProcess) -> str:
    return process.progress.state if process.progress is not None else RunnerState.STARTING


def _summarize_runners(observed: Observed) -> tuple[RunnerStatus, ...]:
    runners = [
        _summarize_runner(group, process)
        for group in observed.groups
        if group.stage == Stage.GENERATE
        for process in group.processes
        if process.exit_code is None
    ]
    return tuple(sorted(runners, key=lambda runner: runner.name))[:MAX_RUNNERS]


def _summarize_runner(group: ObservedGroup, process: ObservedProcess) -> RunnerStatus:
    progress = process.progress
    name = naming.runner_name(group.pool or "", process.index)
    if progress is None:
        return RunnerStatus(name=name, pod=process.name, node=process.node, state=RunnerState.STARTING)
    return RunnerStatus(
        name=name,
        pod=process.name,
        node=process.node,
        gpu=progress.device,
        state=progress.state,
        clip=progress.clip,
        step=progress.step if progress.clip is not None else None,
        steps=progress.steps if progress.clip is not None else None,
        seconds_per_step=progress.seconds_per_step,
        memory_bytes=progress.memory_bytes,
        memory_total_bytes=progress.memory_total_bytes,
    )


def _summarize_failures(observed: Observed, collect: CollectReport | None) -> tuple[Failure, ...]:
    of_clips = [
        Failure(pod=line.clip, reason=line.reason, message=line.message)
        for line in (collect.failures if collect is not None else ())
    ]
    of_processes = [
        Failure(
            pod=process.name,
            node=process.node,
            exit_code=process.exit_code,
            reason=process.reason or "",
            message=process.message,
            log_tail=process.log_tail[-_LOG_TAIL_CHARACTERS:] or None,
        )
        for group in sorted(observed.groups, key=lambda group: (list(Stage).index(group.stage), group.attempt))
        for process in group.failed_processes
    ]
    return tuple((of_processes + of_clips)[-MAX_FAILURES:])
