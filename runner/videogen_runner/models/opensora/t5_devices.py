"""Where a shard's blocks lie when one card is not enough: over all cards of the pod, then in host memory.

accelerate decides (whole blocks, in order) and moves: hidden states from card to card, and the weights of a block in
host memory to the first card and away again each time that it runs.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from videogen_api.errors import OutOfMemory
from videogen_runner.memory import sample_memory

Room = Mapping[int | str, int]
"""Bytes of weights that fit on each card, by its index, and on the host under "cpu"."""

# For one prompt's activations, cuBLAS, and a layer in fp32 beside the one in fp16 (0.34 GB in XXL).
_ROOM_TO_COMPUTE = 2**30


def room_on(main: torch.device, spread: bool) -> Room:
    """What this process may still take of the card `main`, or with `spread` of every card, and of the host."""
    room: dict[int | str, int] = {}
    for card in range(torch.cuda.device_count()):
        if spread or card == main.index:
            room[card] = max(0, sample_memory(f"cuda:{card}").free - _ROOM_TO_COMPUTE)
    room["cpu"] = sample_memory("cpu").free  # the last to be used
    return room


def place_blocks(stack: nn.Module, dtypes: Mapping[str, torch.dtype], room: Room) -> dict[str, torch.device]:
    """The device of each part of a module that lies on meta; `dtypes` are those its parameters will have.

    Raises OutOfMemory where cards and host together are too small.
    """
    from accelerate import infer_auto_device_map  # type: ignore[import-untyped]  # it has no types

    found = infer_auto_device_map(
        stack, max_memory=dict(room), no_split_module_classes=["T5Block"], special_dtypes=dict(dtypes)
    )
    if "disk" in found.values():
        size = sum(parameter.numel() * dtypes[name].itemsize for name, parameter in stack.named_parameters())
        raise OutOfMemory(
            f"the shard's weights of {size / 2**30:.1f} GiB fit neither the cards nor the host, which have "
            f"{sum(room.values()) / 2**30:.1f} GiB of room; raise spec.encoder.shards"
        )
    return {
        part: torch.device("cuda", home) if isinstance(home, int) else torch.device(home)
        for part, home in found.items()
    }


def home_of(name: str, homes: Mapping[str, torch.device]) -> torch.device:
    """The device of a parameter, by the part that it belongs to."""
    return next(home for part, home in homes.items() if part == "" or f"{name}.".startswith(f"{part}."))


def dispatch(stack: Any, homes: Mapping[str, torch.device], main: torch.device) -> None:
    """Makes a filled module move what it computes with; nothing to do where all of it lies on one device."""
    if len(set(homes.values())) > 1:
        from accelerate import dispatch_model

        dispatch_model(stack, {part: _name(home) for part, home in homes.items()}, main_device=main)


def weights_of(layer: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """The layer's weights on `device`, also those that wait in host memory."""
    if any(parameter.is_meta for parameter in layer.parameters()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model  # type: ignore[import-untyped]  # it has no types

        return {name: weight.to(device) for name, weight in get_state_dict_offloaded_model(layer).items()}
    return dict(layer.named_parameters())


def _name(home: torch.device) -> int | str:
    return "cpu" if home.type == "cpu" else home.index
