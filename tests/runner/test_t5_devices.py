"""Where blocks are placed; that the numbers stay was seen on cards: docs/benchmarks/encoder-shards.md."""

import pytest
import torch
from torch import nn

from videogen_api.architecture import architecture_of
from videogen_api.errors import OutOfMemory
from videogen_runner.models.opensora.t5 import build_on_meta, dtype_in_memory, t5_config
from videogen_runner.models.opensora.t5_devices import Room, home_of, place_blocks

SHAPE = architecture_of("open-sora-v1.2").encoder
HALF = torch.float16
BLOCK_BYTES = 2 * SHAPE.block_parameters + 2 * SHAPE.d_model * SHAPE.d_ff  # fp16, and wo in fp32
GIB = 2**30


@pytest.fixture(scope="module")
def stack() -> nn.Module:
    """The blocks of the full-size encoder, without memory."""
    encoder = build_on_meta(t5_config(SHAPE)).encoder
    assert isinstance(encoder, nn.Module)
    encoder.embed_tokens = None  # type: ignore[assignment]  # as in a shard
    return encoder


def homes_of_blocks(stack: nn.Module, room: Room) -> list[str]:
    dtypes = {name: dtype_in_memory(f"encoder.{name}", HALF) for name, _ in stack.named_parameters()}
    homes = place_blocks(stack, dtypes, room)
    found = []
    for index in range(SHAPE.num_layers):
        of_block = {home_of(name, homes) for name in dtypes if name.startswith(f"block.{index}.")}
        assert len(of_block) == 1, f"block {index} is spread over {of_block}"
        found.append(str(of_block.pop()))
    return found


def test_a_card_with_room_holds_everything(stack: nn.Module) -> None:
    assert homes_of_blocks(stack, {0: 16 * GIB, 1: 16 * GIB, "cpu": 16 * GIB}) == ["cuda:0"] * 24


def test_blocks_go_whole_over_the_cards_in_order(stack: nn.Module) -> None:
    homes = homes_of_blocks(stack, {0: 7 * GIB, 1: 7 * GIB, "cpu": 16 * GIB})
    assert homes == sorted(homes)
    assert set(homes) == {"cuda:0", "cuda:1"}
    for card in ("cuda:0", "cuda:1"):
        assert homes.count(card) * BLOCK_BYTES <= 7 * GIB


def test_what_the_cards_do_not_hold_lies_in_host_memory(stack: nn.Module) -> None:
    homes = homes_of_blocks(stack, {0: 4 * GIB, "cpu": 16 * GIB})
    assert homes == sorted(homes, reverse=True)
    assert 0 < homes.count("cuda:0") * BLOCK_BYTES <= 4 * GIB
    assert set(homes) == {"cuda:0", "cpu"}


def test_cards_and_host_that_are_too_small_are_refused_with_numbers(stack: nn.Module) -> None:
    with pytest.raises(OutOfMemory, match=r"the shard's weights of 10\.\d GiB fit neither .* 6\.0 GiB of room; raise"):
        homes_of_blocks(stack, {0: 4 * GIB, "cpu": 2 * GIB})
