"""Sizes of a clip in pixels, frames and latents: pure numbers, shared by planner and runner.

The table of named sizes, the frame counts and the latent arithmetic are those of Open-Sora v1.2 (hpcaitech/Open-Sora,
branch opensora/v1.2). Heights come before widths everywhere in this module, as in tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from videogen_api.errors import InvalidInput

# The VAE's temporal part works on chunks of 17 frames, which become 5 latent frames.
CHUNK_FRAMES = 17
CHUNK_LATENTS = 5
SPATIAL_COMPRESSION = 8
TEMPORAL_COMPRESSION = 4

# References are placed at multiples of this many latent frames.
LATENT_ALIGNMENT = CHUNK_LATENTS

# A single frame is an image: the model was trained with this rate for images.
IMAGE_FPS = 120

# Height:width, in the order of the rows below.
_RATIOS_HW = (
    "3:8", "9:21", "12:25", "1:2", "9:17", "27:50", "9:16", "5:8", "2:3",
    "3:4", "1:1", "4:3", "3:2", "16:9", "17:9", "2:1", "50:27",
)  # fmt: skip

_NAMED_SIZES_HW: Mapping[str, tuple[tuple[int, int], ...]] = {
    "144p": (
        (117, 312), (125, 291), (133, 277), (135, 270), (139, 262), (141, 260), (144, 256), (151, 241), (156, 234),
        (166, 221), (192, 192), (221, 165), (235, 156), (256, 144), (263, 139), (271, 135), (277, 132),
    ),
    "240p": (
        (196, 522), (210, 490), (222, 462), (226, 452), (232, 438), (236, 436), (240, 426), (252, 404), (262, 393),
        (276, 368), (320, 320), (370, 278), (392, 262), (426, 240), (440, 232), (452, 226), (462, 222),
    ),
    "360p": (
        (294, 784), (314, 732), (332, 692), (340, 680), (350, 662), (352, 652), (360, 640), (380, 608), (392, 588),
        (416, 554), (480, 480), (554, 416), (588, 392), (640, 360), (660, 350), (678, 340), (692, 332),
    ),
    "480p": (
        (392, 1046), (420, 980), (444, 925), (452, 904), (466, 880), (470, 870), (480, 854), (506, 810), (522, 784),
        (554, 738), (640, 640), (740, 555), (784, 522), (854, 480), (880, 466), (906, 454), (924, 444),
    ),
    "720p": (
        (588, 1568), (628, 1466), (666, 1388), (678, 1356), (698, 1318), (706, 1306), (720, 1280), (758, 1212),
        (784, 1176), (832, 1110), (960, 960), (1108, 832), (1176, 784), (1280, 720), (1320, 698), (1358, 680),
        (1386, 666),
    ),
    "1080p": (
        (882, 2352), (942, 2198), (998, 2080), (1018, 2036), (1048, 1980), (1058, 1958), (1080, 1920), (1138, 1820),
        (1176, 1764), (1248, 1664), (1440, 1440), (1662, 1246), (1764, 1176), (1920, 1080), (1980, 1048),
        (2036, 1018), (2078, 998),
    ),
    "2k": (
        (1176, 3136), (1256, 2930), (1330, 2770), (1358, 2716), (1398, 2640), (1412, 2612), (1440, 2560),
        (1518, 2428), (1568, 2352), (1662, 2216), (1920, 1920), (2218, 1664), (2352, 1568), (2560, 1440),
        (2638, 1396), (2716, 1358), (2772, 1330),
    ),
    "4k": (
        (1764, 4704), (1886, 4400), (1996, 4158), (2036, 4072), (2096, 3960), (2118, 3918), (2160, 3840),
        (2276, 3642), (2352, 3528), (2494, 3326), (2880, 2880), (3326, 2494), (3528, 2352), (3840, 2160),
        (3958, 2096), (4072, 2036), (4156, 1994),
    ),
}  # fmt: skip

# Square-pixel budgets of the first Open-Sora releases: one aspect ratio each is reachable by name.
_BUDGET_SIZES_HW: Mapping[str, tuple[int, int]] = {
    "256": (176, 368),
    "512": (352, 736),
    "1024": (704, 1472),
    "2048": (1408, 2944),
}
_BUDGET_RATIO_HW = "12:25"

_NAMED_FRAMES: Mapping[str, int] = MappingProxyType(
    {
        **{f"{n}x": 51 * n for n in (1, 2, 4, 8, 16)},
        **{f"{2 * n}s": 51 * n for n in (1, 2, 4, 8, 16)},
    }
)

RESOLUTIONS: tuple[str, ...] = tuple(_NAMED_SIZES_HW)

# What a manifest may ask for, as people write it: width:height.
ASPECT_RATIOS: tuple[str, ...] = tuple(":".join(reversed(ratio.split(":"))) for ratio in _RATIOS_HW)


@dataclass(frozen=True)
class LatentSize:
    """Latent frames, height and width of one clip, before patches are cut."""

    frames: int
    height: int
    width: int


def image_size(resolution: str, aspect_ratio_hw: str) -> tuple[int, int]:
    """Height and width in pixels of a named resolution at a height:width ratio.

    Raises InvalidInput for a name or ratio that the model's table does not hold.
    """
    if resolution in _BUDGET_SIZES_HW and aspect_ratio_hw == _BUDGET_RATIO_HW:
        return _BUDGET_SIZES_HW[resolution]
    if resolution not in _NAMED_SIZES_HW:
        raise InvalidInput(f"resolution {resolution!r} is unknown; use one of {', '.join(RESOLUTIONS)}")
    if aspect_ratio_hw not in _RATIOS_HW:
        raise InvalidInput(f"height:width ratio {aspect_ratio_hw!r} is unknown; use one of {', '.join(_RATIOS_HW)}")
    return _NAMED_SIZES_HW[resolution][_RATIOS_HW.index(aspect_ratio_hw)]


def image_size_of_aspect(resolution: str, aspect_ratio_wh: str) -> tuple[int, int]:
    """Height and width in pixels of a named resolution at a ratio as people write it, width:height."""
    if aspect_ratio_wh not in ASPECT_RATIOS:
        raise InvalidInput(f"aspect ratio {aspect_ratio_wh!r} is unknown; use one of {', '.join(ASPECT_RATIOS)}")
    return image_size(resolution, _RATIOS_HW[ASPECT_RATIOS.index(aspect_ratio_wh)])


def num_frames(frames: int | str) -> int:
    """A number of frames, or one of the reference's spellings for it ("2s" is 51 frames, "4x" is 204).

    Raises ValueError for anything that is neither.
    """
    if isinstance(frames, int):
        return frames
    return _NAMED_FRAMES[frames] if frames in _NAMED_FRAMES else int(frames)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def latent_size(frames: int, height: int, width: int, chunk_frames: int | None = CHUNK_FRAMES) -> LatentSize:
    """Size of the latents of `frames` frames of height x width pixels.

    `chunk_frames` is the VAE's temporal chunk; None encodes the whole clip as one chunk.
    """
    if chunk_frames is None:
        latent_frames = _ceil_div(frames, TEMPORAL_COMPRESSION)
    else:
        full, rest = divmod(frames, chunk_frames)
        latent_frames = full * _ceil_div(chunk_frames, TEMPORAL_COMPRESSION) + _ceil_div(rest, TEMPORAL_COMPRESSION)
    return LatentSize(latent_frames, height // SPATIAL_COMPRESSION, width // SPATIAL_COMPRESSION)


def decoded_size(latent: LatentSize) -> tuple[int, int]:
    """Height and width in pixels of the decoded video (426 pixels wide become 424)."""
    return latent.height * SPATIAL_COMPRESSION, latent.width * SPATIAL_COMPRESSION


def overlap_frames(condition_latents: int) -> int:
    """Frames that a loop shares with the one before it, given its condition length in latent frames.

    Raises InvalidInput unless the length is a multiple of 5: only whole chunks of 17 frames can be cut off.
    """
    chunks, rest = divmod(condition_latents, CHUNK_LATENTS)
    if rest:
        raise InvalidInput(f"condition length {condition_latents} is no multiple of {CHUNK_LATENTS} latent frames")
    return chunks * CHUNK_FRAMES


def total_frames(frames: int, loops: int, condition_latents: int) -> int:
    """Frames of a clip made of `loops` loops, each after the first giving up its overlap with the one before."""
    return frames + (loops - 1) * (frames - overlap_frames(condition_latents))


def num_tokens(latent: LatentSize, patch_size: tuple[int, int, int] = (1, 2, 2)) -> int:
    """Tokens per sample that the denoiser sees: height and width are padded up to whole patches."""
    patch_t, patch_h, patch_w = patch_size
    return _ceil_div(latent.frames, patch_t) * _ceil_div(latent.height, patch_h) * _ceil_div(latent.width, patch_w)
