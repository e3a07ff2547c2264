"""The parts of a denoising step that are not matrix products, as functions that may be fused.

`PlainKernels` says what they compute, with torch's own operations, on any device; triton_kernels.py computes the same
with one pass over memory each. Modulations have one row for each frame, or one for all frames of a sample (T is 1).

Shape suffixes: B samples, T frames, S tokens of a frame, D hidden size, G heads, E head size, P = 3*D: queries, keys
and values, one after the other.
"""

from typing import Protocol

import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own texts use
from einops import rearrange
from torch import Tensor, nn

from videogen_runner.models.opensora.stdit3 import SelfAttention, layer_norm, modulate, rotate

Rope = tuple[Tensor, Tensor]  # cos_T1E, sin_T1E


class Kernels(Protocol):
    def norm_modulate(self, x_BTSD: Tensor, shift_BTD: Tensor, scale_BTD: Tensor) -> Tensor:
        """norm(x) * (1 + scale) + shift."""

    def gated_add(self, x_BTSD: Tensor, y_BTSD: Tensor, gate_BTD: Tensor) -> Tensor:
        """x + gate * y."""

    def add_norm_modulate(
        self, x_BTSD: Tensor, y_BTSD: Tensor, gate_BTD: Tensor | None, shift_BTD: Tensor, scale_BTD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum x + gate * y (x + y without a gate), and `norm_modulate` of it."""

    def spatial_attention(self, qkv_BTSP: Tensor, attention: SelfAttention) -> Tensor:
        """Attention among the tokens of each frame, before its output projection. May overwrite `qkv_BTSP`."""

    def temporal_attention(self, qkv_BTSP: Tensor, attention: SelfAttention, rope: Rope) -> Tensor:
        """Attention among the frames of each token, rotated, before its output projection. May overwrite `qkv_BTSP`."""

    def linear_gelu(self, x_BTSD: Tensor, linear: nn.Linear) -> Tensor:
        """GELU (tanh form) of the projection."""


class PlainKernels:
    """The operations of the model itself."""

    def norm_modulate(self, x_BTSD: Tensor, shift_BTD: Tensor, scale_BTD: Tensor) -> Tensor:
        return modulate(layer_norm(x_BTSD), shift_BTD[:, :, None], scale_BTD[:, :, None])

    def gated_add(self, x_BTSD: Tensor, y_BTSD: Tensor, gate_BTD: Tensor) -> Tensor:
        return x_BTSD + gate_BTD[:, :, None] * y_BTSD

    def add_norm_modulate(
        self, x_BTSD: Tensor, y_BTSD: Tensor, gate_BTD: Tensor | None, shift_BTD: Tensor, scale_BTD: Tensor
    ) -> tuple[Tensor, Tensor]:
        sum_BTSD = x_BTSD + y_BTSD if gate_BTD is None else self.gated_add(x_BTSD, y_BTSD, gate_BTD)
        return sum_BTSD, self.norm_modulate(sum_BTSD, shift_BTD, scale_BTD)

    def spatial_attention(self, qkv_BTSP: Tensor, attention: SelfAttention) -> Tensor:
        q, k, v = _heads(qkv_BTSP, attention)
        return _attend(attention.q_norm(q), attention.k_norm(k), v)

    def temporal_attention(self, qkv_BTSP: Tensor, attention: SelfAttention, rope: Rope) -> Tensor:
        q_BSTGE, k_BSTGE, v_BSTGE = (x_BTSGE.transpose(1, 2) for x_BTSGE in _heads(qkv_BTSP, attention))
        q_BSTGE, k_BSTGE = rotate(attention.q_norm(q_BSTGE), rope), rotate(attention.k_norm(k_BSTGE), rope)
        return _attend(q_BSTGE, k_BSTGE, v_BSTGE).transpose(1, 2)

    def linear_gelu(self, x_BTSD: Tensor, linear: nn.Linear) -> Tensor:
        return F.gelu(linear(x_BTSD), approximate="tanh")


def _heads(qkv_BTSP: Tensor, attention: SelfAttention) -> tuple[Tensor, Tensor, Tensor]:
    """Views q, k, v_BTSGE."""
    q_BTSGE, k_BTSGE, v_BTSGE = qkv_BTSP.view(*qkv_BTSP.shape[:-1], 3, attention.num_heads, -1).unbind(-3)
    return q_BTSGE, k_BTSGE, v_BTSGE


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention along the third axis of tensors [B, rows, N, G, E]: [B, rows, N, D]."""
    first, rows = q.shape[:2]
    q_MGNE, k_MGNE, v_MGNE = (rearrange(x, "b r n g e -> (b r) g n e") for x in (q, k, v))
    x_MGNE = F.scaled_dot_product_attention(q_MGNE, k_MGNE, v_MGNE)
    return rearrange(x_MGNE, "(b r) g n e -> b r n (g e)", b=first, r=rows)
