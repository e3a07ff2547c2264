import json
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videogen_api.architecture import TextEncoderShape, architecture_of
from videogen_api.errors import WeightsInvalid, WeightsMissing
from videogen_runner.models.opensora.t5 import EMBEDDING, END_ID, PAD_ID, TextEncoder, encode_ids, t5_config
from videogen_runner.models.opensora.t5_shard import EncoderShard, load_shard
from videogen_runner.models.opensora.tokenizer import load_tokenizer

SHAPE = TextEncoderShape(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4)
CONFIG = t5_config(SHAPE)
IDS = [5, 9, 33, END_ID]
WO, VALUES, OUT = (
    "layer.1.DenseReluDense.wo.weight",
    "layer.0.SelfAttention.v.weight",
    "layer.0.SelfAttention.o.weight",
)
WI_0, WI_1 = "layer.1.DenseReluDense.wi_0.weight", "layer.1.DenseReluDense.wi_1.weight"


def reference(config: dict[str, Any] = CONFIG) -> nn.Module:
    """transformers' own encoder with random weights, always the same."""
    from transformers import T5Config, T5EncoderModel

    generator = torch.Generator().manual_seed(0)
    model: nn.Module = T5EncoderModel(T5Config(**config)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model


def state() -> dict[str, Tensor]:
    """Its weights under the names that a checkpoint has."""
    return {name: parameter.data for name, parameter in reference().named_parameters()}


def shard(blocks: range = range(3), dtype: torch.dtype = torch.float32, **changed: Tensor) -> EncoderShard:
    """Some blocks of it; `changed` replaces weights."""
    tensors = {**state(), **changed}
    rows: Callable[[Sequence[int]], Tensor] = lambda ids: tensors[EMBEDDING][list(ids)]  # noqa: E731 - has a type
    return load_shard(CONFIG, blocks, dtype, lambda name, wanted, _: tensors[name].to(wanted), rows)


def relative_error(y_LC: Tensor, exact_LC: Tensor) -> float:
    return float((y_LC - exact_LC).abs().max() / exact_LC.abs().max())


def words(text: str) -> list[int]:
    return [*(2 + len(word) for word in text.split()), END_ID]


def test_the_whole_encoder_is_that_of_transformers_bit_for_bit() -> None:
    with torch.no_grad():
        expected_LC = reference()(input_ids=torch.tensor([IDS])).last_hidden_state[0]
    assert torch.equal(encode_ids(shard(), IDS), expected_LC)


def test_a_prompt_alone_is_encoded_as_in_a_padded_batch() -> None:
    ids = [IDS, [60, END_ID], [*range(2, 32), END_ID]]
    padded_BL = torch.tensor([row + [PAD_ID] * (300 - len(row)) for row in ids])
    with torch.no_grad():
        expected_BLC = reference()(input_ids=padded_BL, attention_mask=(padded_BL != PAD_ID).long()).last_hidden_state
    for row, expected_LC in zip(ids, expected_BLC, strict=True):
        y_LC = encode_ids(shard(), row)
        assert y_LC.dtype == torch.float32
        assert y_LC.shape == (len(row), SHAPE.d_model)
        assert (y_LC - expected_LC[: len(row)]).abs().max() / expected_LC.abs().max() < 1e-5


def test_a_prompt_beyond_the_limit_keeps_its_start_and_the_end_mark() -> None:
    encoder = TextEncoder(shard(), words, max_tokens=4)
    assert encoder.kept_ids("a bb ccc") == ([3, 4, 5, END_ID], 0)
    assert encoder.kept_ids("a bb ccc dddd eeeee") == ([3, 4, 5, END_ID], 2)
    cut, whole = encoder.encode("a bb ccc dddd eeeee"), encoder.encode("a bb ccc")
    assert torch.equal(cut.y_LC, whole.y_LC)
    assert cut.warning == "the prompt has 6 tokens; the first 3 and the end mark were kept"
    assert whole.warning is None


@pytest.mark.parametrize(
    ("dtype", "wo_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)],
)
def test_half_precision_keeps_the_projection_that_overflows_in_fp32(dtype: torch.dtype, wo_dtype: torch.dtype) -> None:
    half = shard(dtype=dtype)
    dtypes = {name: parameter.dtype for name, parameter in half.stack.named_parameters()}
    wo = {name for name in dtypes if name.endswith(".wo.weight")}
    assert len(wo) == SHAPE.num_layers
    assert {dtypes[name] for name in wo} == {wo_dtype}
    assert {dtypes[name] for name in dtypes.keys() - wo} == {dtype}
    y_LC = encode_ids(half, IDS)
    assert y_LC.dtype == torch.float32
    assert half.num_exact_runs == 0
    bound = {torch.float32: 1e-7, torch.float16: 5e-3, torch.bfloat16: 5e-2}[dtype]
    assert relative_error(y_LC, encode_ids(shard(), IDS)) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cuts", [(0, 1, 3), (0, 2, 3), (0, 1, 2, 3)])
def test_shards_in_a_row_are_the_whole_encoder_bit_for_bit(cuts: tuple[int, ...], dtype: torch.dtype) -> None:
    shards = [shard(range(first, end), dtype) for first, end in pairwise(cuts)]
    x_LC = shards[0].embed(IDS)
    for part in shards:
        x_LC = part.run_blocks(x_LC)
        assert x_LC.dtype == part.hidden_dtype
    assert torch.equal(shards[-1].finish(x_LC), encode_ids(shard(dtype=dtype), IDS))
    assert [(part.is_first, part.is_last) for part in shards] == [
        (part is shards[0], part is shards[-1]) for part in shards
    ]


def test_a_shard_owns_its_blocks_the_table_of_positions_and_the_last_one_the_norm() -> None:
    def asked_for(blocks: range) -> set[str]:
        seen = []

        def read(name: str, dtype: torch.dtype, _: torch.device) -> Tensor:
            seen.append(name)
            return tensors[name].to(dtype)

        load_shard(CONFIG, blocks, torch.float32, read, None)
        assert len(seen) == len(set(seen))
        return set(seen)

    tensors = state()
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    first = {name for name in tensors if name.startswith("encoder.block.0.")}
    assert table in first
    assert asked_for(range(1)) == first
    assert asked_for(range(1, 3)) == tensors.keys() - first - {EMBEDDING} | {table}


def test_pieces_that_a_shard_does_not_own_are_refused() -> None:
    tensors = state()
    middle = load_shard(CONFIG, range(1, 2), torch.float32, lambda name, dtype, _: tensors[name].to(dtype), None)
    with pytest.raises(ValueError, match=r"only the first shard owns the embedding; this one has blocks range\(1, 2\)"):
        middle.embed(IDS)
    with pytest.raises(ValueError, match=r"only the last shard owns the final norm; this one has blocks range\(1, 2\)"):
        middle.finish(torch.zeros(4, SHAPE.d_model))


OVERFLOWS = {
    "gated product": {WI_0: 1e3, WI_1: 1e3, WO: 1e-4},
    "attention": {VALUES: 1e4, OUT: 1e3},
}


def enlarged(block: int, factors: dict[str, float]) -> dict[str, Tensor]:
    names = {f"encoder.block.{block}.{name}": factor for name, factor in factors.items()}
    return {name: state()[name] * factor for name, factor in names.items()}


@pytest.mark.parametrize("block", range(3))
@pytest.mark.parametrize("place", OVERFLOWS)
def test_a_block_that_overflows_in_fp16_runs_again_in_fp32(block: int, place: str) -> None:
    changed = enlarged(block, OVERFLOWS[place])
    half, exact = shard(dtype=torch.float16, **changed), shard(**changed)
    y_LC = encode_ids(half, IDS)
    assert half.num_exact_runs == 1
    assert relative_error(y_LC, encode_ids(exact, IDS)) < 5e-3
    alone = [shard(range(index, index + 1), torch.float16, **changed) for index in range(3)]
    x_LC = alone[0].embed(IDS)
    for part in alone:
        x_LC = part.run_blocks(x_LC)
    assert torch.equal(alone[-1].finish(x_LC), y_LC)
    assert [part.num_exact_runs for part in alone] == [int(index == block) for index in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_give_nothing_finite_are_refused(dtype: torch.dtype) -> None:
    damaged = enlarged(1, {WO: float("nan")})
    with pytest.raises(WeightsInvalid, match=r"(encoder gives|block 1 of the encoder gives) in .* `videogen weights"):
        encode_ids(shard(dtype=dtype, **damaged), IDS)


def test_the_error_against_fp32_is_that_of_the_same_weights_with_the_same_input() -> None:
    x_LC = shard().embed(IDS)
    whole = shard()
    assert whole.relative_error(x_LC, whole.run_blocks(x_LC)) == 0.0
    for dtype, bound in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        rounded = {name: tensor.to(dtype).float() for name, tensor in state().items()}
        half, exact = shard(dtype=dtype), shard(**rounded)
        exact_LC = exact.run_blocks(x_LC)
        after_LC = half.run_blocks(x_LC.to(dtype))
        expected = float((after_LC.float() - exact_LC).norm() / exact_LC.norm())
        assert 0 < half.relative_error(x_LC.to(dtype), after_LC) < bound
        assert half.relative_error(x_LC.to(dtype), after_LC) == pytest.approx(expected, rel=0.2)


def test_the_config_describes_as_many_parameters_as_the_planner_counts() -> None:
    from transformers import T5Config, T5EncoderModel

    for name in ("open-sora-v1.2", "open-sora-v1.2-tiny"):
        shape = architecture_of(name).encoder
        with torch.device("meta"):
            model: nn.Module = T5EncoderModel(T5Config(**t5_config(shape)))
        assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_importing_the_encoder_does_not_import_transformers() -> None:
    code = "import sys, videogen_runner.models.opensora.t5_shard; print('transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert result.stdout == "False\n"


PIECES = [
    *(("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)),
    *(("\u2581", -2.0, 1), ("\u2581fox", -3.0, 1), ("\u2581a", -2.5, 1), ("es", -4.0, 1)),
    *((letter, -6.0, 1) for letter in "afoxes"[:5]),
]


def spiece_model() -> bytes:
    """A SentencePiece unigram model with the ids of T5: pieces, trainer spec, normalizer spec."""

    def field(number: int, payload: bytes) -> bytes:
        assert len(payload) < 128
        return bytes([number << 3 | 2, len(payload)]) + payload

    pieces = [
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind]))
        for text, score, kind in PIECES
    ]
    model_type, unknown_id, pad_id = b"\x18\x01", b"\xc0\x02\x02", b"\xd8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    trainer = field(2, model_type + unknown_id + pad_id)
    normalizer = field(3, field(1, b"identity") + b"\x18\x01")
    return b"".join(pieces) + trainer + normalizer


@pytest.mark.parametrize("text", ["a fox", "foxes", "  a   fox\nes ", "a fax \u00e9", "", "\u2581a", "afoxesa fo x"])
def test_a_sentencepiece_model_tokenizes_as_transformers_does(tmp_path: Path, text: str) -> None:
    from transformers import T5Tokenizer

    (tmp_path / "spiece.model").write_bytes(spiece_model())
    expected = T5Tokenizer(vocab=[(piece, score) for piece, score, _ in PIECES], extra_ids=0)
    assert load_tokenizer(tmp_path)(text) == expected(text)["input_ids"]


def test_a_converted_tokenizer_is_read_as_well(tmp_path: Path) -> None:
    from transformers import T5Tokenizer

    tokenizer = T5Tokenizer(vocab=[(piece, score) for piece, score, _ in PIECES], extra_ids=0)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path)("a foxes") == tokenizer("a foxes")["input_ids"]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"has neither tokenizer\.json nor spiece\.model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 5, 40, -1, -3])
def test_a_truncated_sentencepiece_model_is_refused(tmp_path: Path, kept: int) -> None:
    (tmp_path / "spiece.model").write_bytes(spiece_model()[:kept])
    with pytest.raises(WeightsInvalid, match=r"spiece\.model is no SentencePiece unigram model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "not json", json.dumps({"version": "1.0"})])
def test_a_damaged_tokenizer_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(WeightsInvalid, match=r"tokenizer\.json is no tokenizer file"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_the_end_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(spiece_model().replace(b"</s>", b"</x>"))
    with pytest.raises(WeightsInvalid, match="has no </s> token"):
        load_tokenizer(tmp_path)
