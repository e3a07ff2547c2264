"""Where blocks are placed, and on machines that have cards: that the numbers do not depend on it."""

import pytest
import torch
from torch import Tensor, nn

from videogen_api.architecture import TextEncoderShape, architecture_of
from videogen_api.errors import OutOfMemory
from videogen_runner.models.opensora.t5 import (
    EMBEDDING,
    build_on_meta,
    dtype_in_memory,
    encode_ids,
    t5_config,
    t5_shapes,
)
from videogen_runner.models.opensora.t5_devices import Room, home_of, place_blocks
from videogen_runner.models.opensora.t5_shard import EncoderShard, load_shard

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


SMALL = TextEncoderShape(vocab_size=64, d_model=512, d_kv=64, d_ff=1024, num_layers=6, num_heads=8)
SMALL_BLOCK_BYTES = 2 * SMALL.block_parameters + 2 * SMALL.d_model * SMALL.d_ff
IDS = [5, 9, 33, 1]
ROOMS = {
    "both cards": {0: 4 * SMALL_BLOCK_BYTES, 1: 8 * SMALL_BLOCK_BYTES, "cpu": GIB},
    "card and host": {0: 4 * SMALL_BLOCK_BYTES, "cpu": GIB},
    "both cards and host": {0: 3 * SMALL_BLOCK_BYTES, 1: 2 * SMALL_BLOCK_BYTES, "cpu": GIB},
}
needs_cards = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA cards")


def small_shard(room: Room | None, overflowing: int | None = None) -> EncoderShard:
    """An encoder in fp16 on cards; the gated product of the block `overflowing` is too large for it."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, shape in t5_shapes(SMALL).items():
        tensors[name] = torch.randn(shape, generator=generator) * (1.0 if len(shape) == 1 else shape[-1] ** -0.5)
        if name.endswith(".q.weight"):  # T5 does not divide by sqrt(d_kv) when it attends: its q does
            tensors[name] *= SMALL.d_kv**-0.5
    if overflowing is not None:
        for part in ("wi_0", "wi_1"):
            tensors[f"encoder.block.{overflowing}.layer.1.DenseReluDense.{part}.weight"] *= 2000

    return load_shard(
        t5_config(SMALL),
        range(SMALL.num_layers),
        HALF,
        lambda name, dtype, device: tensors[name].to(device, dtype),
        lambda ids: tensors[EMBEDDING][list(ids)],
        torch.device("cuda", 0),
        room,
    )


@needs_cards
@pytest.mark.parametrize("place", ROOMS)
def test_an_encoder_on_several_devices_gives_the_bits_of_one_card(place: str) -> None:
    alone, spread = small_shard(None), small_shard(ROOMS[place])
    expected_LC = encode_ids(alone, IDS)
    assert len(set(spread.stack.hf_device_map.values())) == len(ROOMS[place]) - (place == "both cards")
    assert torch.equal(encode_ids(spread, IDS), expected_LC)
    assert torch.equal(encode_ids(spread, IDS), expected_LC)
    assert alone.first_error is not None
    assert 0 < alone.first_error < 5e-3
    assert spread.first_error == pytest.approx(alone.first_error, rel=1e-3)


@needs_cards
@pytest.mark.parametrize("place", ROOMS)
@pytest.mark.parametrize("block", [0, 4, 5])
def test_a_block_that_overflows_runs_in_fp32_wherever_it_lies(place: str, block: int) -> None:
    alone, spread = small_shard(None, block), small_shard(ROOMS[place], block)
    assert torch.equal(encode_ids(spread, IDS), encode_ids(alone, IDS))
    assert spread.num_exact_runs == alone.num_exact_runs > 0
