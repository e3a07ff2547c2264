import json
from pathlib import Path

import pytest
from files import pickle_instead, rewrite, shard
from safetensors.torch import load_file, save_file

from videogen_api.errors import WeightsInvalid, WeightsMissing
from videogen_runner.weights.components import Component, find_files, list_tensors
from videogen_runner.weights.digests import DIGESTS_FILE, digests_of, measure, read_recorded


def digest_of(folder: Path, component: Component = Component.DENOISER) -> str:
    return digests_of(find_files(folder, component)).digest


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("component", Component)
def test_a_written_table_is_what_measuring_gives(original: Path, component: Component) -> None:
    files = find_files(original / component, component)
    assert read_recorded(files.folder) == measure(files) == digests_of(files)


def test_the_digest_is_the_same_however_the_tensors_are_spread(weights: Path, original: Path) -> None:
    shard(weights / "encoder", ".safetensors")
    assert digest_of(weights / "encoder", Component.ENCODER) == digest_of(original / "encoder", Component.ENCODER)


def test_a_pickle_has_the_digest_of_its_tensors(weights: Path, original: Path) -> None:
    shard(weights / "encoder", ".bin")
    files = find_files(weights / "encoder", Component.ENCODER)
    assert measure(files).digest == digest_of(original / "encoder", Component.ENCODER)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_digest_follows_every_file_that_decides(weights: Path, name: str) -> None:
    folder = weights / "encoder"
    before = digest_of(folder, Component.ENCODER)
    (folder / DIGESTS_FILE).unlink()
    if name == "model.safetensors":
        flip_last_byte(folder / name)
    else:
        (folder / name).write_text((folder / name).read_text() + "\n")
    assert digest_of(folder, Component.ENCODER) != before


def test_a_table_of_other_tensors_is_refused_with_both_digests(weights: Path) -> None:
    folder = weights / "denoiser"
    recorded = (folder / DIGESTS_FILE).read_text()
    name = "final_layer.linear.bias"
    rewrite(folder / "model.safetensors", {name: load_file(folder / "model.safetensors")[name].half()})
    actual = digest_of(folder)
    (folder / DIGESTS_FILE).write_text(recorded)
    with pytest.raises(WeightsInvalid) as caught:
        digest_of(folder)
    assert str(caught.value) == (
        f"{folder / DIGESTS_FILE} records digest {json.loads(recorded)['digest']}, the files have {actual}; copy the "
        "weights again, or delete digests.json if they were meant to change"
    )


def test_a_table_is_refused_when_config_json_has_changed(weights: Path) -> None:
    (weights / "denoiser" / "config.json").write_text("{}")
    with pytest.raises(WeightsInvalid, match=r"digests\.json records digest \w{64}, the files have \w{64}"):
        digest_of(weights / "denoiser")


def test_an_edited_table_is_refused_with_both_digests(weights: Path) -> None:
    path = weights / "denoiser" / DIGESTS_FILE
    table = json.loads(path.read_text())
    table["tensors"]["rope.freqs"]["sha256"] = "0" * 64
    path.write_text(json.dumps(table))
    with pytest.raises(
        WeightsInvalid, match=rf"records digest {table['digest']}, its own table gives (?!{table['digest']})"
    ):
        digest_of(weights / "denoiser")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"digest": "x"}'])
def test_a_file_that_is_no_table_is_refused(weights: Path, content: str) -> None:
    (weights / "vae" / DIGESTS_FILE).write_text(content)
    with pytest.raises(WeightsInvalid, match=r"vae/digests\.json is no table of digests; delete it"):
        digest_of(weights / "vae", Component.VAE)


def test_a_table_may_not_name_files_elsewhere(weights: Path) -> None:
    path = weights / "vae" / DIGESTS_FILE
    table = json.loads(path.read_text())
    table["tensorFiles"] = {"../../secret": 1}
    path.write_text(json.dumps(table))
    with pytest.raises(WeightsInvalid, match="is no table of digests"):
        digest_of(weights / "vae", Component.VAE)


def test_a_pickle_without_a_table_is_refused_with_the_way_out(weights: Path) -> None:
    path = pickle_instead(weights / "vae", "vae.ckpt")
    with pytest.raises(WeightsInvalid) as caught:
        digest_of(weights / "vae", Component.VAE)
    assert str(caught.value) == (
        f"{path} is a pickle without digests.json; run `videogen weights convert` on its directory"
    )


def test_a_table_beside_another_pickle_is_refused(weights: Path) -> None:
    table = (weights / "vae" / DIGESTS_FILE).read_text()
    pickle_instead(weights / "vae", "vae.ckpt")
    (weights / "vae" / DIGESTS_FILE).write_text(table)
    with pytest.raises(WeightsInvalid, match=r"digests\.json is not of the files beside it"):
        digest_of(weights / "vae", Component.VAE)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("encoder", "config.json"),
        ("encoder", "model.safetensors"),
        ("denoiser", "config.json"),
        ("denoiser", "model.safetensors"),
        ("vae", "model.safetensors"),
    ],
)
def test_a_missing_file_is_named(weights: Path, component: str, name: str) -> None:
    (weights / component / name).unlink()
    with pytest.raises(WeightsMissing, match=rf"{component}/{name} is missing"):
        digest_of(weights / component, Component(component))


def test_a_missing_tokenizer_is_named(weights: Path) -> None:
    (weights / "encoder" / "tokenizer.json").unlink()
    with pytest.raises(WeightsMissing, match=r"encoder has neither tokenizer\.json nor spiece\.model"):
        digest_of(weights / "encoder", Component.ENCODER)


def test_a_vae_needs_no_config(weights: Path) -> None:
    (weights / "vae" / "config.json").unlink()
    (weights / "vae" / DIGESTS_FILE).unlink()
    files = find_files(weights / "vae", Component.VAE)
    assert files.config == {}
    assert digests_of(files).texts == {}


def test_a_missing_shard_is_named(weights: Path) -> None:
    shard(weights / "encoder", ".safetensors")[1].unlink()
    with pytest.raises(
        WeightsMissing, match=r"model-00002-of-00003\.safetensors is missing, and model\.safetensors\.index"
    ):
        find_files(weights / "encoder", Component.ENCODER)


def test_a_tensor_that_is_not_in_its_shard_is_named(weights: Path) -> None:
    path = shard(weights / "encoder", ".safetensors")[0]
    tensors = load_file(path)
    name = min(tensors)
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, path)
    with pytest.raises(WeightsMissing, match=rf"tensor {name} is not in .*model-00001-of-00003\.safetensors"):
        list_tensors(find_files(weights / "encoder", Component.ENCODER))


def test_a_tensor_in_two_shards_is_named(weights: Path) -> None:
    first, second, _ = shard(weights / "encoder", ".safetensors")
    name, tensor = next(iter(load_file(first).items()))
    rewrite(second, {name: tensor})
    with pytest.raises(WeightsInvalid, match=rf"tensor {name} is in .*00001-of-.* and in .*00002-of-.*; keep one"):
        list_tensors(find_files(weights / "encoder", Component.ENCODER))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_cannot_be_used_is_refused(weights: Path, content: str) -> None:
    path = weights / "encoder" / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(WeightsInvalid, match=r"model\.safetensors\.index\.json"):
        find_files(weights / "encoder", Component.ENCODER)


def test_two_files_without_an_index_are_refused(weights: Path) -> None:
    (weights / "vae" / "other.safetensors").write_bytes(b"")
    with pytest.raises(WeightsInvalid, match=r"vae has model\.safetensors, other\.safetensors; keep one file"):
        find_files(weights / "vae", Component.VAE)
