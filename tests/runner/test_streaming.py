"""Blocks on the host: every bit as before, and no more weights on the device than there should be."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from videogen_runner.engine.streaming import BlockStreaming
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config

DEPTH = 4
NUM_BLOCKS = 2 * DEPTH
CONFIG = STDiT3Config(hidden_size=32, depth=DEPTH, num_heads=2, caption_channels=6, model_max_length=5)

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")),
]


@pytest.fixture(params=DEVICES)
def denoiser(request: pytest.FixtureRequest) -> STDiT3:
    torch.manual_seed(0)
    model = STDiT3(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        parameter.requires_grad_(requires_grad=False)
    return model.eval().to(request.param)


@torch.no_grad()
def predict(model: STDiT3, seed: int = 0) -> Tensor:
    """A step of two samples, from their texts on."""
    generator = torch.Generator().manual_seed(seed)
    tokens_LX = [torch.randn(3, 6, generator=generator), torch.randn(2, 6, generator=generator)]
    conditioning = model.prepare(tokens_LX, torch.full((2,), 24.0), (32, 32), (3, 4, 4))
    z_BCTHW = torch.randn(2, 4, 3, 4, 4, generator=generator).to(model.device)
    pred_BKTHW: Tensor = model(z_BCTHW, torch.tensor([700.0, 300.0], device=model.device), conditioning)
    return pred_BKTHW.cpu()


def weights(model: STDiT3) -> list[Tensor]:
    return [parameter.detach().cpu().clone() for parameter in model.parameters()]


def storages(model: STDiT3) -> list[int]:
    """Where the weights of each block are, in the order in which blocks run."""
    pairs = zip(model.spatial_blocks, model.temporal_blocks, strict=True)
    return [next(block.parameters()).untyped_storage().data_ptr() for pair in pairs for block in pair]


@pytest.mark.parametrize("num_blocks", range(NUM_BLOCKS + 1))
def test_blocks_on_the_host_change_no_bit(denoiser: STDiT3, num_blocks: int) -> None:
    expected, before = predict(denoiser), weights(denoiser)
    streaming = BlockStreaming(denoiser)
    streaming.keep_on_host(num_blocks)
    assert streaming.host_blocks == num_blocks
    for _ in range(2):  # the second step finds what the first has fetched ahead
        assert torch.equal(predict(denoiser), expected)
    assert all(torch.equal(a, b) for a, b in zip(weights(denoiser), before, strict=True))


def test_blocks_move_back_and_forth_between_steps(denoiser: STDiT3) -> None:
    expected, before = predict(denoiser), weights(denoiser)
    streaming = BlockStreaming(denoiser)
    for num_blocks in (3, 8, 1, 0, 5, 4, 0):
        streaming.keep_on_host(num_blocks)
        assert streaming.host_blocks == num_blocks
        assert torch.equal(predict(denoiser), expected)
    assert all(torch.equal(a, b) for a, b in zip(weights(denoiser), before, strict=True))
    assert {parameter.device for parameter in denoiser.parameters()} == {denoiser.device}
    assert not any(block._forward_pre_hooks for block in denoiser.modules())


def test_a_block_has_its_weights_in_one_of_two_buffers_while_it_runs(denoiser: STDiT3) -> None:
    streaming = BlockStreaming(denoiser)
    streaming.keep_on_host(NUM_BLOCKS)
    at_rest, running = storages(denoiser), []
    for block in [*denoiser.spatial_blocks, *denoiser.temporal_blocks]:
        block.attn.register_forward_hook(lambda module, _, __: running.append(module.qkv.weight.untyped_storage()))
    predict(denoiser)
    buffers = [storage.data_ptr() for storage in running]
    assert len(buffers) == NUM_BLOCKS
    assert len(set(buffers)) == 2
    assert all(one != other for one, other in pairwise(buffers))
    assert not set(buffers) & set(at_rest)
    assert storages(denoiser) == at_rest
    assert len(set(at_rest)) == NUM_BLOCKS


def test_the_blocks_on_the_host_are_spread_evenly(denoiser: STDiT3) -> None:
    streaming, before = BlockStreaming(denoiser), storages(denoiser)
    streaming.keep_on_host(4)
    moved = [there != here for there, here in zip(before, storages(denoiser), strict=True)]
    assert moved == [True, False] * 4


def test_a_step_that_breaks_off_leaves_weights_that_the_next_one_can_use(denoiser: STDiT3) -> None:
    expected = predict(denoiser)
    streaming = BlockStreaming(denoiser)
    streaming.keep_on_host(NUM_BLOCKS)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = denoiser.temporal_blocks[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        predict(denoiser)
    handle.remove()
    assert torch.equal(predict(denoiser), expected)
    streaming.keep_on_host(0)
    assert torch.equal(predict(denoiser), expected)


@contextmanager
def allocations_failing_after(monkeypatch: pytest.MonkeyPatch, num_allocations: int) -> Iterator[None]:
    """Memory for so many tensors, and none for the next."""
    allocate, left = torch.empty, iter(range(num_allocations))

    def empty(*size: Any, **options: Any) -> Tensor:
        if next(left, None) is None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return allocate(*size, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", empty)
        yield


@pytest.mark.parametrize("num_allocations", range(4))
@pytest.mark.parametrize("then", [0, 2, 3, 5])
def test_a_move_that_breaks_off_anywhere_can_be_followed_by_any_other(
    denoiser: STDiT3, monkeypatch: pytest.MonkeyPatch, num_allocations: int, then: int
) -> None:
    expected = predict(denoiser)
    streaming = BlockStreaming(denoiser)
    streaming.keep_on_host(5)
    with (
        allocations_failing_after(monkeypatch, num_allocations),
        pytest.raises(torch.OutOfMemoryError),
    ):
        streaming.keep_on_host(2)
    streaming.keep_on_host(then)
    assert streaming.host_blocks == then
    assert torch.equal(predict(denoiser), expected)


def test_blocks_that_are_where_they_should_be_are_not_moved(denoiser: STDiT3, monkeypatch: pytest.MonkeyPatch) -> None:
    streaming = BlockStreaming(denoiser)
    streaming.keep_on_host(5)
    with allocations_failing_after(monkeypatch, 0):
        streaming.keep_on_host(5)


def test_blocks_of_one_size_are_counted_with_their_alignment(denoiser: STDiT3) -> None:
    streaming = BlockStreaming(denoiser)
    exact = sum(p.numel() * p.element_size() for p in denoiser.spatial_blocks[0].parameters())
    num_parameters = len(list(denoiser.spatial_blocks[0].parameters()))
    assert streaming.num_blocks == NUM_BLOCKS
    assert exact <= streaming.block_bytes < exact + 512 * num_parameters


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_a_card_holds_two_blocks_of_those_that_wait_on_the_host() -> None:
    model = STDiT3(STDiT3Config(hidden_size=1152, depth=DEPTH)).to("cuda", torch.bfloat16).eval()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    streaming = BlockStreaming(model)
    streaming.keep_on_host(NUM_BLOCKS)
    held = before - torch.cuda.memory_allocated()
    assert held == pytest.approx((NUM_BLOCKS - 2) * streaming.block_bytes, rel=0.01)
