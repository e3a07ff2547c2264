"""What benchmarks/denoise.py says: its figures as JSON holds them, and as one table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.device_timing import ClockLog, Clocks
from benchmarks.interleaving import Contender
from benchmarks.step_floor import MeasuredShape
from torch import Tensor

EXACT = "plain in fp32"

_COLUMNS = (
    "size", "contender", "ms per step", "least - most", "speed-up", "least - most", "x floor", "GiB warming up",
    "GiB", "SM MHz", "W", "warm-up s", "largest error", "norm of error",
)  # fmt: skip


def describe_floor(floor: Sequence[MeasuredShape], clocks: Clocks | None) -> dict[str, Any]:
    return {
        "ms": sum(measured.step_ms for measured in floor),
        "clocks": asdict(clocks) if clocks else None,
        "shapes": [
            {
                "kind": type(measured.shape).__name__,
                **asdict(measured.shape),
                "ms": measured.ms,
                "best": measured.best_backend,
                "step_ms": measured.step_ms,
                "tflops": measured.tflops,
            }
            for measured in floor
        ],
    }


def describe_contenders(
    contenders: Sequence[Contender], exact_BKTHW: Tensor | None, clocks: ClockLog | None
) -> dict[str, Any]:
    """By name; speed-ups are over the first one, differences from every other and from the exact prediction."""
    outputs = {contender.name: contender.output_BKTHW for contender in contenders}
    if exact_BKTHW is not None:
        outputs[EXACT] = exact_BKTHW
    described = {}
    for contender in contenders:
        seen = clocks.during(contender.spans) if clocks else None
        described[contender.name] = {
            "ms": spread(contender.steps_ms),
            "speedup": spread(contender.speedups_over(contenders[0])),
            "rounds_ms": contender.rounds_ms,
            "warm_up_seconds": contender.warm_up_seconds,
            "memory": asdict(contender.memory) if contender.memory else None,
            "clocks": asdict(seen) if seen else None,
            "difference": {
                name: difference(contender.output_BKTHW, other_BKTHW)
                for name, other_BKTHW in outputs.items()
                if name != contender.name
            },
        }
    return described


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def difference(actual: Tensor, expected: Tensor) -> dict[str, float] | None:
    """Largest over the largest expected value, and norm over norm; None where a value is not finite."""
    actual, expected = actual.double(), expected.double()
    if not (actual.isfinite().all() and expected.isfinite().all()):
        return None
    off = actual - expected
    return {
        "largest": (off.abs().max() / expected.abs().max()).item(),
        "norm": (off.norm() / expected.norm()).item(),
    }


def table(sizes: Mapping[str, Any]) -> str:
    """Markdown: for each size its floor and every contender; a dash where nothing was measured."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    for size, measured in sizes.items():
        floor = measured["floor"]
        rows.append((size, "floor", f"{floor['ms']:.1f}", *_DASHES[:6], *_clocks(floor["clocks"]), *_DASHES[:3]))
        rows += [(size, name, *_figures(contender, floor["ms"])) for name, contender in measured["contenders"].items()]
        rows += [(size, name, "failed", *_DASHES[:11]) for name in measured["failed"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_DASHES = ("-",) * len(_COLUMNS)


def _figures(contender: Mapping[str, Any], floor_ms: float) -> tuple[str, ...]:
    ms, speedup, memory = contender["ms"], contender["speedup"], contender["memory"]
    error = contender["difference"].get(EXACT)
    return (
        f"{ms['median']:.1f}",
        f"{ms['least']:.1f} - {ms['most']:.1f}",
        f"{speedup['median']:.2f}",
        f"{speedup['least']:.2f} - {speedup['most']:.2f}",
        f"{ms['median'] / floor_ms:.2f}",
        *((f"{memory[part] / 2**30:.2f}" for part in ("warm_up", "step")) if memory else _DASHES[:2]),
        *_clocks(contender["clocks"]),
        f"{contender['warm_up_seconds']:.1f}",
        *((f"{error[part]:.2e}" for part in ("largest", "norm")) if error else _DASHES[:2]),
    )


def _clocks(clocks: Mapping[str, float] | None) -> tuple[str, ...]:
    return (f"{clocks['sm_mhz']:.0f}", f"{clocks['watts']:.0f}") if clocks else _DASHES[:2]
