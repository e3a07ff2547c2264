"""Conditioning a clip on references: which latent frames are given, how freely they may change, and how pixels of a
reference become what the VAE encodes. Pure tensors and images; media.py reads the files.

A mask strategy (videogen_api/prompts.py) copies latent frames of a reference into the start noise of one loop. Its edit
ratio is the mask of those frames: 0 keeps them as they are, 1 is free, between them a frame joins the denoising late.

Shape suffixes: C channels, T frames or latent frames, H and W pixels or latent pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own texts use
from PIL import Image
from torch import Tensor

from videogen_api.errors import InvalidInput
from videogen_api.prompts import MaskStrategy


def align_start(start: int, step: int, num_frames: int) -> int:
    """The multiple of `step` nearest to `start`, halves down; never up to the end of `num_frames` frames."""
    multiple, rest = divmod(start, step)
    if rest > step / 2 and multiple < num_frames // step - 1:
        multiple += 1
    return multiple * step


def apply_mask_strategy(
    z_CTHW: Tensor,
    references_CTHW: Sequence[Tensor],
    strategies: Sequence[MaskStrategy],
    loop: int,
    align: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Start noise with this loop's references (latents) written in, and the mask_T (fp32) that the sampler takes.

    Strategies apply in their order, later ones overwrite. With `align`, both starts snap to multiples of it. What
    reaches past either end is cut off.

    Raises InvalidInput for a strategy that names no reference, or starts before the first frame.
    """
    z_CTHW = z_CTHW.clone()
    mask_T = torch.ones(z_CTHW.shape[1], dtype=torch.float32, device=z_CTHW.device)
    for strategy in strategies:
        if strategy.loop != loop:
            continue
        reference_CTHW = _reference(references_CTHW, strategy.reference)
        available, frames = reference_CTHW.shape[1], z_CTHW.shape[1]
        source = _start(strategy.reference_start, available, align, "reference start")
        target = _start(strategy.target_start, frames, align, "target start")
        length = max(0, min(strategy.length, frames - target, available - source))
        z_CTHW[:, target : target + length] = reference_CTHW[:, source : source + length]
        mask_T[target : target + length] = strategy.edit_ratio
    return z_CTHW, mask_T


def _reference(references: Sequence[Tensor], index: int) -> Tensor:
    if not -len(references) <= index < len(references):
        raise InvalidInput(f"a mask strategy names reference {index} of {len(references)}; they count from 0")
    return references[index]


def _start(start: int, num_frames: int, align: int | None, name: str) -> int:
    absolute = start + num_frames if start < 0 else start
    if absolute < 0:
        raise InvalidInput(f"{name} {start} of a mask strategy lies before the first of {num_frames} latent frames")
    return absolute if align is None else align_start(absolute, align, num_frames)


def continuation(loop: int, num_references: int, length: int, edit_ratio: float) -> MaskStrategy:
    """How `loop` goes on from the clip before it, whose latents are the last of `num_references`.

    The last `length` latent frames of that clip are the first of the new one.
    """
    return MaskStrategy(loop, num_references - 1, -length, 0, length, edit_ratio)


def image_to_tensor(image: Image.Image, height: int, width: int) -> Tensor:
    """An RGB image -> x_CHW in [-1, 1]: PIL's bicubic to cover height x width, then the centre, offsets rounded."""
    cover_height, cover_width = _cover(image.height, image.width, height, width)
    resized = image.resize((cover_width, cover_height), Image.Resampling.BICUBIC)
    top, left = round((cover_height - height) / 2), round((cover_width - width) / 2)
    x_HWC = np.array(resized.crop((left, top, left + width, top + height)))
    return _to_signed(torch.from_numpy(x_HWC).permute(2, 0, 1).float().div(255))


def video_to_tensor(frames_TCHW: Tensor, height: int, width: int) -> Tensor:
    """Frames, uint8 RGB -> x_TCHW in [-1, 1]: bilinear without antialias to cover, then the centre, offsets down."""
    _, _, frame_height, frame_width = frames_TCHW.shape
    cover_height, cover_width = _cover(frame_height, frame_width, height, width)
    x_TCHW = F.interpolate(
        frames_TCHW.float().div(255), size=(cover_height, cover_width), mode="bilinear", align_corners=False
    )
    top, left = (cover_height - height) // 2, (cover_width - width) // 2
    return _to_signed(x_TCHW[:, :, top : top + height, left : left + width])


def _cover(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int]:
    """The size, in the same proportions, that just covers the target."""
    ratio_height, ratio_width = target_height / height, target_width / width
    if ratio_height > ratio_width:
        return target_height, round(width * ratio_height)
    return round(height * ratio_width), target_width


def _to_signed(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return x.sub(0.5).div(0.5)
