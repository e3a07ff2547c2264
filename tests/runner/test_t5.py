import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videogen_api.architecture import TextEncoderShape, architecture_of
from videogen_api.errors import WeightsInvalid, WeightsMissing
from videogen_runner.models.opensora.t5 import END_ID, PAD_ID, TextEncoder, encode_ids, load_t5, t5_config
from videogen_runner.models.opensora.tokenizer import load_tokenizer

SHAPE = TextEncoderShape(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4)
CONFIG = t5_config(SHAPE)


def state(config: dict[str, Any] = CONFIG) -> dict[str, Tensor]:
    """Random weights under the names that a checkpoint has."""
    from transformers import T5Config, T5EncoderModel

    generator = torch.Generator().manual_seed(0)
    model: nn.Module = T5EncoderModel(T5Config(**config))
    tensors = {name: torch.randn(p.shape, generator=generator) * 0.2 for name, p in model.named_parameters()}
    return {"shared.weight": tensors.pop("shared.weight"), **tensors}


def words(text: str) -> list[int]:
    return [*(2 + len(word) for word in text.split()), END_ID]


def test_a_prompt_alone_is_encoded_as_in_a_padded_batch() -> None:
    model = load_t5(CONFIG, state().items())
    ids = [[5, 9, 33, END_ID], [60, END_ID], [*range(2, 32), END_ID]]
    padded_BL = torch.tensor([row + [PAD_ID] * (300 - len(row)) for row in ids])
    with torch.no_grad():
        expected_BLC = model(input_ids=padded_BL, attention_mask=(padded_BL != PAD_ID).long()).last_hidden_state
    for row, expected_LC in zip(ids, expected_BLC, strict=True):
        y_LC = encode_ids(model, row)
        assert y_LC.dtype == torch.float32
        assert y_LC.shape == (len(row), SHAPE.d_model)
        error = (y_LC - expected_LC[: len(row)]).abs().max() / expected_LC.abs().max()
        assert error < 1e-5


def test_a_prompt_beyond_the_limit_keeps_its_start_and_the_end_mark() -> None:
    encoder = TextEncoder(load_t5(CONFIG, state().items()), words, max_tokens=4)
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
    model = load_t5(CONFIG, state().items(), dtype=dtype)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    wo = {name for name in dtypes if name.endswith(".wo.weight")}
    assert len(wo) == SHAPE.num_layers
    assert {dtypes[name] for name in wo} == {wo_dtype}
    assert {dtypes[name] for name in dtypes.keys() - wo} == {dtype}
    exact_LC = encode_ids(load_t5(CONFIG, state().items()), [5, 9, END_ID])
    y_LC = encode_ids(model, [5, 9, END_ID])
    assert y_LC.dtype == torch.float32
    assert (y_LC - exact_LC).abs().max() / exact_LC.abs().max() < (1e-7 if dtype == torch.float32 else 5e-2)


def test_tensors_come_as_a_stream_and_those_of_the_decoder_are_passed_over() -> None:
    def stream() -> Iterator[tuple[str, Tensor]]:
        yield "decoder.block.0.layer.0.SelfAttention.q.weight", torch.zeros(1)
        yield "lm_head.weight", torch.zeros(1)
        for name, tensor in state().items():
            yield name.replace("shared.weight", "encoder.embed_tokens.weight"), tensor

    y_LC = encode_ids(load_t5(CONFIG, stream()), [5, 9, END_ID])
    assert torch.equal(y_LC, encode_ids(load_t5(CONFIG, state().items()), [5, 9, END_ID]))


def test_a_missing_tensor_is_named() -> None:
    tensors = state()
    del tensors["encoder.final_layer_norm.weight"]
    with pytest.raises(WeightsMissing, match=r"1 tensors .* encoder\.final_layer_norm\.weight"):
        load_t5(CONFIG, tensors.items())


def test_a_tensor_of_another_shape_or_name_is_named() -> None:
    with pytest.raises(WeightsInvalid, match=r"shared\.weight .* has shape \[63, 32\]; .* asks for \[64, 32\]"):
        load_t5(CONFIG, {**state(), "shared.weight": torch.zeros(63, 32)}.items())
    with pytest.raises(WeightsInvalid, match=r"encoder\.block\.9\.x .* is unknown"):
        load_t5(CONFIG, {**state(), "encoder.block.9.x": torch.zeros(1)}.items())


def test_the_config_describes_as_many_parameters_as_the_planner_counts() -> None:
    from transformers import T5Config, T5EncoderModel

    for name in ("open-sora-v1.2", "open-sora-v1.2-tiny"):
        shape = architecture_of(name).encoder
        with torch.device("meta"):
            model: nn.Module = T5EncoderModel(T5Config(**t5_config(shape)))
        assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_importing_the_encoder_does_not_import_transformers() -> None:
    code = "import sys, videogen_runner.models.opensora.t5; print('transformers' in sys.modules)"
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
