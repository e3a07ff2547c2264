"""What a component's weights are: the sha256 of every tensor, and one digest over all of it. Torch-free.

The digest covers names, dtypes, shapes and contents of all tensors, config.json and the tokenizer, not the files that
hold them: one file or many shards, pickle or safetensors, the digest is the same.

`digests.json` beside the tensors keeps the table, so that it is computed once; it is trusted as long as it agrees with
everything that can be seen without reading the tensors through.
"""

from pathlib import Path
from typing import Annotated

from pydantic import NonNegativeInt, StringConstraints, ValidationError

from videogen_api.errors import WeightsInvalid
from videogen_api.plan import digest
from videogen_api.spec import Model
from videogen_runner.store.base import sha256_of_file
from videogen_runner.weights.components import ComponentFiles, list_tensors
from videogen_runner.weights.tensor_files import StoredTensor, size_of

DIGESTS_FILE = "digests.json"

_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A plain name: it becomes a path on the machine that fetches the weights.
_FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$")]


class TensorDigest(Model):
    """One tensor; `dtype` as safetensors names it, `sha256` of its bytes in row-major order, little-endian."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    sha256: _Sha256


class ComponentDigests(Model):
    """The content of digests.json."""

    digest: _Sha256
    """Of the tensors and of `texts`."""
    tensor_files: dict[_FileName, NonNegativeInt]
    """Bytes by file name: no part of the digest, but a file of another size is another file."""
    texts: dict[_FileName, _Sha256]
    """config.json and the tokenizer."""
    tensors: dict[str, TensorDigest]

    def sha256_of(self, name: str) -> str:
        """The recorded digest of a tensor. Raises WeightsInvalid where there is none."""
        if name not in self.tensors:
            raise WeightsInvalid(
                f"{DIGESTS_FILE} records no tensor {name}: it is of other files; delete it and run "
                "`videogen weights inspect`"
            )
        return self.tensors[name].sha256

    def to_json(self) -> str:
        """Indented, for people."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @classmethod
    def parse(cls, content: bytes | str, where: str) -> "ComponentDigests":
        """Raises WeightsInvalid, naming `where`, for what is no table or has been edited."""
        try:
            table = cls.model_validate_json(content)
        except ValidationError as error:
            raise WeightsInvalid(
                f"{where} is no table of digests; delete it and run `videogen weights inspect`"
            ) from error
        own = component_digest(table.tensors, table.texts)
        if own != table.digest:
            raise WeightsInvalid(
                f"{where} records digest {table.digest}, its own table gives {own}; delete it and run "
                "`videogen weights inspect`"
            )
        return table


def component_digest(tensors: dict[str, TensorDigest], texts: dict[str, str]) -> str:
    """The digest of a component, hex."""
    return digest({"tensors": {name: tensor.model_dump() for name, tensor in tensors.items()}, "texts": texts})


def make_table(files: ComponentFiles, tensors: dict[str, TensorDigest]) -> ComponentDigests:
    """The table for files whose tensors are hashed already."""
    texts = {path.name: sha256_of_file(path) for path in files.texts}
    return ComponentDigests(
        digest=component_digest(tensors, texts),
        tensor_files=_sizes(files),
        texts=texts,
        tensors=dict(sorted(tensors.items())),
    )


def measure(files: ComponentFiles) -> ComponentDigests:
    """Reads every tensor through; seconds per gigabyte. Raises WeightsMissing or WeightsInvalid."""
    tensors = list_tensors(files)
    return make_table(
        files,
        {
            name: TensorDigest(dtype=tensor.spec.dtype, shape=tensor.spec.shape, sha256=tensor.sha256())
            for name, tensor in tensors.items()
        },
    )


def read_recorded(folder: Path) -> ComponentDigests | None:
    """The table of digests.json; None where there is none. Raises WeightsInvalid for one that cannot be used."""
    path = folder / DIGESTS_FILE
    if not path.is_file():
        return None
    return ComponentDigests.parse(path.read_bytes(), str(path))


def digests_of(files: ComponentFiles) -> ComponentDigests:
    """The recorded table where it fits the files, else a new one, by reading every tensor.

    Raises WeightsInvalid where the two disagree, naming both digests, and for pickles that have no table.
    """
    recorded = read_recorded(files.folder)
    if recorded is None:
        if files.is_pickled:
            raise WeightsInvalid(
                f"{files.tensor_files[0]} is a pickle without {DIGESTS_FILE}; "
                "run `videogen weights convert` on its directory"
            )
        return measure(files)
    if not _fits(recorded, files):
        if files.is_pickled:
            raise WeightsInvalid(
                f"{files.folder / DIGESTS_FILE} is not of the files beside it; delete it and run "
                "`videogen weights inspect`"
            )
        raise disagreement(files, recorded, measure(files))
    return recorded


def disagreement(files: ComponentFiles, recorded: ComponentDigests, actual: ComponentDigests) -> WeightsInvalid:
    """The error for a table that is not the files'; it names both digests."""
    return WeightsInvalid(
        f"{files.folder / DIGESTS_FILE} records digest {recorded.digest}, the files have {actual.digest}; copy the "
        f"weights again, or delete {DIGESTS_FILE} if they were meant to change"
    )


def _fits(recorded: ComponentDigests, files: ComponentFiles) -> bool:
    """Whether the table agrees with file sizes, texts and headers."""
    if recorded.tensor_files != _sizes(files):
        return False
    if recorded.texts != {path.name: sha256_of_file(path) for path in files.texts}:
        return False
    return files.is_pickled or _outline(recorded) == _outline_of(list_tensors(files))


def _sizes(files: ComponentFiles) -> dict[str, int]:
    return {file.name: size_of(file) for file in files.tensor_files}


def _outline(table: ComponentDigests) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in table.tensors.items()}


def _outline_of(tensors: dict[str, StoredTensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.spec.dtype, tensor.spec.shape) for name, tensor in tensors.items()}
