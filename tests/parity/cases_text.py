"""Parity kinds of text: caption cleaning, the T5 encoder, and the way from prompts to the tokens of guided denoising.

Shape suffixes as in t5.py and stdit3.py.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from cases_denoiser import load_stdit3
from harness import Case, Check, Measurement, count_wrong_rows, count_wrong_values
from torch import Tensor

from videogen_runner.models.opensora.t5 import EMBEDDING, END_ID, TextEncoder, encode_ids
from videogen_runner.models.opensora.t5_shard import EncoderShard, load_shard
from videogen_runner.models.opensora.text import clean_caption, clean_once

T5_BOUND = 1e-5
TOLERANCE = "max_over_refmax"
_NUM_SPECIAL_TOKENS = 3


def toy_tokenizer(vocab_size: int) -> Callable[[str], list[int]]:
    """The fixtures' tokenizer (`config.tokenizer`): words by checksum, then the end mark."""

    def tokenize(text: str) -> list[int]:
        words = (zlib.crc32(word.encode()) for word in text.split())
        return [*(_NUM_SPECIAL_TOKENS + word % (vocab_size - _NUM_SPECIAL_TOKENS) for word in words), END_ID]

    return tokenize


def load_whole_shard(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> EncoderShard:
    """All blocks of the encoder, in fp32."""
    blocks = range(config["num_layers"])
    return load_shard(config, blocks, torch.float32, lambda name, dtype, _: tensors[name].to(dtype), rows_of(tensors))


def rows_of(tensors: Mapping[str, Tensor]) -> Callable[[Sequence[int]], Tensor]:
    return lambda ids: tensors[EMBEDDING][list(ids)]


def load_text_encoder(case: Case) -> TextEncoder:
    """The encoder with the recorded weights. T5 runs in fp32, whatever the case's dtype."""
    config = case.config
    key = "t5_params_file" if "t5_params_file" in config else "params_file"
    model = load_whole_shard(config["t5_config"], case.params(key))
    tokenize = toy_tokenizer(config["t5_config"]["vocab_size"])
    return TextEncoder(model, tokenize, config["ctor"]["model_max_length"])


def build_text_encoder(case: Case) -> Callable[[str], Tensor]:
    """Cleaned text -> y_LC with the recorded weights."""
    encoder = load_text_encoder(case)
    return lambda text: encoder.encode(text).y_LC


def check_caption_cleaning(case: Case) -> list[Measurement]:
    def wrong(name: str, clean: Callable[[str], str]) -> Measurement:
        rows = [{**row, "output": row[name]} for row in case.rows]
        return Measurement(name, count_wrong_rows(rows, lambda row: clean(row["input"])), 0.0)

    return [
        wrong("once", clean_once),
        wrong("cleaned", clean_caption),
        wrong("no_clean", lambda text: text.lower().strip()),
    ]


def check_t5_encoder(case: Case) -> list[Measurement]:
    """Each row alone and without its padding, against the padded batch."""
    inputs, expected_BLC = case.inputs(), case.outputs()["last_hidden_state"]
    model = load_whole_shard(case.config["t5_config"], case.params("params_file"))
    kept_BL = inputs["attention_mask"] != 0
    y_NC = torch.cat(
        [encode_ids(model, ids_L[kept_L].tolist()) for ids_L, kept_L in zip(inputs["input_ids"], kept_BL, strict=True)]
    )
    bound = case.bound(TOLERANCE, T5_BOUND)
    return [case.measure("last_hidden_state", y_NC, expected_BLC[kept_BL], bound)]


@torch.no_grad()
def check_text_cfg_path(case: Case) -> list[Measurement]:
    """Prompts to real tokens, the null tokens beside them, and both as the denoiser's text embedding sees them."""
    inputs, outputs, bound = case.inputs(), case.outputs(), case.bound(TOLERANCE, T5_BOUND)
    config = case.config
    encoder = load_text_encoder(case)
    denoiser = load_stdit3(case, "stdit3_params_file")
    kept_BL = inputs["attention_mask"] != 0
    ids_differ = sum(
        encoder.kept_ids(text)[0] != ids_L[kept_L].tolist()
        for text, ids_L, kept_L in zip(config["prompts"], inputs["input_ids"], kept_BL, strict=True)
    )
    tokens_LC = [encoder.encode(text).y_LC for text in config["prompts"]]
    null_LC = [denoiser.null_tokens(len(y_LC)) for y_LC in tokens_LC]
    both_LC = [*tokens_LC, *null_LC]
    lengths_B = torch.tensor([len(y_LC) for y_LC in both_LC])
    packed_BND = denoiser.y_embedder(torch.cat(both_LC)[None])
    kept_twice_BL = torch.cat([kept_BL, kept_BL])
    return [
        Measurement("ids", float(ids_differ), 0.0),
        Measurement("y_lens", count_wrong_values(lengths_B, outputs["y_lens"]), 0.0),
        case.measure("y", torch.cat(tokens_LC), outputs["y"][:, 0][kept_BL], bound),
        case.measure("y_null", torch.cat(null_LC), outputs["y_null"][:, 0][kept_BL], bound),
        case.measure("y_cat", torch.cat(both_LC), outputs["y_cat"][:, 0][kept_twice_BL], bound),
        case.measure("y_packed", packed_BND, outputs["y_packed"], bound),
    ]


KINDS: dict[str, Check] = {
    "caption_cleaning": check_caption_cleaning,
    "t5_encoder": check_t5_encoder,
    "text_cfg_path": check_text_cfg_path,
}
