"""Trains the autoencoder of `shapes`: `python -m training.vae --out DIR`.

For the first part of a new run each half learns alone, the 2D one on frames, the 3D one on the 2D one's latents; then
both learn from the frames that come out of the whole. Chunks of 17 frames know nothing of each other, so a clip of 34
or 51 frames is two or three of them, with slower motions.

The loss: absolute differences of pixels, of neighbours' differences (edges), of frames' differences (flicker), a
little of squares, which PSNR counts, and the divergence of both posteriors from the normal distribution, so small that
it only keeps latents bounded and smooth. Latents get a mean of 0 and a variance of 1 by the `shift` and `scale`
that every checkpoint measures.

Shape suffixes: as in the runner's vae.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from training.checkpoints import load_weights, save_weights
from training.examples import Makers
from training.rendering import Drawing, draw, render
from training.runs import CHECKPOINT_SECONDS, Clock, Curve, learning_rate, parser
from training.scenes import held_out_scene
from videogen_api.architecture import ARCHITECTURES
from videogen_runner.models.opensora.vae import SPATIAL_LATENT_FACTOR, VaeConfig, VideoAutoencoder

ALONE_PART = 0.3
"""Of a new run's time: how long both halves learn alone."""

EDGE_WEIGHT, FLICKER_WEIGHT, SQUARE_WEIGHT, DIVERGENCE_WEIGHT = 0.5, 0.25, 0.5, 1e-4

_LOG_VARIANCE = (-30.0, 20.0)  # bounds, the runner's


@dataclass(frozen=True)
class ClipForm:
    num_frames: int
    height: int
    width: int
    weight: float

    @property
    def pixels(self) -> int:
        return self.num_frames * self.height * self.width


FORMS = (
    ClipForm(17, 64, 64, 0.4),
    ClipForm(1, 64, 64, 0.05),
    ClipForm(34, 64, 64, 0.1),
    ClipForm(51, 64, 64, 0.1),
    ClipForm(17, 96, 96, 0.1),
    ClipForm(51, 96, 160, 0.1),
    ClipForm(1, 144, 256, 0.05),
    ClipForm(17, 144, 256, 0.1),
)


def forms_within(max_pixels: int) -> list[ClipForm]:
    """The forms of which a clip has at most so many pixels. Raises ValueError where there is none."""
    fitting = [form for form in FORMS if form.pixels <= max_pixels]
    if not fitting:
        raise ValueError(f"no clip has as few as {max_pixels} pixels; give more with --pixels")
    return fitting


class TrainedVae(VideoAutoencoder):
    """With latents as they come, neither shifted nor scaled, and gradients."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.use_latents_as_they_come()

    def use_latents_as_they_come(self) -> None:
        self.scale.fill_(1.0)
        self.shift.fill_(0.0)

    def code_frames(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels -> 2D latents, drawn from their posterior, and its divergence."""
        moments_NMHW = self.spatial_vae.module.encode(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        z_NCHW, divergence = draw_posterior(moments_NMHW)
        return rearrange(z_NCHW, "(b t) c h w -> b c t h w", b=len(x_BCTHW)) * SPATIAL_LATENT_FACTOR, divergence

    def code_time(self, y_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """2D latents -> latents, drawn from their posterior, and its divergence."""
        return draw_posterior(self.encode_time_moments(y_BCTHW))

    def draw_frames(self, y_BCTHW: Tensor) -> Tensor:
        """2D latents -> pixels."""
        y_NCHW = rearrange(y_BCTHW, "b c t h w -> (b t) c h w") / SPATIAL_LATENT_FACTOR
        return rearrange(self.spatial_vae.module.decode(y_NCHW), "(b t) c h w -> b c t h w", b=len(y_BCTHW))

    @torch.no_grad()
    def means(self, x_BCTHW: Tensor) -> Tensor:
        """Pixels -> the latents that are most likely."""
        moments_NMHW = self.spatial_vae.module.encode(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        y_NCHW = moments_NMHW.chunk(2, dim=1)[0] * SPATIAL_LATENT_FACTOR
        y_BCTHW = rearrange(y_NCHW, "(b t) c h w -> b c t h w", b=len(x_BCTHW))
        return self.encode_time_moments(y_BCTHW).chunk(2, dim=1)[0].float()


def draw_posterior(moments_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Latents, and the mean divergence of one latent's distribution from the normal one."""
    mean_BC, log_variance_BC = moments_BM.float().chunk(2, dim=1)
    log_variance_BC = log_variance_BC.clamp(*_LOG_VARIANCE)
    z_BC = mean_BC + torch.exp(0.5 * log_variance_BC) * torch.randn_like(mean_BC)
    return z_BC, 0.5 * (mean_BC.square() + log_variance_BC.exp() - 1 - log_variance_BC).mean()


def difference(x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    """How far two videos are apart."""
    error_BCTHW = y_BCTHW.float() - x_BCTHW
    down, across = error_BCTHW.diff(dim=3).abs().mean(), error_BCTHW.diff(dim=4).abs().mean()
    loss = error_BCTHW.abs().mean() + EDGE_WEIGHT * (down + across) + SQUARE_WEIGHT * error_BCTHW.square().mean()
    if x_BCTHW.shape[2] > 1:
        loss = loss + FLICKER_WEIGHT * error_BCTHW.diff(dim=2).abs().mean()
    return loss


def loss_alone(vae: TrainedVae, x_BCTHW: Tensor) -> Tensor:
    """Both halves, neither knowing of the other."""
    y_BCTHW, divergence = vae.code_frames(x_BCTHW)
    frames = difference(x_BCTHW, vae.draw_frames(y_BCTHW))
    given_BCTHW = y_BCTHW.detach()
    z_BCTHW, time_divergence = vae.code_time(given_BCTHW)
    time = (vae.decode_time(z_BCTHW, x_BCTHW.shape[2]).float() - given_BCTHW).abs().mean() / given_BCTHW.std()
    return frames + time + DIVERGENCE_WEIGHT * (divergence + time_divergence)


def loss_together(vae: TrainedVae, x_BCTHW: Tensor) -> Tensor:
    y_BCTHW, divergence = vae.code_frames(x_BCTHW)
    z_BCTHW, time_divergence = vae.code_time(y_BCTHW)
    decoded_BCTHW = vae.draw_frames(vae.decode_time(z_BCTHW, x_BCTHW.shape[2]))
    return difference(x_BCTHW, decoded_BCTHW) + DIVERGENCE_WEIGHT * (divergence + time_divergence)


@torch.no_grad()
def psnr(vae: TrainedVae, x_BCTHW: Tensor, z_BCTHW: Tensor) -> float:
    """Of what comes out of these latents against what went in, in decibels, for colours in [-1, 1]."""
    y_BCTHW = vae.draw_frames(vae.decode_time(z_BCTHW, x_BCTHW.shape[2])).clamp(-1, 1)
    return float(10 * torch.log10(4 / (y_BCTHW.float() - x_BCTHW).square().mean()))


def measured_weights(vae: TrainedVae, z_BCTHW: Tensor) -> dict[str, Tensor]:
    """The checkpoint's tensors, with the shift and scale that these latents ask for."""
    shift_C, scale_C = z_BCTHW.mean(dim=(0, 2, 3, 4)), z_BCTHW.std(dim=(0, 2, 3, 4))
    return {**vae.state_dict(), "shift": shift_C.view(1, -1, 1, 1, 1), "scale": scale_C.view(1, -1, 1, 1, 1)}


def load_trained(folder: Path) -> TrainedVae:
    """The autoencoder of a run, with its own shift and scale. Raises ValueError where there is none."""
    vae = TrainedVae(VaeConfig.from_shape(ARCHITECTURES["shapes"].vae))
    vae.load_state_dict(load_weights(folder, "vae"))
    return vae


def _batches(
    makers: Makers, seed: int, max_pixels: int, device: torch.device, forms: list[ClipForm]
) -> Iterator[Tensor]:
    streams: list[Iterator[Drawing]] = [
        makers.drawings((seed * 64 + index) * 10**7, max(1, max_pixels // form.pixels), form.num_frames)
        for index, form in enumerate(forms)
    ]
    weights = torch.tensor([form.weight for form in forms])
    order = torch.Generator().manual_seed(seed)
    while True:
        index = int(torch.multinomial(weights, 1, generator=order))
        yield draw(next(streams[index]), forms[index].height, forms[index].width, device=device)


def main() -> None:
    arguments = parser("vae", "Trains the autoencoder.")
    arguments.add_argument("--pixels", type=int, default=2**20, help="of one step's clips together")
    options = arguments.parse_args()
    clock = Clock(options.minutes)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    vae = TrainedVae(VaeConfig.from_shape(ARCHITECTURES["shapes"].vae))
    if options.start:
        vae.load_state_dict(load_weights(options.start, "vae"))
        vae.use_latents_as_they_come()
    vae.to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=device.type == "cuda")
    num_measured = max(2, min(64, options.pixels // 2**14))
    held_out_BCTHW = render([held_out_scene(seed) for seed in range(num_measured)], 17, 64, 64, device=device)
    curve = Curve(options.out, "vae", ("loss", "psnr"))
    forms = forms_within(options.pixels)
    step, saved, losses = 0, 0.0, torch.zeros(2, device=device)
    alone_until = 0.0 if options.start else ALONE_PART

    def checkpoint() -> None:
        z_BCTHW = vae.means(held_out_BCTHW)
        save_weights(options.out, "vae", measured_weights(vae, z_BCTHW), step)
        curve.add(clock.seconds, step, float(losses[0] / losses[1]), psnr(vae, held_out_BCTHW, z_BCTHW))
        curve.write()
        losses.zero_()

    with Makers(options.workers) as makers:
        for x_BCTHW in _batches(makers, options.seed, options.pixels, device, forms):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, clock.part, options.rate)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = (loss_alone if clock.part < alone_until else loss_together)(vae, x_BCTHW)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses += torch.stack([loss.detach(), torch.ones_like(loss.detach())])
            step += 1
            is_over = clock.part == 1
            if is_over or clock.seconds > saved + CHECKPOINT_SECONDS:
                checkpoint()
                saved = clock.seconds
            if is_over:
                return


if __name__ == "__main__":
    main()
