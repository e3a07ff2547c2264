"""A denoiser and an autoencoder of a few hundred numbers, and clips for them: the real networks, in milliseconds."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from videogen_api.prompts import MaskStrategy
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipGenerator, ClipRequest, ClipState, Placement
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config
from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder
from videogen_runner.models.opensora.vae_spatial import SpatialVaeConfig
from videogen_runner.models.opensora.vae_temporal import TemporalVaeConfig

# 34 frames of 24 x 16 pixels are 10 latent frames of 3 x 2.
PLAIN = ClipRequest(image_size=(24, 16), num_frames=34, fps=24, num_steps=4, guidance=3.0)
# Two loops; the first begins with a picture, and another picture comes in late at its end.
CONDITIONED = replace(
    PLAIN,
    num_loops=2,
    strategies=(MaskStrategy(), MaskStrategy(reference=1, target_start=-1, edit_ratio=0.6)),
    condition_edit=0.3,
    alignment=None,
)
DEFAULT_PLACEMENT = Placement()
PICTURES = [torch.linspace(-1, 1, 3 * 24 * 16).reshape(3, 1, 24, 16), torch.zeros(3, 1, 24, 16)]


def build_denoiser() -> STDiT3:
    torch.manual_seed(0)
    model = STDiT3(STDiT3Config(hidden_size=32, depth=1, num_heads=2, caption_channels=6, model_max_length=5))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def build_vae() -> VideoAutoencoder:
    torch.manual_seed(1)
    spatial = SpatialVaeConfig(block_channels=(4, 4, 4, 4), layers_per_block=1, num_groups=2)
    temporal = TemporalVaeConfig(filters=4, channel_multipliers=(1, 1, 1, 1), num_res_blocks=1, num_groups=2)
    return VideoAutoencoder(VaeConfig(spatial=spatial, temporal=temporal)).eval()


class Workshop:
    """Builds generators that differ in what a test varies alone."""

    def __init__(self, denoiser: STDiT3, vae: VideoAutoencoder) -> None:
        self.denoiser = denoiser
        self.vae = vae

    def build(
        self,
        request: ClipRequest,
        *,
        placement: Placement = DEFAULT_PLACEMENT,
        seed: int = 5,
        dtype: torch.dtype | None = None,
    ) -> ClipGenerator:
        generator = torch.Generator().manual_seed(2)
        tokens_LX = [torch.randn(3 + loop, 6, generator=generator) for loop in range(request.num_loops)]
        denoiser = self.denoiser
        if dtype is not None:
            denoiser = STDiT3(self.denoiser.config)
            denoiser.load_state_dict(self.denoiser.state_dict())
            denoiser.to(dtype)
        return ClipGenerator(denoiser, self.vae, request, tokens_LX, SeededDraws(seed), placement)

    def run(self, request: ClipRequest, pictures: Sequence[Tensor] = (), **changes: Placement | int) -> list[ClipState]:
        generator = self.build(request, **changes)
        first = generator.start(pictures)
        return [first, *generator.states(first)]
