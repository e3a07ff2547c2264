"""What a run makes (identity) and where it makes it (placement), frozen when the run starts.

A plan is canonical JSON: same inputs, same bytes. It holds every prompt once and derives the clips. Two digests
separate what is asked for from how it is made: the run id (from the manifest alone) and the clip digest (with the
digests of the weights and references that preflight found). Neither depends on names, pools, shards or versions of the
operator.
"""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from videogen_api import naming, video
from videogen_api.errors import ConfigInvalid
from videogen_api.spec import Model, Precision, Strategy

# Raised whenever the same plan would give other numbers: a new rule for random draws, rounding or text cleaning.
NUMERICS_VERSION = 1

EMBEDDING_WAIT_SECONDS = 1800.0
"""Where spec.schedule.startDeadlineSeconds is left out."""

_RUN_ID_LENGTH = 16


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """Floating-point types by their PyTorch names."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


DTYPE_BYTES: Mapping[Dtype, int] = {Dtype.FLOAT32: 4, Dtype.BFLOAT16: 2, Dtype.FLOAT16: 2}


class Segment(Model):
    """A prompt's text from `loop` on, with its score suffixes, before cleaning."""

    loop: int
    text: str


class PlannedReference(Model):
    """A reference and where its latent frames go (the six values of a mask strategy)."""

    url: str
    sha256: str | None
    loop: int
    start: int
    at: int
    length: int
    edit: float


class PlannedPrompt(Model):
    name: str
    text: str
    seed: int
    samples: int
    segments: tuple[Segment, ...]
    references: tuple[PlannedReference, ...]

    def text_of_loop(self, loop: int) -> str:
        """The text of one loop: the last segment that starts at it or before."""
        return [segment.text for segment in self.segments if segment.loop <= loop][-1]


class PlannedVideo(Model):
    """Pixels, frames and frames per second of one clip."""

    height: int
    width: int
    frames: int
    fps: int
    loops: int
    condition_frames: int

    @property
    def latent(self) -> video.LatentSize:
        """Latents of one loop."""
        return video.latent_size(self.frames, self.height, self.width)

    @property
    def condition_latents(self) -> int:
        return self.condition_frames // video.CHUNK_FRAMES * video.CHUNK_LATENTS

    @property
    def total_frames(self) -> int:
        """Frames of the finished clip, all loops joined."""
        return video.total_frames(self.frames, self.loops, self.condition_latents)

    @property
    def decoded_size(self) -> tuple[int, int]:
        """Height and width of the finished clip."""
        return video.decoded_size(self.latent)


class PlannedSampling(Model):
    steps: int
    guidance: float


class PlannedModel(Model):
    name: str
    weights: str
    precision: Precision


class PlannedStorage(Model):
    url: str
    endpoint: str | None
    region: str | None


class StageCost(Model):
    """What one stage is predicted to take of one process."""

    flops: float
    seconds: float
    weight_bytes: int
    activation_bytes: int

    @property
    def peak_memory_bytes(self) -> int:
        """Above what the process holds after its imports."""
        return self.weight_bytes + self.activation_bytes


class PlannedEncoder(Model):
    """Placement of the T5 shard group; `cost` is one shard's, for all prompts."""

    shards: int
    device: Device
    dtype: Dtype
    cost: StageCost
    card_bytes: int | None = None
    """Memory of each card as the manifest states it, of which a shard takes no more; None: all that it has."""


class FormBytes(Model):
    """Bytes of activations that a clip is predicted to hold in each form that its card may run in, the weights apart.

    The runner's memory ladder goes down these forms; see docs/memory.md.
    """

    denoise: dict[int, int]
    """By `guidance_batch`."""
    decode: dict[int, int]
    """By `decode_batch_frames`."""


class PlannedPool(Model):
    """Placement of one runner pool; `cost` is one clip's."""

    name: str
    replicas: int
    device: Device
    gpus: int
    product: str | None
    dtype: Dtype
    vae_dtype: Dtype
    guidance_batch: int
    """2: both branches of guidance in one forward; 1: one after the other, in less memory."""
    decode_batch_frames: int
    """Frames that the spatial decoder takes at once."""
    form_bytes: FormBytes
    seconds_per_step: float
    cost: StageCost
    shares_encoder_cards: bool = False
    """Whether its runners and the encoder compete for the same cards."""
    card_bytes: int | None = None
    """Memory of each card as the manifest states it, of which a runner takes no more; None: all that it has."""
    unfit: str = ""
    """Why the clip does not fit its cards even in the smallest form, the one given here: it gets no runners."""


class Clip(Model):
    """One clip of a plan."""

    index: int
    prompt: int
    """Position of its prompt."""
    name: str
    seed: int
    ask: str
    """Digest of what is asked for; two clips with the same one are the same clip under two names."""


class WeightsDigests(Model):
    """Digests of the weights that preflight found, each over names, shapes and contents of all tensors."""

    encoder: str
    denoiser: str
    vae: str


class Inputs(Model):
    """What preflight found outside the manifest: weights and references complete the clips' identity."""

    weights: WeightsDigests
    references: dict[str, str]
    """sha256 by URL."""
    claims: bool
    """Whether the store's conditional writes can be trusted; otherwise each runner takes a fixed share of the clips."""


class Plan(Model):
    """The whole plan of one run."""

    name: str
    namespace: str
    run_id: str
    numerics_version: int
    prompts: tuple[PlannedPrompt, ...]
    video: PlannedVideo
    sampling: PlannedSampling
    model: PlannedModel
    storage: PlannedStorage
    strategy: Strategy
    why: str
    encoder: PlannedEncoder
    pools: tuple[PlannedPool, ...]
    retries: int
    embedding_wait_seconds: float = EMBEDDING_WAIT_SECONDS
    """Overlapped: how long a runner with nothing else to do waits for an embedding; spec.schedule's start deadline."""

    @property
    def run(self) -> str:
        """Name of the run in the store: resources of one name in two namespaces have runs of their own."""
        return f"{self.namespace}.{self.name}-{self.run_id}"

    @cached_property
    def clips(self) -> tuple[Clip, ...]:
        """Every clip that is asked for, in the order of the manifest."""
        clips: list[Clip] = []
        for position, prompt in enumerate(self.prompts):
            for sample in range(prompt.samples):
                seed = prompt.seed + sample
                clips.append(
                    Clip(
                        index=len(clips),
                        prompt=position,
                        name=naming.clip_name(prompt.name, seed),
                        seed=seed,
                        ask=digest(self._ask(prompt, seed)),
                    )
                )
        return tuple(clips)

    @cached_property
    def work(self) -> tuple[Clip, ...]:
        """The clips that must be made: the first of each set of equal ones."""
        first_by_ask: dict[str, Clip] = {}
        for clip in self.clips:
            first_by_ask.setdefault(clip.ask, clip)
        return tuple(first_by_ask.values())

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every distinct text that the encoder must encode, in the order of first use."""
        return tuple(dict.fromkeys(segment.text for prompt in self.prompts for segment in prompt.segments))

    def pool(self, name: str) -> PlannedPool:
        """The pool of that name. Raises ConfigInvalid where there is none."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise ConfigInvalid(
            f"the plan has no runner pool {name!r}; its pools are {', '.join(p.name for p in self.pools)}"
        )

    def clip_digest(self, clip: Clip, inputs: Inputs) -> str:
        """The clip's key in the store: what is asked for, and the contents it is made from."""
        references = [inputs.references[reference.url] for reference in self.prompts[clip.prompt].references]
        return digest({"ask": clip.ask, "weights": inputs.weights.model_dump(), "references": references})

    def embedding_digest(self, inputs: Inputs) -> str:
        """The folder of this plan's embeddings in the store: the encoder's weights and its computing mode."""
        return digest(
            {
                "weights": inputs.weights.encoder,
                "model": self.model.name,
                "dtype": self.encoder.dtype,
                "numerics": self.numerics_version,
            }
        )

    def _ask(self, prompt: PlannedPrompt, seed: int) -> dict[str, Any]:
        return {
            "seed": seed,
            "segments": [segment.model_dump() for segment in prompt.segments],
            "references": [reference.model_dump() for reference in prompt.references],
            "video": self.video.model_dump(),
            "sampling": self.sampling.model_dump(),
            "model": {"name": self.model.name, "precision": self.model.precision},
            "numerics": self.numerics_version,
        }

    @classmethod
    def with_run_id(cls, **fields: Any) -> Self:
        """A plan whose run id is computed from its other fields."""
        draft = cls(run_id="", **fields)
        identity = {
            "clips": [clip.ask for clip in draft.clips],
            "weights": draft.model.weights,
            "numerics": draft.numerics_version,
        }
        return draft.model_copy(update={"run_id": digest(identity)[:_RUN_ID_LENGTH]})

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Raises ConfigInvalid for anything that `to_bytes` of this version did not write."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigInvalid(
                f"the plan does not fit this image ({where}: {first['msg']}); use images and operator of one version"
            ) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """The plan of a file. Raises ConfigInvalid when it cannot be read."""
        try:
            return cls.from_bytes(path.read_bytes())
        except OSError as error:
            raise ConfigInvalid(f"the plan file {path} cannot be read: {error.strerror}") from error


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 of a plain value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seed_of_text(text: str) -> int:
    """The seed of a prompt that names none: the same text always gives the same clip."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
