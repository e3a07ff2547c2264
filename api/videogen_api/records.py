"""What the store's JSON objects hold: done markers, clip failures, claims, sidecars and the manifest."""

from enum import StrEnum

from pydantic import ConfigDict

from videogen_api.errors import Reason
from videogen_api.plan import Plan, PlannedSampling, PlannedVideo, WeightsDigests
from videogen_api.spec import Model


class Record(Model):
    """What processes of other versions read and write, too: what only a later version knows is passed over."""

    model_config = ConfigDict(extra="ignore")


class StoredFile(Record):
    """An object of the store that a marker vouches for."""

    key: str
    bytes: int
    sha256: str


class Timings(Record):
    """Seconds; kept outside every digest."""

    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    write: float = 0.0
    steps: int = 0
    """Steps that the finishing process computed itself; fewer than asked for where it resumed."""


class Stint(Record):
    """A runner's time with a clip, as its own clock told it: seconds since 1970, kept outside every digest."""

    runner: str
    began: float
    """When it took the clip; loading the weights for it comes after."""
    ended: float
    """When it was done with it, or gave the last sign of life."""


class DoneMarker(Record):
    """A finished clip: written last, and the only thing that makes it one."""

    clip_digest: str
    epoch: int
    video: StoredFile
    latents: StoredFile
    """Of all loops, before decoding: the clip's last checkpoint."""
    frames_sha256: str
    """Of the uint8 frames, T*H*W*3 bytes."""
    frames: int
    width: int
    height: int
    fps: int
    adapted: bool = False
    """True where memory made the runner leave the deterministic path; then the clip is within the bf16 bound."""
    runner: str
    timings: Timings
    stints: tuple[Stint, ...] = ()
    """Of all who worked on it, the finisher's last; empty where an earlier version made it."""


class ClipFailure(Record):
    """A clip that cannot be made, and why."""

    clip: str
    clip_digest: str
    reason: Reason
    message: str
    runner: str
    stints: tuple[Stint, ...] = ()
    """As in DoneMarker; empty where the clip failed before a runner took it."""


class ClaimState(StrEnum):
    OPEN = "Open"
    """Nobody works on it: handed back."""
    HELD = "Held"
    DONE = "Done"
    FAILED = "Failed"


class Claim(Record):
    """Who works on a clip; every write carries a fresh nonce, because ETags are hashes of the content."""

    epoch: int
    owner: str
    pool: str
    attempt: int
    """Of the owner's pool: attempts of different pools cannot be compared."""
    index: int
    """Of the owner within its attempt: two owners of one index never live at a time."""
    nonce: str
    unclean_ends: int
    state: ClaimState
    left: float = 1.0
    """Share of the clip's work that was still to be done at this write; 1 for a clip that has not begun."""
    pace: float | None = None
    """Seconds of the owner's work for each predicted one; None before it has measured any."""
    too_small: tuple[str, ...] = ()
    """Pools that gave the clip back because their cards have no room for it; they do not take it again."""
    stints: tuple[Stint, ...] = ()
    """Of the latest owners; the last one's ends with this write. For people: nothing is decided by these clocks."""

    def stints_until(self, now: float) -> tuple[Stint, ...]:
        """The stints, with the owner's own going on to `now`."""
        return (*self.stints[:-1], *(stint.model_copy(update={"ended": now}) for stint in self.stints[-1:]))


class Sidecar(Record):
    """Lies beside a video, for people and scripts."""

    clip: str
    prompt: str
    text: str
    seed: int
    video: PlannedVideo
    sampling: PlannedSampling
    model: str
    weights: WeightsDigests
    run_id: str
    done: DoneMarker


class ManifestClip(Record):
    """One clip of a run: exactly one of `sidecar` and `failure` is there, or neither where it is missing."""

    clip: str
    prompt: str
    seed: int
    url: str | None
    sidecar: Sidecar | None
    failure: ClipFailure | None


class Manifest(Record):
    """What a run asked for and what became of it."""

    plan: Plan
    weights: WeightsDigests
    clips: tuple[ManifestClip, ...]
