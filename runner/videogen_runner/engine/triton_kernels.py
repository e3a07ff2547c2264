"""The kernels of kernels.py in Triton: each reads its inputs once and writes its outputs once.

Sums and norms are taken in fp32; what leaves a kernel has the dtype of what came in, and so has what the model itself
rounds on the way: the sum that is normed, queries and keys after their norm.

Temporal attention reads queries, keys and values where the projection has written them and writes where the next one
reads: nothing is copied between the layouts of space and time. Its problems are tiny (as many rows as latent frames),
so one program holds one head of one token with all its frames.

Shape suffixes: as in kernels.py; R = B*T*S rows.
"""

# Triton's language has no types for pointers and blocks.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own texts use
import triton
import triton.language as tl
from torch import Tensor, nn

from videogen_runner.engine.kernels import PlainKernels, Rope
from videogen_runner.models.opensora.stdit3 import NORM_EPS, RMSNorm, SelfAttention

MAX_FRAMES = 128
"""Latent frames that one program's attention holds."""

_MIN_FRAMES = 16  # a matrix unit's tile


class TritonKernels(PlainKernels):
    """For CUDA cards. Inputs are contiguous, as the model's are."""

    def norm_modulate(self, x_BTSD: Tensor, shift_BTD: Tensor, scale_BTD: Tensor) -> Tensor:
        return _fused(x_BTSD, None, None, shift_BTD, scale_BTD)[1]

    def gated_add(self, x_BTSD: Tensor, y_BTSD: Tensor, gate_BTD: Tensor) -> Tensor:
        return _fused(x_BTSD, y_BTSD, gate_BTD, None, None)[0]

    def add_norm_modulate(
        self, x_BTSD: Tensor, y_BTSD: Tensor, gate_BTD: Tensor | None, shift_BTD: Tensor, scale_BTD: Tensor
    ) -> tuple[Tensor, Tensor]:
        return _fused(x_BTSD, y_BTSD, gate_BTD, shift_BTD, scale_BTD)

    def spatial_attention(self, qkv_BTSP: Tensor, attention: SelfAttention) -> Tensor:
        q_weight_E, k_weight_E = _norm_weights(attention)
        head_size = len(q_weight_E)
        rows = qkv_BTSP.shape[:-1].numel()
        _norm_queries_and_keys[(rows,)](
            qkv_BTSP,
            q_weight_E,
            k_weight_E,
            NORM_EPS,
            NUM_HEADS=attention.num_heads,
            HEAD_SIZE=head_size,
            BLOCK_HEADS=triton.next_power_of_2(2 * attention.num_heads),
            BLOCK_SIZE=triton.next_power_of_2(head_size),
        )
        samples, frames, tokens, _ = qkv_BTSP.shape
        qkv_MN3GE = qkv_BTSP.view(samples * frames, tokens, 3, attention.num_heads, head_size)
        q_MGNE, k_MGNE, v_MGNE = qkv_MN3GE.permute(2, 0, 3, 1, 4).unbind()
        x_MGNE = F.scaled_dot_product_attention(q_MGNE, k_MGNE, v_MGNE)
        return x_MGNE.transpose(1, 2).reshape(samples, frames, tokens, -1)

    def temporal_attention(self, qkv_BTSP: Tensor, attention: SelfAttention, rope: Rope) -> Tensor:
        samples, frames, tokens, _ = qkv_BTSP.shape
        if frames > MAX_FRAMES:
            return super().temporal_attention(qkv_BTSP, attention, rope)
        q_weight_E, k_weight_E = _norm_weights(attention)
        head_size = len(q_weight_E)
        y_BTSD = qkv_BTSP.new_empty(samples, frames, tokens, attention.num_heads * head_size)
        cos_T1E, sin_T1E = (part_T1E.contiguous() for part_T1E in rope)
        _attend_over_frames[(samples * tokens * attention.num_heads,)](
            qkv_BTSP,
            y_BTSD,
            q_weight_E,
            k_weight_E,
            cos_T1E,
            sin_T1E,
            frames,
            tokens,
            head_size**-0.5,
            NORM_EPS,
            NUM_HEADS=attention.num_heads,
            HEAD_SIZE=head_size,
            BLOCK_FRAMES=max(_MIN_FRAMES, triton.next_power_of_2(frames)),
            BLOCK_SIZE=max(16, triton.next_power_of_2(head_size)),
        )
        return y_BTSD

    def linear_gelu(self, x_BTSD: Tensor, linear: nn.Linear) -> Tensor:
        if not x_BTSD.is_cuda:
            return super().linear_gelu(x_BTSD, linear)
        # The library's product applies the tanh form before it writes: a tensor four times as wide is not read again.
        y_RD: Tensor = torch.ops.aten._addmm_activation(  # noqa: SLF001 - it has no other name
            linear.bias, x_BTSD.flatten(0, 2), linear.weight.t(), use_gelu=True
        )
        return y_RD.view(*x_BTSD.shape[:-1], -1)


def _norm_weights(attention: SelfAttention) -> tuple[Tensor, Tensor]:
    q_norm, k_norm = attention.q_norm, attention.k_norm
    if not (isinstance(q_norm, RMSNorm) and isinstance(k_norm, RMSNorm)):
        raise ValueError("queries and keys without a norm have no fused kernels; use PlainKernels")
    return q_norm.weight, k_norm.weight


def _fused(
    x_BTSD: Tensor, y_BTSD: Tensor | None, gate_BTD: Tensor | None, shift_BTD: Tensor | None, scale_BTD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sum and modulated norm; x itself in place of what is not asked for."""
    _, frames, tokens, width = x_BTSD.shape
    has_norm = shift_BTD is not None
    sum_BTSD = x_BTSD if y_BTSD is None else torch.empty_like(x_BTSD)
    h_BTSD = torch.empty_like(x_BTSD) if has_norm else x_BTSD
    some_BTD = next(part for part in (shift_BTD, gate_BTD) if part is not None)
    if not (x_BTSD.is_contiguous() and (y_BTSD is None or y_BTSD.is_contiguous())):
        raise ValueError("fused kernels take contiguous tokens; call contiguous() where they are made")
    for part_BTD in (gate_BTD, shift_BTD, scale_BTD):
        if part_BTD is not None and (part_BTD.stride() != some_BTD.stride() or part_BTD.stride(-1) != 1):
            raise ValueError("gate, shift and scale must be slices of one table")
    _add_norm_modulate[(x_BTSD.shape[:-1].numel(),)](
        x_BTSD,
        x_BTSD if y_BTSD is None else y_BTSD,
        x_BTSD if gate_BTD is None else gate_BTD,
        x_BTSD if shift_BTD is None else shift_BTD,
        x_BTSD if scale_BTD is None else scale_BTD,
        sum_BTSD,
        h_BTSD,
        frames,
        tokens,
        some_BTD.stride(0),
        some_BTD.stride(1) if some_BTD.shape[1] > 1 else 0,
        width,
        NORM_EPS,
        HAS_SUM=y_BTSD is not None,
        HAS_GATE=gate_BTD is not None,
        HAS_NORM=has_norm,
        BLOCK=triton.next_power_of_2(width),
    )
    return sum_BTSD, h_BTSD


@triton.jit
def _add_norm_modulate(
    x_ptr,
    y_ptr,
    gate_ptr,
    shift_ptr,
    scale_ptr,
    sum_ptr,
    h_ptr,
    frames,
    tokens,
    sample_stride,
    frame_stride,
    width,
    eps,
    HAS_SUM: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    frame = row // tokens
    modulation = (frame // frames) * sample_stride + (frame % frames) * frame_stride
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    at = row * width + columns
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_SUM:
        y = tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            y *= tl.load(gate_ptr + modulation + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = (x + y).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=inside)
        x = rounded.to(tl.float32)
    if HAS_NORM:
        mean = tl.sum(x, axis=0) / width
        centred = tl.where(inside, x - mean, 0.0)
        variance = tl.sum(centred * centred, axis=0) / width
        scale = tl.load(scale_ptr + modulation + columns, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + modulation + columns, mask=inside, other=0.0).to(tl.float32)
        h = centred * tl.rsqrt(variance + eps) * (1.0 + scale) + shift
        tl.store(h_ptr + at, h.to(h_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _norm_queries_and_keys(
    qkv_ptr,
    q_weight_ptr,
    k_weight_ptr,
    eps,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK_HEADS)[:, None]  # those of queries, then those of keys
    column = tl.arange(0, BLOCK_SIZE)[None, :]
    inside = (head < 2 * NUM_HEADS) & (column < HEAD_SIZE)
    at = qkv_ptr + row * (3 * NUM_HEADS * HEAD_SIZE) + head * HEAD_SIZE + column
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / HEAD_SIZE + eps)
    rounded = (x * scale[:, None]).to(qkv_ptr.dtype.element_ty).to(tl.float32)
    q_weight = tl.load(q_weight_ptr + column, mask=column < HEAD_SIZE, other=0.0).to(tl.float32)
    k_weight = tl.load(k_weight_ptr + column, mask=column < HEAD_SIZE, other=0.0).to(tl.float32)
    y = rounded * tl.where(head < NUM_HEADS, q_weight, k_weight)
    tl.store(at, y.to(qkv_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _normed_and_rotated(at, weight_ptr, cos, sin, frame, column, frames, stride, eps, HEAD_SIZE: tl.constexpr):
    """Queries or keys of one head, [frames, head size]: normed, then each pair of channels turned, in fp32."""
    inside = (frame < frames) & (column < HEAD_SIZE)
    partner = column ^ 1
    x = tl.load(at + frame * stride + column, mask=inside, other=0.0)
    other = tl.load(at + frame * stride + partner, mask=inside, other=0.0)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / HEAD_SIZE + eps)[:, None]
    weight = tl.load(weight_ptr + column, mask=column < HEAD_SIZE, other=0.0).to(tl.float32)
    partner_weight = tl.load(weight_ptr + partner, mask=column < HEAD_SIZE, other=0.0).to(tl.float32)
    x_normed = (wide * scale).to(x.dtype).to(tl.float32) * weight
    other_normed = (other.to(tl.float32) * scale).to(x.dtype).to(tl.float32) * partner_weight
    turned = tl.where(column % 2 == 0, -other_normed, other_normed)
    return x_normed * cos + turned * sin


@triton.jit
def _attend_over_frames(
    qkv_ptr,
    y_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    frames,
    tokens,
    score_scale,
    eps,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_FRAMES: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    head = program % NUM_HEADS
    token = program // NUM_HEADS % tokens
    sample = program // NUM_HEADS // tokens
    dtype = qkv_ptr.dtype.element_ty
    WIDTH: tl.constexpr = NUM_HEADS * HEAD_SIZE
    frame = tl.arange(0, BLOCK_FRAMES)[:, None].to(tl.int64)
    column = tl.arange(0, BLOCK_SIZE)[None, :]
    inside = (frame < frames) & (column < HEAD_SIZE)
    turn = frame * HEAD_SIZE + column
    cos = tl.load(cos_ptr + turn, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + turn, mask=inside, other=0.0).to(tl.float32)

    row = sample * frames * tokens + token  # of the first frame
    stride = tokens * 3 * WIDTH
    at = qkv_ptr + row * (3 * WIDTH) + head * HEAD_SIZE
    q = _normed_and_rotated(at, q_weight_ptr, cos, sin, frame, column, frames, stride, eps, HEAD_SIZE)
    k = _normed_and_rotated(at + WIDTH, k_weight_ptr, cos, sin, frame, column, frames, stride, eps, HEAD_SIZE)
    v = tl.load(at + 2 * WIDTH + frame * stride + column, mask=inside, other=0.0)

    scores = tl.dot(q.to(dtype), tl.trans(k.to(dtype)), input_precision="ieee") * score_scale
    key = tl.arange(0, BLOCK_FRAMES)[None, :]
    scores = tl.where(key < frames, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    total = tl.sum(weights, axis=1)[:, None]
    y = tl.dot(weights.to(dtype), v, input_precision="ieee") / total
    tl.store(y_ptr + (row + frame * tokens) * WIDTH + head * HEAD_SIZE + column, y.to(dtype), mask=inside)
