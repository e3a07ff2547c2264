"""One denoising step of STDiT3 as the engine runs it: the model's mathematics in few passes over memory.

What ends one part of a block and begins the next is one kernel: gate, residual sum, norm and modulation. Space and time
share one layout, so nothing is rearranged between them. The model stays what it is; this reads its weights.

Shape suffixes: as in kernels.py; C latent channels, K predicted channels, M = 6 modulations, L text tokens; N = T*S.
"""

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own texts use
from torch import Tensor

from videogen_runner.engine.kernels import Kernels
from videogen_runner.models.opensora.stdit3 import Conditioning, CrossAttention, STDiT3, STDiT3Block, TextKeysValues


class FusedDenoiser:
    """Predicts what `model` predicts, within rounding. Its blocks' weights must stay on their device."""

    def __init__(self, model: STDiT3, kernels: Kernels) -> None:
        self._model = model
        self._kernels = kernels
        pairs = zip(model.spatial_blocks, model.temporal_blocks, strict=True)
        self._blocks = [cast("STDiT3Block", block) for pair in pairs for block in pair]

    @torch.no_grad()
    def __call__(
        self, z_BCTHW: Tensor, t_B: Tensor, conditioning: Conditioning, x_mask_BT: Tensor | None = None
    ) -> Tensor:
        """pred_BKTHW, as STDiT3.forward."""
        model, kernels = self._model, self._kernels
        t_BD, modulation_BTMD = model.modulation(t_B, conditioning, x_mask_BT)
        tables_BTMD = [block.scale_shift_table + modulation_BTMD for block in self._blocks]
        x_BTSD = model.embed(z_BCTHW, conditioning).contiguous()  # patches come out with channels first
        shift_BTD, scale_BTD, *_ = tables_BTMD[0].unbind(2)
        h_BTSD = kernels.norm_modulate(x_BTSD, shift_BTD, scale_BTD)
        for index, (block, text) in enumerate(zip(self._blocks, conditioning.text, strict=True)):
            _, _, gate_attn_BTD, shift_mlp_BTD, scale_mlp_BTD, gate_mlp_BTD = tables_BTMD[index].unbind(2)
            y_BTSD = self._attend(block, h_BTSD, conditioning)
            x_BTSD = kernels.gated_add(x_BTSD, y_BTSD, gate_attn_BTD)
            y_BTSD = self._attend_to_text(block.cross_attn, x_BTSD, text, conditioning.text_mask_B11L)
            x_BTSD, h_BTSD = kernels.add_norm_modulate(x_BTSD, y_BTSD, None, shift_mlp_BTD, scale_mlp_BTD)
            y_BTSD = block.mlp.fc2(kernels.linear_gelu(h_BTSD, block.mlp.fc1))
            if index + 1 < len(self._blocks):
                shift_BTD, scale_BTD, *_ = tables_BTMD[index + 1].unbind(2)
                x_BTSD, h_BTSD = kernels.add_norm_modulate(x_BTSD, y_BTSD, gate_mlp_BTD, shift_BTD, scale_BTD)
            else:
                x_BTSD = kernels.gated_add(x_BTSD, y_BTSD, gate_mlp_BTD)
        height, width = z_BCTHW.shape[-2:]
        return model.predict(x_BTSD, t_BD, conditioning, x_mask_BT, (height, width))

    def _attend(self, block: STDiT3Block, h_BTSD: Tensor, conditioning: Conditioning) -> Tensor:
        qkv_BTSP = block.attn.qkv(h_BTSD)
        if block.temporal:
            y_BTSD = self._kernels.temporal_attention(qkv_BTSP, block.attn, conditioning.rope)
        else:
            y_BTSD = self._kernels.spatial_attention(qkv_BTSP, block.attn)
        projected_BTSD: Tensor = block.attn.proj(y_BTSD)
        return projected_BTSD

    def _attend_to_text(
        self, attention: CrossAttention, x_BTSD: Tensor, text: TextKeysValues, text_mask_B11L: Tensor | None
    ) -> Tensor:
        q_BNGE = attention.q_linear(x_BTSD).view(len(x_BTSD), -1, attention.num_heads, text.k_BGLE.shape[-1])
        y_BGNE = F.scaled_dot_product_attention(
            q_BNGE.transpose(1, 2), text.k_BGLE, text.v_BGLE, attn_mask=text_mask_B11L
        )
        y_BTSD: Tensor = attention.proj(y_BGNE.transpose(1, 2).reshape(x_BTSD.shape))
        return y_BTSD
