"""Blocks of the denoiser whose weights wait on the host and come to the device while they run: less memory, equal bits.

A block that is kept on the host has its weights in one pinned buffer. Before it runs they are copied into one of two
buffers on the device, by a stream of their own and while the blocks before it still compute; blocks on the host are
spread evenly, so that there is such work to hide the copies behind. Where the device is the host, the same code makes
plain copies.

It hooks modules from outside: the model knows nothing of it. All calls come from the thread that computes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from videogen_runner.ladder import STREAM_BUFFERS
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Block

# Every weight begins where torch's own allocator could have put it: kernels are chosen by alignment too.
_ALIGNMENT_BYTES = 512


@dataclass(frozen=True)
class _Part:
    """A weight, and its bytes in any buffer of its block."""

    parameter: nn.Parameter
    first: int
    size: int

    def in_buffer(self, buffer: Tensor) -> Tensor:
        part = buffer[self.first : self.first + self.size]
        return part.view(self.parameter.dtype).view(self.parameter.shape)


class _Block:
    """A block's weights, wherever they are."""

    def __init__(self, module: STDiT3Block) -> None:
        # The text's keys and values are made before any step, without the rest of the block.
        self.entrances: tuple[nn.Module, ...] = (module, module.cross_attn.kv_linear)
        self.parts: list[_Part] = []
        self.num_bytes = 0
        for parameter in module.parameters():
            size = parameter.numel() * parameter.element_size()
            self.parts.append(_Part(parameter, self.num_bytes, size))
            self.num_bytes += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES

    def point_at(self, buffer: Tensor) -> None:
        for part in self.parts:
            part.parameter.data = part.in_buffer(buffer)

    def move_into(self, buffer: Tensor) -> None:
        for part in self.parts:
            part.in_buffer(buffer).copy_(part.parameter.data)
        self.point_at(buffer)


@dataclass(eq=False)
class _Waiting:
    """A block whose weights are on the host."""

    block: _Block
    content: Tensor
    handles: list[RemovableHandle] = field(default_factory=list)

    def hook(self, enter: "Callable[[_Waiting], None]", leave: "Callable[[_Waiting], None]") -> None:
        def before(module: nn.Module, arguments: Any) -> None:  # noqa: ARG001 - torch passes them
            enter(self)

        def after(module: nn.Module, arguments: Any, result: Any) -> None:  # noqa: ARG001 - torch passes them
            leave(self)

        for module in self.block.entrances:
            self.handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def unhook(self) -> None:
        for handle in self.handles:
            handle.remove()


@dataclass(frozen=True)
class _Order:
    """What keeps copies and computing from overtaking each other on a card."""

    copies: torch.cuda.Stream
    filled: torch.cuda.Event
    left: torch.cuda.Event

    @classmethod
    def of(cls, copies: torch.cuda.Stream) -> Self:
        filled, left = (torch.cuda.Event() for _ in range(2))  # type: ignore[no-untyped-call]  # torch has no types here
        return cls(copies, filled, left)


class _Buffer:
    """Memory on the device for the weights of one block at a time."""

    def __init__(self, num_bytes: int, device: torch.device, copies: torch.cuda.Stream | None) -> None:
        self.content = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.holds: _Waiting | None = None
        self._order = None if copies is None else _Order.of(copies)

    def fetch(self, waiting: _Waiting) -> None:
        """Begins to copy the weights, once those who used the buffer before have computed."""
        self.holds = waiting
        if self._order is None:
            self.content.copy_(waiting.content)
            return
        with torch.cuda.stream(self._order.copies):
            self._order.copies.wait_event(self._order.left)
            self.content.copy_(waiting.content, non_blocking=True)
            self._order.filled.record()

    def enter(self) -> None:
        """What is computed from now on waits for the copy."""
        if self._order is not None:
            torch.cuda.current_stream(self.content.device).wait_event(self._order.filled)

    def leave(self) -> None:
        """The next copy waits for what has been computed up to now."""
        if self._order is not None:
            self._order.left.record(torch.cuda.current_stream(self.content.device))


class BlockStreaming:
    """Keeps as many of a denoiser's blocks on the host as it is told."""

    def __init__(self, denoiser: STDiT3) -> None:
        """The denoiser's weights must be on its device."""
        pairs = zip(denoiser.spatial_blocks, denoiser.temporal_blocks, strict=True)
        # In the order in which they run.
        self._blocks = [_Block(cast("STDiT3Block", module)) for pair in pairs for module in pair]
        self._device = denoiser.device
        self._copies: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch has no types here
        self._buffers: list[_Buffer] = []
        self._waiting: dict[int, _Waiting] = {}
        self._is_settled = True

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    @property
    def block_bytes(self) -> int:
        """Weights of one block; all are of one size."""
        return self._blocks[0].num_bytes if self._blocks else 0

    @property
    def host_block_bytes(self) -> int:
        """What one block takes on the host: torch rounds pinned memory up to a power of two."""
        return self.block_bytes if self._copies is None else 1 << (self.block_bytes - 1).bit_length()

    @property
    def host_blocks(self) -> int:
        """Blocks whose weights are on the host."""
        return len(self._waiting)

    def keep_on_host(self, num_blocks: int) -> None:
        """Moves weights until so many blocks are on the host, spread evenly over all; does nothing where it is so.

        Where memory runs out on the way, it raises what torch raises; no weight is lost, and another call must follow,
        for this many or another number.
        """
        chosen = {index * self.num_blocks // num_blocks for index in range(num_blocks)}
        if self._is_settled and chosen == self._waiting.keys():
            return
        self._is_settled = False
        if self._copies is not None:
            self._copies.synchronize()
        self._buffers.clear()
        # First those that leave: they make the room for those that return.
        for index in sorted(chosen - self._waiting.keys()):
            self._send(index)
        for index in sorted(self._waiting.keys() - chosen):
            self._bring_back(index)
        if self._waiting:
            self._buffers = [_Buffer(self.block_bytes, self._device, self._copies) for _ in range(STREAM_BUFFERS)]
        self._is_settled = True

    def _send(self, index: int) -> None:
        block = self._blocks[index]
        waiting = _Waiting(block, torch.empty(block.num_bytes, dtype=torch.uint8, pin_memory=self._copies is not None))
        block.move_into(waiting.content)
        waiting.hook(self._enter, self._leave)
        self._waiting[index] = waiting
        self._waiting = dict(sorted(self._waiting.items()))

    def _bring_back(self, index: int) -> None:
        waiting = self._waiting[index]
        waiting.block.point_at(waiting.content)  # a step that broke off has left them pointing into a buffer
        waiting.block.move_into(torch.empty(waiting.block.num_bytes, dtype=torch.uint8, device=self._device))
        waiting.unhook()
        del self._waiting[index]

    def _enter(self, waiting: _Waiting) -> None:
        """The block is about to run: its weights must be on the device, and those of the next one on their way."""
        buffer = self._buffer_of(waiting)
        buffer.enter()
        waiting.block.point_at(buffer.content)
        in_order = [*self._waiting.values()]
        following = in_order[(in_order.index(waiting) + 1) % len(in_order)]
        if all(other.holds is not following for other in self._buffers):
            next(other for other in self._buffers if other is not buffer).fetch(following)

    def _leave(self, waiting: _Waiting) -> None:
        self._buffer_of(waiting).leave()
        waiting.block.point_at(waiting.content)

    def _buffer_of(self, waiting: _Waiting) -> _Buffer:
        """The buffer that has the weights, or is getting them."""
        for buffer in self._buffers:
            if buffer.holds is waiting:
                return buffer
        self._buffers[0].fetch(waiting)
        return self._buffers[0]
