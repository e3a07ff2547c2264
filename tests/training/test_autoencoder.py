from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training.autoencoder import (
    TrainedVae,
    build_vae,
    difference,
    draw_posterior,
    load_trained,
    loss_of_all,
    loss_of_frames,
    loss_of_time,
    measured_weights,
    psnr,
    psnr_of_frames,
)
from training.checkpoints import save_weights
from training.rendering import render
from training.scenes import training_scene
from training.steps import Trainer

from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder
from videogen_runner.models.opensora.vae_spatial import ResnetBlock, SpatialVaeConfig
from videogen_runner.models.opensora.vae_temporal import ResBlock, TemporalVaeConfig

TINY = VaeConfig(
    spatial=SpatialVaeConfig(block_channels=(8, 8, 8, 8), layers_per_block=1, num_groups=2),
    temporal=TemporalVaeConfig(filters=8, channel_multipliers=(1, 1, 1, 1), num_res_blocks=1, num_groups=2),
)


class NoNoise:
    def posterior_spatial(self, _: int, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape)

    posterior_temporal = posterior_spatial


def build_tiny() -> TrainedVae:
    torch.manual_seed(0)
    return TrainedVae(TINY)


def clips(num_frames: int = 17) -> Tensor:
    return render([training_scene(seed) for seed in range(3)], num_frames, 32, 32)


def test_what_is_measured_gives_the_runners_latents_a_mean_of_0_and_a_variance_of_1() -> None:
    runner = VideoAutoencoder(TINY)
    runner.load_state_dict(measured_weights(build_tiny(), build_tiny().means(clips())))
    z_BCTHW = runner.encode(clips(), NoNoise())
    assert torch.allclose(z_BCTHW.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(z_BCTHW.std(dim=(0, 2, 3, 4)), torch.ones(4), atol=1e-4)


@pytest.mark.parametrize("num_frames", [1, 17, 34])
def test_training_decodes_as_the_runner_does(num_frames: int) -> None:
    vae, x_BCTHW = build_tiny(), clips(num_frames)
    runner = VideoAutoencoder(TINY)
    runner.load_state_dict(measured_weights(vae, vae.means(clips())))
    with torch.no_grad():
        theirs_BCTHW = runner.decode(runner.encode(x_BCTHW, NoNoise()), num_frames)
        ours_BCTHW = vae.decode_frames(vae.decode_time(vae.means(x_BCTHW), num_frames))
    assert torch.allclose(ours_BCTHW, theirs_BCTHW, atol=1e-4)


def test_a_run_goes_on_from_the_weights_of_another_and_knows_their_shift_and_scale(tmp_path: Path) -> None:
    vae = build_vae()
    weights = measured_weights(vae, vae.means(clips()))
    save_weights(tmp_path, "vae", weights, step=1)
    again = load_trained(tmp_path)
    assert {name for name, tensor in again.state_dict().items() if not torch.equal(tensor, weights[name])} == set()
    again.use_latents_as_they_come()
    assert torch.equal(again.means(clips()), vae.means(clips()))


def test_at_first_residual_branches_add_the_same_everywhere() -> None:
    for block in build_tiny().modules():
        if isinstance(block, ResnetBlock):
            x_NCHW = torch.randn(2, 8, 4, 4)
            bias_C11 = block.conv2.bias[:, None, None]
            assert torch.equal(block(x_NCHW), block.conv_shortcut(x_NCHW) + bias_C11)
        elif isinstance(block, ResBlock):
            x_BCTHW = torch.randn(2, 8, 5, 4, 4)
            assert torch.equal(block(x_BCTHW), block.conv3(x_BCTHW))


def test_at_first_latents_have_little_noise() -> None:
    vae, x_BCTHW = build_tiny(), clips()
    y_BCTHW = vae.means_of_frames(x_BCTHW)
    with torch.no_grad():
        drawn_BCTHW, _ = vae.encode_frames(x_BCTHW)
        z_BCTHW, _ = draw_posterior(vae.encode_time_moments(y_BCTHW))
    assert 0 < (drawn_BCTHW - y_BCTHW).std() < 0.2 * y_BCTHW.std()
    assert 0 < (z_BCTHW - vae.means(x_BCTHW)).std() < 0.1


def learn(vae: TrainedVae, network: nn.Module, loss) -> set[str]:  # type: ignore[no-untyped-def]
    """The weights that three steps change: what lies behind a branch of zeros begins at the second."""
    before = {name: weight.detach().clone() for name, weight in vae.named_parameters()}
    trainer = Trainer(network.parameters(), weight_decay=0.0, num_losses=1, device="cpu")
    for _ in range(3):
        trainer.step("form", lambda: loss()[None], [], 1e-2)
    return {name for name, weight in vae.named_parameters() if not torch.equal(weight, before[name])}


def names(vae: TrainedVae, start: str = "") -> set[str]:
    return {name for name, _ in vae.named_parameters() if name.startswith(start)}


def test_every_weight_of_the_2d_half_learns_from_frames() -> None:
    vae = build_tiny()
    assert learn(vae, vae, lambda: loss_of_frames(vae, clips(1))) == names(vae, "spatial_vae.")


def test_every_weight_of_the_3d_half_learns_from_2d_latents() -> None:
    vae = build_tiny()
    y_BCTHW = vae.means_of_frames(clips())
    assert learn(vae, vae, lambda: loss_of_time(vae, y_BCTHW, 17)) == names(vae, "temporal_vae.")


def test_every_weight_learns_from_what_comes_out_of_the_whole() -> None:
    vae = build_tiny()
    assert learn(vae, vae, lambda: loss_of_all(vae, clips())) == names(vae)


def test_equal_videos_are_not_apart_and_edges_and_flicker_count_more_than_a_shade() -> None:
    x_BCTHW = torch.zeros(1, 3, 4, 8, 8)
    shade, flicker, edges = (x_BCTHW.clone() for _ in range(3))
    shade += 0.1
    flicker += torch.tensor([0.1, -0.1, 0.1, -0.1])[:, None, None]
    edges += torch.tensor([0.1, -0.1] * 4)
    assert difference(x_BCTHW, x_BCTHW).item() == 0
    assert difference(x_BCTHW, shade).item() == pytest.approx(0.1 + 0.01)
    assert difference(x_BCTHW, flicker).item() == pytest.approx(0.11 + 0.25 * 0.2)
    assert difference(x_BCTHW, edges).item() == pytest.approx(0.11 + 0.5 * 0.2)


def test_a_single_frame_has_no_flicker() -> None:
    x_BCTHW = torch.zeros(1, 3, 1, 8, 8)
    assert difference(x_BCTHW, x_BCTHW + 0.1).item() == pytest.approx(0.1 + 0.01)


def test_the_3d_half_alone_is_judged_in_standard_deviations_of_its_latents() -> None:
    y_BCTHW = torch.tensor([-1.0, 1.0]).repeat(1, 4, 5, 4, 2)

    class Silent(TrainedVae):
        def decode_time(self, *_: object) -> Tensor:
            return torch.zeros_like(y_BCTHW)

    torch.manual_seed(0)
    vae = Silent(TINY)
    losses = [loss_of_time(vae, size * y_BCTHW, 5).item() for size in (1.0, 100.0)]
    assert losses == pytest.approx([2.0, 2.0], rel=1e-2)


def test_the_divergence_of_the_normal_distribution_is_0() -> None:
    _, of_normal = draw_posterior(torch.zeros(2, 8, 3, 3))
    _, of_shifted = draw_posterior(torch.cat([torch.ones(2, 4, 3, 3), torch.zeros(2, 4, 3, 3)], dim=1))
    assert (of_normal.item(), of_shifted.item()) == (0.0, 0.5)


def test_latents_are_drawn_with_the_mean_and_variance_of_their_moments() -> None:
    torch.manual_seed(0)
    z_BC, _ = draw_posterior(torch.tensor([[3.0, 2 * torch.tensor(0.5).log()]]).repeat(20_000, 1))
    assert z_BC.mean().item() == pytest.approx(3.0, abs=0.02)
    assert z_BC.std().item() == pytest.approx(0.5, abs=0.02)


def test_psnr_counts_colours_that_are_wrong_by_a_tenth_of_their_range_as_20_decibels() -> None:
    class Paler(TrainedVae):
        def decode_frames(self, _: Tensor) -> Tensor:
            return torch.full((1, 3, 17, 32, 32), 0.2)

    x_BCTHW = torch.zeros(1, 3, 17, 32, 32)
    assert psnr(Paler(TINY), x_BCTHW, torch.zeros(1, 4, 5, 4, 4)) == pytest.approx(20.0, abs=1e-3)
    assert psnr_of_frames(Paler(TINY), x_BCTHW) == pytest.approx(20.0, abs=1e-3)
