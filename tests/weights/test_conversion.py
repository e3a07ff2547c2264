import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from files import cut, pickle_instead, shard
from safetensors.torch import load_file, save_file

from videogen_api.errors import InvalidInput, StoreUnavailable, WeightsInvalid, WeightsMissing
from videogen_runner.weights.components import Component, find_files
from videogen_runner.weights.conversion import convert, find_components
from videogen_runner.weights.digests import digests_of
from videogen_runner.weights.pickles import read_pickle
from videogen_runner.weights.pieces import pieces


def digest_of(root: Path, component: Component) -> str:
    return digests_of(find_files(root / component, component)).digest


def assert_same_tensors(target: Path, original: Path, component: Component) -> None:
    actual, expected = (load_file(root / component / "model.safetensors") for root in (target, original))
    assert set(actual) == set(expected)
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_become_one_file_of_the_same_digest(weights: Path, original: Path, tmp_path: Path, suffix: str) -> None:
    shard(weights / "encoder", suffix)
    tables = convert(weights, tmp_path / "out")
    for component in Component:
        assert_same_tensors(tmp_path / "out", original, component)
        assert tables[component].digest == digest_of(tmp_path / "out", component) == digest_of(original, component)
    assert sorted(path.name for path in (tmp_path / "out" / "encoder").iterdir()) == [
        "config.json",
        "digests.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("name", ["vae.pt", "pytorch_model.bin", "epoch1.ckpt", "vae.pth"])
def test_a_single_pickle_becomes_safetensors(weights: Path, original: Path, tmp_path: Path, name: str) -> None:
    pickle_instead(weights / "vae", name)
    convert(weights, tmp_path / "out")
    assert_same_tensors(tmp_path / "out", original, Component.VAE)


def test_a_state_dict_inside_a_training_checkpoint_is_found(weights: Path, original: Path, tmp_path: Path) -> None:
    path = pickle_instead(weights / "vae", "vae.ckpt")
    torch.save({"epoch": 3, "state_dict": torch.load(path)}, path)
    convert(weights, tmp_path / "out")
    assert_same_tensors(tmp_path / "out", original, Component.VAE)


def test_views_into_one_storage_keep_their_values(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    torch.save({"whole": whole, "rows": whole[1:3], "bf16": whole.bfloat16(), "id": torch.tensor(7)}, tmp_path / "x.pt")
    read = {
        stored.name: torch.cat([piece.clone() for piece in pieces(stored)]).reshape(stored.spec.shape)
        for stored in read_pickle(tmp_path / "x.pt")
    }
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        "whole": whole.tolist(),
        "rows": whole[1:3].tolist(),
        "bf16": whole.tolist(),
        "id": 7,
    }


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float32, "F32")])
def test_tensors_are_cast_and_t5s_wo_stays_fp32_in_fp16(
    original: Path, tmp_path: Path, dtype: torch.dtype, name: str
) -> None:
    tables = convert(original, tmp_path / "out", dtype)
    for component in Component:
        stored, made = (load_file(root / component / "model.safetensors") for root in (original, tmp_path / "out"))
        for tensor_name, tensor in made.items():
            is_kept = dtype == torch.float16 and tensor_name.endswith("DenseReluDense.wo.weight")
            assert tensor.dtype == (torch.float32 if is_kept else dtype)
            assert torch.equal(tensor, stored[tensor_name].to(tensor.dtype))
        dtypes = {tensor.dtype for tensor in tables[component].tensors.values()}
        assert name in dtypes


def test_decoder_and_second_names_are_left_out(weights: Path, original: Path, tmp_path: Path) -> None:
    path = pickle_instead(weights / "encoder", "pytorch_model.bin")
    tensors = torch.load(path)
    tensors |= {"encoder.embed_tokens.weight": tensors["shared.weight"], "lm_head.weight": torch.ones(2)}
    torch.save(tensors, path)
    convert(weights, tmp_path / "out")
    assert_same_tensors(tmp_path / "out", original, Component.ENCODER)


LAYOUTS: dict[str, dict[str, str]] = {
    "repositories": {"encoder": "t5-v1_1-xxl", "denoiser": "OpenSora-STDiT-v3", "vae": "OpenSora-VAE-v1.2"},
    "owners": {
        "encoder": "DeepFloyd/t5-v1_1-xxl",
        "denoiser": "hpcai-tech/OpenSora-STDiT-v3",
        "vae": "hpcai-tech/OpenSora-VAE-v1.2",
    },
    "hub cache": {
        "encoder": "models--DeepFloyd--t5-v1_1-xxl/snapshots/0a1b",
        "denoiser": "models--hpcai-tech--OpenSora-STDiT-v3/snapshots/0a1b",
        "vae": "models--hpcai-tech--OpenSora-VAE-v1.2/snapshots/0a1b",
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_found_under_the_names_of_public_repositories(weights: Path, layout: str) -> None:
    for ours, theirs in LAYOUTS[layout].items():
        (weights / theirs).parent.mkdir(parents=True, exist_ok=True)
        (weights / ours).rename(weights / theirs)
    expected = {Component(ours): weights / theirs for ours, theirs in LAYOUTS[layout].items()}
    assert find_components(weights) == expected


@pytest.mark.parametrize("component", Component)
def test_one_checkpoint_can_be_converted_alone(original: Path, tmp_path: Path, component: Component) -> None:
    assert set(convert(original / component, tmp_path / "out")) == {component}
    assert_same_tensors(tmp_path / "out", original, component)


def test_a_directory_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"has none of the folders encoder, denoiser, vae, t5-v1_1-xxl"):
        convert(tmp_path, tmp_path / "out")


def test_nothing_is_overwritten(original: Path, weights: Path) -> None:
    with pytest.raises(InvalidInput, match="encoder is there already"):
        convert(original, weights)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def save_bomb(path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Bomb(path.with_suffix(".exploded"))}, path)


def save_bare_bomb(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(path.with_suffix(".exploded"))))


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (save_bomb, "its pickle holds more than tensors; do not use it"),
    "code in a bare pickle": (save_bare_bomb, "is no tensor file of PyTorch 1.6 or later"),
    "text": (lambda path: path.write_text("<html>not found</html>"), "is no tensor file of PyTorch 1.6 or later"),
    "empty": (lambda path: path.write_bytes(b""), "is no tensor file of PyTorch 1.6 or later"),
    "a pickled dictionary": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is no tensor file of PyTorch 1.6"),
    "no tensors": (lambda path: torch.save({"a": 1}, path), "its entry 'a' is no tensor"),
    "numbered tensors": (lambda path: torch.save({1: torch.ones(1)}, path), "its entry 1 is no tensor"),
    "a list": (lambda path: torch.save([torch.ones(1)], path), "it holds no state dict"),
    "nothing": (lambda path: torch.save({}, path), "it holds no state dict"),
    "a transposed tensor": (lambda path: torch.save({"a": torch.ones(2, 3).t()}, path), "tensor a is .* or not contig"),
    "complex numbers": (
        lambda path: torch.save({"a": torch.ones(2, dtype=torch.complex64)}, path),
        "tensor a is torch.c",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_pickle_that_is_no_tensor_file_is_refused_and_never_run(weights: Path, tmp_path: Path, kind: str) -> None:
    path = pickle_instead(weights / "vae", "vae.pt")
    spoil, complaint = SPOILED[kind]
    spoil(path)
    with pytest.raises(WeightsInvalid, match=rf"{path}.*{complaint}"):
        convert(weights, tmp_path / "out")
    assert not path.with_suffix(".exploded").exists()
    assert not (tmp_path / "out").exists()


def test_the_bomb_would_go_off_where_pickles_are_trusted(tmp_path: Path) -> None:
    save_bomb(tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "x.exploded").exists()


def test_a_zip_archive_of_something_else_is_refused(weights: Path, tmp_path: Path) -> None:
    path = pickle_instead(weights / "vae", "vae.pt")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsInvalid, match=r"vae\.pt is no tensor file: torch cannot read it"):
        convert(weights, tmp_path / "out")


def test_a_truncated_pickle_is_refused(weights: Path, tmp_path: Path) -> None:
    path = pickle_instead(weights / "vae", "vae.pt")
    cut(path, path.stat().st_size - 100)
    with pytest.raises(WeightsInvalid, match=r"vae\.pt is no tensor file of PyTorch 1\.6 or later, or was cut short"):
        convert(weights, tmp_path / "out")


def test_one_bad_component_keeps_all_from_being_written(weights: Path, tmp_path: Path) -> None:
    cut(weights / "vae" / "model.safetensors", 1000)
    with pytest.raises(WeightsInvalid, match=r"vae/model\.safetensors .* cut short"):
        convert(weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_half_written(original: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        with pytest.raises(StoreUnavailable, match=r"cannot write .*/out/denoiser: File too large; free some space"):
            convert(original, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["encoder"]
    assert digest_of(tmp_path / "out", Component.ENCODER) == digest_of(original, Component.ENCODER)


PEAK = """
import sys
from pathlib import Path
import torch
from videogen_runner.weights.conversion import convert

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

root = Path(sys.argv[1])
convert(root / "small", root / "small-out", torch.bfloat16)  # whatever is imported or set up on first use
before = field("VmRSS:")
convert(root / "large", root / "large-out", torch.bfloat16)
print(field("VmHWM:") - before)
"""


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_converting_takes_little_memory_whatever_the_size(tmp_path: Path, name: str) -> None:
    for size, values in (("small", 5_000_000), ("large", 25_000_000)):
        folder = tmp_path / size / "denoiser"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "STDiT3"}))
        tensors = {f"blocks.{i}": torch.zeros(values) for i in range(4)}
        if name.endswith(".bin"):
            torch.save(tensors, folder / name)
        else:
            save_file(tensors, folder / name)
        del tensors
    # glibc, left alone, keeps some pieces for later, now more, now fewer.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert 0 <= int(done.stdout) < 50e6
    assert (tmp_path / "large-out" / "denoiser" / "model.safetensors").stat().st_size > 200e6
