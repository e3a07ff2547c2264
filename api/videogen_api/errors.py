"""Every way a videogen process can fail, with the exit code that says so (the numbers are those of sysexits.h).

    VideogenError
    ├── InvalidInput       65  prompt, reference or plan cannot be used
    ├── WeightsMissing     66  a file or tensor of the weights is not there
    ├── WeightsInvalid     66  a file or tensor of the weights is damaged, of the wrong shape, or not the one expected
    ├── StoreUnavailable   69  the store did not answer; work done so far is kept
    ├── Internal           70  anything not foreseen
    ├── OutOfMemory        71  the device or the host has no room left after every adaptation
    ├── EmbeddingMissing   73  a prompt's embedding is not in the store, or is not the one expected
    ├── Interrupted        75  SIGTERM, preemption, drain: costs no retry
    ├── PeerLost           76  a shard lost another shard of its group
    ├── StoreDenied        77  the store refused: credentials, bucket or permission
    └── ConfigInvalid      78  environment or plan do not fit this image

A message is one sentence for a person: it names the field, file, key or tensor, and the remedy.
"""

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of every videogen process."""

    OK = 0
    INVALID_INPUT = 65
    WEIGHTS = 66
    STORE_UNAVAILABLE = 69
    INTERNAL = 70
    OUT_OF_MEMORY = 71
    EMBEDDING_MISSING = 73
    INTERRUPTED = 75
    PEER_LOST = 76
    STORE_DENIED = 77
    CONFIG_INVALID = 78


class Reason(StrEnum):
    """Stable CamelCase words for conditions, reports and metrics."""

    INVALID_INPUT = "InvalidInput"
    WEIGHTS_MISSING = "WeightsMissing"
    WEIGHTS_INVALID = "WeightsInvalid"
    STORE_UNAVAILABLE = "StoreUnavailable"
    INTERNAL = "Internal"
    OUT_OF_MEMORY = "OutOfMemory"
    EMBEDDING_MISSING = "EmbeddingMissing"
    INTERRUPTED = "Interrupted"
    PEER_LOST = "PeerLost"
    STORE_DENIED = "StoreDenied"
    CONFIG_INVALID = "ConfigInvalid"


class VideogenError(Exception):
    """Base of the tree; `reason` and `exit_code` are what a process reports."""

    reason: Reason = Reason.INTERNAL
    exit_code: ExitCode = ExitCode.INTERNAL


class InvalidInput(VideogenError):
    reason = Reason.INVALID_INPUT
    exit_code = ExitCode.INVALID_INPUT


class WeightsMissing(VideogenError):
    reason = Reason.WEIGHTS_MISSING
    exit_code = ExitCode.WEIGHTS


class WeightsInvalid(VideogenError):
    reason = Reason.WEIGHTS_INVALID
    exit_code = ExitCode.WEIGHTS


class StoreUnavailable(VideogenError):
    reason = Reason.STORE_UNAVAILABLE
    exit_code = ExitCode.STORE_UNAVAILABLE


class Internal(VideogenError):
    reason = Reason.INTERNAL
    exit_code = ExitCode.INTERNAL


class OutOfMemory(VideogenError):
    reason = Reason.OUT_OF_MEMORY
    exit_code = ExitCode.OUT_OF_MEMORY


class EmbeddingMissing(VideogenError):
    reason = Reason.EMBEDDING_MISSING
    exit_code = ExitCode.EMBEDDING_MISSING


class Interrupted(VideogenError):
    reason = Reason.INTERRUPTED
    exit_code = ExitCode.INTERRUPTED


class PeerLost(VideogenError):
    reason = Reason.PEER_LOST
    exit_code = ExitCode.PEER_LOST


class StoreDenied(VideogenError):
    reason = Reason.STORE_DENIED
    exit_code = ExitCode.STORE_DENIED


class ConfigInvalid(VideogenError):
    reason = Reason.CONFIG_INVALID
    exit_code = ExitCode.CONFIG_INVALID


# Reasons that a second try cannot cure: the same input gives the same answer.
FINAL_REASONS = frozenset(
    {
        Reason.INVALID_INPUT,
        Reason.WEIGHTS_MISSING,
        Reason.WEIGHTS_INVALID,
        Reason.STORE_DENIED,
        Reason.CONFIG_INVALID,
    }
)

# Reasons that cost nothing of `spec.retries`: the pod did nothing wrong.
FREE_REASONS = frozenset({Reason.INTERRUPTED})

_REASON_OF_EXIT_CODE: dict[int, Reason] = {
    ExitCode.INVALID_INPUT: Reason.INVALID_INPUT,
    ExitCode.WEIGHTS: Reason.WEIGHTS_INVALID,
    ExitCode.STORE_UNAVAILABLE: Reason.STORE_UNAVAILABLE,
    ExitCode.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    ExitCode.EMBEDDING_MISSING: Reason.EMBEDDING_MISSING,
    ExitCode.INTERRUPTED: Reason.INTERRUPTED,
    ExitCode.PEER_LOST: Reason.PEER_LOST,
    ExitCode.STORE_DENIED: Reason.STORE_DENIED,
    ExitCode.CONFIG_INVALID: Reason.CONFIG_INVALID,
}

_SIGKILL_EXIT = 137


def reason_of_exit(exit_code: int, *, oom_killed: bool = False) -> Reason | None:
    """The reason that an exit code stands for; None for 0.

    `oom_killed` is what the kubelet saw: 137 with it is the host's memory, without it an ordinary kill.
    Codes that are not ours (1, 134, 139 ...) are Internal.
    """
    if exit_code == ExitCode.OK:
        return None
    if exit_code == _SIGKILL_EXIT and oom_killed:
        return Reason.OUT_OF_MEMORY
    return _REASON_OF_EXIT_CODE.get(exit_code, Reason.INTERNAL)
