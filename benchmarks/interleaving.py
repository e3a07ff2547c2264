"""Warms several step functions up and times them in turns, so that all of them meet the same card in the same state."""

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from benchmarks.contenders import Build, StepFunction, Workload
from benchmarks.device_timing import time_calls, wait
from torch import Tensor

from videogen_runner.models.opensora.stdit3 import STDiT3

WARM_UP_STEPS = 3
# A step of a clip follows another one of its kind, so a turn is more than one.
STEPS_OF_A_TURN = 3


@dataclass(frozen=True)
class Memory:
    """Most that tensors took, in bytes: the model, and what this contender added to it."""

    warm_up: int  # building and the first steps
    step: int


@dataclass
class Contender:
    """One that is warm, and what has been measured of it."""

    name: str
    step: StepFunction
    warm_up_seconds: float
    memory: Memory | None  # None on a CPU
    output_BKTHW: Tensor  # at the clip's first step, on the host
    rounds_ms: list[list[float]] = field(default_factory=list)  # the steps of each turn
    spans: list[tuple[float, float]] = field(default_factory=list)  # when its turns were, on the monotonic clock

    @property
    def steps_ms(self) -> list[float]:
        return [ms for turn in self.rounds_ms for ms in turn]

    def speedups_over(self, other: "Contender") -> list[float]:
        """How many of its steps fit into one of the other's, for each round."""
        return [
            statistics.median(theirs) / statistics.median(ours)
            for theirs, ours in zip(other.rounds_ms, self.rounds_ms, strict=True)
        ]


def warm_up(name: str, build: Build, model: STDiT3, workload: Workload) -> Contender:
    """Builds a step function and takes its first steps."""
    device, on_card = model.device, model.device.type == "cuda"
    held_before = torch.cuda.memory_allocated(device) if on_card else 0
    if on_card:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.monotonic()
    step = build(model, workload)
    for t_B in workload.times_IB[:WARM_UP_STEPS]:
        output_BKTHW = step(workload.z_BCTHW, t_B)
    wait(device)
    seconds = time.monotonic() - started
    memory = None
    if on_card:
        model_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        del output_BKTHW
        warm_up_peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step(workload.z_BCTHW, workload.times_IB[0])
        step_peak = torch.cuda.max_memory_allocated(device)
        memory = Memory(*(model_bytes + peak - held_before for peak in (warm_up_peak, step_peak)))
    output_BKTHW = step(workload.z_BCTHW, workload.times_IB[0]).float().cpu()
    return Contender(name, step, seconds, memory, output_BKTHW)


def take_turns(contenders: Sequence[Contender], workload: Workload, rounds: int, deadline: float) -> None:
    """Fills in what each takes: at most `rounds`, fewer where another would pass the deadline, but one in any case."""
    times = itertools.cycle(workload.times_IB)
    round_seconds = 0.0
    for done in range(rounds):
        started = time.monotonic()
        if done and started + round_seconds > deadline:
            return
        for contender in contenders:
            _take_turn(contender, workload, times)
        round_seconds = time.monotonic() - started


def _take_turn(contender: Contender, workload: Workload, times: Iterator[Tensor]) -> None:
    steps = [partial(contender.step, workload.z_BCTHW, next(times)) for _ in range(STEPS_OF_A_TURN)]
    started = time.monotonic()
    contender.rounds_ms.append(time_calls(steps, workload.z_BCTHW.device))
    contender.spans.append((started, time.monotonic()))
