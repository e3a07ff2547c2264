"""Tensors in files that `torch.save` wrote (.bin, .pt, .ckpt): where their bytes are.

Such a file is a zip archive of a pickle and the uncompressed bytes of each storage. The pickle is read with
`weights_only`, which runs no code of the file, and under FakeTensorMode, in which torch reads no storage but notes its
offset in the file (PyTorch's serialization notes). From there on a pickle is read as a safetensors file is.
"""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode  # the import that PyTorch's serialization notes give

from videogen_api.errors import WeightsInvalid
from videogen_runner.weights.pieces import DTYPE_NAMES
from videogen_runner.weights.tensor_files import StoredTensor, TensorSpec, open_tensor_file

# Keys under which training scripts put the state dict.
_WRAPPERS = ("state_dict", "model", "module", "ema")


def read_pickle(path: Path) -> list[StoredTensor]:
    """The tensors of a file. Raises WeightsMissing, or WeightsInvalid for anything but a state dict of tensors."""
    with open_tensor_file(path) as file:
        if not zipfile.is_zipfile(file):
            raise WeightsInvalid(
                f"{path} is no tensor file of PyTorch 1.6 or later, or was cut short; copy it again or save it anew"
            )
    try:
        with FakeTensorMode():
            content = torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsInvalid(f"{path} is no tensor file: its pickle holds more than tensors; do not use it") from error
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise WeightsInvalid(f"{path} is no tensor file: torch cannot read it; copy it again") from error
    return [_locate(name, tensor, path) for name, tensor in _state_dict(content, path).items()]


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
                break
    if not isinstance(content, dict) or not content:
        raise WeightsInvalid(f"{path} is no tensor file: it holds no state dict; give the file of the model's weights")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsInvalid(f"{path} is no tensor file: its entry {name!r} is no tensor")
    return content


def _locate(name: str, tensor: Tensor, path: Path) -> StoredTensor:
    if not tensor.is_contiguous() or tensor.dtype not in DTYPE_NAMES:
        raise WeightsInvalid(f"{path}: tensor {name} is {tensor.dtype} or not contiguous; save it as a plain tensor")
    storage_offset = tensor.untyped_storage()._checkpoint_offset  # noqa: SLF001 - the name that the notes give
    if storage_offset is None:
        raise WeightsInvalid(f"{path}: the place of tensor {name} cannot be told; save it with torch.save")
    offset = storage_offset + int(tensor.storage_offset()) * tensor.element_size()
    return StoredTensor(name, TensorSpec(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)), path, offset)
