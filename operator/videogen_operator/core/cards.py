"""What the planner knows of a card: room, number formats, speed. Data-sheet numbers; no device is asked.

Peaks are dense tensor-core rates with fp32 accumulation, in FLOP/s, and memory bandwidth in bytes/s, as NVIDIA's data
sheets state them for the form in brackets. What share of them a stage reaches is in costs.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from videogen_api.plan import Device, Dtype

GIB = 2**30

# A CUDA context with its kernels; and what the caching allocator cannot use because no free block has the right size.
_CONTEXT_BYTES = 640 * 2**20
_FRAGMENTATION = 0.04


@dataclass(frozen=True)
class Card:
    """One card, or the CPU that stands in for it; `memory_bytes` None: not limited, as far as anyone has said."""

    name: str
    device: Device
    dtype: Dtype
    """What matrix products run in."""
    vae_dtype: Dtype
    memory_bytes: int | None
    flops_per_second: float
    vae_flops_per_second: float
    bytes_per_second: float

    @property
    def usable_bytes(self) -> int | None:
        """Room for weights and activations of one process."""
        if self.memory_bytes is None or self.device == Device.CPU:
            return self.memory_bytes
        return int(self.memory_bytes * (1 - _FRAGMENTATION)) - _CONTEXT_BYTES

    def with_memory(self, memory_bytes: int) -> "Card":
        """The same card with the memory that a manifest states: a slice of it, or what is known of an unnamed one."""
        known = self.memory_bytes if self is not UNNAMED_CARD and self.memory_bytes is not None else memory_bytes
        return replace(self, memory_bytes=min(known, memory_bytes))


def _ampere_or_later(name: str, gibibytes: float, teraflops: float, gigabytes_per_second: float) -> Card:
    return Card(
        name=name,
        device=Device.CUDA,
        dtype=Dtype.BFLOAT16,
        vae_dtype=Dtype.BFLOAT16,
        memory_bytes=int(gibibytes * GIB),
        flops_per_second=teraflops * 1e12,
        vae_flops_per_second=teraflops * 1e12,
        bytes_per_second=gigabytes_per_second * 1e9,
    )


def _volta_or_turing(
    name: str, gibibytes: float, teraflops: float, fp32_teraflops: float, gigabytes_per_second: float
) -> Card:
    # They have no bf16, and the 2D autoencoder overflows in fp16.
    return replace(
        _ampere_or_later(name, gibibytes, teraflops, gigabytes_per_second),
        dtype=Dtype.FLOAT16,
        vae_dtype=Dtype.FLOAT32,
        vae_flops_per_second=fp32_teraflops * 1e12,
    )


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        card.name: card
        for card in (
            _volta_or_turing("T4", 15, 65, 8.1, 320),
            _volta_or_turing("V100", 16, 125, 15.7, 900),
            _volta_or_turing("V100-32GB", 32, 125, 15.7, 900),
            _volta_or_turing("RTX-2080-TI", 11, 53.8, 13.4, 616),
            _ampere_or_later("L4", 22.5, 121, 300),
            _ampere_or_later("A10", 22.5, 125, 600),
            _ampere_or_later("A10G", 22.5, 70, 600),
            _ampere_or_later("A100", 40, 312, 1555),
            _ampere_or_later("A100-80GB", 80, 312, 1935),
            _ampere_or_later("L40S", 45, 362, 864),
            _ampere_or_later("H100", 80, 989, 3350),
            _ampere_or_later("H200", 141, 989, 4800),
            _ampere_or_later("RTX-3090", 24, 71, 936),
            _ampere_or_later("RTX-4090", 24, 165, 1008),
        )
    }
)

# A card that nobody named is taken for a small one that computes in bf16, the format the weights were made in.
UNNAMED_CARD = _ampere_or_later("unnamed card", 16, 65, 320)


# One core, as every local process uses one: what a product of two 2048 x 2048 fp32 matrices reaches on an AVX2 server
# core (measured, torch 2.13 on an AMD EPYC; an AVX-512 core reached 120).
_CPU_FLOPS_PER_SECOND = 81e9
_CPU_BYTES_PER_SECOND = 10e9


def cpu(memory_bytes: int | None) -> Card:
    """The CPU of a pod or machine."""
    return Card(
        name="CPU",
        device=Device.CPU,
        dtype=Dtype.FLOAT32,
        vae_dtype=Dtype.FLOAT32,
        memory_bytes=memory_bytes,
        flops_per_second=_CPU_FLOPS_PER_SECOND,
        vae_flops_per_second=_CPU_FLOPS_PER_SECOND,
        bytes_per_second=_CPU_BYTES_PER_SECOND,
    )


def card_of_product(product: str | None) -> Card:
    """The card that a `nvidia.com/gpu.product` label names, such as NVIDIA-A100-SXM4-80GB; UNNAMED_CARD otherwise."""
    words = set(re.split(r"[^A-Z0-9]+", (product or "").upper()))
    matches = [card for name, card in CARDS.items() if words.issuperset(name.split("-"))]
    return max(matches, key=lambda card: len(card.name), default=UNNAMED_CARD)
