from pathlib import Path

import pytest
import torch
from training.checkpoints import save_weights
from training.rendering import render
from training.scenes import training_scene
from training.vae import (
    FORMS,
    TrainedVae,
    difference,
    draw_posterior,
    forms_within,
    load_trained,
    loss_alone,
    loss_together,
    measured_weights,
    psnr,
)

from videogen_api.architecture import ARCHITECTURES
from videogen_runner.models.opensora.vae import VaeConfig, VideoAutoencoder
from videogen_runner.models.opensora.vae_spatial import SpatialVaeConfig
from videogen_runner.models.opensora.vae_temporal import TemporalVaeConfig

TINY = VaeConfig(
    spatial=SpatialVaeConfig(block_channels=(8, 8, 8, 8), layers_per_block=1, num_groups=2),
    temporal=TemporalVaeConfig(filters=8, channel_multipliers=(1, 1, 1, 1), num_res_blocks=1, num_groups=2),
)


class NoNoise:
    def posterior_spatial(self, _: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(shape)

    posterior_temporal = posterior_spatial


def build_vae() -> TrainedVae:
    torch.manual_seed(0)
    return TrainedVae(TINY)


def clips(num_frames: int = 17) -> torch.Tensor:
    return render([training_scene(seed) for seed in range(3)], num_frames, 32, 32)


def test_what_is_measured_gives_the_runners_latents_a_mean_of_0_and_a_variance_of_1() -> None:
    runner = VideoAutoencoder(TINY)
    runner.load_state_dict(measured_weights(build_vae(), build_vae().means(clips())))
    z_BCTHW = runner.encode(clips(), NoNoise())
    assert torch.allclose(z_BCTHW.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(z_BCTHW.std(dim=(0, 2, 3, 4)), torch.ones(4), atol=1e-4)


@pytest.mark.parametrize("num_frames", [1, 17, 34])
def test_training_decodes_as_the_runner_does(num_frames: int) -> None:
    vae, x_BCTHW = build_vae(), clips(num_frames)
    runner = VideoAutoencoder(TINY)
    runner.load_state_dict(measured_weights(vae, vae.means(clips())))
    with torch.no_grad():
        theirs_BCTHW = runner.decode(runner.encode(x_BCTHW, NoNoise()), num_frames)
        ours_BCTHW = vae.draw_frames(vae.decode_time(vae.means(x_BCTHW), num_frames))
    assert torch.allclose(ours_BCTHW, theirs_BCTHW, atol=1e-4)


def test_a_run_goes_on_from_the_weights_of_another_and_knows_their_shift_and_scale(tmp_path: Path) -> None:
    vae = TrainedVae(VaeConfig.from_shape(ARCHITECTURES["shapes"].vae))
    weights = measured_weights(vae, vae.means(clips()))
    save_weights(tmp_path, "vae", weights, step=1)
    again = load_trained(tmp_path)
    assert {name for name, tensor in again.state_dict().items() if not torch.equal(tensor, weights[name])} == set()
    again.use_latents_as_they_come()
    assert torch.equal(again.means(clips()), vae.means(clips()))


@pytest.mark.parametrize("loss", [loss_alone, loss_together])
def test_every_weight_learns(loss) -> None:  # type: ignore[no-untyped-def]
    vae = build_vae()
    loss(vae, clips()).backward()
    still = {name for name, weight in vae.named_parameters() if weight.grad is None or not weight.grad.abs().max() > 0}
    assert still == set()


def test_alone_the_3d_half_teaches_the_2d_half_nothing() -> None:
    def gradient(vae: TrainedVae) -> torch.Tensor:
        torch.manual_seed(1)
        loss_alone(vae, clips()).backward()  # type: ignore[no-untyped-call]
        found = vae.spatial_vae.module.quant_conv.weight.grad
        assert found is not None
        return found

    vae, other = build_vae(), build_vae()
    with torch.no_grad():
        for weight in other.temporal_vae.parameters():
            weight.mul_(0.5)
    assert torch.equal(gradient(vae), gradient(other))


def test_equal_videos_are_not_apart_and_edges_and_flicker_count_more_than_a_shade() -> None:
    x_BCTHW = torch.zeros(1, 3, 4, 8, 8)
    shade, flicker, edges = (x_BCTHW.clone() for _ in range(3))
    shade += 0.1
    flicker += torch.tensor([0.1, -0.1, 0.1, -0.1])[:, None, None]
    edges += torch.tensor([0.1, -0.1] * 4)
    assert difference(x_BCTHW, x_BCTHW).item() == 0
    assert difference(x_BCTHW, shade).item() == pytest.approx(0.1 + 0.5 * 0.01)
    assert difference(x_BCTHW, flicker).item() == pytest.approx(0.105 + 0.25 * 0.2)
    assert difference(x_BCTHW, edges).item() == pytest.approx(0.105 + 0.5 * 0.2)


def test_the_divergence_of_the_normal_distribution_is_0() -> None:
    _, of_normal = draw_posterior(torch.zeros(2, 8, 3, 3))
    _, of_shifted = draw_posterior(torch.cat([torch.ones(2, 4, 3, 3), torch.zeros(2, 4, 3, 3)], dim=1))
    assert (of_normal.item(), of_shifted.item()) == (0.0, 0.5)


def test_psnr_counts_colours_that_are_wrong_by_a_tenth_of_their_range_as_20_decibels() -> None:
    class Paler(TrainedVae):
        def draw_frames(self, _: torch.Tensor) -> torch.Tensor:
            return torch.full((1, 3, 17, 32, 32), 0.2)

    assert psnr(Paler(TINY), torch.zeros(1, 3, 17, 32, 32), torch.zeros(1, 4, 5, 4, 4)) == pytest.approx(20.0, abs=1e-3)


def test_only_forms_that_fit_are_drawn() -> None:
    assert forms_within(10**9) == list(FORMS)
    assert {form.num_frames * form.height * form.width <= 70_000 for form in forms_within(70_000)} == {True}
    with pytest.raises(ValueError, match="give more with --pixels"):
        forms_within(100)


def test_a_whole_number_of_chunks_or_a_still_is_in_every_form() -> None:
    assert {form.num_frames % 17 for form in FORMS if form.num_frames > 1} == {0}
    assert sum(form.weight for form in FORMS) == pytest.approx(1.0)
