import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from videogen_api.architecture import architecture_of
from videogen_api.errors import InvalidInput
from videogen_runner.models.opensora.tokenizer import load_tokenizer
from videogen_runner.weights.components import Component
from videogen_runner.weights.loading import load_denoiser, load_encoder, load_vae
from videogen_runner.weights.location import LocalWeights
from videogen_runner.weights.made_up_tokenizer import write_tokenizer
from videogen_runner.weights.random_weights import PRESETS, write_random

TINY = PRESETS["tiny"]
TEXTS = ["a red fox runs through fresh snow, low sun, handheld camera", "Ünïcode 狐 \U0001f98a <b>&", "", "  x\n\ty  "]


def test_the_same_seed_gives_the_same_files(original: Path, tmp_path: Path) -> None:
    write_random(TINY, tmp_path / "again", seed=0)
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    assert len(files) == 12
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (original / file).read_bytes()


def test_another_seed_changes_every_tensor_but_those_that_are_mathematics(original: Path, tmp_path: Path) -> None:
    write_random(TINY, tmp_path / "other", seed=1)
    equal = set()
    for component in Component:
        ours, others = (load_file(root / component / "model.safetensors") for root in (original, tmp_path / "other"))
        equal |= {name for name, tensor in ours.items() if torch.equal(tensor, others[name])}
    assert equal == {"rope.freqs", "scale", "shift"}


def test_tensors_of_one_shape_differ(original: Path) -> None:
    tensors = load_file(original / "denoiser" / "model.safetensors")
    blocks = [tensors[f"{kind}_blocks.{i}.attn.qkv.weight"] for kind in ("spatial", "temporal") for i in range(4)]
    assert len({tuple(block.flatten()[:4].tolist()) for block in blocks}) == 8


def test_linear_maps_are_scaled_by_fan_in_and_norms_are_near_one(original: Path) -> None:
    tensors = load_file(original / "denoiser" / "model.safetensors")
    fc2 = tensors["spatial_blocks.0.mlp.fc2.weight"]
    assert fc2.std().item() == pytest.approx(fc2.shape[1] ** -0.5, rel=0.02)
    assert fc2.mean().item() == pytest.approx(0, abs=0.02 * fc2.shape[1] ** -0.5)
    norm = tensors["spatial_blocks.0.attn.q_norm.weight"]
    assert (norm - 1).abs().max().item() <= 0.1 * math.sqrt(3) + 1e-6
    assert tensors["final_layer.linear.weight"].std().item() > 0.05


def test_fixed_tensors_hold_their_true_values(original: Path) -> None:
    freqs = load_file(original / "denoiser" / "model.safetensors")["rope.freqs"]
    assert torch.equal(freqs, torch.tensor([10_000 ** (-i / 24) for i in range(0, 24, 2)]))
    vae = load_file(original / "vae" / "model.safetensors")
    assert vae["shift"].flatten().tolist() == pytest.approx([-0.10, 0.34, 0.27, 0.98])
    assert vae["scale"].flatten().tolist() == pytest.approx([3.85, 2.32, 2.33, 3.06])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_random_weights_keep_every_stage_finite_and_of_the_size_of_one(original: Path, dtype: torch.dtype) -> None:
    encoder = load_encoder(LocalWeights(original), device="cpu", dtype=dtype)
    denoiser = load_denoiser(original / "denoiser", device="cpu", dtype=dtype)
    vae = load_vae(original / "vae", device="cpu", dtype=torch.float32)
    y_LC = encoder.encode(TEXTS[0]).y_LC
    noise = torch.randn(1, 4, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        conditioning = denoiser.prepare([y_LC], torch.tensor([24.0]), (64, 64), (5, 8, 8))
        velocity = denoiser(noise, torch.tensor([500.0]), conditioning)[:, :4]
        large = denoiser(noise * 100, torch.tensor([20.0]), conditioning)[:, :4]
    pixels = vae.decode(velocity, 17)
    for stage in (y_LC, velocity, large, pixels):
        assert 0.1 < stage.float().std().item() < 5


def test_prompts_make_a_difference(original: Path) -> None:
    encoder = load_encoder(LocalWeights(original), device="cpu", dtype=torch.float32)
    denoiser = load_denoiser(original / "denoiser", device="cpu", dtype=torch.float32)
    noise = torch.randn(1, 4, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fox, boat = (
            denoiser(
                noise,
                torch.tensor([500.0]),
                denoiser.prepare([encoder.encode(text).y_LC], torch.tensor([24.0]), (64, 64), (5, 8, 8)),
            )
            for text in ("a red fox in the snow", "a white boat on the lake")
        )
    assert (fox - boat).std().item() > 0.05 * fox.std().item()


@pytest.mark.parametrize("vocab_size", [512, 32128])
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_has_the_ids_that_transformers_gives(tmp_path: Path, vocab_size: int, text: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import T5Tokenizer

    write_tokenizer(tmp_path, vocab_size)
    theirs = T5Tokenizer.from_pretrained(tmp_path)
    ids = load_tokenizer(tmp_path)(text)
    assert ids == theirs(text)["input_ids"]
    assert max(ids) < vocab_size == len(theirs)
    assert ids[-1] == theirs.eos_token_id == 1
    assert theirs.pad_token_id == 0


def test_words_of_prompts_are_single_tokens(original: Path) -> None:
    assert len(load_tokenizer(original / "encoder")("a red fox runs through snow")) == 7


def test_a_vocabulary_without_room_for_the_pieces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a vocabulary of 100 is too small"):
        write_tokenizer(tmp_path, 100)


def test_configs_are_those_of_the_architecture(original: Path) -> None:
    config = json.loads((original / "denoiser" / "config.json").read_text())
    assert (config["depth"], config["hidden_size"]) == (4, architecture_of(TINY.model).denoiser.hidden_size)


def test_weights_that_are_there_are_never_overwritten(weights: Path) -> None:
    before = (weights / "vae" / "model.safetensors").read_bytes()
    (weights / "encoder").rename(weights / "kept")
    with pytest.raises(InvalidInput, match=r"denoiser is there already; remove it or write to another directory"):
        write_random(TINY, weights, seed=1)
    assert (weights / "vae" / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in weights.iterdir()) == ["denoiser", "kept", "vae"]
