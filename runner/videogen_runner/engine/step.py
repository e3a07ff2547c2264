"""The fastest way that a device has to predict a step, for one clip: kernels are chosen, and on a card its launches are
captured once as a CUDA graph and replayed, so that the host does nothing between the steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from videogen_runner.engine.denoising import FusedDenoiser
from videogen_runner.models.opensora.sampler import Denoiser
from videogen_runner.models.opensora.stdit3 import Conditioning, STDiT3

FIRST_FUSED_CAPABILITY = (8, 0)
"""Ampere: older cards have neither bf16 nor the copies that Triton's kernels are built on."""


def step_function(model: STDiT3, conditioning: Conditioning) -> Denoiser:
    """Predicts what `model` predicts with this conditioning, within rounding.

    On a card the prediction is overwritten by the next call. The model's weights must stay where they are.
    """
    if model.device.type != "cuda":
        return _Prediction(model, conditioning)
    if not model.config.qk_norm or torch.cuda.get_device_capability(model.device) < FIRST_FUSED_CAPABILITY:
        return GraphedStep(_Prediction(model, conditioning))
    # Not at the top: only cards have Triton's compiler.
    from videogen_runner.engine.triton_kernels import TritonKernels

    return GraphedStep(_Prediction(FusedDenoiser(model, TritonKernels()), conditioning))


@dataclass(frozen=True)
class _Prediction:
    denoiser: STDiT3 | FusedDenoiser
    conditioning: Conditioning

    @torch.no_grad()
    def __call__(self, z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        pred_BKTHW: Tensor = self.denoiser(z_BCTHW, t_B, self.conditioning, x_mask_BT)
        return pred_BKTHW


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    pred_BKTHW: Tensor


class GraphedStep:
    """A prediction that is captured at its second call: the first one chooses algorithms and fills caches.

    Steps with and without given frames are different graphs. Raises ValueError for inputs of other shapes than before.
    """

    def __init__(self, predict: Denoiser) -> None:
        self._predict = predict
        self._is_warm: set[bool] = set()
        self._graphs: dict[bool, _Graph] = {}

    def __call__(self, z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        """pred_BKTHW, until the next call."""
        has_mask = x_mask_BT is not None
        if has_mask not in self._is_warm:
            self._is_warm.add(has_mask)
            return self._predict(z_BCTHW, t_B, x_mask_BT)
        inputs = (z_BCTHW, t_B) if x_mask_BT is None else (z_BCTHW, t_B, x_mask_BT)
        if has_mask not in self._graphs:
            self._graphs[has_mask] = self._capture(inputs)
        captured = self._graphs[has_mask]
        for kept, given in zip(captured.inputs, inputs, strict=True):
            if kept.shape != given.shape:
                raise ValueError(f"captured for {tuple(kept.shape)}, not {tuple(given.shape)}; build another step")
            kept.copy_(given)
        captured.graph.replay()
        return captured.pred_BKTHW

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Graph:
        kept = tuple(tensor.clone() for tensor in inputs)
        z_BCTHW, t_B, *rest = kept
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads copy and decode meanwhile
            pred_BKTHW = self._predict(z_BCTHW, t_B, rest[0] if rest else None)
        return _Graph(graph, kept, pred_BKTHW)
