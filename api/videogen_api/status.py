"""What a resource says of itself: the status of a VideoGeneration.

The ledger (`run_id`, `retry`, `attempts`, `start_time`, `completion_time`) is written before acting; everything else is
computed from what was observed. `asked`, `plan_revision`, `created`, `late_starts` and `found` belong to the ledger too:
they are what a look at the children alone could not tell. Times are RFC 3339 in UTC, as Kubernetes writes them.
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
    status: ConditionStatus
    reason: str
    message: str
    last_transition_time: Time
    observed_generation: int


class Attempts(Model):
    """Attempts made so far, by stage; generate counts by pool."""

    preflight: int = 0
    encode: int = 0
    generate: dict[str, int] = Field(default_factory=dict)
    collect: int = 0

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
    clips: int
    claims: bool
    """Whether the store's conditional writes can be trusted."""


class PlanSummary(Model):
    strategy: Strategy
    encoder_shards: int
    encoder_dtype: str
    runner_dtype: str
    gpu_seconds: float
    peak_memory_bytes: int
    why: str


class ClipCounts(Model):
    total: int
    succeeded: int = 0
    running: int = 0
    failed: int = 0
    reused: int = 0


class PromptCounts(Model):
    total: int
    cached: int = 0
    encoded: int = 0


class ShardStatus(Model):
    index: int
    pod: str
    node: str | None = None
    state: str
    memory_bytes: int | None = None


class EncoderStatus(Model):
    prompts: PromptCounts
    shards: tuple[ShardStatus, ...] = ()


class RunnerStatus(Model):
    """One diffusion runner, as its own progress report says."""

    name: str
    pod: str
    node: str | None = None
    gpu: str | None = None
    state: str
    clip: str | None = None
    step: int | None = None
    steps: int | None = None
    seconds_per_step: float | None = None
    memory_bytes: int | None = None
    memory_total_bytes: int | None = None


class Output(Model):
    """One finished clip."""

    clip: str
    prompt: str
    seed: int
    url: str
    sha256: str
    frames: int
    width: int
    height: int
    seconds: float


class Failure(Model):
    """One pod, or one clip, that did not end well."""

    pod: str
    node: str | None = None
    exit_code: int | None = None
    reason: str
    message: str
    log_tail: str | None = None


class VideoGenerationStatus(Model):
    """The whole of `status`."""

    observed_generation: int = -1
    run_id: str | None = None
    retry: str | None = None
    asked: str | None = None
    """Digest of the part of the spec that decides what is made: while it stays, the run stays."""
    plan_revision: int = 0
    """Which placement of the plan is in force: the number in its ConfigMap's name."""
    attempts: Attempts = Attempts()
    created: Attempts = Attempts()
    """Attempts that are known to have existed; one that has not keeps its name, one that has never gets it again."""
    late_starts: tuple[str, ...] = ()
    """Attempts that were given up because their pods did not start in time."""
    found: Findings | None = None
    start_time: Time | None = None
    completion_time: Time | None = None
    phase: Phase | None = None
    conditions: tuple[Condition, ...] = ()
    message: str | None = None
    progress: int = 0
    estimated_completion_time: Time | None = None
    plan: PlanSummary | None = None
    clips: ClipCounts | None = None
    encoder: EncoderStatus | None = None
    runners: tuple[RunnerStatus, ...] = ()
    outputs: tuple[Output, ...] = ()
    manifest: str | None = None
    failures: tuple[Failure, ...] = ()
