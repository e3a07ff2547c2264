"""A contiguous range of T5 blocks, which turns hidden states into hidden states; shard 0 of 1 is the whole encoder.

A shard is transformers' encoder with fewer blocks. The table of relative positions lies in the encoder's first block,
and so it does in every shard's: each makes the same position bias of it, and the numbers are those of the whole.

In fp16 a product can overflow. Every gated product and every output of a layer is looked at, before transformers would
clamp it, and a block where one is not finite runs again in fp32. Other blocks are not touched by that, so the result
does not depend on where the encoder is cut.

Shape suffixes: L tokens, C caption channels, B = 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from videogen_api.errors import WeightsInvalid
from videogen_runner.models.opensora.t5 import BIAS_TABLE, build_on_meta, dtype_in_memory
from videogen_runner.models.opensora.t5_devices import Room, dispatch, home_of, place_blocks, weights_of

CPU = torch.device("cpu")

_BLOCK = "encoder.block."

EmbeddingRows = Callable[[Sequence[int]], Tensor]
"""Token ids -> their rows of the embedding on the host, in the dtype of the weights."""


TensorReader = Callable[[str, torch.dtype, torch.device], Tensor]
"""Name of a tensor in the checkpoint, dtype, device -> the tensor, cast and placed."""


def block_bytes(tensor_bytes: Mapping[str, int], num_blocks: int) -> list[int]:
    """Bytes of each block, from those of a checkpoint's tensors."""
    sizes = [0] * num_blocks
    for name, size in tensor_bytes.items():
        if name.startswith(_BLOCK) and name != BIAS_TABLE:
            sizes[int(name.removeprefix(_BLOCK).partition(".")[0])] += size
    return sizes


def load_shard(
    config: Mapping[str, Any],
    blocks: range,
    dtype: torch.dtype,
    read: TensorReader,
    rows: EmbeddingRows | None,
    device: torch.device = CPU,
    room: Room | None = None,
) -> "EncoderShard":
    """Builds a shard of the encoder that config.json describes, and fills it with what `read` gives.

    Only the shard's own tensors are asked for; the last projection of each block in fp32 where `dtype` is fp16.
    `rows` is the embedding of the first shard. All of it lies on `device`, or with `room` where there is some;
    then raises OutOfMemory where there is not.
    """
    stack = _stack_on_meta(config, len(blocks))
    stack.embed_tokens = None
    if blocks.stop != config["num_layers"]:
        stack.final_layer_norm = None
    names = {local: _checkpoint_name(local, blocks.start) for local, _ in stack.named_parameters()}
    dtypes = {local: dtype_in_memory(name, dtype) for local, name in names.items()}
    homes = {"": device} if room is None else place_blocks(stack, dtypes, room)
    for local, name in names.items():
        path, _, attribute = local.rpartition(".")
        tensor = read(name, dtypes[local], home_of(local, homes))
        setattr(stack.get_submodule(path), attribute, nn.Parameter(tensor, requires_grad=False))
    dispatch(stack, homes, device)
    return EncoderShard(stack, config, blocks, dtype, rows, device)


def _stack_on_meta(config: Mapping[str, Any], num_blocks: int) -> Any:
    # Any, for its parts are known to transformers alone.
    return build_on_meta({**config, "num_layers": num_blocks}).encoder


def _checkpoint_name(local_name: str, first_block: int) -> str:
    """Blocks count from the first one of the encoder, and the table of positions is in that one."""
    name = f"encoder.{local_name}"
    if name == BIAS_TABLE or not name.startswith(_BLOCK):
        return name
    index, _, rest = name.removeprefix(_BLOCK).partition(".")
    return f"{_BLOCK}{int(index) + first_block}.{rest}"


class EncoderShard:
    """The pieces of encoding one prompt at its own length, in the order in which the shards of a group call them.

    `embed` on the first shard, `run_blocks` on every one, `finish` on the last. What `run_blocks` returns may travel
    from one to the next: it has `hidden_dtype`, and lies on the device of the shard's last block.
    """

    def __init__(
        self,
        stack: Any,
        config: Mapping[str, Any],
        blocks: range,
        dtype: torch.dtype,
        rows: EmbeddingRows | None,
        device: torch.device,
    ) -> None:
        """`stack` holds these blocks, the table of positions, and the last shard's norm; see `load_shard`."""
        self.stack = stack.eval()
        self.blocks = blocks
        self.num_blocks: int = config["num_layers"]
        self.dtype = dtype
        self.device = device
        """Where hidden states go in; blocks on other cards take them from there."""
        self._rows = rows
        # A block's mathematics without weights: those of the block at hand are given to it in fp32.
        self._exact = _stack_on_meta(config, 1).block[0].eval()
        self._overflow = _Overflow(stack) if dtype == torch.float16 else None
        self.num_exact_runs = 0
        """How often a block ran again in fp32, because its fp16 values were not finite."""
        self.first_error: float | None = None
        """`relative_error` of the first prompt, on a card in a 16-bit format: elsewhere it is not measured."""

    @property
    def is_first(self) -> bool:
        """Whether it owns the embedding."""
        return self.blocks.start == 0

    @property
    def is_last(self) -> bool:
        """Whether it owns the final norm."""
        return self.blocks.stop == self.num_blocks

    @property
    def hidden_dtype(self) -> torch.dtype:
        """The dtype of hidden states between shards: in fp16 every block adds to them in fp32."""
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token ids -> x_LC."""
        if self._rows is None:
            raise ValueError(f"only the first shard owns the embedding; this one has blocks {self.blocks}")
        return self._rows(ids).to(self.device, self.dtype)

    @torch.no_grad()
    def run_blocks(self, x_LC: Tensor) -> Tensor:
        """x_LC before the first block of this shard -> x_LC after its last one.

        On a card, the first prompt in a 16-bit format is computed in fp32 too, for `first_error`. Raises WeightsInvalid
        where values are not finite even in fp32.
        """
        after_LC = self._run_all(x_LC)
        if self.first_error is None and self._measures_error:
            self.first_error = self.relative_error(x_LC, after_LC)
        return after_LC

    def _run_all(self, x_LC: Tensor) -> Tensor:
        x_BLC, bias = x_LC[None].to(self.device), None
        for index, block in zip(self.blocks, self.stack.block, strict=True):
            x_BLC, bias = self._run(index, block, x_BLC, bias)
        return x_BLC[0]

    @torch.no_grad()
    def finish(self, x_LC: Tensor) -> Tensor:
        """x_LC after the last block -> y_LC, fp32 on the host. Raises WeightsInvalid where a value is not finite."""
        if self.stack.final_layer_norm is None:
            raise ValueError(f"only the last shard owns the final norm; this one has blocks {self.blocks}")
        y_LC: Tensor = self.stack.final_layer_norm(x_LC).float().cpu()
        if not y_LC.isfinite().all():
            raise _not_finite(f"the encoder gives in {self.dtype}")
        return y_LC

    @torch.no_grad()
    def relative_error(self, x_LC: Tensor, after_LC: Tensor) -> float:
        """How far this shard's result is from the same weights' in fp32, given the same input: |x - exact| / |exact|.

        Costs one prompt in fp32. Weights are cast one layer at a time.
        """
        exact_BLC, bias = x_LC[None].to(self.device), None
        for block in self.stack.block:
            exact_BLC, bias = self._run_exactly(block, exact_BLC, bias)
        difference_LC = after_LC.float() - exact_BLC[0]
        return float(difference_LC.norm() / exact_BLC.norm())

    @property
    def _measures_error(self) -> bool:
        # The host has less room for a second copy of a layer, and no reason for 16 bits.
        return self.dtype != torch.float32 and self.device.type == "cuda"

    def _run(self, index: int, block: Any, x_BLC: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._overflow is not None:
            self._overflow.reset()
        after_BLC, after_bias, _ = block(x_BLC, None, bias)
        if self._overflow is not None and self._overflow.has_happened():
            self.num_exact_runs += 1
            after_BLC, after_bias = self._run_exactly(block, x_BLC, bias)
            if not after_BLC.isfinite().all():
                raise _not_finite(f"block {index} of the encoder gives in fp32")
        return after_BLC, after_bias.to(self.dtype)

    def _run_exactly(self, block: Any, x_BLC: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The block in fp32, its weights cast one layer at a time."""
        attention, feed_forward = block.layer
        home = next(block.parameters()).device
        device = self.device if home.type == "meta" else home
        known_bias = None if bias is None else bias.to(device, torch.float32)
        attended_BLC, new_bias, _ = functional_call(
            self._exact.layer[0],
            _in_fp32(attention, device),
            (x_BLC.to(device, torch.float32),),
            {"position_bias": known_bias},
        )
        after_BLC: Tensor = functional_call(self._exact.layer[1], _in_fp32(feed_forward, device), (attended_BLC,))
        return after_BLC, new_bias


class _Overflow:
    """Whether a value was not finite since the last `reset`; asking waits for the card, so once a block."""

    def __init__(self, stack: Any) -> None:
        self._seen: list[Tensor] = []
        for block in stack.block:
            attention, feed_forward = block.layer
            attention.register_forward_hook(lambda _module, _given, result: self._look_at(result[0]))
            feed_forward.DenseReluDense.wo.register_forward_pre_hook(lambda _module, given: self._look_at(given[0]))
            feed_forward.register_forward_hook(lambda _module, _given, result: self._look_at(result))

    def reset(self) -> None:
        self._seen.clear()

    def has_happened(self) -> bool:
        return not all(bool(finite) for finite in self._seen)

    def _look_at(self, values: Tensor) -> None:
        self._seen.append(values.isfinite().all())


def _in_fp32(layer: nn.Module, device: torch.device) -> dict[str, Tensor]:
    return {name: weight.float() for name, weight in weights_of(layer, device).items()}


def _not_finite(what: str) -> WeightsInvalid:
    return WeightsInvalid(f"{what} values that are not finite; check the weights with `videogen weights inspect`")
