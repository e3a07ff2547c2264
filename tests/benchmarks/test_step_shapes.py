import pytest
import torch
from benchmarks.step_shapes import Attention, Matmul, step_attentions, step_matmuls
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videogen_api.architecture import architecture_of
from videogen_api.video import LatentSize, image_size_of_aspect, latent_size
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config

XL = architecture_of("open-sora-v1.2").denoiser


def test_the_shapes_of_xl_at_480p_are_these() -> None:
    latent = latent_size(51, *image_size_of_aspect("480p", "16:9"))
    assert step_matmuls(XL, latent, 2) == (
        Matmul("qkv", 47700, 3456, 1152, 56),
        Matmul("attention output, text query, text output", 47700, 1152, 1152, 168),
        Matmul("MLP in", 47700, 4608, 1152, 56),
        Matmul("MLP out", 47700, 1152, 4608, 56),
        Matmul("patches in", 47700, 1152, 16, 1),
        Matmul("patches out", 47700, 32, 1152, 1),
        Matmul("timestep in", 2, 1152, 256, 1),
        Matmul("timestep out", 2, 1152, 1152, 1),
        Matmul("modulation", 2, 6912, 1152, 1),
    )
    assert step_attentions(XL, latent, [40, 40]) == (
        Attention("space", 30, 16, 1590, 1590, 72, 28),
        Attention("time", 3180, 16, 15, 15, 72, 28),
        Attention("text of 40", 2, 16, 23850, 40, 72, 56),
    )


@pytest.mark.parametrize(("resolution", "tokens"), [("240p", 6075), ("480p", 23850), ("720p", 54000)])
def test_the_operations_of_xl_are_those_of_the_closed_formula(resolution: str, tokens: int) -> None:
    """For one sample: 1568 N D^2 + 112 D N (S + T) + 224 D N L, and what is not of the blocks."""
    latent = latent_size(51, *image_size_of_aspect(resolution, "16:9"))
    blocks = 1568 * tokens * 1152**2 + 112 * 1152 * tokens * (tokens // 15 + 15) + 224 * 1152 * tokens * 40
    embeddings = 2 * 1152 * (tokens * (16 + 32) + 256 + 1152 + 6912)
    shapes = (*step_matmuls(XL, latent, 2), *step_attentions(XL, latent, [40, 40]))
    assert sum(shape.flops for shape in shapes) == 2 * (blocks + embeddings)


@torch.no_grad()
def test_the_operations_are_those_that_the_plain_model_does() -> None:
    shape = architecture_of("open-sora-v1.2-tiny").denoiser
    config = STDiT3Config(
        hidden_size=shape.hidden_size,
        depth=shape.depth,
        num_heads=shape.num_heads,
        caption_channels=shape.caption_channels,
    )
    with torch.device("meta"):
        model = STDiT3(config).eval()
        z_BCTHW, t_B = torch.empty(2, 4, 5, 7, 6), torch.empty(2)
    tokens_LX = [torch.empty(9, shape.caption_channels)] * 2
    conditioning = model.prepare(tokens_LX, torch.full((2,), 24.0), (56.0, 48.0), (5, 7, 6))
    # Where attention is two products, torch counts them.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(z_BCTHW, t_B, conditioning)
    shapes = (
        *step_matmuls(shape, LatentSize(5, 7, 6), 2),
        *step_attentions(shape, LatentSize(5, 7, 6), [9, 9]),
    )
    assert counter.get_total_flops() == sum(entry.flops for entry in shapes)


def test_samples_with_texts_of_one_length_are_attended_together() -> None:
    attentions = step_attentions(XL, LatentSize(5, 8, 8), [40, 12, 40])
    assert [(entry.batch, entry.keys) for entry in attentions[2:]] == [(2, 40), (1, 12)]
