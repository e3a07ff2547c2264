"""Every name the project gives to something outside itself: group, labels, environment keys, children, files.

Nothing else in the project spells one of these strings.
"""

import hashlib
import re
from enum import StrEnum

GROUP = "videogen.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "VideoGeneration"
PLURAL = "videogenerations"
SINGULAR = "videogeneration"
SHORT_NAME = "vg"
CATEGORY = "all"
FIELD_MANAGER = "videogen"

LABEL_NAME = f"{GROUP}/name"
LABEL_RUN = f"{GROUP}/run"
LABEL_STAGE = f"{GROUP}/stage"
LABEL_POOL = f"{GROUP}/pool"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_ROUND = f"{GROUP}/round"
LABEL_TEMPLATE = f"{GROUP}/template"


class Stage(StrEnum):
    """The stages of a run, in their order."""

    PREFLIGHT = "preflight"
    ENCODE = "encode"
    GENERATE = "generate"
    COLLECT = "collect"


class Env(StrEnum):
    """Environment keys that a runner process reads; a pod and a local process get the same ones."""

    ROLE = "VIDEOGEN_ROLE"
    """A Stage: what this process does."""
    PLAN = "VIDEOGEN_PLAN"
    """Path of the plan file."""
    POOL = "VIDEOGEN_POOL"
    """Runner pool, for generate."""
    ATTEMPT = "VIDEOGEN_ATTEMPT"
    """Attempt of this stage (and pool), counted from 1."""
    INDEX = "JOB_COMPLETION_INDEX"
    """Index within the group; the name is the one that an Indexed Job sets."""
    POD = "VIDEOGEN_POD"
    """Name of the pod, or of the local process."""
    NODE = "VIDEOGEN_NODE"
    """Name of the node."""
    WEIGHTS = "VIDEOGEN_WEIGHTS"
    """Path at which the weights are mounted; left out: the plan's own path or URL is used."""
    DEVICE = "VIDEOGEN_DEVICE"
    """`cpu`, `cuda` or `cuda:N`; left out: `cuda` where there is one."""
    PORT = "VIDEOGEN_PORT"
    """Port of /progress and /metrics; 0 takes any free one."""
    ADDRESS_FILE = "VIDEOGEN_ADDRESS_FILE"
    """Where the process writes its own host:port, for the local backend; left out: it does not."""
    TERMINATION_LOG = "VIDEOGEN_TERMINATION_LOG"
    """Path of the termination report; left out: /dev/termination-log, as the kubelet has it."""
    SCRATCH = "VIDEOGEN_SCRATCH"
    """A folder for temporary files; left out: the system's."""
    BUILTIN_WEIGHTS = "VIDEOGEN_BUILTIN_WEIGHTS"
    """A folder with one folder of weights for each model that the image carries (`weights: builtin`)."""
    SHARDS_ADDRESS = "VIDEOGEN_SHARDS_ADDRESS"
    """host:port at which shard 0 of an encoder waits for the others; for encode with several shards."""
    SHARDS_LISTENER = "VIDEOGEN_SHARDS_LISTENER"
    """File descriptor of shard 0's listening socket, inherited; left out: it listens on the port of the address."""
    START_DEADLINE = "VIDEOGEN_START_DEADLINE"
    """Seconds that a shard waits for the others to come."""


DEFAULT_TERMINATION_LOG = "/dev/termination-log"
DEFAULT_PORT = 8080
SHARDS_PORT = 29500
"""At which shard 0 of an encoder waits for the others, each pod having an address of its own."""
DEFAULT_START_DEADLINE_SECONDS = 3600
MAX_TERMINATION_BYTES = 4096

PLAN_FILE = "plan.json"
DEFAULTS_FILE = "defaults.json"
"""The cluster's defaults that a plan was made with, beside it in the ConfigMap."""

LEASE_NAME = "videogen-operator"
"""The Lease by which the operator's replicas elect their leader; it lies in their own namespace."""

CONTAINER = "runner"
"""Name of the one container of every workload pod."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's own label: a Job that carries it is admitted by that LocalQueue."""

MAX_NAME_LENGTH = 63
_SLUG_LENGTH = 30
_HASH_LENGTH = 8


def slug(text: str, max_length: int = _SLUG_LENGTH) -> str:
    """A DNS label out of any text: lower case, letter first, no dots, no trailing dash; never empty."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not cleaned or not cleaned[0].isalpha():
        cleaned = f"v-{cleaned}".rstrip("-")
    return cleaned[:max_length].rstrip("-")


def short_hash(*parts: str, length: int = _HASH_LENGTH) -> str:
    """Hexadecimal hash of several strings; the separator cannot occur in any of them."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:length]


def child_prefix(namespace: str, name: str, uid: str, run_id: str) -> str:
    """Start of every child's name of one run of one resource."""
    return f"{slug(name)}-{short_hash(namespace, name, uid, run_id)}"


def plan_name(prefix: str, revision: int) -> str:
    """Name of the ConfigMap that holds one placement of a run's plan."""
    return f"{prefix}-plan-{revision}"


def child_name(prefix: str, stage: Stage, pool: str | None, attempt: int) -> str:
    """Name of a Job (or of a local group of processes); with four digits of index it still fits a DNS label."""
    pool_part = f"-{short_hash(pool, length=4)}" if pool is not None else ""
    return f"{prefix}-{_STAGE_LETTERS[stage]}{pool_part}-{attempt}"


_STAGE_LETTERS = {Stage.PREFLIGHT: "pre", Stage.ENCODE: "enc", Stage.GENERATE: "gen", Stage.COLLECT: "col"}


def runner_name(pool: str, index: int) -> str:
    """Name of one runner in status: pool and index."""
    return f"{pool}-{index}"


def prompt_name(position: int) -> str:
    """Name of a prompt that the user did not name."""
    return f"p{position:03d}"


def clip_name(prompt: str, seed: int) -> str:
    """Name of a clip for people: the stem of its file."""
    return f"{prompt}-{seed}"
