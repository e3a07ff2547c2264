"""What a resource says of itself: the status of a VideoGeneration.

The ledger (`run_id`, `retry`, `attempts`, `start_time`, `completion_time`) is written before acting; everything else is
computed from what was observed. `asked`, `plan_revision`, `created`, `late_starts`, `least_shards`, `gave_way` and
`found` belong to the ledger too: they are what a look at the children alone could not tell. Times are RFC 3339 in UTC,
as Kubernetes writes them.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, PlainSerializer

from videogen_api.naming import Stage
from videogen_api.spec import Model, Strategy

MAX_RUNNERS = 64
MAX_OUTPUTS = 100
MAX_FAILURES = 5


def format_time(time: datetime) -> str:
    """RFC 3339 with whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, PlainSerializer(format_time, return_type=str, when_used="json")]


class Phase(StrEnum):
    """What a resource is doing."""

    PENDING = "Pending"
    PREFLIGHT = "Preflight"
    ENCODING = "Encoding"
    GENERATING = "Generating"
    COLLECTING = "Collecting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


FINISHED_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED})


class ConditionType(StrEnum):
    """Ready, Reconciling and Stalled are those that kstatus reads."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    STORE_READY = "StoreReady"
    EMBEDDINGS_READY = "EmbeddingsReady"
    SUSPENDED = "Suspended"


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """The standard condition of the Kubernetes API."""

    type: ConditionType
    """Ready, Reconciling and Stalled are those that kstatus reads."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: str
    """One word for programs."""
    message: str
    """One sentence for people."""
    last_transition_time: Time
    """When status changed last."""
    observed_generation: int
    """metadata.generation that the condition speaks of."""


class Attempts(Model):
    """Attempts made so far, by stage; generate counts by pool."""

    preflight: int = 0
    """Preflight Jobs."""
    encode: int = 0
    """Encode Jobs."""
    generate: dict[str, int] = Field(default_factory=dict)
    """Generate Jobs, by pool."""
    collect: int = 0
    """Collect Jobs."""

    def of(self, stage: Stage, pool: str | None) -> int:
        """The last attempt of one stage and pool; 0 before the first."""
        if stage == Stage.GENERATE:
            return self.generate.get(pool or "", 0)
        last: int = getattr(self, stage.value)
        return last

    def at_least(self, stage: Stage, pool: str | None, attempt: int) -> Self:
        """With one stage and pool counted up to `attempt`."""
        attempt = max(attempt, self.of(stage, pool))
        if stage == Stage.GENERATE:
            return self.model_copy(update={"generate": {**self.generate, pool or "": attempt}})
        return self.model_copy(update={stage.value: attempt})


class Findings(Model):
    """What a preflight found, kept because its pod may vanish with its node long before the run ends."""

    attempt: int
    """The preflight attempt that found it."""
    embeddings: int
    """Texts whose embedding was there already."""
    clips: int
    """Clips that were there already."""
    claims: bool
    """Whether the store's conditional writes can be trusted."""


class PlanSummary(Model):
    """How a run is laid out, and what it should take."""

    strategy: Strategy
    """Whether runners wait for the encoder to end."""
    encoder_shards: int
    """Pods that share the encoder's layers."""
    encoder_dtype: str
    """Number format of the encoder."""
    runner_dtype: str
    """Number format of the denoiser, in the first pool that works."""
    gpu_seconds: float
    """GPU time that the run should take."""
    peak_memory_bytes: int
    """Most memory that a card should need."""
    why: str
    """Reason for the strategy."""
    unfit_pools: tuple[str, ...] = ()
    """Pools that get no pods because the clip does not fit their cards, with the numbers."""


class ClipCounts(Model):
    """Clips, by what became of them."""

    total: int
    """Clips that are asked for."""
    succeeded: int = 0
    """Clips that are finished."""
    running: int = 0
    """Clips at work."""
    failed: int = 0
    """Clips that cannot be made."""
    reused: int = 0
    """Clips that were there already."""


class PromptCounts(Model):
    """Texts, by what became of them."""

    total: int
    """Texts to encode."""
    cached: int = 0
    """Texts whose embedding was there already."""
    encoded: int = 0
    """Texts that this run encoded."""


class ShardStatus(Model):
    """One pod of the encoder."""

    index: int
    """Index of the shard, from 0."""
    pod: str
    """Name of the pod."""
    node: str | None = None
    """Name of the node."""
    state: str
    """What the process does."""
    memory_bytes: int | None = None
    """Memory in use on its card."""


class EncoderStatus(Model):
    """The encoder's pods."""

    prompts: PromptCounts
    """Texts, by what became of them."""
    shards: tuple[ShardStatus, ...] = ()
    """One entry for each pod."""


class RunnerStatus(Model):
    """One diffusion runner, as its own progress report says."""

    name: str
    """Pool and index."""
    pod: str
    """Name of the pod."""
    node: str | None = None
    """Name of the node."""
    gpu: str | None = None
    """Device that the process runs on."""
    state: str
    """What the process does."""
    clip: str | None = None
    """Clip at work."""
    step: int | None = None
    """Denoising steps done of this loop."""
    steps: int | None = None
    """Denoising steps of one loop."""
    seconds_per_step: float | None = None
    """Time of one denoising step."""
    memory_bytes: int | None = None
    """Memory in use on its card."""
    memory_total_bytes: int | None = None
    """Memory of its card."""


class Output(Model):
    """One finished clip."""

    clip: str
    """Prompt and seed."""
    prompt: str
    """Name of the prompt."""
    seed: int
    """Seed of the clip."""
    url: str
    """Where the video is."""
    sha256: str
    """SHA-256 of the file, in hexadecimal."""
    frames: int
    """Frames of the video."""
    width: int
    """Pixels from left to right."""
    height: int
    """Pixels from top to bottom."""
    seconds: float
    """Length of the video."""


class Failure(Model):
    """One pod, or one clip, that did not end well."""

    pod: str
    """Name of the pod."""
    node: str | None = None
    """Name of the node."""
    exit_code: int | None = None
    """Exit code of the container."""
    reason: str
    """Reason of the failure table."""
    message: str
    """What happened, and what to do."""
    log_tail: str | None = None
    """Last lines of the log."""


class VideoGenerationStatus(Model):
    """The whole of `status`."""

    observed_generation: int = -1
    """metadata.generation that this status speaks of; -1: none yet."""
    run_id: str | None = None
    """What the spec asks for; another one is another run."""
    retry: str | None = None
    """spec.retry of the run."""
    asked: str | None = None
    """Digest of the part of the spec that decides what is made: while it stays, the run stays."""
    plan_revision: int = 0
    """Which placement of the plan is in force: the number in its ConfigMap's name."""
    attempts: Attempts = Attempts()
    """Attempts made so far, by stage."""
    created: Attempts = Attempts()
    """Attempts that are known to have existed; one that has not keeps its name, one that has never gets it again."""
    late_starts: tuple[str, ...] = ()
    """Attempts that were given up because their pods did not start in time."""
    least_shards: int = 1
    """Shards that the encoder needs at least: half as many again as an attempt had that ran out of memory. A retry
    forgets it, for cards may have changed; what is encoded already needs no encoder."""
    gave_way: int = 0
    """The preflight attempt in whose round runners left their cards to the encoder, to return after it; 0: none."""
    found: Findings | None = None
    """What the run's preflight found."""
    start_time: Time | None = None
    """When the run began."""
    completion_time: Time | None = None
    """When the run ended."""
    phase: Phase | None = None
    """What happens now."""
    conditions: tuple[Condition, ...] = ()
    """Ready, Reconciling and Stalled for kstatus, and what has been reached so far."""
    message: str | None = None
    """One sentence for a person; says the next step where something is wrong."""
    progress: int = 0
    """Percent of the planned work, not of clips."""
    estimated_completion_time: Time | None = None
    """When the run will end if it goes on as it went so far."""
    plan: PlanSummary | None = None
    """How the run is laid out, and what it should take."""
    clips: ClipCounts | None = None
    """Clips, by what became of them."""
    encoder: EncoderStatus | None = None
    """The encoder's pods."""
    runners: tuple[RunnerStatus, ...] = ()
    """The first 64 runners, while they run."""
    outputs: tuple[Output, ...] = ()
    """Finished clips; the first of them, for all are in manifest."""
    manifest: str | None = None
    """Where the list of all clips is."""
    failures: tuple[Failure, ...] = ()
    """The last 5 failures."""
