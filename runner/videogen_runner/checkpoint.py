"""Checkpoints: a clip's state after a denoising step, in the store; another process goes on from it bit for bit.

The digest in a checkpoint's key is that of the whole object, so one that was cut short or damaged never counts. The
last checkpoint of a clip, all steps of all loops done, is what the clip's final latents are. Collect removes the rest.

Shape suffixes: B = 1 sample, C channels, T latent frames, H W latent rows and columns.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from videogen_api import keys
from videogen_api.errors import InvalidInput
from videogen_api.keys import CheckpointKey
from videogen_api.records import StoredFile
from videogen_runner.models.opensora.generation import ClipState
from videogen_runner.store import NotFound, Store, StoreCorrupt
from videogen_runner.store.tensors import get_tensors, pack_tensors

log = logging.getLogger("videogen")

_CLIP, _NUMERICS, _ADAPTED = "clip", "numerics", "adapted"
_LATENTS, _MASK, _REFERENCE, _FINISHED = "latents", "mask", "reference", "finished"

# How many of its own checkpoints a runner keeps: the newest, and one in case that is damaged.
_KEPT = 2

# What checkpoints may cost: a write is followed by this many times its own duration without one ...
_WORK_PER_WRITE = 100.0
# ... and never by less than this; it is also what passes before the first.
_MIN_INTERVAL_SECONDS = 1.0
# One write that met a store in trouble must not put hours of work at stake.
_MAX_INTERVAL_SECONDS = 600.0


class Checkpoints:
    """The checkpoints of one clip."""

    def __init__(self, store: Store, clip_digest: str, numerics_version: int) -> None:
        self._store = store
        self._clip_digest = clip_digest
        self._numerics = str(numerics_version)
        self._written: list[str] = []

    def save(self, state: ClipState, epoch: int) -> StoredFile:
        """Writes the state, and removes what this runner wrote before the last one.

        Equal states give equal objects, whoever writes them.
        """
        tensors = {_LATENTS: state.z_BCTHW, _MASK: state.mask_BT}
        tensors |= {f"{_REFERENCE}.{index}": z_CTHW for index, z_CTHW in enumerate(state.references)}
        tensors |= {f"{_FINISHED}.{index}": z_CTHW for index, z_CTHW in enumerate(state.finished)}
        # Copies: two of a state's tensors may share memory, which the file format refuses.
        body = pack_tensors(
            {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()},
            {_CLIP: self._clip_digest, _NUMERICS: self._numerics, _ADAPTED: str(state.is_adapted)},
        )
        sha256 = hashlib.sha256(body).hexdigest()
        key = CheckpointKey(loop=state.loop, step=state.next_step, epoch=epoch, sha256=sha256).key(self._clip_digest)
        self._store.put(key, body)
        self._written.append(key)
        while len(self._written) > _KEPT:
            self._store.delete(self._written.pop(0))
        return StoredFile(key=key, bytes=len(body), sha256=sha256)

    def furthest(self) -> ClipState | None:
        """The state of the furthest checkpoint that verifies, its tensors on the host; None where there is none."""
        entries = self._store.list(keys.checkpoint_prefix(self._clip_digest))
        for candidate in sorted(self._parse(entry.key for entry in entries), reverse=True):
            state = self._read(candidate)
            if state is not None:
                return state
        return None

    def _parse(self, names: Iterable[str]) -> Iterator[CheckpointKey]:
        for name in names:
            try:
                yield keys.parse_checkpoint(name)
            except InvalidInput as error:
                log.warning("%s; it is passed over", error)

    def _read(self, candidate: CheckpointKey) -> ClipState | None:
        key = candidate.key(self._clip_digest)
        try:
            tensors, metadata = get_tensors(self._store, key, candidate.sha256)
            if (metadata.get(_CLIP), metadata.get(_NUMERICS)) != (self._clip_digest, self._numerics):
                raise StoreCorrupt(f"{self._store.url(key)} belongs to another clip or version: {metadata}")
        except (NotFound, StoreCorrupt) as error:
            log.warning("a checkpoint is passed over: %s", error)
            return None
        return ClipState(
            loop=candidate.loop,
            next_step=candidate.step,
            z_BCTHW=tensors[_LATENTS],
            mask_BT=tensors[_MASK],
            references=_in_order(tensors, _REFERENCE),
            finished=_in_order(tensors, _FINISHED),
            is_adapted=metadata.get(_ADAPTED) == str(True),
        )


class CheckpointInterval:
    """Decides when the next checkpoint is due: as often as possible at less than 1 % of the time.

    One for all clips of a process: what a write costs is known from the clip before.
    """

    def __init__(
        self, now: float, *, least_seconds: float = _MIN_INTERVAL_SECONDS, work_per_write: float = _WORK_PER_WRITE
    ) -> None:
        self._least_seconds = least_seconds
        self._work_per_write = work_per_write
        self._due = now + least_seconds

    def begin(self, now: float) -> None:
        """Another clip begins."""
        self._due = max(self._due, now + self._least_seconds)

    def is_due(self, now: float) -> bool:
        return now >= self._due

    def written(self, started: float, ended: float) -> None:
        """Learns from a write how long to wait for the next one."""
        pause = min(_MAX_INTERVAL_SECONDS, self._work_per_write * (ended - started))
        self._due = ended + max(self._least_seconds, pause)


def _in_order(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, ...]:
    count = sum(key.startswith(f"{name}.") for key in tensors)
    return tuple(tensors[f"{name}.{index}"] for index in range(count))
