"""In place of the two networks: cheap arithmetic that takes a given time, so that hundreds of runs take minutes.

Everything around them is the real thing: sampler, random draws, checkpoints, video files, claims.

Shape suffixes: B samples, C channels, T latent frames, F frames, H W rows and columns.
"""

import threading
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from videogen_api.video import CHUNK_FRAMES

CHANNELS = 4
TOKENS_LX = torch.linspace(-1, 1, 3 * 8).reshape(3, 8)
"""What the encoder could have made of any text."""


class StandInDenoiser(nn.Module):
    """A velocity that depends on everything that it is given, and takes `step_seconds`; it has no blocks."""

    dtype = torch.float32
    device = torch.device("cpu")
    config = SimpleNamespace(in_channels=CHANNELS, input_sq_size=512)
    spatial_blocks = temporal_blocks = ()

    def __init__(self, step_seconds: float) -> None:
        super().__init__()
        self._step_seconds = step_seconds

    def null_tokens(self, num_tokens: int) -> Tensor:
        return torch.zeros(num_tokens, TOKENS_LX.shape[1])

    def prepare(self, tokens_LX: list[Tensor], fps_B: Tensor, image_size: Any, latent_size: Any) -> Tensor:  # noqa: ARG002
        return torch.stack([y_LX.sum() for y_LX in tokens_LX])

    def forward(self, z_BCTHW: Tensor, t_B: Tensor, text_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:  # noqa: ARG002
        threading.Event().wait(self._step_seconds)
        return torch.sin(z_BCTHW + (text_B + t_B / 1000).view(-1, 1, 1, 1, 1))


class StandInVae(nn.Module):
    """Pixels by repeating latents."""

    micro_frame_size = CHUNK_FRAMES
    scale = torch.ones(1)

    def decode(self, z_BCTHW: Tensor, num_frames: int, *, decode_batch_frames: int = 4) -> Tensor:  # noqa: ARG002
        frames = torch.linspace(0, z_BCTHW.shape[2] - 1, num_frames).round().long()
        x_BCFHW = torch.tanh(z_BCTHW[:, :3, frames])
        return x_BCFHW.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
