"""Image and video files: references in, clips out. Arrays and files only; no model, no store.

A video written here has the same bytes wherever it is made from the same frames: RGB becomes yuv420p in integers below,
x264 runs on one thread with instructions that all its processors have, and neither stream nor container carries dates.
Colours are BT.709, limited range, and the stream says so.

Shape suffixes: T frames, H and W pixels, C = 3 channels RGB.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from videogen_api.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]

# A reference is decoded whole; a minute of 1080p would fill the host.
MAX_REFERENCE_BYTES = 2 * 1024**3

# x264's constant rate factor: 0 is lossless, 23 the encoder's default; 17 is about where eyes stop seeing it.
_QUALITY = 17

# With AVX-512 x264 (165) decides by memory that it has not written, so that one process makes different files of equal
# frames; from SSSE3 on it rounds otherwise than its own C code does. SSE2, which every x86-64 has, gives the bits of
# the C code for a fifth more time than AVX-512. Other processors do not know the name, and run that C code.
_INSTRUCTIONS = "asm=sse2"

# Luma of BT.709, and limited range: luma 16..235, chroma 16..240, in fixed point.
_LUMA_RGB = np.array([0.2126, 0.7152, 0.0722])
_FRACTION_BITS = 16


def _fixed(weights: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.asarray(np.round(weights * 2**_FRACTION_BITS / 255), dtype=np.int32)


_Y_WEIGHTS = _fixed(219 * _LUMA_RGB)
_CB_WEIGHTS = _fixed(112 * (np.array([0, 0, 1]) - _LUMA_RGB) / (1 - _LUMA_RGB[2]))
_CR_WEIGHTS = _fixed(112 * (np.array([1, 0, 0]) - _LUMA_RGB) / (1 - _LUMA_RGB[0]))

# Decoded colours must not depend on the processor; without full chroma, exact rounding turns white into 253.
_EXACT = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True)
class Reference:
    """A decoded reference: a single picture, or the frames of a video (which are resized by other rules)."""

    frames_THWC: Pixels
    is_video: bool


def to_uint8(x_CTHW: "Tensor") -> Pixels:
    """A decoded clip, about [-1, 1] -> frames_THWC. Rounding is that of the tensor's own dtype, as in the reference."""
    # One copy, then in place: a long clip is gigabytes.
    x_CTHW = x_CTHW.clamp(-1, 1).add_(1).div_(2).mul_(255).add_(0.5).clamp_(0, 255)
    frames_THWC: Pixels = x_CTHW.byte().permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames_THWC


def sample_path(
    folder: str | Path,
    sample_idx: int,
    *,
    sample_name: str | None = None,
    prompt: str = "",
    prompt_as_path: bool = False,
    num_sample: int = 1,
    k: int | None = None,
) -> Path:
    """Where the reference's script saves a sample, without suffix: by number or prompt, and `k` if one of several."""
    prefix = sample_name if sample_name is not None else "" if prompt_as_path else "sample"
    name = prefix + (prompt if prompt_as_path else f"_{sample_idx:04d}")
    return Path(folder) / (name if num_sample == 1 else f"{name}-{k}")


def write_png(path: Path, frame_HWC: Pixels) -> None:
    """Write one frame; nothing is left at `path` if it fails. Raises OSError as writing does."""
    with _atomically(path) as temporary:
        Image.fromarray(frame_HWC).save(temporary, format="PNG")


def write_mp4(path: Path, frames_THWC: Pixels, fps: float) -> None:
    """Write an H.264 video that browsers play; nothing is left at `path` if it fails.

    An odd height or width is made even by repeating the last row or column: yuv420p has none. Raises OSError as writing
    does, ValueError for no frames.
    """
    if not len(frames_THWC):
        raise ValueError(f"a video needs at least one frame; {path} would have none")
    _, height, width, _ = frames_THWC.shape
    # The smallest fraction that is this number: 24000/1001 for 23.976023976...
    rate = Fraction(fps).limit_denominator(1001)
    with _atomically(path) as temporary, _open_mp4(temporary) as container:
        options = {"crf": str(_QUALITY), "preset": "medium", "flags": "+bitexact", "x264-params": _INSTRUCTIONS}
        stream = container.add_stream("libx264", rate, options)
        codec = stream.codec_context
        codec.thread_count = 1
        codec.width, codec.height, codec.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        codec.color_range, codec.colorspace = ColorRange.MPEG, Colorspace.ITU709
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for index, frame_HWC in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(rgb_to_yuv420p(frame_HWC), format="yuv420p")
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(codec.encode(frame))
        container.mux(codec.encode(None))


def rgb_to_yuv420p(frame_HWC: Pixels) -> Pixels:
    """One frame -> the planes Y, U, V below each other, [H * 3 / 2, W], H and W made even by repeating the edge.

    Integer arithmetic, so that no instruction set can change a bit. Chroma samples sit where H.264 expects them: on the
    left column of each pair, between its two rows.
    """
    height, width, _ = frame_HWC.shape
    rgb_HWC = np.pad(frame_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.int32)
    planes = [_round(_weigh(rgb_HWC, _Y_WEIGHTS), _FRACTION_BITS) + 16]
    for weights in (_CB_WEIGHTS, _CR_WEIGHTS):
        chroma_HW = np.pad(_weigh(rgb_HWC, weights), ((0, 0), (1, 0)), mode="edge")
        across_HW = chroma_HW[:, :-1:2] + 2 * chroma_HW[:, 1::2] + chroma_HW[:, 2::2]
        planes.append(_round(across_HW[::2] + across_HW[1::2], _FRACTION_BITS + 3) + 128)
    flat = np.concatenate([plane_HW.ravel() for plane_HW in planes]).astype(np.uint8)
    return flat.reshape(-1, rgb_HWC.shape[1])


def _weigh(rgb_HWC: NDArray[np.int32], weights: NDArray[np.int32]) -> NDArray[np.int32]:
    red_HW, green_HW, blue_HW = (rgb_HWC[:, :, channel] * weights[channel] for channel in range(3))
    return np.asarray(red_HW + green_HW + blue_HW)


def _round(fixed: NDArray[np.int32], bits: int) -> NDArray[np.int32]:
    return (fixed + (1 << (bits - 1))) >> bits


@contextmanager
def _open_mp4(path: Path) -> Iterator[av.container.OutputContainer]:
    # faststart puts the index first, so that a browser can play before it has everything.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        yield container


@contextmanager
def _atomically(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_reference(source: Path | bytes, name: str) -> Reference:
    """Decode an image or a video, whichever the content is; `name` is what messages call it.

    Raises InvalidInput for a file that is missing, empty, neither image nor video, damaged, or too long to decode.
    """
    data = _read(source, name)
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.mode == "P":
            # PIL warns of a palette with transparency unless it goes by way of RGBA; the colours are the same.
            image = image.convert("RGBA")
        frame_HWC = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        return Reference(_decode_video(data, name), is_video=True)
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"reference {name} has too many pixels ({error}); make it smaller") from error
    # What PIL raises for damaged data depends on the format.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InvalidInput(f"reference {name} is a damaged or truncated image ({error}); upload it again") from error
    return Reference(frame_HWC[None], is_video=False)


def _read(source: Path | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        data = source
    else:
        try:
            data = source.read_bytes()
        except OSError as error:
            raise InvalidInput(f"reference {name} cannot be read: {error.strerror}; correct its path") from error
    if not data:
        raise InvalidInput(f"reference {name} is empty")
    return data


def _decode_video(data: bytes, name: str) -> Pixels:
    not_usable = f"reference {name} is no image or video, or was cut short; give a whole PNG, JPEG or MP4"
    try:
        with av.open(io.BytesIO(data), "r") as container:
            if not container.streams.video:
                raise InvalidInput(not_usable)
            stream = container.streams.video[0]
            frames = _decode_stream(container, stream, name)
            if not frames or len(frames) < stream.frames:
                raise InvalidInput(
                    f"reference {name} is a truncated video, it has {len(frames)} of its {stream.frames} frames; "
                    "upload it again"
                )
    except av.FFmpegError as error:
        raise InvalidInput(f"{not_usable} ({error.strerror})") from error
    return np.stack(frames)


def _decode_stream(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, name: str
) -> list[Pixels]:
    frames: list[Pixels] = []
    for frame in container.decode(stream):
        frames.append(np.asarray(frame.reformat(format="rgb24", interpolation=_EXACT, threads=1).to_ndarray()))
        if len(frames) * frames[0].nbytes > MAX_REFERENCE_BYTES:
            raise InvalidInput(
                f"reference {name} has more than {len(frames) - 1} frames of {frame.width} x {frame.height}, "
                "which is as much as is decoded; cut it to the part that is used, or make it smaller"
            )
    return frames
