"""One step of training, as fast as the device allows: on a GPU it is captured once for every form of inputs, as a CUDA
graph, and replayed. The networks here are so small that launching kernels one by one takes longer than they run.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Losses = Callable[..., Tensor]
"""From a step's inputs to a vector: its first entry is what is minimised, the others are only reported."""

WARM_UP_STEPS = 2
"""Of a form, before it is captured: they are steps like others."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]


class Trainer:
    """AdamW in bf16 autocast on a GPU, in fp32 on a CPU; gradients are cut at norm 1.

    A step whose gradients are not finite changes nothing. `num_losses` is the length of the vector of losses.
    """

    def __init__(self, weights: Iterable[nn.Parameter], *, weight_decay: float, num_losses: int, device: str) -> None:
        self._weights = [weight for weight in weights if weight.requires_grad]
        self._device = torch.device(device)
        self._is_cuda = self._device.type == "cuda"
        self._rate = torch.zeros((), device=self._device)
        self._optimizer = torch.optim.AdamW(
            _groups(self._weights, weight_decay),  # type: ignore[arg-type]
            lr=self._rate,
            betas=(0.9, 0.99),
            fused=True,
            capturable=self._is_cuda,
        )
        self._sums = torch.zeros(num_losses + 1, device=self._device)
        self._captured: dict[Hashable, _Captured] = {}
        self._warmed: dict[Hashable, int] = {}
        if self._is_cuda:
            self._pool: Any = torch.cuda.graph_pool_handle()
            self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.num_steps = 0

    def step(self, form: Hashable, losses: Losses, inputs: Sequence[Tensor], rate: float) -> None:
        """One step. All of one `form` have the same losses, and inputs of the same shapes."""
        self._rate.fill_(rate)
        if not self._is_cuda:
            self._step(losses, inputs)
        elif form in self._captured:
            captured = self._captured[form]
            for kept, fresh in zip(captured.inputs, inputs, strict=True):
                kept.copy_(fresh)
            captured.graph.replay()
        else:
            self._warm_up(form, losses, inputs)
        self.num_steps += 1

    def mean_losses(self) -> list[float]:
        """Of the steps with finite gradients since this was asked last; NaN where there were none."""
        *sums, count = self._sums.tolist()
        self._sums.zero_()
        return [total / count if count else float("nan") for total in sums]

    def _warm_up(self, form: Hashable, losses: Losses, inputs: Sequence[Tensor]) -> None:
        side = self._side
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step(losses, inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._warmed[form] = self._warmed.get(form, 0) + 1
        if self._warmed[form] == WARM_UP_STEPS:
            kept = tuple(tensor.clone() for tensor in inputs)
            graph = torch.cuda.CUDAGraph()
            # One pool for all: no two of them ever run at once, and none reads what another has left there.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._step(losses, kept)
            self._captured[form] = _Captured(graph, kept)

    def _step(self, losses: Losses, inputs: Sequence[Tensor]) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_cuda):
            found = losses(*inputs)
        found[0].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._weights, 1.0)
        is_finite = norm.isfinite()
        # What GradScaler gives to a fused optimizer: 1 leaves every weight as it is, without waiting for the device.
        self._optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
        self._optimizer.step()
        counted = torch.cat([found.detach(), torch.ones_like(found[:1]).detach()])
        self._sums += torch.where(is_finite, counted, torch.zeros_like(counted))


def _groups(weights: Sequence[nn.Parameter], weight_decay: float) -> list[Mapping[str, Any]]:
    """Weights of one dimension, such as biases and those of norms, are not decayed."""
    return [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
