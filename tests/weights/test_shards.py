"""Shards of the encoder read from a directory and from a store; tests/store counts the bytes at an S3 server."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from files import cut, pickle_instead, write_zeros
from safetensors.torch import load_file
from torch import Tensor

from videogen_api.architecture import TextEncoderShape, architecture_of
from videogen_api.errors import InvalidInput, WeightsInvalid, WeightsMissing
from videogen_runner.models.opensora.t5 import EMBEDDING, t5_config, t5_shapes
from videogen_runner.models.opensora.t5_shard import EncoderShard
from videogen_runner.store import DirectoryStore
from videogen_runner.weights.components import Component, find_files, list_tensors
from videogen_runner.weights.digests import DIGESTS_FILE
from videogen_runner.weights.embedding_rows import EmbeddingRows
from videogen_runner.weights.loading import load_encoder, load_encoder_shard
from videogen_runner.weights.location import LocalWeights, StoredWeights, Weights
from videogen_runner.weights.tensor_files import TensorSpec

TINY = architecture_of("open-sora-v1.2-tiny")
LAST_BLOCK = "encoder.block.3.layer.1.DenseReluDense.wi_0.weight"
IDS = [5, 200, 33, 5, 511, 1]
CPU = torch.device("cpu")

Opener = Callable[[Path], Weights]


@pytest.fixture(params=["directory", "store"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Weights as they lie in a directory, or uploaded to a store."""

    def upload(root: Path) -> Weights:
        store = DirectoryStore(tmp_path / "store")
        for path in (root / "encoder").iterdir():
            store.put_file(f"encoder/{path.name}", path)
        return StoredWeights(store, tmp_path / "cache")

    return LocalWeights if request.param == "directory" else upload


def load(weights: Weights, shard: int, shards: int, dtype: torch.dtype = torch.float32) -> EncoderShard:
    return load_encoder_shard(weights, TINY, shard, shards, CPU, dtype)


def encode(parts: list[EncoderShard]) -> Tensor:
    x_LC = parts[0].embed(IDS)
    for part in parts:
        x_LC = part.run_blocks(x_LC)
    return parts[-1].finish(x_LC)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_number_of_shards_gives_the_bits_of_the_whole_encoder(
    opened: Opener, original: Path, dtype: torch.dtype
) -> None:
    weights = opened(original)
    expected_LC = encode([load_encoder(LocalWeights(original), device="cpu", dtype=dtype, architecture=TINY).shard])
    for shards in range(1, TINY.encoder.num_layers + 1):
        assert torch.equal(encode([load(weights, shard, shards, dtype) for shard in range(shards)]), expected_LC)


def test_of_stored_weights_only_config_tokenizer_and_table_are_fetched(original: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    for path in (original / "encoder").iterdir():
        store.put_file(f"encoder/{path.name}", path)
    weights = StoredWeights(store, tmp_path / "cache")
    load(weights, 1, 2)
    fetched = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert fetched == ["config.json", DIGESTS_FILE, "tokenizer.json"]
    whole = weights.folder(Component.ENCODER)
    assert weights.files(Component.ENCODER) == find_files(whole, Component.ENCODER)


def test_stored_pickles_are_fetched_whole(weights: Path, tmp_path: Path) -> None:
    table = json.loads((weights / "encoder" / DIGESTS_FILE).read_text())
    path = pickle_instead(weights / "encoder", "encoder.pt")
    table["tensorFiles"] = {path.name: path.stat().st_size}
    (weights / "encoder" / DIGESTS_FILE).write_text(json.dumps(table))
    store = DirectoryStore(tmp_path / "store")
    for file in (weights / "encoder").iterdir():
        store.put_file(f"encoder/{file.name}", file)
    stored = StoredWeights(store, tmp_path / "cache")
    parts = [load(stored, shard, 2) for shard in range(2)]
    assert torch.equal(encode(parts), encode([load(LocalWeights(weights), 0, 1)]))


def test_more_shards_than_blocks_are_refused(opened: Opener, original: Path) -> None:
    with pytest.raises(InvalidInput, match=r"spec\.encoder\.shards: 5 is not allowed: the encoder has 4 blocks"):
        load(opened(original), 0, 5)


def test_a_damaged_tensor_is_named_with_both_digests_by_the_shard_that_owns_it(opened: Opener, weights: Path) -> None:
    path = weights / "encoder" / "model.safetensors"
    recorded = json.loads((path.parent / DIGESTS_FILE).read_text())["tensors"][LAST_BLOCK]["sha256"]
    stored = list_tensors(find_files(path.parent, Component.ENCODER))[LAST_BLOCK]
    content = bytearray(path.read_bytes())
    content[stored.offset] ^= 1
    path.write_bytes(content)
    damaged = opened(weights)
    load(damaged, 0, 2)
    with pytest.raises(WeightsInvalid) as caught:
        load(damaged, 1, 2)
    assert str(caught.value).endswith(
        f"model.safetensors: tensor {LAST_BLOCK} has sha256 {stored.sha256()}, {recorded} is recorded: damaged or "
        "replaced since; copy the weights again"
    )


def test_a_damaged_embedding_is_found_by_the_encoder_in_one_piece(weights: Path) -> None:
    path = weights / "encoder" / "model.safetensors"
    embedding = list_tensors(find_files(path.parent, Component.ENCODER))[EMBEDDING]
    content = bytearray(path.read_bytes())
    content[embedding.offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsInvalid, match=rf"tensor {EMBEDDING} has sha256 {embedding.sha256()}, .* is recorded"):
        load_encoder(LocalWeights(weights), device="cpu", dtype=torch.float32, architecture=TINY)


def test_weights_without_a_table_load_unverified(weights: Path) -> None:
    expected_LC = encode([load(LocalWeights(weights), 0, 1)])
    (weights / "encoder" / DIGESTS_FILE).unlink()
    assert torch.equal(encode([load(LocalWeights(weights), shard, 2) for shard in range(2)]), expected_LC)


def test_a_table_of_other_tensors_is_refused(weights: Path) -> None:
    path = weights / "encoder" / DIGESTS_FILE
    path.write_text((weights / "vae" / DIGESTS_FILE).read_text())
    with pytest.raises(WeightsInvalid, match=r"digests\.json records no tensor encoder\.block\.\d.*; delete it"):
        load(LocalWeights(weights), 1, 2)


def test_an_object_that_is_gone_or_cut_short_is_named(original: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    for path in (original / "encoder").iterdir():
        store.put_file(f"encoder/{path.name}", path)
    weights = StoredWeights(store, tmp_path / "cache")
    first = load(weights, 0, 2)
    cut(tmp_path / "store" / "encoder" / "model.safetensors", 30_000)
    with pytest.raises(WeightsInvalid, match=r"encoder/model\.safetensors ends inside tensor .*; copy it again"):
        load(weights, 1, 2)
    store.delete("encoder/model.safetensors")
    with pytest.raises(WeightsMissing, match=r"encoder/model\.safetensors is missing; upload all"):
        load(weights, 1, 2)
    with pytest.raises(WeightsMissing, match=r"encoder/model\.safetensors is missing; upload all"):
        first.embed([7])


class CountingStore(DirectoryStore):
    """Notes the ranges that are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ranges: list[tuple[int, int]] = []

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.ranges.append((start, length))
        return super().get_range(key, start, length)


def test_rows_of_the_embedding_are_read_once_and_neighbours_together(original: Path, tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    for path in (original / "encoder").iterdir():
        store.put_file(f"encoder/{path.name}", path)
    stored = list_tensors(StoredWeights(store, tmp_path / "cache").files(Component.ENCODER))[EMBEDDING]
    table = load_file(original / "encoder" / "model.safetensors")[EMBEDDING]
    rows = EmbeddingRows(stored)
    row_bytes = TINY.encoder.d_model * 4
    store.ranges.clear()
    assert torch.equal(rows([3, 100, 3, 400]), table[[3, 100, 3, 400]])
    # 256 rows of this model are as long as the gap that is worth a request.
    assert sorted(store.ranges) == [
        (stored.offset + 3 * row_bytes, 98 * row_bytes),
        (stored.offset + 400 * row_bytes, row_bytes),
    ]
    store.ranges.clear()
    assert torch.equal(rows([100, 3]), table[[100, 3]])
    assert store.ranges == []
    with pytest.raises(IndexError, match=r"token ids must lie between 0 and 511: \[512\]"):
        rows([512])


def test_a_whole_encoder_is_read_from_the_store_and_leaves_no_tensor_on_the_disk(
    original: Path, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "store")
    for path in (original / "encoder").iterdir():
        store.put(f"encoder/{path.name}", path.read_bytes())
    far = load_encoder(StoredWeights(store, tmp_path / "cache"), device="cpu", dtype=torch.float32, architecture=TINY)
    near = load_encoder(LocalWeights(original), device="cpu", dtype=torch.float32, architecture=TINY)
    assert torch.equal(far.encode("a red fox").y_LC, near.encode("a red fox").y_LC)
    assert [path.name for path in (tmp_path / "cache").rglob("*.safetensors")] == []


PEAK = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from videogen_api.architecture import DEFAULT_MODEL, TextEncoderShape, architecture_of
from videogen_runner.models.opensora.t5 import build_on_meta, t5_config
from videogen_runner.store import DirectoryStore
from videogen_runner.weights.loading import load_encoder_shard
from videogen_runner.weights.location import StoredWeights

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

torch.set_num_threads(1)
root, shape = Path(sys.argv[1]), TextEncoderShape(**json.loads(sys.argv[2]))
weights = StoredWeights(DirectoryStore(root), root / "cache")
build_on_meta(t5_config(shape))  # imports transformers
before = field("VmRSS:")
architecture = replace(architecture_of(DEFAULT_MODEL), encoder=shape)
shard = load_encoder_shard(weights, architecture, 1, 2, torch.device("cpu"), torch.bfloat16)
x_LC = torch.zeros(4, shape.d_model, dtype=torch.bfloat16)
shard.run_blocks(x_LC)
size = sum(parameter.nbytes for parameter in shard.stack.parameters())
print(size, field("VmHWM:") - before)
"""


def test_a_shard_takes_no_more_memory_than_its_weights_and_15_percent(original: Path, tmp_path: Path) -> None:
    from videogen_runner.weights.digests import measure

    shape = TextEncoderShape(vocab_size=512, d_model=2048, d_kv=64, d_ff=5120, num_layers=8, num_heads=32)
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(t5_config(shape)))
    (folder / "tokenizer.json").write_bytes((original / "encoder" / "tokenizer.json").read_bytes())
    write_zeros(
        folder / "model.safetensors", {name: TensorSpec("BF16", size) for name, size in t5_shapes(shape).items()}
    )
    (folder / DIGESTS_FILE).write_text(measure(find_files(folder, Component.ENCODER)).to_json())
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), json.dumps(asdict(shape))],
        capture_output=True,
        text=True,
        check=True,
    )
    size, peak = map(int, done.stdout.split())
    assert size > 350e6
    assert size < peak <= 1.15 * size


def test_an_architecture_of_other_sizes_is_refused(opened: Opener, original: Path) -> None:
    wider = replace(TINY, encoder=replace(TINY.encoder, d_model=65))
    with pytest.raises(WeightsInvalid, match=r"config\.json is of another model than .*: d_model is 64, not 65"):
        load_encoder_shard(opened(original), wider, 0, 1, CPU, torch.float32)
