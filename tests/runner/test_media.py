import hashlib
import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videogen_api.errors import InvalidInput
from videogen_runner import media
from videogen_runner.media import Pixels, read_reference, rgb_to_yuv420p, to_uint8, write_mp4, write_png

# Runs in a fresh process: prints the digest of a video made from the same frames.
WRITE_AND_PRINT_DIGEST = """
import hashlib, sys
from pathlib import Path
import numpy as np
from videogen_runner.media import write_mp4
write_mp4(Path(sys.argv[1]), np.load(sys.argv[2]), 24)
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
"""


def moving_colours(num_frames: int, height: int, width: int) -> Pixels:
    t_T, y_H, x_W = np.arange(num_frames), np.arange(height), np.arange(width)
    t, y, x = np.meshgrid(t_T, y_H, x_W, indexing="ij")
    waves = [np.sin(x / 17 + t / 5), np.cos(y / 13 - t / 7), np.sin((x + y) / 31 + t / 3)]
    return np.stack([127 + 120 * wave for wave in waves], axis=-1).astype(np.uint8)


def flickering_colours(num_frames: int, height: int, width: int) -> Pixels:
    """Hard for an encoder: every frame has noise of its own."""
    noise = np.random.default_rng(1).integers(-40, 40, (num_frames, height, width, 3))
    return np.clip(moving_colours(num_frames, height, width) + noise, 0, 255).astype(np.uint8)


def psnr(actual: Pixels, expected: Pixels) -> float:
    error = np.mean((actual.astype(np.float64) - expected.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def test_a_written_video_decodes_to_its_frames(tmp_path: Path) -> None:
    frames = moving_colours(17, 48, 64)
    write_mp4(tmp_path / "clip.mp4", frames, 24)
    decoded = read_reference(tmp_path / "clip.mp4", "clip.mp4")
    assert decoded.is_video
    assert decoded.frames_THWC.shape == frames.shape
    assert psnr(decoded.frames_THWC, frames) > 40
    # A colour matrix or range that is not the one tagged shows as a shift of the mean.
    assert np.abs((decoded.frames_THWC.astype(float) - frames).mean(axis=(0, 1, 2))).max() < 0.5


def test_a_written_video_states_its_rate_length_and_colours(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_colours(34, 32, 32), 24000 / 1001)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams
        assert isinstance(stream, av.VideoStream)
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, stream.frames) == ("h264", "yuv420p", 34)
        assert stream.average_rate == Fraction(24000, 1001)
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == 34 / Fraction(24000, 1001)
        # 1 is BT.709 in each, and limited range.
        assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
        assert [round(frame.time * 24000 / 1001) for frame in container.decode(stream)] == list(range(34))


def test_the_index_of_a_video_comes_before_its_data(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_colours(5, 32, 32), 24)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(36, 60), (64, 64), (144, 256)])
def test_two_processes_write_the_same_bytes(tmp_path: Path, height: int, width: int) -> None:
    # 60 x 36 is no multiple of the 16 pixels that encoders pad to: what they pad with must not matter. Nor must what
    # memory held before, with which MALLOC_PERTURB_ fills it.
    np.save(tmp_path / "frames.npy", flickering_colours(20, height, width))
    digests = [
        subprocess.run(
            [sys.executable, "-c", WRITE_AND_PRINT_DIGEST, tmp_path / f"{name}.mp4", tmp_path / "frames.npy"],
            env={"OMP_NUM_THREADS": threads, "TZ": zone, "MALLOC_PERTURB_": byte},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for name, threads, zone, byte in (("a", "1", "UTC", "85"), ("b", "2", "Asia/Tokyo", "254"))
    ]
    assert digests[0] == digests[1] != ""


def test_a_video_has_the_bytes_of_the_encoders_own_code_without_any_special_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = flickering_colours(20, 48, 64)
    write_mp4(tmp_path / "fast.mp4", frames, 24)
    monkeypatch.setattr(media, "_INSTRUCTIONS", "asm=0")
    write_mp4(tmp_path / "plain.mp4", frames, 24)
    assert (tmp_path / "fast.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()


def test_a_decoded_video_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_colours(9, 36, 60), 24)
    data = (tmp_path / "clip.mp4").read_bytes()
    digests = {hashlib.sha256(read_reference(data, "clip").frames_THWC.tobytes()).hexdigest() for _ in range(3)}
    assert len(digests) == 1


def test_odd_sizes_are_made_even_by_repeating_the_edge(tmp_path: Path) -> None:
    frames = moving_colours(3, 33, 51)
    write_mp4(tmp_path / "clip.mp4", frames, 24)
    decoded = read_reference(tmp_path / "clip.mp4", "clip").frames_THWC
    assert decoded.shape == (3, 34, 52, 3)
    assert psnr(decoded, np.pad(frames, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")) > 38


@pytest.mark.parametrize(
    ("rgb", "yuv"),
    [
        # Y, Cb, Cr of 8-bit BT.709 in limited range (ITU-R BT.709-6, tables 3 and 4).
        ((255, 255, 255), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
        ((255, 0, 0), (63, 102, 240)),
        ((0, 255, 0), (173, 42, 26)),
        ((0, 0, 255), (32, 240, 118)),
    ],
)
def test_colours_become_those_of_bt709(rgb: tuple[int, int, int], yuv: tuple[int, int, int]) -> None:
    planes = rgb_to_yuv420p(np.full((4, 4, 3), rgb, np.uint8))
    y, cb, cr = np.split(planes.ravel(), [16, 20])
    assert (set(y), set(cb), set(cr)) == ({yuv[0]}, {yuv[1]}, {yuv[2]})


def test_chroma_sits_on_the_left_column_of_each_pair() -> None:
    # A red column between black ones, at an even and at an odd place.
    frame = np.zeros((2, 8, 3), np.uint8)
    frame[:, 4] = (255, 0, 0)
    _, _, cr = np.split(rgb_to_yuv420p(frame).ravel(), [16, 20])
    assert cr.tolist() == [128, 128, 184, 128]
    _, _, cr = np.split(rgb_to_yuv420p(np.roll(frame, 1, axis=1)).ravel(), [16, 20])
    assert cr.tolist() == [128, 128, 156, 156]


def test_a_png_holds_the_pixels_exactly(tmp_path: Path) -> None:
    (frame,) = moving_colours(1, 33, 51)
    write_png(tmp_path / "clip.png", frame)
    decoded = read_reference(tmp_path / "clip.png", "clip.png")
    assert not decoded.is_video
    assert np.array_equal(decoded.frames_THWC, frame[None])


def test_a_video_without_frames_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        write_mp4(tmp_path / "clip.mp4", np.zeros((0, 8, 8, 3), np.uint8), 24)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_colours(3, 16, 16), 24)
    before = (tmp_path / "clip.mp4").read_bytes()
    calls = []

    def fail_at_the_third_frame(frame_HWC: Pixels) -> Pixels:
        calls.append(frame_HWC)
        if len(calls) == 3:
            raise OSError("no space left on device")
        return rgb_to_yuv420p(frame_HWC)

    monkeypatch.setattr(media, "rgb_to_yuv420p", fail_at_the_third_frame)
    with pytest.raises(OSError, match="no space left"):
        write_mp4(tmp_path / "clip.mp4", moving_colours(5, 16, 16), 24)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == before


def test_values_outside_the_range_are_clamped_and_halves_round_up() -> None:
    x_C111 = torch.tensor([-1.5, -1.0, 1 / 255, 1.5]).reshape(4, 1, 1, 1)
    assert to_uint8(x_C111).ravel().tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_truncated_image_is_refused_by_name(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), image_format)
    assert read_reference(data, "fox").frames_THWC.shape == (1, 64, 48, 3)
    for kept in (len(data) // 20, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(InvalidInput, match="reference fox "):
            read_reference(data[:kept], "fox")


def test_a_truncated_video_is_refused(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_colours(17, 64, 64), 24)
    data = (tmp_path / "clip.mp4").read_bytes()
    for kept in (len(data) // 20, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(InvalidInput, match=r"reference fox .*(cut short|truncated)"):
            read_reference(data[:kept], "fox")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "reference fox is empty"),
        (b"this is no picture", "reference fox is no image or video"),
        (b"<html>404 not found</html>", "reference fox is no image or video"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_reference(data, "fox")


def test_a_reference_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"reference a\.png cannot be read: No such file"):
        read_reference(tmp_path / "a.png", "a.png")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        read_reference(tmp_path, "folder")


def test_a_video_too_long_to_decode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "clip.mp4", moving_colours(9, 16, 16), 24)
    monkeypatch.setattr(media, "MAX_REFERENCE_BYTES", 5 * 16 * 16 * 3)
    with pytest.raises(InvalidInput, match="more than 5 frames of 16 x 16"):
        read_reference(tmp_path / "clip.mp4", "clip")


def test_an_image_lies_as_its_camera_was_held() -> None:
    (pixels,) = moving_colours(1, 20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    assert np.array_equal(read_reference(data, "fox").frames_THWC[0], np.rot90(pixels, k=-1))


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_every_kind_of_image_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (8, 4), (0, 0, 0)).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG", **({"transparency": b"\0\1"} if mode == "P" else {}))
    assert np.array_equal(read_reference(data, "fox").frames_THWC, np.zeros((1, 4, 8, 3), np.uint8))
