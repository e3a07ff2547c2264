"""The engine against the model: in fp32 nothing but the order of sums differs.

Triton's kernels run in its interpreter where there is no card, and on the card where there is one:
python -m pytest tests/runner/test_engine.py
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from videogen_runner.engine.denoising import FusedDenoiser
from videogen_runner.engine.kernels import Kernels, PlainKernels
from videogen_runner.engine.step import step_function
from videogen_runner.engine.triton_kernels import TritonKernels
from videogen_runner.models.opensora.stdit3 import Conditioning, SelfAttention, STDiT3, STDiT3Config

# The interpreter multiplies matrices of bf16 as if they were whole numbers.
HALF = torch.bfloat16 if torch.cuda.is_available() else torch.float16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# 12 channels a head: no power of two, as the 72 of the released model.
CONFIG = STDiT3Config(
    hidden_size=24, depth=2, num_heads=2, caption_channels=10, model_max_length=8, mlp_ratio=2.0, input_sq_size=64
)
IMAGE_SIZE, LATENT_SIZE = (32, 24), (5, 4, 3)
SAMPLES, FRAMES, TOKENS, WIDTH = 2, 5, 3, CONFIG.hidden_size


@pytest.fixture(params=["plain", "triton"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return PlainKernels() if request.param == "plain" else TritonKernels()


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def build_attention() -> SelfAttention:
    torch.manual_seed(3)
    attention = SelfAttention(CONFIG)
    for weight in attention.parameters():
        nn.init.normal_(weight, std=0.5)
    return attention.to(DEVICE)


def build_model(config: STDiT3Config = CONFIG) -> STDiT3:
    torch.manual_seed(0)
    model = STDiT3(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.to(DEVICE)


def prepare(model: STDiT3, lengths: tuple[int, ...] = (4, 4)) -> Conditioning:
    tokens_LX = [random(length, CONFIG.caption_channels, seed=row) for row, length in enumerate(lengths)]
    return model.prepare(tokens_LX, torch.full((SAMPLES,), 24.0), IMAGE_SIZE, LATENT_SIZE)


def check_equal(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    """Within this part of the largest value."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert (ours.float() - theirs.float()).abs().max().item() <= tolerance * theirs.float().abs().max().item()


@pytest.mark.parametrize("modulated_frames", [1, FRAMES])
def test_sum_norm_and_modulation_are_those_of_plain_operations(kernels: Kernels, modulated_frames: int) -> None:
    x_BTSD, y_BTSD = (random(SAMPLES, FRAMES, TOKENS, WIDTH, seed=seed) for seed in (1, 2))
    shift_BTD, scale_BTD, gate_BTD, *_ = random(SAMPLES, modulated_frames, 6, WIDTH, seed=4).unbind(2)
    plain = PlainKernels()
    check_equal(kernels.norm_modulate(x_BTSD, shift_BTD, scale_BTD), plain.norm_modulate(x_BTSD, shift_BTD, scale_BTD))
    check_equal(kernels.gated_add(x_BTSD, y_BTSD, gate_BTD), plain.gated_add(x_BTSD, y_BTSD, gate_BTD))
    for gate in (gate_BTD, None):
        ours = kernels.add_norm_modulate(x_BTSD, y_BTSD, gate, shift_BTD, scale_BTD)
        for our, their in zip(ours, plain.add_norm_modulate(x_BTSD, y_BTSD, gate, shift_BTD, scale_BTD), strict=True):
            check_equal(our, their)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_attention_over_space_and_over_time_is_that_of_the_model(kernels: Kernels, frames: int) -> None:
    attention = build_attention()
    x_BTSD = random(SAMPLES, frames, TOKENS, WIDTH)
    rope = tuple(part_T1E.to(DEVICE) for part_T1E in build_model().rope(frames))
    with torch.no_grad():
        over_space = attention.proj(kernels.spatial_attention(attention.qkv(x_BTSD), attention))
        over_time = attention.proj(kernels.temporal_attention(attention.qkv(x_BTSD), attention, (rope[0], rope[1])))
        frames_MSD = x_BTSD.flatten(0, 1)
        tokens_MTD = x_BTSD.transpose(1, 2).flatten(0, 1)
        check_equal(over_space, attention(frames_MSD, None).view(x_BTSD.shape))
        theirs_BSTD = attention(tokens_MTD, (rope[0], rope[1])).view(SAMPLES, TOKENS, frames, WIDTH)
        check_equal(over_time, theirs_BSTD.transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("given", [False, True], ids=["all frames free", "a frame given"])
@pytest.mark.parametrize("lengths", [(4, 4), (4, 7)], ids=["equal captions", "padded captions"])
def test_a_step_is_that_of_the_model(kernels: Kernels, lengths: tuple[int, int], given: bool) -> None:
    model = build_model()
    z_BCTHW = random(SAMPLES, CONFIG.in_channels, *LATENT_SIZE, seed=5)
    t_B = torch.tensor([950.0, 400.0], device=DEVICE)
    conditioning = prepare(model, lengths)
    x_mask_BT = torch.tensor([[False, True, True, True, True], [True] * 5], device=DEVICE) if given else None
    ours = FusedDenoiser(model, kernels)(z_BCTHW, t_B, conditioning, x_mask_BT)
    check_equal(ours, model(z_BCTHW, t_B, conditioning, x_mask_BT), tolerance=1e-4)


@torch.no_grad()
def test_in_half_precision_a_step_is_as_near_to_fp32_as_the_models_own(kernels: Kernels) -> None:
    model = build_model()
    for parameter in model.parameters():
        parameter.mul_(0.5)  # so that errors stay small, and their size is no chance
    inputs = random(SAMPLES, CONFIG.in_channels, *LATENT_SIZE, seed=5), torch.tensor([950.0, 400.0], device=DEVICE)
    exact = model(*inputs, prepare(model))
    model.to(HALF)
    theirs = model(*inputs, prepare(model))
    ours = FusedDenoiser(model, kernels)(*inputs, prepare(model))
    assert (ours - exact).norm().item() <= 1.25 * (theirs - exact).norm().item()


def test_more_frames_than_a_program_holds_take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videogen_runner.engine.triton_kernels.MAX_FRAMES", 4)
    attention = build_attention()
    cos_T1E, sin_T1E = build_model().rope(5)
    x_BTSD = random(1, 5, TOKENS, WIDTH)
    with torch.no_grad():
        ours, theirs = (
            kernels.temporal_attention(attention.qkv(x_BTSD), attention, (cos_T1E, sin_T1E))
            for kernels in (TritonKernels(), PlainKernels())
        )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kernels", ["triton"], indirect=True)
def test_what_the_fused_kernels_cannot_take_is_refused(kernels: Kernels) -> None:
    no_norms = SelfAttention(replace(CONFIG, qk_norm=False)).to(DEVICE)
    with pytest.raises(ValueError, match="use PlainKernels"):
        kernels.spatial_attention(random(1, 1, 3, 3 * WIDTH), no_norms)
    shift_BTD, scale_BTD, *_ = random(1, 1, 6, WIDTH).unbind(2)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.norm_modulate(random(1, 2, WIDTH, 3).transpose(2, 3), shift_BTD, scale_BTD)
    with pytest.raises(ValueError, match="slices of one table"):
        kernels.norm_modulate(random(1, 2, 3, WIDTH), shift_BTD, random(1, 2, WIDTH))
    with pytest.raises(ValueError, match="slices of one table"):
        kernels.norm_modulate(random(1, 2, 3, WIDTH), *[random(WIDTH, 2, 1).permute(2, 1, 0)] * 2)


def test_on_a_cpu_a_step_is_the_models_own() -> None:
    model = build_model().cpu()
    conditioning = prepare(model)
    z_BCTHW, t_B = random(SAMPLES, 4, *LATENT_SIZE).cpu(), torch.tensor([950.0, 400.0])
    with torch.no_grad():
        assert torch.equal(
            step_function(model, conditioning)(z_BCTHW, t_B, None), model(z_BCTHW, t_B, conditioning, None)
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
class TestOnACard:
    @torch.no_grad()
    def test_captured_steps_are_those_that_are_not_captured(self) -> None:
        model = build_model()
        conditioning = prepare(model)
        captured = step_function(model, conditioning)
        plain = FusedDenoiser(model, TritonKernels())
        mask_BT = torch.tensor([[False, True, True, True, True]] * SAMPLES, device=DEVICE)
        for seed in range(6):
            z_BCTHW = random(SAMPLES, 4, *LATENT_SIZE, seed=seed)
            t_B = torch.tensor([950.0 - 100 * seed, 400.0], device=DEVICE)
            for x_mask_BT in (None, mask_BT):
                ours = captured(z_BCTHW, t_B, x_mask_BT).clone()
                assert torch.equal(ours, plain(z_BCTHW, t_B, conditioning, x_mask_BT))

    @torch.no_grad()
    def test_no_step_waits_for_the_device(self) -> None:
        model = build_model()
        step = step_function(model, prepare(model))
        z_BCTHW, t_B = random(SAMPLES, 4, *LATENT_SIZE), torch.tensor([950.0, 400.0], device=DEVICE)
        for _ in range(3):
            step(z_BCTHW, t_B, None)
        both = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=both) as profile:
            for _ in range(3):
                step(z_BCTHW, t_B, None)
        # The profiler itself waits for the whole device when it ends.
        calls = {event.key: event.count for event in profile.key_averages()}
        assert calls["cudaGraphLaunch"] == 3
        assert {key for key in calls if key in ("cudaStreamSynchronize", "cudaEventSynchronize")} == set()
