"""What a user may ask for: the spec of a VideoGeneration, with every bound and its reason.

Optional fields default to None ("left out"), never to a value: defaults are the cluster's (Helm) and then the code's,
merged in `videogen_operator.core.planner` when a run starts, and never written back to the object.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
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
_DNS_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"
_QUALIFIED = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
DnsName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253),
    Pattern(_DNS_NAME, "lower-case letters, digits, dashes and dots, as in my-object.v1"),
]
LabelKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=317),
    Pattern(rf"({_DNS_NAME}/)?{_QUALIFIED}", "a label's key such as example.com/team"),
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
    """Where the image or video is: s3://bucket/key, or a path where clips are made on one machine."""
    sha256: (
        Annotated[str, StringConstraints(max_length=64), Pattern(r"[0-9a-f]{64}", "64 hexadecimal digits")] | None
    ) = None
    """Pins the content; left out: whatever is there when the run starts."""
    loop: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Loop that the reference conditions, counted from 0; left out: the first."""
    start: Annotated[int, Field(ge=-10_000, le=10_000)] | None = None
    """First latent frame taken of the reference; negative counts from its end."""
    at: Annotated[int, Field(ge=-10_000, le=10_000)] | None = None
    """Latent frame of the clip where it goes; negative counts from the end."""
    length: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Latent frames taken of the reference; left out: one."""
    edit: Annotated[float, Field(ge=0, le=1)] | None = None
    """0 keeps the reference as it is, 1 lets the model replace it."""


class Prompt(Model):
    """One text, and how many clips of it."""

    name: Slug | None = None
    """Names the clips' files; unique among the prompts; left out: p000, p001 and so on, by position."""
    text: Annotated[str, StringConstraints(min_length=1, max_length=20_000), AfterValidator(_check_spoken)]
    """What the video shows."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """Seed of the first clip; left out: derived from the text, so that the same text gives the same clip again."""
    samples: Annotated[int, Field(ge=1, le=100)] | None = None
    """Clips of this text, with seeds that count up; left out: 1."""
    references: Annotated[tuple[Reference, ...], Field(max_length=16)] | None = None
    """Images and videos that the clips start from, pass through or end with."""


class Size(Model):
    """Pixels; multiples of 16 are whole patches of whole latents, so nothing is padded or cropped."""

    width: Annotated[int, Field(ge=64, le=4096, multiple_of=16)]
    """Pixels from left to right."""
    height: Annotated[int, Field(ge=64, le=4096, multiple_of=16)]
    """Pixels from top to bottom."""


class Video(Model):
    """Size and length of every clip."""

    resolution: Annotated[str, StringConstraints(max_length=16), OneOf(video.RESOLUTIONS)] | None = None
    """Pixel budget by its usual name; left out: 240p."""
    aspect_ratio: Annotated[str, StringConstraints(max_length=16), OneOf(video.ASPECT_RATIOS)] | None = None
    """Width to height; left out: 16:9."""
    size: Size | None = None
    """Width and height themselves, instead of resolution and aspectRatio."""
    frames: Annotated[int, Field(ge=1, le=2040), AfterValidator(_check_frames)] | None = None
    """Frames of one loop: 1 for an image, or at least 17; left out: 51."""
    fps: Annotated[int, Field(ge=1, le=120)] | None = None
    """Frames a second; the model is told, and the file says so; left out: 24."""
    loops: Annotated[int, Field(ge=1, le=100)] | None = None
    """Stretches that the clip is made of, each carrying on from the end of the one before; left out: 1."""
    condition_frames: Annotated[int, Field(ge=17, le=2040, multiple_of=video.CHUNK_FRAMES)] | None = None
    """Frames that each loop after the first takes over from the one before; left out: 17."""

    @model_validator(mode="after")
    def _check_one_size(self) -> Self:
        if self.size is not None and (self.resolution is not None or self.aspect_ratio is not None):
            raise ValueError("size and resolution exclude each other; drop size, or drop resolution and aspectRatio")
        return self

    @model_validator(mode="after")
    def _check_loops_move_on(self) -> Self:
        if self.loops is None or self.condition_frames is None or self.frames is None:
            return self  # the planner checks what the defaults add
        if self.loops > 1 and self.condition_frames >= self.frames:
            raise ValueError(
                f"conditionFrames: {self.condition_frames} of {self.frames} frames would leave a loop nothing of its "
                "own; lower it, raise frames, or set loops to 1"
            )
        return self


class Sampling(Model):
    """How a clip is denoised, and the scores that are appended to its prompt."""

    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Denoising steps of each loop; left out: 30."""
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None
    """How strictly the clip follows its text (classifier-free guidance); left out: 7."""
    aesthetic_score: Annotated[float, Field(ge=0, le=10)] | None = None
    """Aesthetic score that the model is asked for; left out: 6.5."""
    motion_score: Annotated[float, Field(ge=0, le=1000)] | None = None
    """Amount of motion that the model is asked for; left out: the model decides."""
    camera_motion: (
        Annotated[str, StringConstraints(max_length=64), Pattern(r"[A-Za-z][A-Za-z ,-]*", "words such as pan left")]
        | None
    ) = None
    """Camera motion that the model is asked for, in words; left out: the model decides."""


class Precision(StrEnum):
    """What a clip may differ in from the reference."""

    EXACT = "exact"


class ModelRef(Model):
    """Which model, and where its weights are."""

    name: Text | None = None
    """Name of the model; left out: the cluster's, or open-sora-v1.2."""
    weights: WeightsUrl | None = None
    """Where the weights are: s3://bucket/path, pvc://claim/path, builtin (the image's own) or a path."""
    precision: Precision | None = None
    """exact: the reference's numbers; left out: exact."""


class Storage(Model):
    """The object store that everything goes through."""

    url: Url | None = None
    """Where results go: s3://bucket/path; left out: the cluster's."""
    endpoint: Endpoint | None = None
    """The S3 service, where it is not the provider's own; the cluster's administrator lists which are allowed."""
    region: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """The S3 region; left out: the cluster's."""
    credentials_secret: Slug | None = None
    """Secret of the same namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; left out: the cluster's."""


class Gpu(Model):
    """The cards of one pod."""

    resource: (
        Annotated[
            str,
            StringConstraints(max_length=253),
            Pattern(rf"{_DNS_NAME}/{_QUALIFIED}", "a resource name such as nvidia.com/gpu"),
        ]
        | None
    ) = None
    """Extended resource that the node offers; left out: nvidia.com/gpu."""
    count: Annotated[int, Field(ge=0, le=16)] | None = None
    """Cards of one pod; 0 runs on the CPU; left out: 1."""
    memory: Quantity | None = None
    """Memory of one card; a pod takes no more of it, even where there is more; left out: what the product has."""
    product: LabelValue | None = None
    """Kind of card, as the node's label nvidia.com/gpu.product has it; left out: any."""


class Toleration(Model):
    """A taint that the pods tolerate, as in a PodSpec."""

    key: LabelKey | None = None
    """Key of the taint; left out: every key."""
    operator: Annotated[str, StringConstraints(max_length=16), OneOf(("Exists", "Equal"))] | None = None
    """Exists takes any value; left out: Equal."""
    value: LabelValue | None = None
    """Value of the taint, for Equal."""
    effect: (
        Annotated[str, StringConstraints(max_length=32), OneOf(("NoSchedule", "PreferNoSchedule", "NoExecute"))] | None
    ) = None
    """Effect of the taint; left out: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Seconds until a NoExecute taint evicts the pod after all; left out: never."""

    @model_validator(mode="after")
    def _check_as_kubernetes_does(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError("value: operator Exists takes any value; drop value, or use Equal")
        if self.operator != "Exists" and self.key is None:
            raise ValueError("without a key every taint is tolerated, which only operator Exists may say; add one")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError(
                "tolerationSeconds: only a NoExecute taint evicts; drop tolerationSeconds, or set effect to NoExecute"
            )
        return self


class Resources(Model):
    """Resources of one pod's container, as in a PodSpec; the cards are counted under gpu."""

    requests: Annotated[dict[LabelKey, ResourceQuantity], Field(max_length=16)] | None = None
    """What the scheduler sets aside, such as cpu and memory."""
    limits: Annotated[dict[LabelKey, ResourceQuantity], Field(max_length=16)] | None = None
    """What the container may not exceed."""

    @model_validator(mode="after")
    def _check_requests_fit(self) -> Self:
        limits = self.limits or {}
        for name, request in (self.requests or {}).items():
            if name in limits and quantity_value(request) > quantity_value(limits[name]):
                raise ValueError(
                    f"requests: {name}: {request} is more than its limit, {limits[name]}; lower it, or raise the limit"
                )
        return self


class SecretRef(Model):
    """A Secret of the resource's namespace."""

    name: DnsName
    """Name of the Secret."""


# Keys that decide what a process is, or how its interpreter, loader or credentials behave; the third line has those by
# which a C library takes code or host names out of a file, which may lie in the weights' volume.
RESERVED_ENV = (
    r"(AWS_|LD_|PYTHON|VIDEOGEN_|JOB_|NCCL_|GLOO_|NVIDIA_|CUDA_VISIBLE_|TORCH|MASTER_|KUBERNETES_).*|.*_PROXY"
    r"|RANK|LOCAL_RANK|WORLD_SIZE|PATH|HOME|HOSTNAME|TMPDIR"
    r"|(CUDA_INJECTION|GLIBC_|GCONV_|OMP_TOOL|OPENSSL_|TRITON_).*|HOSTALIASES"
)
_RESERVED_ENV = re.compile(RESERVED_ENV, re.IGNORECASE)


class EnvVar(Model):
    """A variable of the container's environment, with a literal value."""

    name: Annotated[str, StringConstraints(max_length=128), Pattern(r"[A-Za-z_][A-Za-z0-9_]*", "an environment name")]
    """Name of the variable; those that decide what the process is are reserved."""
    value: Annotated[str, StringConstraints(max_length=4096)]
    """Value, as it stands: $(NAME) is not expanded."""

    @model_validator(mode="after")
    def _check_not_reserved(self) -> Self:
        if _RESERVED_ENV.fullmatch(self.name):
            raise ValueError(f"the name {self.name} is reserved; remove it")
        return self


RESERVED_LABEL = r"(.*\.)?(videogen\.dev|kueue\.x-k8s\.io|kubernetes\.io|k8s\.io)/.*|job-name|controller-uid"
_RESERVED_LABEL = re.compile(RESERVED_LABEL)


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for key in labels:
        if _RESERVED_LABEL.fullmatch(key):
            raise ValueError(f"label {key} is reserved; remove it")
    return labels


StringMap = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]


class Pod(Model):
    """What a user may say about the pods: a closed list, no free pod template."""

    node_selector: StringMap | None = None
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] | None = None
    """Taints of nodes that the pods may run on all the same."""
    resources: Resources | None = None
    """CPU, memory and other resources of each pod."""
    priority_class_name: DnsName | None = None
    """PriorityClass of the pods; the cluster's administrator lists which are allowed."""
    image_pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=8)] | None = None
    """Secrets for the registry that the image comes from."""
    service_account_name: DnsName | None = None
    """ServiceAccount of the pods; the cluster's administrator lists which are allowed. No token is mounted."""
    labels: Annotated[StringMap, AfterValidator(_check_labels)] | None = None
    """Labels added to the pods; those of this project, of Kubernetes and of Kueue are reserved."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=32)] | None = None
    """Variables added to the container's environment."""


class Encoder(Model):
    """The T5 shard pod group."""

    shards: Annotated[int, Field(ge=1, le=64)] | None = None
    """Pods that share the encoder's layers; left out: the fewest whose cards hold them."""
    gpu: Gpu | None = None
    """Cards of each shard; left out: those of the first pool that has any."""
    pod: Pod | None = None
    """What the shards' pods need to run where they should."""


class RunnerPool(Model):
    """Runner pods of one kind of card."""

    name: Slug
    """Names the pool; unique among the runners."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Runner pods; left out: 1. May change while a run goes on."""
    gpu: Gpu | None = None
    """Cards of each runner; left out: one nvidia.com/gpu."""
    pod: Pod | None = None
    """What the runners' pods need to run where they should."""


class Strategy(StrEnum):
    """Auto leaves it to the planner; Sequential ends encoding before the first runner; Overlapped runs both at once."""

    AUTO = "Auto"
    SEQUENTIAL = "Sequential"
    OVERLAPPED = "Overlapped"


class Schedule(Model):
    """When and in what order the stages may run."""

    strategy: Strategy | None = None
    """Whether runners wait for the encoder to end; left out: Auto."""
    queue: Slug | None = None
    """Kueue LocalQueue that admits each stage; left out: none."""
    start_deadline_seconds: Seconds | None = None
    """Longest time that a stage may wait for its pods to start; left out: no limit."""
    active_deadline_seconds: Seconds | None = None
    """Longest time that a run may take from its start; left out: no limit."""


def _repeated(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


class VideoGenerationSpec(Model):
    """What is asked for. An edit that changes the clips starts a new run, which reuses those that exist.

    What is left out takes the cluster's defaults, then the code's; neither is ever written here.
    """

    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
    """What to make: at most 150,000 characters and 10,000 clips in all."""
    video: Video | None = None
    """Size and length of every clip."""
    sampling: Sampling | None = None
    """How the clips are denoised."""
    model: ModelRef | None = None
    """Which model makes them."""
    storage: Storage | None = None
    """Where everything is kept; left out: the cluster's."""
    encoder: Encoder | None = None
    """The pods that turn texts into embeddings."""
    runners: Annotated[tuple[RunnerPool, ...], Field(max_length=16)] | None = None
    """The pods that make the clips, a pool for each kind of card; left out: the cluster's, or one pod with one card."""
    schedule: Schedule | None = None
    """Order, queue and deadlines of the stages."""
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    """How often one clip, or one stage, may fail for a reason that another try can mend; left out: 3."""
    suspend: bool | None = None
    """true stops the work and frees its cards; what was done is kept for when it is false again."""
    retry: Annotated[str, StringConstraints(max_length=63)] | None = None
    """Any text; a change of it tries again after a final failure."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """Seconds after the end at which Jobs and pods are removed, never this object; left out: they stay."""

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
        if self.runners and not self.suspend and not any(pool.replicas != 0 for pool in self.runners):
            raise ValueError(
                "runners: no pool has a replica, so nothing would run; raise replicas, or set spec.suspend to pause"
            )
        return self


_UNITS: Mapping[str, int | Decimal] = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "m": Decimal("0.001"), "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


def quantity_value(quantity: str) -> Decimal:
    """The number that a Kubernetes quantity such as 500m stands for; the spec has checked its form."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]  # checked by Quantity
    return Decimal(number) * _UNITS[unit]


def quantity_bytes(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as 16Gi."""
    return int(quantity_value(quantity))
