from dataclasses import replace

import pytest
import torch
from torch import Tensor
from training.bank import Batch, Bucket
from training.examples import UNKNOWN_LABEL
from training.flow import CaptionReader, TrainedDenoiser, draw_times, flow_loss
from training.scenes import Colour

from videogen_runner.models.opensora.sampler import ClipInfo, denoise, plan_steps, timesteps
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config

CONFIG = STDiT3Config(hidden_size=32, depth=1, num_heads=2, caption_channels=6, model_max_length=12, input_sq_size=128)
CLIPS = Bucket(34, 48, 32, 1.0, 4)
LENGTHS = (3, 8, 5)


def build_batch(bucket: Bucket = CLIPS, num_latents: int = 10) -> Batch:
    generator = torch.Generator().manual_seed(3)
    z_BCTHW = torch.randn(3, 4, num_latents, 6, 4, generator=generator)
    still_BCHW = torch.randn(3, 4, 6, 4, generator=generator)
    return Batch(bucket, z_BCTHW, still_BCHW, torch.ones(3, 8).long(), torch.zeros(3, len(Colour), 2).long())


def build_denoiser(*, is_random: bool = True) -> TrainedDenoiser:
    torch.manual_seed(0)
    denoiser = TrainedDenoiser(CONFIG)
    if is_random:
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


def captions() -> tuple[Tensor, Tensor]:
    y_BLX = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(4))
    return y_BLX, torch.arange(8) < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize(("bucket", "num_latents"), [(CLIPS, 10), (Bucket(1, 48, 32, 1.0, 4), 1)])
def test_padded_captions_condition_as_the_runners_own_do(bucket: Bucket, num_latents: int) -> None:
    denoiser, batch = build_denoiser(), build_batch(bucket, num_latents)
    y_BLX, is_token_BL = captions()
    info = ClipInfo.build((48, 32), bucket.num_frames, 8, torch.float32, 3)
    theirs = denoiser.prepare(
        [y_LX[:length] for y_LX, length in zip(y_BLX, LENGTHS, strict=True)], info.fps_B, (48, 32), (num_latents, 6, 4)
    )
    ours = denoiser.condition(y_BLX, is_token_BL, (48, 32), batch.z_BCTHW)
    t_B = torch.tensor([100.0, 500.0, 900.0])
    with torch.no_grad():
        expected = denoiser(batch.z_BCTHW, t_B, theirs)
        assert torch.allclose(denoiser(batch.z_BCTHW, t_B, ours), expected, atol=1e-5)


def test_times_are_where_the_sampler_steps() -> None:
    batch = build_batch()
    info = ClipInfo.build((48, 32), 34, 8, torch.float32)
    rows = replace(batch, z_BCTHW=batch.z_BCTHW[:1].expand(1000, -1, -1, -1, -1))
    drawn_B = draw_times(rows, CONFIG.input_sq_size).sort(descending=True).values
    stepped_I = timesteps(1000, info, base_size=CONFIG.input_sq_size)[:, 0]
    # One of every thousandth of the way, before it is moved.
    assert ((drawn_B <= stepped_I + 1e-3) & (drawn_B >= torch.cat([stepped_I[1:], torch.zeros(1)]) - 1e-3)).all()


class Oracle(TrainedDenoiser):
    """Knows the clips, and so the velocity of every mixture."""

    z_BCTHW: Tensor

    def forward(self, z_BCTHW: Tensor, t_B: Tensor, *_: object) -> Tensor:
        v_BCTHW = (self.z_BCTHW - z_BCTHW) / (t_B[:, None, None, None, None] / 1000)
        return torch.cat([v_BCTHW, torch.zeros_like(v_BCTHW)], dim=1)


def test_the_velocity_of_training_takes_the_sampler_from_noise_to_the_clip() -> None:
    oracle, batch = Oracle(CONFIG), build_batch()
    oracle.z_BCTHW = batch.z_BCTHW
    torch.manual_seed(0)
    assert flow_loss(oracle, batch, *captions(), given=False).item() < 1e-6
    steps = plan_steps(timesteps(5, ClipInfo.build((48, 32), 34, 8, torch.float32, 3), base_size=128))

    def velocity(z_BCTHW: Tensor, t_B: Tensor, _: Tensor | None) -> Tensor:
        pred_BKTHW: Tensor = oracle(z_BCTHW, t_B)
        return pred_BKTHW[:, :4]

    *_, (_, last_BCTHW) = denoise(torch.randn_like(batch.z_BCTHW), steps, velocity, lambda _: batch.z_BCTHW)
    assert torch.allclose(last_BCTHW, batch.z_BCTHW, atol=1e-4)


def test_the_network_sees_given_frames_as_they_are_and_is_not_asked_for_them() -> None:
    class Witness(Oracle):
        def forward(self, z_BCTHW: Tensor, t_B: Tensor, *others: object) -> Tensor:
            _, x_mask_BT = others
            assert isinstance(x_mask_BT, Tensor)
            self.seen = z_BCTHW, x_mask_BT
            # Wrong where nobody may look.
            return super().forward(z_BCTHW, t_B).where(x_mask_BT[:, None, :, None, None], torch.tensor(1e6))

    witness, batch = Witness(CONFIG), build_batch()
    witness.z_BCTHW = batch.z_BCTHW
    torch.manual_seed(2)
    y_BLX, is_token_BL = captions()
    assert flow_loss(witness, batch, y_BLX, is_token_BL, given=True).item() < 1e-6
    seen_BCTHW, x_mask_BT = witness.seen
    for seen_CTHW, clip_CTHW, still_CHW, x_mask_T in zip(
        seen_BCTHW, batch.z_BCTHW, batch.still_BCHW, x_mask_BT, strict=True
    ):
        given = int((~x_mask_T).sum())
        assert x_mask_T.tolist() == [False] * given + [True] * (10 - given)
        assert given in (1, 5)
        expected = still_CHW[:, None] if given == 1 else clip_CTHW[:, :5]
        assert torch.equal(seen_CTHW[:, :given], expected)


def test_the_empty_prompt_is_one_token_at_every_place_and_comes_back_from_a_checkpoint() -> None:
    denoiser = build_denoiser()
    weights = denoiser.weights()
    runner = STDiT3(CONFIG)
    runner.load_state_dict(weights)
    assert torch.equal(runner.null_tokens(12), denoiser.null_1X.expand(12, -1))
    again = build_denoiser(is_random=False)
    again.load_weights(weights)
    assert {name for name, tensor in again.weights().items() if not torch.equal(tensor, weights[name])} == set()


def test_dropped_prompts_are_trained_as_the_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.flow.DROPPED_PROMPTS", 1.0)
    denoiser, batch = build_denoiser(), build_batch()
    y_BLX, is_token_BL = captions()
    y_BLX.requires_grad_()
    flow_loss(denoiser, batch, y_BLX, is_token_BL, given=False).backward()  # type: ignore[no-untyped-call]
    assert y_BLX.grad is not None
    assert denoiser.null_1X.grad is not None
    assert y_BLX.grad.abs().max() == 0
    assert denoiser.null_1X.grad.abs().max() > 0


def test_the_rotations_are_mathematics_and_stay() -> None:
    assert not build_denoiser(is_random=False).rope.freqs.requires_grad


def test_reading_counts_tokens_only_and_labels_that_are_known() -> None:
    torch.manual_seed(0)
    reader = CaptionReader(6)
    y_BLX, is_token_BL = captions()
    labels_BQ2 = torch.zeros(3, len(Colour), 2).long()
    labels_BQ2[0, 0] = torch.tensor([2, UNKNOWN_LABEL])
    loss = reader.loss(y_BLX, is_token_BL, labels_BQ2)
    scrambled_BLX = torch.where(is_token_BL[..., None], y_BLX, torch.full_like(y_BLX, 7.0))
    assert torch.equal(reader.loss(scrambled_BLX, is_token_BL, labels_BQ2), loss)
    with torch.no_grad():
        reader.linear.weight.zero_()
        reader.linear.bias.fill_(-100.0)
        bias_QS = reader.linear.bias.view(len(Colour), -1)
        bias_QS[:, 0] = bias_QS[:, 7] = 100.0
        bias_QS[0, 2] = 100.0
    # Only of the first colour there is doubt, between two shapes: one label in eight costs log 2.
    assert reader.loss(y_BLX, is_token_BL, labels_BQ2).item() == pytest.approx(0.6931 / 8, abs=1e-3)
