import pytest
import torch
from torch import Tensor

from videogen_runner.models.opensora.sampler import ClipInfo, denoise, guide, plan_steps, timesteps
from videogen_runner.models.opensora.stdit3 import Conditioning, STDiT3, STDiT3Config

TINY = STDiT3Config(
    hidden_size=48, depth=2, num_heads=4, caption_channels=10, model_max_length=8, mlp_ratio=2.0, input_sq_size=64
)
IMAGE_SIZE = (48, 40)
LATENT_SIZE = (5, 6, 5)


def build_model() -> STDiT3:
    torch.manual_seed(0)
    model = STDiT3(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def build_latents(batch: int) -> Tensor:
    return torch.randn(batch, 4, *LATENT_SIZE, generator=torch.Generator().manual_seed(1))


def prepare(model: STDiT3, tokens_LX: list[Tensor]) -> Conditioning:
    return model.prepare(tokens_LX, torch.full((len(tokens_LX),), 24.0), IMAGE_SIZE, LATENT_SIZE)


@torch.no_grad()
def predict(
    model: STDiT3, z_BCTHW: Tensor, tokens_LX: list[Tensor], times: list[float], x_mask_BT: Tensor | None = None
) -> Tensor:
    pred: Tensor = model(z_BCTHW, torch.tensor(times), prepare(model, tokens_LX), x_mask_BT)
    return pred


def test_the_xl_model_has_the_tensors_and_values_of_the_public_checkpoint() -> None:
    with torch.device("meta"):
        state = STDiT3(STDiT3Config()).state_dict()
    assert len(state) == 973
    assert sum(value.numel() for value in state.values()) / 1e9 == pytest.approx(1.21, abs=0.005)


def test_a_config_keeps_the_keys_of_the_network_and_ignores_those_of_training() -> None:
    config = STDiT3Config.from_mapping(
        {
            "hidden_size": 48,
            "num_heads": 4,
            "patch_size": [1, 2, 2],
            "class_dropout_prob": 0.1,
            "enable_flash_attn": True,
            "freeze_y_embedder": True,
            "model_type": "STDiT3",
        }
    )
    assert config == STDiT3Config(hidden_size=48, num_heads=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": (2, 2, 2)}, "a patch spans one latent frame"),
        ({"hidden_size": 50, "num_heads": 4}, "hidden_size 50 must be"),
        ({"hidden_size": 20, "num_heads": 4}, "heads of an even size"),
    ],
)
def test_sizes_that_no_such_network_has_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STDiT3Config.from_mapping(change)


def test_a_mask_of_ones_is_no_mask() -> None:
    model, z_BCTHW, tokens = build_model(), build_latents(1), [torch.randn(3, 10)]
    free = torch.ones(1, LATENT_SIZE[0], dtype=torch.bool)
    assert torch.equal(predict(model, z_BCTHW, tokens, [700], free), predict(model, z_BCTHW, tokens, [700]))


def test_a_frozen_frame_is_told_that_its_time_is_zero() -> None:
    model, z_BCTHW, tokens = build_model(), build_latents(1), [torch.randn(3, 10)]
    frozen = torch.zeros(1, LATENT_SIZE[0], dtype=torch.bool)
    # All but the final layer then sees t = 0 alone, whatever t is; the final layer is modulated by t first.
    model.final_layer.scale_shift_table.data.zero_()
    early, late = (predict(model, z_BCTHW, tokens, [t], frozen) for t in (900.0, 0.0))
    assert not torch.equal(early, late)
    model.final_layer.linear.weight.data.zero_()
    early, late = (predict(model, z_BCTHW, tokens, [t], frozen) for t in (900.0, 0.0))
    assert torch.equal(early, late)


def test_samples_of_a_batch_do_not_see_each_other_or_each_others_text() -> None:
    model, z_BCTHW = build_model(), build_latents(3)
    tokens = [torch.randn(length, 10) for length in (2, 7, 4)]
    x_mask_BT = torch.tensor([[True] * 5, [False, True, True, True, False], [True] * 5])
    together = predict(model, z_BCTHW, tokens, [900, 500, 100], x_mask_BT)
    for i, t in enumerate([900, 500, 100]):
        alone = predict(model, z_BCTHW[i : i + 1], [tokens[i]], [t], x_mask_BT[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_text_fps_and_pixel_size_each_change_the_prediction() -> None:
    model, z_BCTHW, tokens = build_model(), build_latents(1), [torch.randn(3, 10)]
    t_B = torch.tensor([500.0])

    def predict_with(tokens_LX: list[Tensor], fps: float, image_size: tuple[int, int]) -> Tensor:
        with torch.no_grad():
            pred: Tensor = model(z_BCTHW, t_B, model.prepare(tokens_LX, torch.tensor([fps]), image_size, LATENT_SIZE))
        return pred

    predictions = [
        predict_with(tokens, 24, IMAGE_SIZE),
        predict_with([tokens[0] + 1], 24, IMAGE_SIZE),
        predict_with(tokens, 30, IMAGE_SIZE),
        predict_with(tokens, 24, (96, 80)),
    ]
    assert len({prediction.numpy().tobytes() for prediction in predictions}) == 4


def test_odd_latent_sizes_come_back_as_they_were() -> None:
    pred = predict(build_model(), build_latents(1), [torch.randn(3, 10)], [10])
    assert pred.shape == (1, 8, *LATENT_SIZE)
    assert pred.dtype == torch.float32


def test_a_prompt_without_text_keeps_the_token_count_of_the_prompt() -> None:
    model = build_model()
    assert torch.equal(model.null_tokens(3), model.y_embedder.y_embedding[:3])


def test_no_step_reads_a_value_back_from_the_device() -> None:
    """Tensors of the meta device have no values: whatever needs one on the host raises."""
    with torch.device("meta"):
        model = STDiT3(TINY).eval()
    with torch.no_grad():
        conditioning = prepare(model, [torch.empty(3, 10), torch.empty(5, 10)])
        mask_BT = torch.tensor([[0.0, 0.3, 1.0, 1.0, 0.6]])
        steps = plan_steps(timesteps(4, ClipInfo.build(IMAGE_SIZE, 17, 24, torch.float32)), mask_BT)

        def denoiser(z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
            pred: Tensor = model(z_BCTHW, t_B, conditioning, x_mask_BT)
            return pred

        z_BCTHW = build_latents(1).to("meta")
        runs = list(denoise(z_BCTHW, steps, guide(denoiser, 7.0), lambda _: torch.empty(z_BCTHW.shape)))
    assert [z.device.type for _, z in runs] == ["meta"] * 4
