"""The device of a process, set up so that equal inputs give equal bits there."""

import os

import torch

from videogen_api.errors import ConfigInvalid
from videogen_api.naming import Env
from videogen_api.plan import Device, Dtype

# Without it cuBLAS may choose among algorithms that add in different orders:
# https://docs.nvidia.com/cuda/cublas/#results-reproducibility
_CUBLAS_KEY, _CUBLAS_VALUE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"

_THREADS_KEY = "OMP_NUM_THREADS"


def set_up_device(asked: str | None, planned: Device) -> torch.device:
    """The device that the environment asks for, or else the plan; torch is deterministic on it from now on.

    Sums on a CPU depend on the number of threads: it is OMP_NUM_THREADS, and 1 where that is not set, never the
    number of cores. Raises ConfigInvalid for a card that is not there.
    """
    device = torch.device(asked or planned.value)
    if device.type == Device.CUDA.value and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigInvalid(
            f"device {device} is not there, this machine shows {torch.cuda.device_count()}; "
            f"give the pod a card, or set {Env.DEVICE} to cpu"
        )
    os.environ.setdefault(_CUBLAS_KEY, _CUBLAS_VALUE)
    if not os.environ.get(_THREADS_KEY):
        torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    # That would also fill every new tensor, against reading what was never written: time for nothing here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch adds it at run time
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return device


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The plan's dtypes have torch's names."""
    found: torch.dtype = getattr(torch, dtype)
    return found
