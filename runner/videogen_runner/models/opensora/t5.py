"""The text encoder: T5 v1.1 (encoder half), as transformers implements it, on one prompt at its own length.

This is the only module that imports transformers, and only inside functions: denoiser processes never pay for it.
The reference pads every prompt to 300 tokens and masks the padding away; without padding the real tokens are the same
within rounding, for a fraction of the work.

Shape suffixes: L tokens, C caption channels, B = 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from videogen_api.architecture import MAX_TOKENS, TextEncoderShape

if TYPE_CHECKING:
    from videogen_runner.models.opensora.t5_shard import EncoderShard

# The file and the module name the same tensor differently.
EMBEDDING, EMBEDDING_ALIAS = "shared.weight", "encoder.embed_tokens.weight"
BIAS_TABLE = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_FP32_IN_FP16 = ".DenseReluDense.wo.weight"

PAD_ID, END_ID = 0, 1


@dataclass(frozen=True)
class TextEmbedding:
    """What the denoiser needs of one prompt: y_LC in fp32 on the host, real tokens only."""

    y_LC: Tensor
    num_dropped: int  # tokens of the prompt beyond the limit

    @property
    def warning(self) -> str | None:
        """One sentence for a person if the prompt was cut, else None."""
        if not self.num_dropped:
            return None
        kept = len(self.y_LC)
        return f"the prompt has {kept + self.num_dropped} tokens; the first {kept - 1} and the end mark were kept"


class TextEncoder:
    """Tokenizes and encodes prompts that are cleaned already, one at a time; `shard` holds all blocks."""

    def __init__(
        self, shard: "EncoderShard", tokenize: Callable[[str], list[int]], max_tokens: int = MAX_TOKENS
    ) -> None:
        """`tokenize` gives all ids of a text, the end mark last, without padding."""
        self.shard = shard
        self.tokenize = tokenize
        self.max_tokens = max_tokens

    def kept_ids(self, text: str) -> tuple[list[int], int]:
        """As the function of this name, for a text."""
        return kept_ids(self.tokenize(text), self.max_tokens)

    def encode(self, text: str) -> TextEmbedding:
        """Encode one prompt; the result says if and how it was cut."""
        kept, num_dropped = self.kept_ids(text)
        return TextEmbedding(encode_ids(self.shard, kept), num_dropped)


def kept_ids(ids: list[int], max_tokens: int = MAX_TOKENS) -> tuple[list[int], int]:
    """The ids that are encoded, and how many were dropped: the first ones and the end mark are kept."""
    kept = ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]
    return kept, len(ids) - len(kept)


def encode_ids(shard: "EncoderShard", ids: list[int]) -> Tensor:
    """Token ids -> y_LC, fp32 on the host, by a shard that holds all blocks."""
    return shard.finish(shard.run_blocks(shard.embed(ids)))


def t5_config(shape: TextEncoderShape) -> dict[str, Any]:
    """The config.json of a T5 v1.1 encoder of these sizes, with the keys that the public checkpoints have."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_ff": shape.d_ff,
        "d_kv": shape.d_kv,
        "d_model": shape.d_model,
        "dropout_rate": 0.1,
        "eos_token_id": END_ID,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "layer_norm_epsilon": 1e-6,
        "num_heads": shape.num_heads,
        "num_layers": shape.num_layers,
        "pad_token_id": PAD_ID,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": shape.num_buckets,
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": shape.vocab_size,
    }


def t5_shapes(shape: TextEncoderShape) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint of these sizes; asking transformers would cost seconds."""
    inner = shape.num_heads * shape.d_kv
    shapes: dict[str, tuple[int, ...]] = {
        EMBEDDING: (shape.vocab_size, shape.d_model),
        BIAS_TABLE: (shape.num_buckets, shape.num_heads),
        "encoder.final_layer_norm.weight": (shape.d_model,),
    }
    for index in range(shape.num_layers):
        attention, mlp = (f"encoder.block.{index}.layer.{layer}" for layer in (0, 1))
        shapes |= {f"{attention}.SelfAttention.{part}.weight": (inner, shape.d_model) for part in "qkv"}
        shapes |= {f"{mlp}.DenseReluDense.{part}.weight": (shape.d_ff, shape.d_model) for part in ("wi_0", "wi_1")}
        shapes |= {f"{part}.layer_norm.weight": (shape.d_model,) for part in (attention, mlp)}
        shapes[f"{attention}.SelfAttention.o.weight"] = (shape.d_model, inner)
        shapes[f"{mlp}.DenseReluDense.wo.weight"] = (shape.d_model, shape.d_ff)
    return shapes


def dtype_in_memory(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a parameter is kept in when the encoder runs in `dtype`."""
    return torch.float32 if dtype == torch.float16 and name.endswith(_FP32_IN_FP16) else dtype


def build_on_meta(config: Mapping[str, Any]) -> nn.Module:
    """The encoder that a config.json describes: names and shapes, no memory."""
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        model: nn.Module = T5EncoderModel(T5Config(**config))
    return model
