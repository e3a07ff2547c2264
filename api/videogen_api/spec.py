"""What a user may ask for: the spec of a VideoGeneration, with every bound and its reason.

Optional fields default to None ("left out"), never to a value: defaults are the cluster's (Helm) and then the code's,
merged in `videogen_operator.core.planner` when a run starts, and never written back to the object.
"""

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from videogen_api import naming, video
from videogen_api.bounds import DNS_LABEL, IntOrString, OneOf, Pattern

MAX_PROMPTS = 1000
MAX_PROMPT_CHARACTERS = 150_000
MAX_CLIPS = 10_000
MAX_SEED = 2**53 - 1  # what JSON numbers carry without loss


class Model(BaseModel):
    """Base of every value of the contract: immutable, closed, camelCase outside and snake_case inside."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        populate_by_name=True,
        ser_json_inf_nan="constants",
    )


def _check_spoken(text: str) -> str:
    if not text.strip():
        raise ValueError("the prompt is empty; write what the video should show")
    return text


def _check_frames(frames: int) -> int:
    if 1 < frames < video.CHUNK_FRAMES:
        raise ValueError(f"want 1 (an image) or at least {video.CHUNK_FRAMES}; the model has no result in between")
    return frames


Slug = Annotated[
    str,
    StringConstraints(min_length=1, max_length=63),
    Pattern(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", "lower-case letters, digits and dashes, a letter or digit at both ends"),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
DnsName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253),
    Pattern(rf"{DNS_LABEL}(\.{DNS_LABEL})*", "lower-case letters, digits, dashes and dots, as in my-object.v1"),
]
LabelKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=317),
    Pattern(
        rf"({DNS_LABEL}(\.{DNS_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?",
        "a label's key such as example.com/team",
    ),
]
LabelValue = Annotated[
    str,
    StringConstraints(max_length=63),
    Pattern(
        r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
        "letters, digits, dashes, underscores and dots, a letter or digit at both ends",
    ),
]
Quantity = Annotated[
    str,
    StringConstraints(max_length=32),
    Pattern(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?", "a Kubernetes quantity such as 16Gi"),
]
ResourceQuantity = Annotated[
    str,
    StringConstraints(max_length=32),
    Pattern(r"[0-9]+(\.[0-9]+)?([KMGTPE]i|[mkMGTPE])?", "a Kubernetes quantity such as 4, 500m or 16Gi"),
    IntOrString(),
]
# A path's first part has no colon, as in RFC 3986: what has one is a URL, and none but these can be read.
Url = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    Pattern(r"s3://[^/\s\v]+(/[^\s\v]*)?|file:///[^\s\v]*|[^:/\s\v]*(/[^\s\v]*)?", "s3://bucket/path or a path"),
]
WeightsUrl = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    Pattern(r"(s3|pvc)://[^/\s\v]+(/[^\s\v]*)?|[^:/\s\v]*(/[^\s\v]*)?", "s3://, pvc://claim/path, builtin or a path"),
]
Endpoint = Annotated[
    str,
    StringConstraints(max_length=1024),
    Pattern(r"https?://[^/\s\v]+/?", "http://host:port or https://host:port"),
]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
Count = Annotated[int, Field(ge=1, le=1000)]


class Reference(Model):
    """An image or video that conditions a clip, in the terms of the model's mask strategy.

    Positions and lengths count latent frames: 5 to every 17 frames of video.
    """

    url: Url
    sha256: (
        Annotated[str, StringConstraints(max_length=64), Pattern(r"[0-9a-f]{64}", "64 hexadecimal digits")] | None
    ) = None
    """Pins the content; left out: whatever is there when the run starts."""
    loop: Annotated[int, Field(ge=0, le=1000)] | None = None
    start: Annotated[int, Field(ge=-10_000, le=10_000)] | None = None
    """First latent frame taken of the reference; negative counts from its end."""
    at: Annotated[int, Field(ge=-10_000, le=10_000)] | None = None
    """Latent frame of the clip where it goes; negative counts from the end."""
    length: Annotated[int, Field(ge=1, le=10_000)] | None = None
    edit: Annotated[float, Field(ge=0, le=1)] | None = None
    """0 keeps the reference as it is, 1 lets the model replace it."""


class Prompt(Model):
    """One text, and how many clips of it."""

    name: Slug | None = None
    text: Annotated[str, StringConstraints(min_length=1, max_length=20_000), AfterValidator(_check_spoken)]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    samples: Annotated[int, Field(ge=1, le=100)] | None = None
    references: Annotated[tuple[Reference, ...], Field(max_length=16)] | None = None


class Size(Model):
    """Pixels; multiples of 16 are whole patches of whole latents, so nothing is padded or cropped."""

    width: Annotated[int, Field(ge=64, le=4096, multiple_of=16)]
    height: Annotated[int, Field(ge=64, le=4096, multiple_of=16)]


class Video(Model):
    """Size and length of every clip."""

    resolution: Annotated[str, StringConstraints(max_length=16), OneOf(video.RESOLUTIONS)] | None = None
    aspect_ratio: Annotated[str, StringConstraints(max_length=16), OneOf(video.ASPECT_RATIOS)] | None = None
    size: Size | None = None
    frames: Annotated[int, Field(ge=1, le=2040), AfterValidator(_check_frames)] | None = None
    fps: Annotated[int, Field(ge=1, le=120)] | None = None
    loops: Annotated[int, Field(ge=1, le=100)] | None = None
    condition_frames: Annotated[int, Field(ge=17, le=2040, multiple_of=video.CHUNK_FRAMES)] | None = None
    """Frames that each loop after the first takes over from the one before."""

    @model_validator(mode="after")
    def _check_one_size(self) -> Self:
        if self.size is not None and (self.resolution is not None or self.aspect_ratio is not None):
            raise ValueError("size and resolution exclude each other; drop size, or drop resolution and aspectRatio")
        return self


class Sampling(Model):
    """How a clip is denoised, and the scores that are appended to its prompt."""

    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None
    aesthetic_score: Annotated[float, Field(ge=0, le=10)] | None = None
    motion_score: Annotated[float, Field(ge=0, le=1000)] | None = None
    camera_motion: (
        Annotated[str, StringConstraints(max_length=64), Pattern(r"[A-Za-z][A-Za-z ,-]*", "words such as pan left")]
        | None
    ) = None


class Precision(StrEnum):
    """What a clip may differ in from the reference."""

    EXACT = "exact"


class ModelRef(Model):
    """Which model, and where its weights are."""

    name: Text | None = None
    weights: WeightsUrl | None = None
    precision: Precision | None = None


class Storage(Model):
    """The object store that everything goes through."""

    url: Url | None = None
    endpoint: Endpoint | None = None
    region: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    credentials_secret: Slug | None = None


class Gpu(Model):
    """The cards of one pod."""

    resource: (
        Annotated[
            str,
            StringConstraints(max_length=253),
            Pattern(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", "a resource name such as nvidia.com/gpu"),
        ]
        | None
    ) = None
    count: Annotated[int, Field(ge=0, le=16)] | None = None
    """0 runs on the CPU."""
    memory: Quantity | None = None
    product: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = None


StringMap = Annotated[
    dict[Annotated[str, StringConstraints(max_length=317)], Annotated[str, StringConstraints(max_length=253)]],
    Field(max_length=32),
]


class Toleration(Model):
    key: Annotated[str, StringConstraints(max_length=317)] | None = None
    operator: Annotated[str, StringConstraints(max_length=16), OneOf(("Exists", "Equal"))] | None = None
    value: Annotated[str, StringConstraints(max_length=253)] | None = None
    effect: (
        Annotated[str, StringConstraints(max_length=32), OneOf(("NoSchedule", "PreferNoSchedule", "NoExecute"))] | None
    ) = None
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None


class Resources(Model):
    requests: (
        Annotated[dict[Annotated[str, StringConstraints(max_length=253)], Quantity], Field(max_length=16)] | None
    ) = None
    limits: (
        Annotated[dict[Annotated[str, StringConstraints(max_length=253)], Quantity], Field(max_length=16)] | None
    ) = None


class SecretRef(Model):
    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]


# Keys that decide what a process is, or how its interpreter, loader or credentials behave.
_RESERVED_ENV = re.compile(
    r"(AWS_|LD_|PYTHON|VIDEOGEN_|JOB_|NCCL_|GLOO_|TORCH|MASTER_|KUBERNETES_).*|.*_PROXY|RANK|LOCAL_RANK|WORLD_SIZE|PATH|HOME|HOSTNAME",
    re.IGNORECASE,
)


class EnvVar(Model):
    name: Annotated[str, StringConstraints(max_length=128), Pattern(r"[A-Za-z_][A-Za-z0-9_]*", "an environment name")]
    value: Annotated[str, StringConstraints(max_length=4096)]

    @model_validator(mode="after")
    def _check_not_reserved(self) -> Self:
        if _RESERVED_ENV.fullmatch(self.name):
            raise ValueError(f"the name {self.name} is reserved; remove it")
        return self


_RESERVED_LABEL = re.compile(
    r"(.*\.)?(videogen\.dev|kueue\.x-k8s\.io|kubernetes\.io|k8s\.io)/.*|job-name|controller-uid"
)


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for key in labels:
        if _RESERVED_LABEL.fullmatch(key):
            raise ValueError(f"label {key} is reserved; remove it")
    return labels


class Pod(Model):
    """What a user may say about the pods: a closed list, no free pod template."""

    node_selector: StringMap | None = None
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] | None = None
    resources: Resources | None = None
    priority_class_name: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = None
    image_pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=8)] | None = None
    service_account_name: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = None
    labels: Annotated[StringMap, AfterValidator(_check_labels)] | None = None
    env: Annotated[tuple[EnvVar, ...], Field(max_length=32)] | None = None


class Encoder(Model):
    """The T5 shard pod group."""

    shards: Annotated[int, Field(ge=1, le=64)] | None = None
    gpu: Gpu | None = None
    pod: Pod | None = None


class RunnerPool(Model):
    """Runner pods of one kind of card."""

    name: Slug
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    gpu: Gpu | None = None
    pod: Pod | None = None


class Strategy(StrEnum):
    AUTO = "Auto"
    SEQUENTIAL = "Sequential"
    OVERLAPPED = "Overlapped"


class Schedule(Model):
    """When and in what order the stages may run."""

    strategy: Strategy | None = None
    queue: Slug | None = None
    start_deadline_seconds: Seconds | None = None
    active_deadline_seconds: Seconds | None = None


def _repeated(names: list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


class VideoGenerationSpec(Model):
    """The whole of `spec`."""

    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
    video: Video | None = None
    sampling: Sampling | None = None
    model: ModelRef | None = None
    storage: Storage | None = None
    encoder: Encoder | None = None
    runners: Annotated[tuple[RunnerPool, ...], Field(max_length=16)] | None = None
    schedule: Schedule | None = None
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    suspend: bool | None = None
    retry: Annotated[str, StringConstraints(max_length=63)] | None = None
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        names = [prompt.name or naming.prompt_name(i) for i, prompt in enumerate(self.prompts)]
        if (name := _repeated(names)) is not None:
            raise ValueError(f"prompts: two prompts are named {name!r}; names must be unique")
        characters = sum(len(prompt.text) for prompt in self.prompts)
        if characters > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"prompts: {characters} characters in all, at most {MAX_PROMPT_CHARACTERS} allowed; use several"
            )
        clips = sum(prompt.samples or 1 for prompt in self.prompts)
        if clips > MAX_CLIPS:
            raise ValueError(f"prompts: {clips} clips in all, at most {MAX_CLIPS} are allowed; use several")
        return self

    @model_validator(mode="after")
    def _check_runners(self) -> Self:
        if (name := _repeated([pool.name for pool in self.runners or ()])) is not None:
            raise ValueError(f"runners: two pools are named {name!r}; names must be unique")
        return self


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity_bytes(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as 16Gi; the spec has checked its form."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]  # checked by Quantity
    return int(float(number) * _UNITS[unit])
