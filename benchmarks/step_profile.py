"""Where the time of one step goes: its largest kernels, by torch's profiler."""

from benchmarks.contenders import StepFunction, Workload
from benchmarks.device_timing import wait
from torch.profiler import ProfilerActivity, profile

ROWS = 40


def kernel_table(step: StepFunction, workload: Workload) -> str:
    """A Markdown table of the largest kernels of one step (on a CPU, operations), by the time that is their own."""
    device = workload.z_BCTHW.device
    on_card = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=activities, acc_events=True) as profiled:
        step(workload.z_BCTHW, workload.times_IB[0])
        wait(device)
    kind = "CUDA" if on_card else "CPU"
    rows = [
        ((entry.self_device_time_total if on_card else entry.self_cpu_time_total) / 1000, entry.count, entry.key)
        for entry in profiled.key_averages()
        if entry.device_type.name == kind and not entry.is_user_annotation
    ]
    total = sum(ms for ms, _, _ in rows)
    largest = sorted(rows, reverse=True)[:ROWS]
    return "".join(
        [
            f"{total:.2f} ms in {sum(count for _, count, _ in rows)} calls of {len(rows)} kernels\n\n",
            "| ms | share | calls | kernel |\n|---|---|---|---|\n",
            *(f"| {ms:.3f} | {ms / total:.1%} | {count} | {_cell(key)} |\n" for ms, count, key in largest),
        ]
    )


def _cell(name: str) -> str:
    return name.replace("|", "/")[:160]
