from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from videogen_api.architecture import architecture_of
from videogen_api.video import decoded_size, latent_size
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder, sample_posterior

DRAWS = SeededDraws(3).posterior(0, 0)


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    torch.manual_seed(0)
    return VideoAutoencoder(VaeConfig.from_shape(architecture_of("open-sora-v1.2-tiny").vae)).eval()


def video(num_frames: int, height: int = 16, width: int = 24, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, num_frames, height, width, generator=torch.Generator().manual_seed(num_frames))


def latents(num_frames: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 4, num_frames, 2, 3, generator=torch.Generator().manual_seed(num_frames))


# PyTorch picks convolution kernels by batch size and thread count: two ulp-sized steps of difference between slice
# sizes are rounding. Bit-equality is promised for one size, which the plan fixes.
ROUNDING = 1e-5


def test_slices_decode_to_the_same_frames_whatever_their_size(vae: VideoAutoencoder) -> None:
    z_BCTHW = latents(10, batch=2)
    whole = vae.decode(z_BCTHW, 34, decode_batch_frames=68)
    assert whole.shape == (2, 3, 34, 16, 24)
    for size in (1, 3, 4, 11, 67):
        sliced = vae.decode(z_BCTHW, 34, decode_batch_frames=size)
        torch.testing.assert_close(sliced, whole, rtol=0, atol=ROUNDING * whole.abs().max().item())
        assert torch.equal(vae.decode(z_BCTHW, 34, decode_batch_frames=size), sliced)


def test_slices_encode_to_the_same_latents_whatever_their_size(vae: VideoAutoencoder) -> None:
    x_BCTHW = video(20, batch=2)
    whole = vae.encode(x_BCTHW, DRAWS, batch_frames=40)
    assert whole.shape == (2, 4, 6, 2, 3)
    for size in (1, 3, 4, 13, 39):
        sliced = vae.encode(x_BCTHW, DRAWS, batch_frames=size)
        torch.testing.assert_close(sliced, whole, rtol=0, atol=ROUNDING * whole.abs().max().item())
        assert torch.equal(vae.encode(x_BCTHW, DRAWS, batch_frames=size), sliced)


def changed_frames(before_BCTHW: Tensor, after_BCTHW: Tensor) -> list[int]:
    """Frames of which any bit differs; both results come from one shape, so that their kernels are the same."""
    return (before_BCTHW != after_BCTHW).any(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()


@pytest.mark.parametrize(("chunk", "frame"), [(0, 3), (1, 20)])
def test_what_changes_in_one_chunk_of_frames_changes_nothing_in_another(
    vae: VideoAutoencoder, chunk: int, frame: int
) -> None:
    x_BCTHW = video(34)
    other_BCTHW = x_BCTHW.clone()
    other_BCTHW[:, :, frame] += 1
    changed = changed_frames(vae.encode(x_BCTHW, DRAWS), vae.encode(other_BCTHW, DRAWS))
    assert changed
    assert set(changed) <= set(range(5 * chunk, 5 * chunk + 5))

    z_BCTHW = latents(10)
    other_BCTHW = z_BCTHW.clone()
    other_BCTHW[:, :, 5 * chunk] += 1
    changed = changed_frames(vae.decode(z_BCTHW, 34), vae.decode(other_BCTHW, 34))
    assert changed
    assert set(changed) <= set(range(17 * chunk, 17 * chunk + 17))


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 24), (4, 29, 43), (17, 16, 16), (18, 24, 16)])
def test_sizes_are_those_that_the_planner_counts_with(
    vae: VideoAutoencoder, frames: int, height: int, width: int
) -> None:
    z_BCTHW = vae.encode(video(frames, height, width), DRAWS)
    expected = latent_size(frames, height, width)
    assert z_BCTHW.shape == (1, 4, expected.frames, expected.height, expected.width)
    x_BCTHW = vae.decode(z_BCTHW, frames)
    assert x_BCTHW.shape == (1, 3, frames, *decoded_size(expected))
    assert z_BCTHW.is_contiguous()
    assert x_BCTHW.is_contiguous()


@dataclass(frozen=True)
class OneLoudFrame:
    """No noise at all but in one latent frame."""

    loud: int

    def posterior_spatial(self, frame: int, shape: tuple[int, ...]) -> Tensor:  # noqa: ARG002 - the protocol's
        return torch.zeros(shape)

    def posterior_temporal(self, frame: int, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, float(frame == self.loud))


def test_the_noise_of_a_frame_reaches_that_frame_only(vae: VideoAutoencoder) -> None:
    x_BCTHW = video(17, batch=2)
    silent, loud = (vae.encode(x_BCTHW, OneLoudFrame(frame)) for frame in (-1, 7))
    # Frame 7 of 2 x 5 latent frames is the third of the second clip.
    assert (loud != silent).any(dim=(1, 3, 4)).nonzero().tolist() == [[1, 2]]


def test_a_posterior_of_absurd_variance_stays_finite() -> None:
    mean, log_variance = torch.tensor([[1.0, 1.0]]), torch.tensor([[1e6, -1e6]])
    sample = sample_posterior(torch.cat([mean, log_variance], dim=1), torch.ones(1, 2))
    assert torch.allclose(sample, 1 + torch.exp(torch.tensor([[10.0, -15.0]])))


def test_the_factory_networks_have_the_size_of_the_public_ones() -> None:
    with torch.device("meta"):
        vae = VideoAutoencoder(VaeConfig())
    assert VaeConfig() == VaeConfig.from_shape(architecture_of("open-sora-v1.2").vae)
    # The SDXL VAE's well-known count.
    assert sum(parameter.numel() for parameter in vae.spatial_vae.parameters()) == 83_653_863


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_have_the_dtype_of_the_weights_and_carry_no_gradient(vae: VideoAutoencoder, dtype: torch.dtype) -> None:
    model = VideoAutoencoder(VaeConfig.from_shape(architecture_of("open-sora-v1.2-tiny").vae)).to(dtype)
    model.load_state_dict(vae.state_dict())
    z_BCTHW = model.encode(video(4).to(dtype), DRAWS)
    x_BCTHW = model.decode(z_BCTHW, 4)
    assert (z_BCTHW.dtype, x_BCTHW.dtype) == (dtype, dtype)
    assert not z_BCTHW.requires_grad
    assert not x_BCTHW.requires_grad
