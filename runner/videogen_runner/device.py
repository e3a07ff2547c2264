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

# Segments that can grow: without them the caching allocator took up to 1.85 times what tensors needed
# (docs/planning.md). Torch reads this when the card is first used; the second name is the older one.
_ALLOCATOR_KEYS, _ALLOCATOR_VALUE = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), "expandable_segments:True"

# The first that multiply in bf16. `torch.cuda.is_bf16_supported()` is no help: it counts emulation.
_BF16_CAPABILITY = (8, 0)


def set_up_device(asked: str | None, planned: Device, card_bytes: int | None = None) -> torch.device:
    """The device that the environment asks for, or else the plan; torch is deterministic on it from now on.

    Of a card that has more than `card_bytes`, because several processes share it, torch takes that much and no more.

    Sums on a CPU depend on the number of threads: it is OMP_NUM_THREADS, and 1 where that is not set, never the
    number of cores. Raises ConfigInvalid for a card that is not there.
    """
    device = torch.device(asked or planned.value)
    if device.type == Device.CUDA.value and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigInvalid(
            f"device {device} is not there, this machine shows {torch.cuda.device_count()}; "
            f"give the pod a card, or set {Env.DEVICE} to cpu"
        )
    if device.type == Device.CUDA.value:
        # Half of torch's functions want a number.
        device = torch.device(device.type, device.index or 0)
    os.environ.setdefault(_CUBLAS_KEY, _CUBLAS_VALUE)
    if not any(os.environ.get(key) for key in _ALLOCATOR_KEYS):
        os.environ[_ALLOCATOR_KEYS[0]] = _ALLOCATOR_VALUE
    if not os.environ.get(_THREADS_KEY):
        torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    # That would also fill every new tensor, against reading what was never written: time for nothing here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch adds it at run time
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == Device.CUDA.value and card_bytes is not None:
        share = card_bytes / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, share), device.index or 0)
    return device


def check_dtypes(device: torch.device, *dtypes: Dtype) -> None:
    """Raises ConfigInvalid, naming the card and the remedy, where the plan asks for a number format that it lacks."""
    if device.type == Device.CUDA.value and Dtype.BFLOAT16 in dtypes:
        check_bf16(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))


def check_bf16(card: str, capability: tuple[int, int]) -> None:
    """Raises ConfigInvalid for a compute capability that emulates bf16 at best."""
    if capability < _BF16_CAPABILITY:
        have, need = (".".join(map(str, version)) for version in (capability, _BF16_CAPABILITY))
        raise ConfigInvalid(
            f"the plan computes in bfloat16, and {card} has compute capability {have}, which lacks it; set gpu.product "
            f"to Tesla-T4 to have float16 planned, or take cards of compute capability {need} or later"
        )


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The plan's dtypes have torch's names."""
    found: torch.dtype = getattr(torch, dtype)
    return found
