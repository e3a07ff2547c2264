import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from files import cut, pickle_instead, rewrite, shard, write_zeros
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from videogen_api.architecture import architecture_of
from videogen_api.errors import WeightsInvalid, WeightsMissing
from videogen_runner.models.registry import blueprint_of
from videogen_runner.weights.components import Component
from videogen_runner.weights.loading import load_denoiser, load_encoder, load_vae
from videogen_runner.weights.location import LocalWeights
from videogen_runner.weights.tensor_files import TensorSpec

TINY = architecture_of("open-sora-v1.2-tiny")
FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures" / "opensora-v1.2" / "weights"


def load(root: Path, component: Component, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    if component is Component.ENCODER:
        shard = load_encoder(LocalWeights(root), device="cpu", dtype=dtype, **options).shard
        # The shard has no embedding but reads rows of it: all of them, here.
        vocab_size = json.loads((root / component / "config.json").read_text())["vocab_size"]
        return nn.ModuleDict(
            {"encoder": shard.stack, "shared": nn.Embedding.from_pretrained(shard.embed(range(vocab_size)))}
        ).eval()
    loader: Callable[..., nn.Module] = load_denoiser if component is Component.DENOISER else load_vae
    return loader(root / component, device="cpu", dtype=dtype, **options)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())


def assert_holds(module: nn.Module, expected: dict[str, Tensor]) -> None:
    actual = state_of(module)
    assert {name: tensor.dtype for name, tensor in actual.items()} == {n: t.dtype for n, t in expected.items()}
    assert [name for name, tensor in actual.items() if not torch.equal(tensor, expected[name])] == []
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("component", Component)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modules_hold_the_files_values_in_the_wanted_dtype(
    original: Path, component: Component, dtype: torch.dtype
) -> None:
    stored = load_file(original / component / "model.safetensors")
    module = load(original, component, dtype, architecture=TINY)
    assert_holds(module, {name: tensor.to(dtype) for name, tensor in stored.items()})


def test_in_fp16_the_last_projection_of_t5_stays_fp32(original: Path) -> None:
    stored = load_file(original / "encoder" / "model.safetensors")
    expected = {name: tensor if name.endswith(".wo.weight") else tensor.half() for name, tensor in stored.items()}
    assert_holds(load(original, Component.ENCODER, torch.float16), expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_load_as_one_file_does(weights: Path, original: Path, suffix: str) -> None:
    shard(weights / "encoder", suffix)
    assert_holds(load(weights, Component.ENCODER), load_file(original / "encoder" / "model.safetensors"))


def test_a_single_pickle_loads(weights: Path, original: Path) -> None:
    pickle_instead(weights / "vae", "vae.pt")
    assert_holds(load(weights, Component.VAE), load_file(original / "vae" / "model.safetensors"))


def test_tensors_larger_than_one_piece_load_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "denoiser"
    folder.mkdir()
    config = {"depth": 1, "hidden_size": 64, "num_heads": 4, "caption_channels": 16_000, "model_max_length": 500}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = blueprint_of(TINY.name, Component.DENOISER).shapes(config)
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    assert max(tensor.nbytes for tensor in tensors.values()) > 30_000_000
    save_file(tensors, folder / "model.safetensors")
    assert_holds(load(tmp_path, Component.DENOISER), tensors)


@pytest.mark.parametrize("component", Component)
def test_recorded_public_key_names_load_strictly(weights: Path, component: Component) -> None:
    recorded = {Component.ENCODER: "t5", Component.DENOISER: "stdit3", Component.VAE: "vae"}[component]
    with safe_open(FIXTURES / f"{recorded}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = {n.removeprefix("param/"): t for n, t in load_file(FIXTURES / f"{recorded}.safetensors").items()}
    save_file(tensors, weights / component / "model.safetensors")
    (weights / component / "config.json").write_text(json.dumps(config.get("ctor", config)))
    (weights / component / "digests.json").unlink()
    assert_holds(load(weights, component), tensors)


def test_tensors_that_inference_never_reads_are_passed_over(weights: Path, original: Path) -> None:
    shared = load_file(original / "encoder" / "model.safetensors")["shared.weight"]
    extras = {"decoder.final_layer_norm.weight": torch.ones(3), "lm_head.weight": torch.ones(3)}
    rewrite(weights / "encoder" / "model.safetensors", {**extras, "encoder.embed_tokens.weight": shared.clone()})
    assert_holds(load(weights, Component.ENCODER), load_file(original / "encoder" / "model.safetensors"))


def test_the_embedding_may_be_stored_under_its_second_name(weights: Path, original: Path) -> None:
    shared = load_file(original / "encoder" / "model.safetensors")["shared.weight"]
    rewrite(
        weights / "encoder" / "model.safetensors",
        {"shared.weight": None, "encoder.embed_tokens.weight": shared},
    )
    assert_holds(load(weights, Component.ENCODER), load_file(original / "encoder" / "model.safetensors"))


TENSORS = {
    Component.ENCODER: "encoder.block.3.layer.1.DenseReluDense.wo.weight",
    Component.DENOISER: "temporal_blocks.3.attn.q_norm.weight",
    Component.VAE: "temporal_vae.decoder.conv_out.conv.bias",
}


@pytest.mark.parametrize("component", Component)
def test_a_missing_tensor_is_named_with_its_file(weights: Path, component: Component) -> None:
    rewrite(weights / component / "model.safetensors", {TENSORS[component]: None})
    with pytest.raises(WeightsMissing) as caught:
        load(weights, component)
    path = weights / component / "model.safetensors"
    assert str(caught.value) == f"{path}: tensor {TENSORS[component]} is missing; copy the checkpoint again"


@pytest.mark.parametrize("component", Component)
def test_a_tensor_of_another_shape_is_named_with_its_file(weights: Path, component: Component) -> None:
    rewrite(weights / component / "model.safetensors", {TENSORS[component]: torch.zeros(5, 7)})
    with pytest.raises(
        WeightsInvalid, match=rf"model\.safetensors: tensor {TENSORS[component]} has shape \[5, 7\], \["
    ):
        load(weights, component)


@pytest.mark.parametrize("component", Component)
def test_a_tensor_of_no_known_name_is_named_with_its_file(weights: Path, component: Component) -> None:
    rewrite(weights / component / "model.safetensors", {"surprise": torch.zeros(1)})
    with pytest.raises(WeightsInvalid, match=r"model\.safetensors: tensor surprise is unknown"):
        load(weights, component)


def test_a_truncated_file_is_named(weights: Path) -> None:
    path = weights / "denoiser" / "model.safetensors"
    cut(path, path.stat().st_size // 2)
    with pytest.raises(WeightsInvalid, match=rf"{path} has \d+ bytes, its header describes \d+: cut short"):
        load(weights, Component.DENOISER)


@pytest.mark.parametrize("component", Component)
def test_weights_of_another_model_than_the_plans_are_refused(original: Path, component: Component) -> None:
    with pytest.raises(WeightsInvalid, match=r"config\.json is of another model than open-sora-v1\.2: .* is .*, not "):
        load(original, component, architecture=architecture_of("open-sora-v1.2"))


@pytest.mark.parametrize(
    ("component", "config"),
    [
        (Component.ENCODER, {}),
        (Component.ENCODER, {**blueprint_of(TINY.name, Component.ENCODER).config_of(TINY), "d_model": "64"}),
        (Component.DENOISER, {"num_heads": 0}),
        (Component.DENOISER, {"depth": "four"}),
        (Component.DENOISER, {"hidden_size": 97}),
        (Component.VAE, {"vae_2d": {"block_out_channels": [8]}}),
        (Component.VAE, {"vae_2d": 3}),
    ],
)
def test_a_config_that_describes_no_network_is_refused(weights: Path, component: Component, config: object) -> None:
    (weights / component / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsInvalid, match=rf"{component}/config\.json .*copy it from the checkpoint"):
        load(weights, component)


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_config_that_is_no_json_object_is_refused(weights: Path, content: str) -> None:
    (weights / "denoiser" / "config.json").write_text(content)
    with pytest.raises(WeightsInvalid, match=r"denoiser/config\.json (is no JSON file|holds no JSON object)"):
        load(weights, Component.DENOISER)


PEAK = """
import sys
from pathlib import Path
import torch
from videogen_runner.weights.loading import load_denoiser

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

before = field("VmRSS:")
module = load_denoiser(Path(sys.argv[1]), device="cpu", dtype=getattr(torch, sys.argv[2]))
size = sum(parameter.nbytes for parameter in module.parameters())
print(size, field("VmHWM:") - before)
"""


@pytest.mark.parametrize(("stored", "kept"), [("F32", "float32"), ("F32", "bfloat16"), ("BF16", "float32")])
def test_loading_takes_no_more_host_memory_than_the_weights_and_a_tenth(tmp_path: Path, stored: str, kept: str) -> None:
    config = {"depth": 4, "hidden_size": 768, "num_heads": 12, "caption_channels": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = blueprint_of(TINY.name, Component.DENOISER).shapes(config)
    write_zeros(tmp_path / "model.safetensors", {name: TensorSpec(stored, shape) for name, shape in shapes.items()})
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path), kept], capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path)
    size, peak = map(int, done.stdout.split())
    assert size > 150e6
    assert size < peak <= 1.1 * size
