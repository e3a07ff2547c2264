"""How much of a checkpoint a shard of the encoder asks an S3 server for, counted between the two."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from store_backends import Backend
from store_proxy import Fault, Proxy, Reply

from videogen_api.architecture import DEFAULT_MODEL, TextEncoderShape, architecture_of
from videogen_api.errors import StoreUnavailable
from videogen_runner.models.opensora.t5 import t5_config, t5_shapes
from videogen_runner.models.opensora.t5_shard import EncoderShard
from videogen_runner.store.s3_clients import Limits
from videogen_runner.weights.components import Component, find_files
from videogen_runner.weights.digests import DIGESTS_FILE, measure
from videogen_runner.weights.loading import load_encoder_shard
from videogen_runner.weights.location import StoredWeights
from videogen_runner.weights.made_up_tokenizer import write_tokenizer
from videogen_runner.weights.tensor_files import TensorSpec, never_stop, write_safetensors

SHAPE = TextEncoderShape(vocab_size=512, d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=8)
ARCHITECTURE = replace(architecture_of(DEFAULT_MODEL), encoder=SHAPE)
QUICK = Limits(connect_seconds=5.0, read_seconds=5.0, attempts=2)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of 8 blocks of 5 MB each, as `videogen weights convert` writes it."""
    folder = tmp_path_factory.mktemp("weights") / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(t5_config(SHAPE)))
    write_tokenizer(folder, SHAPE.vocab_size)
    specs = {name: TensorSpec("BF16", shape) for name, shape in t5_shapes(SHAPE).items()}
    values = ((name, [memoryview(bytes(spec.nbytes))]) for name, spec in specs.items())
    write_safetensors(folder / "model.safetensors", specs, values, never_stop)
    (folder / DIGESTS_FILE).write_text(measure(find_files(folder, Component.ENCODER)).to_json())
    return folder


@pytest.fixture
def weights(s3: Backend, proxy: Proxy, encoder: Path, tmp_path: Path) -> StoredWeights:
    """Uploaded directly, read through the proxy."""
    direct = s3.open()
    for path in encoder.iterdir():
        direct.put_file(f"encoder/{path.name}", path)
    return StoredWeights(s3.through(proxy.endpoint, QUICK), tmp_path / "cache")


def load(weights: StoredWeights, shard: int, shards: int) -> EncoderShard:
    return load_encoder_shard(weights, ARCHITECTURE, shard, shards, torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_a_shard_reads_its_part_of_the_checkpoint_and_at_most_5_percent_more(
    weights: StoredWeights, proxy: Proxy, encoder: Path, shards: int
) -> None:
    checkpoint = (encoder / "model.safetensors").stat().st_size
    weights.files(Component.ENCODER)  # config, tokenizer and table, which are no part of it
    for shard in range(shards):
        before = proxy.reply_bytes
        part = load(weights, shard, shards)
        if part.is_first:
            part.embed([5, 300, 1])
        held = sum(parameter.nbytes for parameter in part.stack.parameters())
        assert held < proxy.reply_bytes - before <= 1.05 * checkpoint / shards


@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.CUT_REPLY, Reply(503, "SlowDown")])
def test_a_range_whose_reply_is_lost_is_asked_for_again(
    weights: StoredWeights, proxy: Proxy, fault: Fault | Reply
) -> None:
    weights.files(Component.ENCODER)
    proxy.plan("GET", Fault.NONE, Fault.NONE, Fault.NONE, Fault.NONE, fault)  # in the middle of the tensors
    part = load(weights, 1, 8)
    assert not part.run_blocks(torch.zeros(2, SHAPE.d_model, dtype=torch.bfloat16)).any()


def test_a_store_that_stays_away_ends_the_load_with_its_own_error(weights: StoredWeights, proxy: Proxy) -> None:
    weights.files(Component.ENCODER)
    proxy.plan("GET", Fault.NONE, *[Reply(503, "SlowDown")] * QUICK.attempts)
    with pytest.raises(StoreUnavailable, match=r"GetObject of '.*encoder/model\.safetensors' in bucket"):
        load(weights, 1, 8)
