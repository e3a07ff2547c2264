"""What the products of one denoising step take on a device, each shape measured alone: the floor of any engine."""

import itertools
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
import torch.nn.functional as F  # noqa: N812 - the name every PyTorch text uses
from benchmarks.device_timing import time_calls
from benchmarks.step_shapes import Attention, Matmul
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# Of one measurement: calls in a row, so that launches are hidden, and how many such rows the median is of.
_ROW_MS = 20.0
_ROWS = 10
_MOST_CALLS = 400
# Inputs that the cache holds would be read from it again and again, which no step can do.
_CACHES = 3


@dataclass(frozen=True)
class MeasuredShape:
    """One shape alone."""

    shape: Matmul | Attention
    ms: dict[str, float]  # of one call, by backend; "gemm" for a matmul

    @property
    def best_backend(self) -> str:
        return min(self.ms, key=lambda backend: self.ms[backend])

    @property
    def step_ms(self) -> float:
        """All calls of a step, by the best backend."""
        return self.ms[self.best_backend] * self.shape.count

    @property
    def tflops(self) -> float:
        return self.shape.flops / self.step_ms / 1e9


def measure_matmul(shape: Matmul, device: torch.device, dtype: torch.dtype) -> MeasuredShape:
    """A linear layer with bias, as each of the step's products is."""

    def draw() -> list[Tensor]:
        sizes = ((shape.m, shape.k), (shape.n, shape.k), (shape.n,))
        return [torch.randn(size, device=device, dtype=dtype) for size in sizes]

    return MeasuredShape(shape, {"gemm": _ms_of_a_call(F.linear, draw, device)})


def measure_attention(shape: Attention, device: torch.device, dtype: torch.dtype) -> MeasuredShape:
    """By each backend that takes the shape; heads lie next to each other, as a linear layer leaves them."""

    def draw() -> list[Tensor]:
        sizes = [(shape.batch, tokens, shape.heads, shape.head_size) for tokens in (shape.queries, shape.keys)]
        return [torch.randn(size, device=device, dtype=dtype).transpose(1, 2) for size in (*sizes, sizes[1])]

    ms = {}
    for name, backend in BACKENDS.items():
        with sdpa_kernel(backend), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of each reason why a backend does not take a shape
            try:
                ms[name] = _ms_of_a_call(F.scaled_dot_product_attention, draw, device)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                continue  # this backend does not take the shape, or is not there; each says so in its own words
    return MeasuredShape(shape, ms)


@torch.no_grad()
def _ms_of_a_call(function: Callable[..., Tensor], draw: Callable[[], list[Tensor]], device: torch.device) -> float:
    """The median over rows of calls."""
    inputs = [draw()]
    read_bytes = sum(x.numel() * x.element_size() for x in inputs[0])
    inputs += [draw() for _ in range(ceil(_CACHES * _cache_bytes(device) / read_bytes) - 1)]
    calls = itertools.cycle([partial(function, *tensors) for tensors in inputs])
    *_, warm_ms = time_calls([next(calls) for _ in range(3)], device)
    in_a_row = min(_MOST_CALLS, max(1, ceil(_ROW_MS / warm_ms)))
    rows = [time_calls([next(calls) for _ in range(in_a_row)], device) for _ in range(_ROWS)]
    return statistics.median(sum(row) / in_a_row for row in rows)


def _cache_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
