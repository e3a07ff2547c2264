from dataclasses import replace

import pytest
import torch
from tests.runner.small_models import CONDITIONED, PICTURES, PLAIN, Workshop, build_denoiser, build_vae

from videogen_api.video import total_frames
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipGenerator, ClipState, Placement
from videogen_runner.models.opensora.sampler import timesteps
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.vae import VideoAutoencoder


@pytest.fixture(scope="module")
def denoiser() -> STDiT3:
    return build_denoiser()


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    return build_vae()


@pytest.fixture(scope="module")
def workshop(denoiser: STDiT3, vae: VideoAutoencoder) -> Workshop:
    return Workshop(denoiser, vae)


def assert_same_state(one: ClipState, other: ClipState) -> None:
    assert (one.loop, one.next_step) == (other.loop, other.next_step)
    assert torch.equal(one.z_BCTHW, other.z_BCTHW)
    assert torch.equal(one.mask_BT, other.mask_BT)
    for tensors, others in ((one.references, other.references), (one.finished, other.finished)):
        assert len(tensors) == len(others)
        assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


def test_the_state_says_loop_and_next_step_after_every_step_and_before_every_later_loop(workshop: Workshop) -> None:
    states = workshop.run(CONDITIONED, PICTURES)
    assert [(state.loop, state.next_step) for state in states] == [
        *((0, step) for step in range(5)),
        *((1, step) for step in range(5)),
    ]
    assert {state.z_BCTHW.dtype for state in states} == {torch.float32}


def test_a_clip_continued_from_any_state_is_bit_equal_to_the_undisturbed_one(workshop: Workshop) -> None:
    states = workshop.run(CONDITIONED, PICTURES)
    clip_CFHW = workshop.build(CONDITIONED).frames(states[-1])
    for index, state in enumerate(states):
        generator = workshop.build(CONDITIONED)
        continued = [state, *generator.states(state)]
        for one, other in zip(continued, states[index:], strict=True):
            assert_same_state(one, other)
        assert torch.equal(generator.frames(continued[-1]), clip_CFHW)


def test_the_same_seed_gives_the_same_clip_and_another_seed_another(workshop: Workshop) -> None:
    last, again, other = (workshop.run(PLAIN, seed=seed)[-1] for seed in (5, 5, 6))
    assert_same_state(last, again)
    assert not torch.equal(last.z_BCTHW, other.z_BCTHW)


def test_a_picture_at_the_start_stays_as_it_is_and_one_with_an_edit_ratio_changes(workshop: Workshop) -> None:
    states = [state for state in workshop.run(CONDITIONED, PICTURES) if state.loop == 0]
    first_C1HW, second_C1HW = states[0].references
    assert states[0].mask_BT.tolist() == [[0.0, *[1.0] * 8, pytest.approx(0.6)]]
    assert torch.equal(states[0].z_BCTHW[0, :, -1:], second_C1HW)
    assert torch.equal(states[-1].z_BCTHW[0, :, :1], first_C1HW)
    assert not torch.equal(states[-1].z_BCTHW[0, :, -1:], second_C1HW)


def test_a_later_loop_begins_with_the_end_of_the_one_before(workshop: Workshop) -> None:
    states = workshop.run(CONDITIONED, PICTURES)
    second = next(state for state in states if state.loop == 1)
    assert len(second.references) == len(PICTURES) + 1
    assert torch.equal(second.z_BCTHW[0, :, :5], second.references[-1][:, -5:])
    torch.testing.assert_close(second.mask_BT, torch.tensor([[0.3] * 5 + [1.0] * 5]))
    assert torch.equal(second.finished[0], states[PLAIN.num_steps].z_BCTHW[0])


def test_the_frames_that_two_loops_share_are_in_the_clip_once(workshop: Workshop) -> None:
    states = workshop.run(CONDITIONED, PICTURES)
    generator = workshop.build(CONDITIONED)
    first_CFHW, second_CFHW = generator.pieces(states[-1])
    clip_CFHW = generator.frames(states[-1])
    assert clip_CFHW.shape == (3, total_frames(34, 2, 5), 24, 16)
    assert torch.equal(clip_CFHW, torch.cat([first_CFHW, second_CFHW[:, 17:]], dim=1))


def test_an_image_is_a_clip_of_one_frame(workshop: Workshop) -> None:
    image = replace(PLAIN, num_frames=1)
    assert workshop.build(image).frames(workshop.run(image)[-1]).shape == (3, 1, 24, 16)


def test_guidance_in_two_passes_differs_from_one_batch_by_rounding_only(workshop: Workshop) -> None:
    one, two = (workshop.run(CONDITIONED, PICTURES, placement=Placement(guidance_batch=n))[-1] for n in (1, 2))
    torch.testing.assert_close(one.z_BCTHW, two.z_BCTHW, rtol=1e-4, atol=1e-4)


def test_slice_sizes_change_no_random_draw(workshop: Workshop) -> None:
    small = Placement(encode_batch_frames=1, decode_batch_frames=3)
    one, other = (workshop.run(CONDITIONED, PICTURES, placement=p)[-1] for p in (small, Placement()))
    torch.testing.assert_close(one.z_BCTHW, other.z_BCTHW, rtol=1e-4, atol=1e-4)


def test_a_model_in_bf16_starts_from_noise_in_bf16_and_goes_on_in_fp32(workshop: Workshop) -> None:
    generator = workshop.build(PLAIN, dtype=torch.bfloat16)
    start = generator.start()
    assert torch.equal(start.z_BCTHW, start.z_BCTHW.bfloat16().float())
    after = next(generator.states(start))
    assert not torch.equal(after.z_BCTHW, after.z_BCTHW.bfloat16().float())


def test_loops_without_a_text_of_their_own_are_refused(denoiser: STDiT3, vae: VideoAutoencoder) -> None:
    with pytest.raises(ValueError, match="2 loops need as many text embeddings, not 1"):
        ClipGenerator(denoiser, vae, CONDITIONED, [torch.zeros(3, 6)], SeededDraws(5))


@pytest.mark.parametrize("base_size", [16, 512])
def test_timesteps_are_scaled_by_the_base_size_of_the_model(base_size: int) -> None:
    denoiser = build_denoiser()
    denoiser.config = replace(denoiser.config, input_sq_size=base_size)
    torch.nn.init.zeros_(denoiser.final_layer.linear.weight)
    torch.nn.init.ones_(denoiser.final_layer.linear.bias)
    workshop = Workshop(denoiser, build_vae())
    info = workshop.build(PLAIN).info
    before, after = workshop.run(PLAIN)[:2]
    first, second = timesteps(PLAIN.num_steps, info, base_size=base_size)[:2, 0].tolist()
    # The velocity is 1 everywhere.
    moved = after.z_BCTHW - before.z_BCTHW
    assert torch.allclose(moved, torch.full_like(moved, (first - second) / 1000), atol=1e-5)
