"""The environment of a runner process as one value; a pod and a local process get the same keys (`naming.Env`)."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from videogen_api import naming
from videogen_api.errors import ConfigInvalid
from videogen_api.naming import Env, Stage

_INDEXED_STAGES = (Stage.ENCODE, Stage.GENERATE)
_CREDENTIALS_PREFIX = "AWS_"
_MAX_PORT = 65535
_DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?")


@dataclass(frozen=True)
class Environment:
    """What the process was told from outside; the plan says everything else."""

    stage: Stage
    plan: Path
    pool: str | None
    """Set for generate alone."""
    index: int
    attempt: int
    pod: str
    node: str | None
    weights: str | None
    """Where the weights are mounted; None: the plan's own path or URL."""
    builtin_weights: str | None
    """Where the image has its own weights; None: it has none."""
    device: str | None
    """None: `cuda` where there is one."""
    port: int
    address_file: Path | None
    termination_log: Path
    scratch: Path
    shards_address: str | None
    """Where the shards of an encoder meet."""
    shards_listener: int | None
    start_deadline_seconds: int
    credentials: Mapping[str, str] = field(repr=False)
    """The store's, under AWS's own names."""

    @classmethod
    def parse(cls, env: Mapping[str, str]) -> Self:
        """Raises ConfigInvalid, naming the key, for one that is missing or has no usable value."""
        stage = _stage(env)
        indexed = stage in _INDEXED_STAGES
        address_file = env.get(Env.ADDRESS_FILE)
        return cls(
            stage=stage,
            plan=Path(_required(env, Env.PLAN, "the path of the plan file")),
            pool=_required(env, Env.POOL, "the name of a runner pool") if stage is Stage.GENERATE else None,
            index=_integer(env, Env.INDEX, minimum=0, default=None if indexed else 0),
            attempt=_integer(env, Env.ATTEMPT, minimum=1),
            pod=_required(env, Env.POD, "the name of this pod or process"),
            node=env.get(Env.NODE) or None,
            weights=env.get(Env.WEIGHTS) or None,
            builtin_weights=env.get(Env.BUILTIN_WEIGHTS) or None,
            device=_device(env),
            port=_integer(env, Env.PORT, minimum=0, maximum=_MAX_PORT, default=naming.DEFAULT_PORT),
            address_file=Path(address_file) if address_file else None,
            termination_log=termination_log(env),
            scratch=_scratch(env),
            shards_address=env.get(Env.SHARDS_ADDRESS) or None,
            shards_listener=_integer(env, Env.SHARDS_LISTENER, minimum=0) if env.get(Env.SHARDS_LISTENER) else None,
            start_deadline_seconds=_integer(
                env, Env.START_DEADLINE, minimum=1, default=naming.DEFAULT_START_DEADLINE_SECONDS
            ),
            credentials={key: value for key, value in env.items() if key.startswith(_CREDENTIALS_PREFIX)},
        )


def termination_log(env: Mapping[str, str]) -> Path:
    """Where the last words go; known even where the rest of the environment cannot be parsed."""
    return Path(env.get(Env.TERMINATION_LOG) or naming.DEFAULT_TERMINATION_LOG)


def _required(env: Mapping[str, str], key: Env, want: str) -> str:
    value = env.get(key, "")
    if not value:
        raise ConfigInvalid(f"environment key {key} is not set; set it to {want}")
    return value


def _stage(env: Mapping[str, str]) -> Stage:
    want = f"one of {', '.join(Stage)}"
    value = _required(env, Env.ROLE, want)
    try:
        return Stage(value)
    except ValueError as error:
        raise ConfigInvalid(f"environment key {Env.ROLE} is {value!r}; set it to {want}") from error


def _integer(
    env: Mapping[str, str], key: Env, *, minimum: int, maximum: int | None = None, default: int | None = None
) -> int:
    want = f"a whole number from {minimum}" + (f" to {maximum}" if maximum is not None else "")
    if default is not None and not env.get(key):
        return default
    text = _required(env, key, want)
    # int() would take signs, spaces and underscores as well.
    value = int(text) if text.isascii() and text.isdigit() else -1
    if value < minimum or (maximum is not None and value > maximum):
        raise ConfigInvalid(f"environment key {key} is {text!r}; set it to {want}")
    return value


def _device(env: Mapping[str, str]) -> str | None:
    value = env.get(Env.DEVICE) or None
    if value is not None and not _DEVICE.fullmatch(value):
        raise ConfigInvalid(f"environment key {Env.DEVICE} is {value!r}; set it to cpu, cuda or cuda:N")
    return value


def _scratch(env: Mapping[str, str]) -> Path:
    folder = Path(env.get(Env.SCRATCH) or tempfile.gettempdir())
    if not folder.is_dir():
        raise ConfigInvalid(f"environment key {Env.SCRATCH} is {str(folder)!r}; set it to a folder that exists")
    return folder
