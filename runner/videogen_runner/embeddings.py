"""Embeddings in the store: one text's T5 output, real tokens only, under the digest of text and encoder.

`is_stored` needs no torch: preflight asks it.

Shape suffixes: L tokens, C caption channels.
"""

import textwrap
from typing import TYPE_CHECKING

from videogen_api import keys
from videogen_api.errors import EmbeddingMissing
from videogen_api.plan import Inputs, Plan
from videogen_runner.store import NotFound, Store, StoreCorrupt
from videogen_runner.store.tensors import get_tensors, put_tensors, verify_tensors

if TYPE_CHECKING:
    from torch import Tensor

_EMBEDDING = "y_LC"
_TOKENS, _DROPPED = "tokens", "dropped"

_MAX_TEXT = 60  # characters of a prompt in a message


class Embeddings:
    """The embeddings that one plan asks for, by the encoder whose digest `inputs` holds."""

    def __init__(self, store: Store, plan: Plan, inputs: Inputs) -> None:
        self._store = store
        self._digest = plan.embedding_digest(inputs)
        self._dtype = plan.encoder.dtype

    def is_stored(self, text: str) -> bool:
        """Whether the text's embedding is there, and whole."""
        key = keys.embedding(self._digest, text)
        try:
            verify_tensors(self._store.get(key).body, self._store.url(key))
        except (NotFound, StoreCorrupt):
            return False
        return True

    def exists(self, text: str) -> bool:
        """Whether there is an embedding of the text; it is not read."""
        try:
            self._store.head(keys.embedding(self._digest, text))
        except NotFound:
            return False
        return True

    def write(self, text: str, y_LC: "Tensor", num_dropped: int) -> None:
        """Stores an embedding in the dtype that the encoder computed it in, which is no loss."""
        from videogen_runner.device import torch_dtype

        metadata = {_TOKENS: str(len(y_LC)), _DROPPED: str(num_dropped)}
        put_tensors(
            self._store,
            keys.embedding(self._digest, text),
            {_EMBEDDING: y_LC.to(torch_dtype(self._dtype)).contiguous()},
            metadata,
        )

    def read(self, text: str) -> "Tensor":
        """y_LC on the host. Raises EmbeddingMissing where it is not there, or damaged."""
        key = keys.embedding(self._digest, text)
        try:
            tensors, _ = get_tensors(self._store, key)
        except NotFound as error:
            raise EmbeddingMissing(
                f"no embedding {self._store.url(key)} of {_shorten(text)}; encode it first"
            ) from error
        except StoreCorrupt as error:
            raise EmbeddingMissing(f"the embedding of {_shorten(text)} is damaged: {error}") from error
        return tensors[_EMBEDDING]


def _shorten(text: str) -> str:
    return repr(textwrap.shorten(text, _MAX_TEXT, placeholder=" ..."))
