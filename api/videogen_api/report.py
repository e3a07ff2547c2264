"""What a runner process says of itself: progress while it runs, a termination report when it ends.

Progress is served as JSON at /progress. The termination report is at most 4096 bytes, because that is what Kubernetes
keeps; nothing but timings is lost without it, for collect reads the store.
"""

import base64
import zlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Self, TypeVar

from pydantic import NonNegativeInt, ValidationError, model_validator

from videogen_api import naming
from videogen_api.errors import ExitCode, Reason
from videogen_api.naming import Stage
from videogen_api.plan import WeightsDigests
from videogen_api.spec import Model
from videogen_api.status import Output

_ELLIPSIS = "…"

M = TypeVar("M", bound=Model)


class RunnerState(StrEnum):
    """What a process does right now."""

    STARTING = "Starting"
    LOADING = "Loading"
    ENCODING = "Encoding"
    WAITING = "Waiting"
    DENOISING = "Denoising"
    DECODING = "Decoding"
    WRITING = "Writing"
    CHECKING = "Checking"
    STOPPING = "Stopping"


class Progress(Model):
    """A look at a running process; counts are of this process alone."""

    stage: Stage
    pool: str | None = None
    index: int
    attempt: int
    pod: str
    node: str | None = None
    device: str
    state: RunnerState
    clip: str | None = None
    loop: int = 0
    loops: int = 1
    step: int = 0
    steps: int = 0
    seconds_per_step: float | None = None
    done: int = 0
    """Texts encoded, or clips finished."""
    total: int = 0
    memory_bytes: int = 0
    """Held on the device by this process."""
    memory_peak_bytes: int = 0
    """Held at most by this process."""
    memory_total_bytes: int = 0
    """Of the device."""
    guidance_batch: int | None = None
    """As in the plan, or less where memory is short; so is the next."""
    decode_batch_frames: int | None = None
    host_blocks: int | None = None
    """Blocks of the denoiser whose weights wait on the host; 0 in every plan."""


class Bitmap(Model):
    """Which of a list's items are there, in few bytes."""

    size: NonNegativeInt
    bits: str

    @classmethod
    def of(cls, present: Iterable[bool]) -> Self:
        flags = list(present)
        packed = bytearray(-(-len(flags) // 8))
        for position, flag in enumerate(flags):
            packed[position // 8] |= flag << (position % 8)
        return cls(size=len(flags), bits=base64.b64encode(zlib.compress(bytes(packed), 9)).decode())

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if len(self._unpack()) != -(-self.size // 8):
            raise ValueError(f"bits: want those of {self.size} items")
        return self

    def _unpack(self) -> bytes:
        try:
            # One byte more than there should be is enough to see that there are too many.
            return zlib.decompressobj().decompress(base64.b64decode(self.bits), self.size // 8 + 2)
        except zlib.error as error:
            raise ValueError(f"bits: {error}") from error

    def flags(self) -> tuple[bool, ...]:
        packed = self._unpack()
        return tuple(bool(packed[position // 8] >> (position % 8) & 1) for position in range(self.size))

    @property
    def count(self) -> int:
        return sum(self.flags())


class PreflightReport(Model):
    """What is there before any work; positions are those of `Plan.texts` and `Plan.work`."""

    weights: WeightsDigests
    embeddings: Bitmap
    clips: Bitmap
    claims: bool
    """Whether the store's conditional writes can be trusted."""


class EncodeReport(Model):
    encoded: int
    seconds: float
    load_seconds: float
    truncated: tuple[str, ...] = ()
    """Warnings about texts over the token limit, the first few."""
    relative_error: float | None = None
    """Of the first text's hidden states after this process's blocks, against the same blocks in fp32 with the same
    input, as a part of the exact states' norm; None where it was not measured: in fp32, on a CPU, without a text."""
    exact_runs: int = 0
    """How often a block ran again in fp32, because its fp16 values were not finite."""


class GenerateReport(Model):
    finished: int
    reused: int
    """Clips that were there already."""
    failed: int
    resumed: int
    steps: int
    """Denoising steps that this process computed."""
    adapted: int = 0
    """Clips that were finished in another form than the plan's, for want of memory."""
    step_seconds: float
    load_seconds: float


class ClipFailureLine(Model):
    clip: str
    reason: Reason
    message: str


class CollectReport(Model):
    """The truth about a run; `outputs` are as many as fit."""

    succeeded: int
    failed: int
    missing: int
    failures: tuple[ClipFailureLine, ...] = ()
    outputs: tuple[Output, ...] = ()
    manifest: str | None = None


class TerminationReport(Model):
    """The last words of a process."""

    stage: Stage
    pool: str | None = None
    index: int
    attempt: int
    exit_code: int
    reason: Reason | None = None
    message: str
    seconds: float
    peak_memory_bytes: int
    preflight: PreflightReport | None = None
    encode: EncodeReport | None = None
    generate: GenerateReport | None = None
    collect: CollectReport | None = None

    def to_bytes(self) -> bytes:
        """At most 4096 bytes: outputs, failures and warnings are dropped from the end, then the message is cut.

        Raises ValueError where that is not enough: tens of thousands of texts and clips, half of each there already.
        """
        report = self
        while (
            len(content := report.model_dump_json(by_alias=True, exclude_none=True).encode())
            > naming.MAX_TERMINATION_BYTES
        ):
            report = report._shortened()
        return content

    def _shortened(self) -> Self:
        if self.collect is not None and self.collect.outputs:
            return self.model_copy(update={"collect": _drop_last(self.collect, "outputs", self.collect.outputs)})
        if self.collect is not None and self.collect.failures:
            return self.model_copy(update={"collect": _drop_last(self.collect, "failures", self.collect.failures)})
        if self.encode is not None and self.encode.truncated:
            return self.model_copy(update={"encode": _drop_last(self.encode, "truncated", self.encode.truncated)})
        if len(self.message) <= len(_ELLIPSIS):
            raise ValueError(f"the report does not fit {naming.MAX_TERMINATION_BYTES} bytes; use several resources")
        return self.model_copy(update={"message": self.message[: len(self.message) // 2] + _ELLIPSIS})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self | None:
        """The report, or None for anything else: a pod that was killed leaves a log tail, or nothing."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None

    @property
    def ok(self) -> bool:
        return self.exit_code == ExitCode.OK


def _drop_last(report: M, field: str, items: Sequence[object]) -> M:
    return report.model_copy(update={field: tuple(items[: len(items) * 3 // 4])})
