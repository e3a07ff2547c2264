"""Rows of the text encoder's embedding, read for the tokens at hand: the whole would be a shard's largest tensor."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from videogen_runner.weights.pieces import DTYPES
from videogen_runner.weights.tensor_files import ITEM_BYTES, StoredTensor

# Reading this much for nothing costs less than another request.
_GAP_BYTES = 64 * 2**10
_CONCURRENT_READS = 8


class EmbeddingRows:
    """Calls give rows on the host in the dtype of the file; what was read once is kept, at most the whole embedding."""

    def __init__(self, stored: StoredTensor) -> None:
        num_rows, width = stored.spec.shape
        self._stored = stored
        self._num_rows = num_rows
        self._row_bytes = width * ITEM_BYTES[stored.spec.dtype]
        self._rows: dict[int, Tensor] = {}

    def __call__(self, ids: Sequence[int]) -> Tensor:
        """x_LC of these ids. Raises IndexError for one outside the vocabulary, else as reading a tensor does."""
        if not all(0 <= index < self._num_rows for index in ids):
            raise IndexError(f"token ids must lie between 0 and {self._num_rows - 1}: {list(ids)}")
        self._read({index for index in ids if index not in self._rows})
        return torch.stack([self._rows[index] for index in ids])

    def _read(self, missing: set[int]) -> None:
        runs = list(_runs(sorted(missing), max(1, _GAP_BYTES // self._row_bytes)))
        with ThreadPoolExecutor(_CONCURRENT_READS) as pool:
            for run, data in zip(runs, pool.map(self._read_run, runs), strict=True):
                values = torch.frombuffer(data, dtype=DTYPES[self._stored.spec.dtype]).view(len(run), -1)
                # Copies, so that the rows in the gaps are not kept with them.
                self._rows |= {index: values[index - run.start].clone() for index in run if index in missing}

    def _read_run(self, run: range) -> bytearray:
        return self._stored.read(run.start * self._row_bytes, len(run) * self._row_bytes)


def _runs(indexes: Iterable[int], gap: int) -> Iterator[range]:
    """Stretches that hold all indexes (sorted); two indexes at most `gap` apart are in one stretch."""
    run = range(0)
    for index in indexes:
        if run and index - run.stop >= gap:
            yield run
            run = range(0)
        run = range(run.start if run else index, index + 1)
    if run:
        yield run
