"""The autoencoder of `shapes` as training sees it: its halves with gradients, and what they are judged by.

The loss of frames: absolute errors of pixels, of differences between neighbouring pixels (edges) and between frames
(flicker), squared errors, which PSNR counts, and the divergence of both posteriors from the normal distribution, so
small that it only keeps latents bounded and smooth. Latents get a mean of 0 and a variance of 1 by the `shift` and
`scale` that every checkpoint measures.

Shape suffixes: as in the runner's vae.py.
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from training.checkpoints import load_weights
from videogen_api.architecture import ARCHITECTURES
from videogen_runner.models.opensora.vae import (
    SPATIAL_LATENT_FACTOR,
    VaeConfig,
    VideoAutoencoder,
    sample_posterior,
)
from videogen_runner.models.opensora.vae_spatial import ResnetBlock
from videogen_runner.models.opensora.vae_temporal import ResBlock

EDGE_WEIGHT, FLICKER_WEIGHT, SQUARE_WEIGHT, DIVERGENCE_WEIGHT = 0.5, 0.25, 1.0, 1e-4

FIRST_LOG_VARIANCE = -8.0
"""Of both posteriors: from latents that are mostly noise nothing is learned for hundreds of steps."""


class TrainedVae(VideoAutoencoder):
    """With gradients, and latents as they come: neither shifted nor scaled.

    Weights at the end of residual branches begin at zero: each block passes on its input until it has more to say.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.use_latents_as_they_come()
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, ResBlock):
                nn.init.zeros_(module.conv2.conv.weight)
        for bias_M in (self.spatial_vae.module.quant_conv.bias, self.temporal_vae.quant_conv.conv.bias):
            if bias_M is not None:
                nn.init.constant_(bias_M.chunk(2)[1], FIRST_LOG_VARIANCE)

    def use_latents_as_they_come(self) -> None:
        self.scale.fill_(1.0)
        self.shift.fill_(0.0)

    def encode_frames(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels -> 2D latents, drawn from their posterior, and its divergence."""
        y_NCHW, divergence = draw_posterior(self._moments_of_frames(x_BCTHW))
        return rearrange(y_NCHW, "(b t) c h w -> b c t h w", b=len(x_BCTHW)) * SPATIAL_LATENT_FACTOR, divergence

    def decode_frames(self, y_BCTHW: Tensor) -> Tensor:
        """2D latents -> pixels."""
        y_NCHW = rearrange(y_BCTHW, "b c t h w -> (b t) c h w") / SPATIAL_LATENT_FACTOR
        return rearrange(self.spatial_vae.module.decode(y_NCHW), "(b t) c h w -> b c t h w", b=len(y_BCTHW))

    @torch.no_grad()
    def means_of_frames(self, x_BCTHW: Tensor) -> Tensor:
        """Pixels -> the 2D latents that are most likely."""
        y_NCHW = self._moments_of_frames(x_BCTHW).chunk(2, dim=1)[0] * SPATIAL_LATENT_FACTOR
        return rearrange(y_NCHW, "(b t) c h w -> b c t h w", b=len(x_BCTHW))

    @torch.no_grad()
    def means(self, x_BCTHW: Tensor) -> Tensor:
        """Pixels -> the latents that are most likely."""
        return self.encode_time_moments(self.means_of_frames(x_BCTHW)).chunk(2, dim=1)[0].float()

    def _moments_of_frames(self, x_BCTHW: Tensor) -> Tensor:
        return self.spatial_vae.module.encode(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))


def draw_posterior(moments_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Latents, and the mean divergence of one latent's distribution from the normal one."""
    moments_BM = moments_BM.float()
    mean_BC, log_variance_BC = moments_BM.chunk(2, dim=1)
    divergence = 0.5 * (mean_BC.square() + log_variance_BC.exp() - 1 - log_variance_BC).mean()
    return sample_posterior(moments_BM, torch.randn_like(mean_BC)), divergence


def difference(x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    """How far two videos are apart."""
    error_BCTHW = y_BCTHW.float() - x_BCTHW
    down, across = error_BCTHW.diff(dim=3).abs().mean(), error_BCTHW.diff(dim=4).abs().mean()
    loss = error_BCTHW.abs().mean() + EDGE_WEIGHT * (down + across) + SQUARE_WEIGHT * error_BCTHW.square().mean()
    if x_BCTHW.shape[2] > 1:
        loss = loss + FLICKER_WEIGHT * error_BCTHW.diff(dim=2).abs().mean()
    return loss


def loss_of_frames(vae: TrainedVae, x_BCTHW: Tensor) -> Tensor:
    """The 2D half alone."""
    y_BCTHW, divergence = vae.encode_frames(x_BCTHW)
    return difference(x_BCTHW, vae.decode_frames(y_BCTHW)) + DIVERGENCE_WEIGHT * divergence


def loss_of_time(vae: TrainedVae, y_BCTHW: Tensor, num_frames: int) -> Tensor:
    """The 3D half alone, on 2D latents of `num_frames` frames; errors count in their standard deviations."""
    z_BCTHW, divergence = draw_posterior(vae.encode_time_moments(y_BCTHW))
    error_BCTHW = (vae.decode_time(z_BCTHW, num_frames).float() - y_BCTHW) / y_BCTHW.std()
    return error_BCTHW.abs().mean() + SQUARE_WEIGHT * error_BCTHW.square().mean() + DIVERGENCE_WEIGHT * divergence


def loss_of_all(vae: TrainedVae, x_BCTHW: Tensor) -> Tensor:
    """Both halves, by the frames that come out of the whole."""
    y_BCTHW, divergence = vae.encode_frames(x_BCTHW)
    z_BCTHW, time_divergence = draw_posterior(vae.encode_time_moments(y_BCTHW))
    decoded_BCTHW = vae.decode_frames(vae.decode_time(z_BCTHW, x_BCTHW.shape[2]))
    return difference(x_BCTHW, decoded_BCTHW) + DIVERGENCE_WEIGHT * (divergence + time_divergence)


@torch.no_grad()
def psnr_of_frames(vae: TrainedVae, x_BCTHW: Tensor) -> float:
    """Of the frames that the 2D half alone makes of these, against these, in decibels, for colours in [-1, 1]."""
    return _psnr(x_BCTHW, vae.decode_frames(vae.means_of_frames(x_BCTHW)))


@torch.no_grad()
def psnr(vae: TrainedVae, x_BCTHW: Tensor, z_BCTHW: Tensor) -> float:
    """Of the clips that come out of these latents, against what went in."""
    return _psnr(x_BCTHW, vae.decode_frames(vae.decode_time(z_BCTHW, x_BCTHW.shape[2])))


def _psnr(x_BCTHW: Tensor, y_BCTHW: Tensor) -> float:
    return float(10 * torch.log10(4 / (y_BCTHW.clamp(-1, 1).float() - x_BCTHW).square().mean()))


def measured_weights(vae: TrainedVae, z_BCTHW: Tensor) -> dict[str, Tensor]:
    """The checkpoint's tensors, with the shift and scale that these latents ask for."""
    shift_C, scale_C = z_BCTHW.mean(dim=(0, 2, 3, 4)), z_BCTHW.std(dim=(0, 2, 3, 4))
    return {**vae.state_dict(), "shift": shift_C.view(1, -1, 1, 1, 1), "scale": scale_C.view(1, -1, 1, 1, 1)}


def build_vae() -> TrainedVae:
    """The autoencoder of `shapes` with weights to begin from."""
    return TrainedVae(VaeConfig.from_shape(ARCHITECTURES["shapes"].vae))


def load_trained(folder: Path) -> TrainedVae:
    """The autoencoder of a run, with its own shift and scale. Raises ValueError where there is none."""
    vae = build_vae()
    vae.load_state_dict(load_weights(folder, "vae"))
    return vae
