"""Every key of the object store, under the storage url. Nothing else builds one.

`embeddings/` and `clips/` are content-addressed and shared by all resources; `runs/` belongs to one run; `videos/`
holds copies under names for people. A clip's `done` marker is written last: a clip without one is not finished.
"""

import hashlib
from dataclasses import dataclass

from videogen_api.errors import InvalidInput


def embedding(embedding_digest: str, text: str) -> str:
    """The embedding of one text, by the encoder that `embedding_digest` names (`Plan.embedding_digest`)."""
    return f"embeddings/{embedding_digest}/{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def clip_prefix(clip_digest: str) -> str:
    """Everything that belongs to one clip."""
    return f"clips/{clip_digest}/"


def clip_done(clip_digest: str) -> str:
    """The marker that names a finished clip's outputs."""
    return f"{clip_prefix(clip_digest)}done"


def clip_video(clip_digest: str, epoch: int, sha256: str, suffix: str) -> str:
    """The mp4 or png; named by its content too, because two runs can make one clip at a time, on different cards."""
    return f"{clip_prefix(clip_digest)}video/{epoch}-{sha256}.{suffix}"


def checkpoint_prefix(clip_digest: str) -> str:
    """All checkpoints of a clip; the one after the last step of the last loop holds the final latents."""
    return f"{clip_prefix(clip_digest)}latents/"


@dataclass(frozen=True, order=True)
class CheckpointKey:
    """A checkpoint, ordered as a new owner prefers them: the furthest one that verifies."""

    loop: int
    step: int
    epoch: int
    sha256: str

    def key(self, clip_digest: str) -> str:
        return f"{checkpoint_prefix(clip_digest)}{self.epoch}-{self.loop}-{self.step}-{self.sha256}.safetensors"


def parse_checkpoint(key: str) -> CheckpointKey:
    """The opposite of `CheckpointKey.key`. Raises InvalidInput for another key."""
    stem = key.rpartition("/")[2].removesuffix(".safetensors")
    parts = stem.split("-")
    try:
        epoch, loop, step, sha256 = int(parts[0]), int(parts[1]), int(parts[2]), parts[3]
    except (ValueError, IndexError) as error:
        raise InvalidInput(f"{key} is no checkpoint's key") from error
    return CheckpointKey(loop=loop, step=step, epoch=epoch, sha256=sha256)


def run_prefix(run: str) -> str:
    """Everything that belongs to one run (`Plan.run`)."""
    return f"runs/{run}/"


def inputs(run: str) -> str:
    """What preflight found: digests of weights and references."""
    return f"{run_prefix(run)}inputs.json"


def probe(run: str, nonce: str) -> str:
    """Where preflight tries out conditional writes: a fresh key each time, for a pod can run twice in one attempt."""
    return f"{run_prefix(run)}probe-{nonce}"


def claim_prefix(run: str) -> str:
    """The claims of a run, one object for each clip that was ever claimed."""
    return f"{run_prefix(run)}claims/"


def claim(run: str, clip_digest: str) -> str:
    """Who works on a clip."""
    return f"{claim_prefix(run)}{clip_digest}"


def clip_failure(run: str, clip_digest: str) -> str:
    """Why a clip cannot be made."""
    return f"{run_prefix(run)}failures/{clip_digest}.json"


def manifest(run: str) -> str:
    """What the run has made, by collect."""
    return f"{run_prefix(run)}manifest.json"


def run_page(run: str) -> str:
    """The page of a run whose copies in the folder for people have made way for those of a later run."""
    return f"{run_prefix(run)}index.html"


def overview() -> str:
    """The page that leads to those of all runs."""
    return "runs/index.html"


def video_prefix(namespace: str, name: str) -> str:
    """The folder that people open."""
    return f"videos/{namespace}/{name}/"


def video(namespace: str, name: str, clip_name: str, suffix: str) -> str:
    """A copy of a clip's video under its name for people; `suffix` json is its sidecar."""
    return f"{video_prefix(namespace, name)}{clip_name}.{suffix}"


def page(namespace: str, name: str) -> str:
    """The page that plays all clips of a resource."""
    return f"{video_prefix(namespace, name)}index.html"
