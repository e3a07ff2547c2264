"""Rectified flow for STDiT3 and its T5 encoder, as the runner samples it: times, noise, given frames, loss.

The sampler goes from noise at t = 1000 to a clip at t = 0 along v = clip - noise, on times that are moved towards noise
for large and long clips; so are the times of training. The empty prompt is one learned token, repeated, so that it
means the same at every length. The encoder also learns to say, at every token, what shape and motion each colour has:
so it reads captions within hundreds of steps, and the denoiser finds readable ones from then on.

Shape suffixes: B clips, C channels, T H W latent frames, rows, columns; L tokens, X caption channels, Q colours.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name every PyTorch text uses
from torch import Tensor, nn

from training.bank import Batch
from training.examples import NUM_MOTIONS, NUM_SHAPES, UNKNOWN_LABEL
from training.scenes import FRAMES_PER_SECOND, Colour
from videogen_api.video import CHUNK_LATENTS, IMAGE_FPS
from videogen_runner.models.opensora.sampler import NUM_TIMESTEPS, ClipInfo, mix_with_noise, transform_timesteps
from videogen_runner.models.opensora.stdit3 import Conditioning, STDiT3, STDiT3Config

DROPPED_PROMPTS = 0.12
GIVEN_FRAMES = 0.25
"""Of the batches: those in which clips have given frames."""

_WHOLE_CHUNK = 0.4  # of clips with given frames; the others have a still


class TrainedDenoiser(STDiT3):
    """STDiT3 with weights to begin from, and batches of padded captions."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__(config)
        self.null_1X = nn.Parameter(torch.randn(1, config.caption_channels) * config.caption_channels**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for part in (self.t_embedder.mlp, self.t_block):
            for name, weight in part.named_parameters():
                if name.endswith("weight"):
                    nn.init.normal_(weight, std=0.02)
        self._kept_tables: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        # No training changes them: what they hold is part of the mathematics.
        self.rope.freqs.requires_grad_(False)
        for block in self._blocks():
            nn.init.normal_(block.scale_shift_table, std=config.hidden_size**-0.5)
            nn.init.zeros_(block.cross_attn.proj.weight)
        nn.init.normal_(self.final_layer.scale_shift_table, std=config.hidden_size**-0.5)
        nn.init.zeros_(self.final_layer.linear.weight)

    def condition(
        self, y_BLX: Tensor, is_token_BL: Tensor, image_size: tuple[int, int], z_BCTHW: Tensor
    ) -> Conditioning:
        """As `prepare`, for captions that are padded already, and without waiting for the device."""
        count, _, frames, height, width = z_BCTHW.shape
        frequencies_A, position_SD = self._tables(image_size, (frames, height, width))
        fps_B = torch.full((count,), float(IMAGE_FPS if frames == 1 else FRAMES_PER_SECOND), device=z_BCTHW.device)
        fps_BD = self.fps_embedder(fps_B, frequencies_A)
        t0_BD = self.t_embedder(torch.zeros_like(fps_B), frequencies_A) + fps_BD
        y_BLD = self.y_embedder(y_BLX)
        return Conditioning(
            fps_BD=fps_BD,
            t0_BD=t0_BD,
            t0_modulation_BMD=self._modulation(t0_BD),
            frequencies_A=frequencies_A,
            position_SD=position_SD,
            rope=self.rope(frames),
            text=tuple(block.cross_attn.prepare(y_BLD) for block in self._blocks()),
            text_mask_B11L=is_token_BL[:, None, None],
        )

    @torch.no_grad()
    def _tables(self, image_size: tuple[int, int], latent_size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Frequencies and positions, kept: bringing them to the device at each step would wait for the step before."""
        place = (*image_size, *latent_size)
        if place not in self._kept_tables:
            prepared = self.prepare([self.null_1X], torch.zeros(1), image_size, latent_size)
            self._kept_tables[place] = prepared.frequencies_A, prepared.position_SD
        return self._kept_tables[place]

    def weights(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint: the empty prompt's token stands at every place."""
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name != "null_1X"}
        null_LX = self.null_1X.detach().expand(self.config.model_max_length, -1)
        return {**tensors, "y_embedder.y_embedding": null_LX}

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        self.load_state_dict({**tensors, "null_1X": tensors["y_embedder.y_embedding"][:1]})


class CaptionReader(nn.Module):
    """What a token knows of the scene: of each colour the shape and the motion. Only training has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, len(Colour) * (NUM_SHAPES + NUM_MOTIONS))

    def loss(self, y_BLX: Tensor, is_token_BL: Tensor, labels_BQ2: Tensor) -> Tensor:
        """Cross entropy, the mean of tokens and colours."""
        scores = self.linear(y_BLX).float().unflatten(-1, (len(Colour), NUM_SHAPES + NUM_MOTIONS))
        labels = torch.where(is_token_BL[..., None, None], labels_BQ2[:, None], UNKNOWN_LABEL)
        shape_scores, motion_scores = scores.flatten(0, 2).split((NUM_SHAPES, NUM_MOTIONS), dim=-1)
        shape_labels, motion_labels = labels.flatten(0, 2).unbind(-1)
        return F.cross_entropy(shape_scores, shape_labels) + F.cross_entropy(motion_scores, motion_labels)


def draw_times(batch: Batch, base_size: int) -> Tensor:
    """t_B, 0 to 1000: evenly spread over the batch, then moved as the sampler's are."""
    count, device = len(batch.z_BCTHW), batch.z_BCTHW.device
    even_B = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    bucket = batch.bucket
    info = ClipInfo.build((bucket.height, bucket.width), bucket.num_frames, FRAMES_PER_SECOND, torch.float32)
    # Single numbers of the host count on every device.
    numbers = ClipInfo(*(x_B[0] for x_B in (info.height_B, info.width_B, info.num_frames_B, info.fps_B)))
    return transform_timesteps(even_B * NUM_TIMESTEPS, numbers, base_size)


def give_frames(batch: Batch) -> tuple[Tensor, Tensor]:
    """Clips and x_mask_BT, with a still or a whole chunk at the beginning of each; False where frames are given."""
    z_BCTHW = batch.z_BCTHW.clone()
    count, _, frames, _, _ = z_BCTHW.shape
    is_chunk_B = torch.rand(count, device=z_BCTHW.device) < (_WHOLE_CHUNK if frames > CHUNK_LATENTS else 0.0)
    z_BCTHW[:, :, 0] = torch.where(is_chunk_B[:, None, None, None], z_BCTHW[:, :, 0], batch.still_BCHW)
    given_B1 = torch.where(is_chunk_B, CHUNK_LATENTS, 1)[:, None]
    return z_BCTHW, torch.arange(frames, device=z_BCTHW.device) >= given_B1


def flow_loss(denoiser: TrainedDenoiser, batch: Batch, y_BLX: Tensor, is_token_BL: Tensor, *, given: bool) -> Tensor:
    """The mean square of the velocity's error, of frames that are not given."""
    is_dropped_B11 = torch.rand(len(y_BLX), 1, 1, device=y_BLX.device) < DROPPED_PROMPTS
    y_BLX = torch.where(is_dropped_B11, denoiser.null_1X.to(y_BLX.dtype), y_BLX)
    z_BCTHW, x_mask_BT = give_frames(batch) if given else (batch.z_BCTHW, None)
    noise_BCTHW = torch.randn_like(z_BCTHW)
    t_B = draw_times(batch, denoiser.config.input_sq_size)
    mixed_BCTHW = mix_with_noise(z_BCTHW, noise_BCTHW, t_B)
    if x_mask_BT is not None:
        mixed_BCTHW = torch.where(x_mask_BT[:, None, :, None, None], mixed_BCTHW, z_BCTHW)
    image_size = batch.bucket.height, batch.bucket.width
    conditioning = denoiser.condition(y_BLX, is_token_BL, image_size, z_BCTHW)
    v_BCTHW = denoiser(mixed_BCTHW, t_B, conditioning, x_mask_BT)[:, : z_BCTHW.shape[1]]
    error_BT = (v_BCTHW - (z_BCTHW - noise_BCTHW)).square().mean(dim=(1, 3, 4))
    # No choosing by index: that would wait for the device.
    free_BT = torch.ones_like(error_BT) if x_mask_BT is None else x_mask_BT.to(error_BT.dtype)
    loss: Tensor = (error_BT * free_BT).sum() / free_BT.sum()
    return loss
