"""From the last state of a clip to its video and its marker. The caller gives claims, times and the thread.

Shape suffixes: C channels, F frames, H W rows and columns.
"""

import hashlib
import tempfile
from pathlib import Path

from videogen_api import keys
from videogen_api.errors import Internal
from videogen_api.records import DoneMarker, StoredFile, Timings
from videogen_runner.adaptation import AdaptiveClip
from videogen_runner.claims import Held
from videogen_runner.compute import ComputeThread
from videogen_runner.media import Pixels, to_uint8, write_mp4, write_png
from videogen_runner.models.opensora.generation import ClipGenerator, ClipState
from videogen_runner.store import Store, sha256_of_file


class NotFinite(Internal):
    """Numbers of a clip have become NaN or infinite: this clip cannot be made, others can."""


def decode(generator: ClipGenerator | AdaptiveClip, state: ClipState, clip: str) -> Pixels:
    """frames_FHWC of a finished state. Raises NotFinite, naming the clip."""
    x_CFHW = generator.frames(state)
    if not bool(x_CFHW.isfinite().all()):
        raise NotFinite(f"clip {clip} has no finite pixels after decoding; use another precision")
    return to_uint8(x_CFHW)


def store_video(
    store: Store, held: Held, frames_FHWC: Pixels, fps: float, scratch: Path, compute: ComputeThread
) -> StoredFile:
    """Puts an mp4, or a png of a single frame, under a key that names its content.

    Raises Interrupted at a stop, StoreUnavailable and StoreDenied.
    """
    suffix = "png" if len(frames_FHWC) == 1 else "mp4"
    # After a stop the file may still be written to while the folder is removed.
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder:
        path = Path(folder) / f"clip.{suffix}"
        compute.run(lambda: _write(path, frames_FHWC, fps))
        sha256 = sha256_of_file(path)
        key = keys.clip_video(held.clip_digest, held.claim.epoch, sha256, suffix)
        store.put_file(key, path)
        return StoredFile(key=key, bytes=path.stat().st_size, sha256=sha256)


def _write(path: Path, frames_FHWC: Pixels, fps: float) -> None:
    if len(frames_FHWC) == 1:
        write_png(path, frames_FHWC[0])
    else:
        write_mp4(path, frames_FHWC, fps)


def build_marker(
    held: Held,
    frames_FHWC: Pixels,
    fps: int,
    video: StoredFile,
    latents: StoredFile,
    timings: Timings,
    *,
    is_adapted: bool,
    now: float,
) -> DoneMarker:
    """The marker of a clip whose files are all in the store; `now` in seconds since 1970."""
    frames, height, width, _ = frames_FHWC.shape
    return DoneMarker(
        clip_digest=held.clip_digest,
        epoch=held.claim.epoch,
        video=video,
        latents=latents,
        frames_sha256=hashlib.sha256(frames_FHWC.data).hexdigest(),
        frames=frames,
        width=width,
        height=height,
        fps=fps,
        adapted=is_adapted,
        runner=held.claim.owner,
        timings=timings,
        stints=held.claim.stints_until(now),
    )
