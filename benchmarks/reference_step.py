"""A denoising step at the cost of the script published with Open-Sora v1.2: the baseline of benchmarks/denoise.py.

The same weights and results as `STDiT3`, none of its savings, the operations in the order that the script is known for:

- everything is computed anew at every step: text projection, keys and values of the text in every block, timestep and
  frame-rate embeddings, positions, rotation tables;
- the text's tokens are picked out of a padded sequence, for which the host waits, and each sample attends to its own;
- norms of queries and keys, and rotations, go through fp32 tensors;
- temporal blocks turn the tokens around and back, which copies them;
- with a frame mask every norm, modulation and gate is computed for t and for t = 0, and one of the two is chosen by
  frame. The script always has a mask, also where no frame is given.

Shape suffixes as in models/opensora/stdit3.py; N = T * S tokens of a sample here, or those of the axis attended over.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name every PyTorch text uses
from einops import rearrange
from torch import Tensor

from videogen_runner.models.opensora.stdit3 import (
    MAX_PERIOD,
    NORM_EPS,
    CrossAttention,
    FinalLayer,
    RMSNorm,
    SelfAttention,
    STDiT3,
    STDiT3Block,
    layer_norm,
    modulate,
    sinusoid_frequencies,
)


@dataclass(frozen=True)
class PaddedText:
    """Text tokens as the script holds them: padded to one length, with a mask."""

    y_BLX: Tensor
    mask_BL: Tensor  # not 0 where a token is real

    def real_tokens(self) -> list[Tensor]:
        """Each sample's real tokens."""
        return [y_LX[mask_L != 0] for y_LX, mask_L in zip(self.y_BLX, self.mask_BL, strict=True)]


@dataclass(frozen=True)
class BlockInputs:
    """What every block of one step gets besides the tokens."""

    y_1LD: Tensor  # the real tokens of all samples, one after the other
    lengths: list[int]  # how many of them each sample has
    modulation_BMD: Tensor
    t0_modulation_BMD: Tensor
    x_mask_BT: Tensor | None
    rope: tuple[Tensor, Tensor]  # cos_T1E, sin_T1E


RunBlock = Callable[[STDiT3Block, Tensor, BlockInputs], Tensor]


def run_block(block: STDiT3Block, x_BND: Tensor, inputs: BlockInputs) -> Tensor:
    """One block, x_BND -> x_BND."""
    table_MD = block.scale_shift_table
    parts = (table_MD[None] + inputs.modulation_BMD).chunk(6, dim=1)
    t0_parts = (table_MD[None] + inputs.t0_modulation_BMD).chunk(6, dim=1)
    x_mask_BT = inputs.x_mask_BT

    def modulated(x_BND: Tensor, shift: int, scale: int) -> Tensor:
        y_BND = modulate(layer_norm(x_BND), parts[shift], parts[scale])
        if x_mask_BT is None:
            return y_BND
        return choose(x_mask_BT, y_BND, modulate(layer_norm(x_BND), t0_parts[shift], t0_parts[scale]))

    def gated(y_BND: Tensor, gate: int) -> Tensor:
        if x_mask_BT is None:
            return parts[gate] * y_BND
        return choose(x_mask_BT, parts[gate] * y_BND, t0_parts[gate] * y_BND)

    num_frames = len(inputs.rope[0])
    x_BND = x_BND + gated(attend(block, modulated(x_BND, 0, 1), inputs.rope, num_frames), 2)
    x_BND = x_BND + cross_attention(block.cross_attn, x_BND, inputs.y_1LD, inputs.lengths)
    return x_BND + gated(block.mlp(modulated(x_BND, 3, 4)), 5)


def choose(x_mask_BT: Tensor, x_BND: Tensor, given_BND: Tensor) -> Tensor:
    """x where a frame is free, `given` where it is not."""
    x_BTSD, given_BTSD = (
        rearrange(tokens_BND, "b (t s) d -> b t s d", t=x_mask_BT.shape[1]) for tokens_BND in (x_BND, given_BND)
    )
    return rearrange(torch.where(x_mask_BT[:, :, None, None], x_BTSD, given_BTSD), "b t s d -> b (t s) d")


def attend(block: STDiT3Block, x_BND: Tensor, rope: tuple[Tensor, Tensor], num_frames: int) -> Tensor:
    """Self-attention of a block along its own axis."""
    rows, rotation = ("(b s) t d", rope) if block.temporal else ("(b t) s d", None)
    y_BND = self_attention(block.attn, rearrange(x_BND, f"b (t s) d -> {rows}", t=num_frames), rotation)
    return rearrange(y_BND, f"{rows} -> b (t s) d", b=len(x_BND))


def self_attention(attn: SelfAttention, x_BND: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    q_BGNE, k_BGNE, v_BGNE = rearrange(
        attn.qkv(x_BND), "b n (part g e) -> part b g n e", part=3, g=attn.num_heads
    ).unbind()
    q_BGNE, k_BGNE = rms_norm(q_BGNE, attn.q_norm), rms_norm(k_BGNE, attn.k_norm)
    if rope is not None:
        q_BGNE, k_BGNE = rotate(q_BGNE, rope), rotate(k_BGNE, rope)
    y_BGNE = F.scaled_dot_product_attention(q_BGNE, k_BGNE, v_BGNE)
    y_BND: Tensor = attn.proj(rearrange(y_BGNE, "b g n e -> b n (g e)"))
    return y_BND


def rms_norm(x: Tensor, norm: torch.nn.Module) -> Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + NORM_EPS)
    return cast("RMSNorm", norm).weight * wide.to(x.dtype)


def rotate(x_BGTE: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos_TE, sin_TE = (table_T1E[:, 0].float() for table_T1E in rope)
    wide_BGTE = x_BGTE.float()
    first, second = rearrange(wide_BGTE, "... (e pair) -> pair ... e", pair=2)
    turned_BGTE = torch.stack([-second, first], dim=-1).flatten(-2)
    return (wide_BGTE * cos_TE + turned_BGTE * sin_TE).to(x_BGTE.dtype)


def cross_attention(attn: CrossAttention, x_BND: Tensor, y_1LD: Tensor, lengths: list[int]) -> Tensor:
    q_BGNE = rearrange(attn.q_linear(x_BND), "b n (g e) -> b g n e", g=attn.num_heads)
    k_1GLE, v_1GLE = rearrange(
        attn.kv_linear(y_1LD), "b l (part g e) -> part b g l e", part=2, g=attn.num_heads
    ).unbind()
    samples = zip(q_BGNE.split(1), k_1GLE.split(lengths, dim=2), v_1GLE.split(lengths, dim=2), strict=True)
    attended = [
        rearrange(F.scaled_dot_product_attention(q_1GNE, k, v), "b g n e -> b n (g e)") for q_1GNE, k, v in samples
    ]
    y_BND: Tensor = attn.proj(torch.cat(attended))
    return y_BND


def finish(layer: FinalLayer, x_BND: Tensor, t_BD: Tensor, t0_BD: Tensor, x_mask_BT: Tensor | None) -> Tensor:
    """x_BND -> x_BNP. Given frames are modulated by t, and what comes of that by t = 0."""

    def modulated(x_BND: Tensor, t_BD: Tensor) -> Tensor:
        shift_B1D, scale_B1D = (layer.scale_shift_table[None] + t_BD[:, None]).chunk(2, dim=1)
        return modulate(layer_norm(x_BND), shift_B1D, scale_B1D)

    x_BND = modulated(x_BND, t_BD)
    if x_mask_BT is not None:
        x_BND = choose(x_mask_BT, x_BND, modulated(x_BND, t0_BD))
    x_BNP: Tensor = layer.linear(x_BND)
    return x_BNP


def positions(rows: int, columns: int, hidden_size: int, scale: float, like: Tensor) -> Tensor:
    """Sinusoids of the token grid, p_SD, on the device and in the dtype of `like`."""
    half = hidden_size // 2
    exponents = torch.arange(0, half, 2, dtype=torch.float32, device=like.device) / half
    frequencies = (1.0 / MAX_PERIOD**exponents).to(like.dtype).float()
    base = round(math.sqrt(rows * columns))
    y_S, x_S = (
        grid_HW.flatten()
        for grid_HW in torch.meshgrid(
            *(
                torch.arange(length, dtype=torch.float32, device=like.device) / scale * (base / length)
                for length in (rows, columns)
            ),
            indexing="ij",
        )
    )
    x_angles, y_angles = (torch.outer(coordinates_S, frequencies) for coordinates_S in (x_S, y_S))
    table_SD = torch.cat([x_angles.sin(), x_angles.cos(), y_angles.sin(), y_angles.cos()], dim=-1)
    return table_SD.to(like.dtype)


def pack(y_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, list[int]]:
    """The real tokens of all samples in one sequence, y_1LD, and how many each has. The host waits for both."""
    y_1LD = y_BLD.masked_select(mask_BL[..., None] != 0).view(1, -1, y_BLD.shape[-1])
    lengths: list[int] = (mask_BL != 0).sum(dim=1).tolist()
    return y_1LD, lengths


class ReferenceStep:
    """Predicts as `STDiT3` does, with its weights."""

    def __init__(self, model: STDiT3, run_block: RunBlock = run_block) -> None:
        self._model = model
        self._run_block = run_block

    def __call__(
        self,
        z_BCTHW: Tensor,
        t_B: Tensor,
        text: PaddedText,
        fps_B: Tensor,
        image_size: tuple[float, float],
        x_mask_BT: Tensor | None,
    ) -> Tensor:
        """pred_BKTHW in fp32; `x_mask_BT` is False for frames that are given, and None leaves all work for it out."""
        model, dtype = self._model, self._model.dtype
        height, width = z_BCTHW.shape[-2:]
        _, patch_h, patch_w = model.config.patch_size
        rows, columns = math.ceil(height / patch_h), math.ceil(width / patch_w)

        x_BTSD = model.x_embedder(z_BCTHW.to(dtype))
        image_h, image_w = (torch.tensor(size, dtype=dtype).item() for size in image_size)
        scale = math.sqrt(image_h * image_w) / model.config.input_sq_size
        x_BTSD = x_BTSD + positions(rows, columns, model.config.hidden_size, scale, x_BTSD)

        frequencies_A = sinusoid_frequencies().to(z_BCTHW.device)
        fps_BD = model.fps_embedder(fps_B, frequencies_A)
        t_BD = model.t_embedder(t_B, frequencies_A) + fps_BD
        t0_BD = model.t_embedder(torch.zeros_like(t_B), frequencies_A) + fps_BD
        y_1LD, lengths = pack(model.y_embedder(text.y_BLX.to(dtype)), text.mask_BL)
        inputs = BlockInputs(
            y_1LD,
            lengths,
            rearrange(model.t_block(t_BD), "b (m d) -> b m d", m=6),
            rearrange(model.t_block(t0_BD), "b (m d) -> b m d", m=6),
            x_mask_BT,
            model.rope(x_BTSD.shape[1]),
        )
        x_BND = rearrange(x_BTSD, "b t s d -> b (t s) d")
        for spatial, temporal in zip(model.spatial_blocks, model.temporal_blocks, strict=True):
            x_BND = self._run_block(cast("STDiT3Block", spatial), x_BND, inputs)
            x_BND = self._run_block(cast("STDiT3Block", temporal), x_BND, inputs)
        pred_BKTHW = rearrange(
            finish(model.final_layer, x_BND, t_BD, t0_BD, x_mask_BT),
            "b (t h w) (patch_h patch_w k) -> b k t (h patch_h) (w patch_w)",
            h=rows,
            w=columns,
            patch_h=patch_h,
            patch_w=patch_w,
        )
        return pred_BKTHW[..., :height, :width].float()
