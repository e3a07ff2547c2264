"""What a pass sees of a simulated fleet: groups, their processes, and the reports of those that have ended."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from videogen_api.errors import ExitCode
from videogen_api.naming import Stage
from videogen_api.plan import Plan, WeightsDigests
from videogen_api.report import (
    Bitmap,
    CollectReport,
    GenerateReport,
    PreflightReport,
    Progress,
    RunnerState,
    TerminationReport,
)
from videogen_operator.core.observed import Group, GroupState, ObservedGroup, ObservedProcess
from videogen_operator.core.workload import Runner, Workload

KILLED = 137


@dataclass
class SimulatedJob:
    """A group from its creation on; times are seconds of the simulated clock."""

    run_id: str
    group: Group
    created: float
    runners: list[Runner] = field(default_factory=list)
    ended: float | None = None
    exit_code: int = ExitCode.OK
    deleted: float | None = None
    reports: tuple[TerminationReport, ...] = ()
    """Last words of its processes: what they say stays as it was when they ended."""

    @property
    def at_work(self) -> bool:
        return self.ended is None and self.deleted is None


def look(job: SimulatedJob, plan: Plan, workload: Workload, start: datetime) -> ObservedGroup:
    """What a pass sees of a group; `start` is when the simulated clock stood at 0."""
    group = job.group
    state = GroupState.RUNNING
    if job.ended is not None:
        job.reports = job.reports or tuple(_report(job, index, plan, workload) for index in range(group.processes))
        state = GroupState.FAILED if job.exit_code else GroupState.SUCCEEDED
    return ObservedGroup(
        run_id=job.run_id,
        stage=group.stage,
        pool=group.pool,
        attempt=group.attempt,
        round=group.round,
        state=state,
        processes=tuple(_look_at(job, index, plan, workload) for index in range(group.processes)),
        expected=group.processes,
        created=start + timedelta(seconds=job.created),
        finished=None if job.ended is None else start + timedelta(seconds=job.ended),
        template=group.template,
    )


def _look_at(job: SimulatedJob, index: int, plan: Plan, workload: Workload) -> ObservedProcess:
    name = f"{job.group.label}-{index}"
    if job.ended is None:
        return ObservedProcess(index, name, progress=_progress(job, index, plan, workload))
    if job.exit_code:
        return ObservedProcess(index, name, exit_code=job.exit_code, disrupted=True)
    return ObservedProcess(index, name, exit_code=ExitCode.OK, report=job.reports[index])


def _progress(job: SimulatedJob, index: int, plan: Plan, workload: Workload) -> Progress | None:
    """What a pod would say of itself; nothing before it has begun."""
    group = job.group
    told = Progress(
        stage=group.stage,
        pool=group.pool,
        index=index,
        attempt=group.attempt,
        pod=f"{group.label}-{index}",
        device="simulated",
        state=RunnerState.WAITING,
    )
    if group.stage == Stage.ENCODE:
        return told.model_copy(update={"state": RunnerState.ENCODING, "done": workload.encoded})
    if group.stage != Stage.GENERATE or not job.runners[index].alive:
        return None
    runner = job.runners[index]
    if runner.clip is None:
        return told.model_copy(update={"done": runner.done})
    clip = plan.work[runner.clip].name
    return told.model_copy(update={"state": RunnerState.DENOISING, "done": runner.done, "clip": clip})


def _report(job: SimulatedJob, index: int, plan: Plan, workload: Workload) -> TerminationReport:
    group = job.group
    report = TerminationReport(
        stage=group.stage, pool=group.pool, index=index, attempt=group.attempt, exit_code=ExitCode.OK, message="",
        seconds=(job.ended or job.created) - job.created, peak_memory_bytes=0,
    )  # fmt: skip
    if group.stage == Stage.PREFLIGHT:
        found = PreflightReport(
            weights=WeightsDigests(encoder="", denoiser="", vae=""),
            embeddings=Bitmap.of(position < workload.encoded for position in range(len(plan.texts))),
            clips=Bitmap.of(position < workload.done for position in range(len(plan.work))),
            claims=True,
        )
        return report.model_copy(update={"preflight": found})
    if group.stage == Stage.COLLECT:
        missing = len(plan.work) - workload.done
        made = CollectReport(succeeded=len(plan.clips) - missing, failed=0, missing=missing)
        return report.model_copy(update={"collect": made})
    if group.stage == Stage.GENERATE:
        runner = GenerateReport(
            finished=job.runners[index].done, reused=0, failed=0, resumed=0, steps=0,
            step_seconds=0.0, load_seconds=0.0,
        )  # fmt: skip
        return report.model_copy(update={"generate": runner})
    return report
