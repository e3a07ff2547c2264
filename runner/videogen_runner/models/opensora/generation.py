"""One clip, from text embeddings to decoded frames, in steps that can be stopped and continued.

No files, no clock: the caller brings the models, the embeddings, the pixels of references and the random draws, and
takes a `ClipState` after every denoising step. That state is exactly what a checkpoint stores: `states` continues from
it bit for bit, in another process as well.

A clip of several loops is one video made piece by piece: every loop after the first is given the end of the piece
before it, encoded again from its frames, and the overlap is cut off when the pieces are joined.

Shape suffixes: B = 1 sample, C latent channels, T latent frames, F frames, H W rows and columns, L text tokens,
X caption channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from videogen_api.prompts import MaskStrategy
from videogen_api.video import LATENT_ALIGNMENT, latent_size, overlap_frames
from videogen_runner.models.opensora.conditioning import apply_mask_strategy, continuation
from videogen_runner.models.opensora.draws import Draws
from videogen_runner.models.opensora.sampler import (
    ClipInfo,
    Denoiser,
    Velocity,
    denoise,
    guide,
    guide_in_two_passes,
    plan_steps,
    timesteps,
)
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.vae import VideoAutoencoder


@dataclass(frozen=True)
class ClipRequest:
    """What decides a clip besides text, references and seed."""

    image_size: tuple[int, int]  # height, width in pixels
    num_frames: int  # of one loop
    fps: float
    num_steps: int
    guidance: float
    num_loops: int = 1
    strategies: tuple[MaskStrategy, ...] = ()  # where the references go
    condition_latents: int = 5  # latent frames that a loop is given of the one before; a multiple of 5
    condition_edit: float = 0.0  # the frame mask value of those
    alignment: int | None = LATENT_ALIGNMENT  # references start at multiples of this many latent frames


@dataclass(frozen=True)
class Placement:
    """How a clip is computed; changes memory and speed, and results only within rounding."""

    guidance_batch: int = 2  # 2: with and without the prompt in one batch; 1: one after the other
    encode_batch_frames: int = 4
    decode_batch_frames: int = 4


@dataclass(frozen=True)
class ClipState:
    """A clip after `next_step` steps of loop `loop`: everything that the steps still to come depend on."""

    loop: int
    next_step: int
    z_BCTHW: Tensor  # fp32
    mask_BT: Tensor  # 1 where a frame is free, 0 where it is given, between them where it joins late; on the host
    references: tuple[Tensor, ...]  # encoded references, then encoded pieces, each [C, T, H, W]
    finished: tuple[Tensor, ...]  # latents of the loops before, each [C, T, H, W]
    is_adapted: bool = False  # whether any of it was computed in a smaller form than the plan's


class ClipGenerator:
    """Makes one clip: `start`, then `states` to its end, then `frames`."""

    def __init__(
        self,
        denoiser: STDiT3,
        vae: VideoAutoencoder,
        request: ClipRequest,
        tokens_LX: Sequence[Tensor],
        draws: Draws,
        placement: Placement = Placement(),
    ) -> None:
        """`tokens_LX` are the text tokens of each loop, padding left out."""
        if len(tokens_LX) != request.num_loops:
            raise ValueError(f"{request.num_loops} loops need as many text embeddings, not {len(tokens_LX)}")
        self.denoiser = denoiser
        self.vae = vae
        self.request = request
        self.tokens_LX = tokens_LX
        self.draws = draws
        self.placement = placement
        latent = latent_size(request.num_frames, *request.image_size, chunk_frames=vae.micro_frame_size)
        self.latent_size = (latent.frames, latent.height, latent.width)
        self.info = ClipInfo.build(request.image_size, request.num_frames, request.fps, denoiser.dtype)
        # Decoded pieces of loops that ended in this process; a resumed clip decodes the earlier ones again.
        self._pieces: dict[int, Tensor] = {}

    @torch.no_grad()
    def start(self, references_CFHW: Sequence[Tensor] = ()) -> ClipState:
        """The state before the first step. References are pixels in [-1, 1], of the clip's height and width."""
        encoded = tuple(self._encode(x_CFHW, 0, index) for index, x_CFHW in enumerate(references_CFHW))
        return self._begin_loop(0, encoded, self.request.strategies, ())

    @torch.no_grad()
    def states(self, state: ClipState) -> Iterator[ClipState]:
        """The state after each step from `state` on, and before the first step of each loop that begins on the way.

        The last one is of the last loop with all steps done.
        """
        current = state
        while True:
            for following in self._denoise(current):
                current = following
                yield current
            if current.loop + 1 == self.request.num_loops:
                return
            current = self._continue(current)
            yield current

    @torch.no_grad()
    def pieces(self, state: ClipState) -> list[Tensor]:
        """The decoded loops of a finished state, each x_CFHW about [-1, 1] in the VAE's dtype, on the host."""
        return [self._decode(loop, z_CTHW) for loop, z_CTHW in enumerate((*state.finished, state.z_BCTHW[0]))]

    def frames(self, state: ClipState) -> Tensor:
        """The pieces joined, overlaps cut off: the clip, x_CFHW."""
        first_CFHW, *later = self.pieces(state)
        overlap = overlap_frames(self.request.condition_latents)
        return torch.cat([first_CFHW, *(piece_CFHW[:, overlap:] for piece_CFHW in later)], dim=1)

    def _begin_loop(
        self,
        loop: int,
        references: tuple[Tensor, ...],
        strategies: tuple[MaskStrategy, ...],
        finished: tuple[Tensor, ...],
    ) -> ClipState:
        shape = (self.denoiser.config.in_channels, *self.latent_size)
        # Rounded to the model's dtype, in which the released sampler starts; everything after is fp32.
        z_CTHW = self.draws.start(loop, shape).to(self.denoiser.dtype)
        z_CTHW, mask_T = apply_mask_strategy(z_CTHW, references, strategies, loop, self.request.alignment)
        return ClipState(loop, 0, z_CTHW[None].float(), mask_T[None], references, finished)

    def _denoise(self, state: ClipState) -> Iterator[ClipState]:
        t_IB = timesteps(self.request.num_steps, self.info, base_size=self.denoiser.config.input_sq_size)
        steps = plan_steps(t_IB, state.mask_BT)
        shape = tuple(state.z_BCTHW.shape[1:])

        def noise(step: int) -> Tensor:
            return self.draws.step(state.loop, step, shape)[None]

        velocity = self._velocity(self.tokens_LX[state.loop])
        start_BCTHW = state.z_BCTHW.to(self.denoiser.device)
        for next_step, z_BCTHW in denoise(start_BCTHW, steps, velocity, noise, state.next_step):
            yield replace(state, next_step=next_step, z_BCTHW=z_BCTHW)

    def _velocity(self, tokens_LX: Tensor) -> Velocity:
        null_LX = self.denoiser.null_tokens(len(tokens_LX))
        if self.placement.guidance_batch == 2:
            return guide(self._denoiser_for([tokens_LX, null_LX]), self.request.guidance)
        return guide_in_two_passes(
            self._denoiser_for([tokens_LX]), self._denoiser_for([null_LX]), self.request.guidance
        )

    def _denoiser_for(self, tokens_LX: Sequence[Tensor]) -> Denoiser:
        conditioning = self.denoiser.prepare(
            tokens_LX, self.info.fps_B.expand(len(tokens_LX)), self.request.image_size, self.latent_size
        )

        def predict(z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
            pred_BKTHW: Tensor = self.denoiser(z_BCTHW, t_B, conditioning, x_mask_BT)
            return pred_BKTHW

        return predict

    def _continue(self, state: ClipState) -> ClipState:
        """The state before the first step of the next loop."""
        z_CTHW = state.z_BCTHW[0].cpu()
        loop = state.loop + 1
        piece_CFHW = self._pieces[state.loop] = self._decode(state.loop, z_CTHW)
        references = (*state.references, self._encode(piece_CFHW, loop, 0))
        end_of_piece = continuation(loop, len(references), self.request.condition_latents, self.request.condition_edit)
        strategies = (*self.request.strategies, end_of_piece)
        return self._begin_loop(loop, references, strategies, (*state.finished, z_CTHW))

    def _encode(self, x_CFHW: Tensor, loop: int, reference: int) -> Tensor:
        """Pixels -> z_CTHW in fp32 on the host."""
        z_BCTHW = self.vae.encode(
            x_CFHW[None].to(self.vae.scale),
            self.draws.posterior(loop, reference),
            batch_frames=self.placement.encode_batch_frames,
        )
        return z_BCTHW[0].float().cpu()

    def _decode(self, loop: int, z_CTHW: Tensor) -> Tensor:
        """The piece of one loop, on the host."""
        if loop in self._pieces:
            return self._pieces[loop]
        x_BCFHW = self.vae.decode(
            z_CTHW[None].to(self.vae.scale),
            self.request.num_frames,
            decode_batch_frames=self.placement.decode_batch_frames,
        )
        return x_BCFHW[0].cpu()
