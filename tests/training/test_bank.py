from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training import bank
from training.autoencoder import TrainedVae
from training.bank import BUCKETS, Bank, Bucket, Shelf, encode
from training.examples import Examples, Makers, make_examples
from training.rendering import draw
from training.tokenizer import build_tokenizer, captions, write_tokenizer

from videogen_runner.models.opensora.vae import VaeConfig
from videogen_runner.models.opensora.vae_spatial import SpatialVaeConfig
from videogen_runner.models.opensora.vae_temporal import TemporalVaeConfig

CPU = torch.device("cpu")
SMALL = Bucket(17, 32, 32, 1.0, 5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, build_tokenizer(captions(1500), 512))
    return folder


@pytest.fixture(scope="module")
def vae() -> TrainedVae:
    torch.manual_seed(0)
    vae = TrainedVae(
        VaeConfig(
            spatial=SpatialVaeConfig(block_channels=(4, 4, 4, 4), layers_per_block=1, num_groups=2),
            temporal=TemporalVaeConfig(filters=4, channel_multipliers=(1, 1, 1, 1), num_res_blocks=1, num_groups=2),
        )
    )
    vae.shift.fill_(0.5)
    vae.scale.fill_(2.0)
    return vae


def chunks(tokenizer: Path, count: int = 2) -> Iterator[Examples]:
    seed = 0
    while True:
        yield make_examples(tokenizer, seed, count, SMALL.num_frames)
        seed += count


def test_a_batch_has_latents_still_caption_and_labels_of_the_same_clip(tokenizer: Path, vae: TrainedVae) -> None:
    shelf = Shelf(SMALL, chunks(tokenizer))
    shelf.add(vae, CPU)
    made = make_examples(tokenizer, 0, 2, 17)
    video_BCTHW = draw(made.drawing, 32, 32)
    z_BCTHW, still_BCHW = encode(vae, video_BCTHW), encode(vae, video_BCTHW[:, :, :1])[:, :, 0]
    batch = shelf.sample(20)
    for row in range(20):
        (clip,) = (index for index in range(2) if torch.equal(batch.z_BCTHW[row], z_BCTHW[index]))
        assert torch.equal(batch.still_BCHW[row], still_BCHW[clip])
        assert torch.equal(batch.labels_BQ2[row], made.labels_BQ2[clip])
        assert batch.ids_BL[row].tolist() in made.ids_BKL[clip].tolist()


def test_latents_are_shifted_and_scaled_as_the_sampler_sees_them(vae: TrainedVae) -> None:
    x_BCTHW = torch.zeros(1, 3, 17, 32, 32)
    assert torch.equal(encode(vae, x_BCTHW), (vae.means(x_BCTHW) - 0.5) / 2.0)


def test_new_clips_take_the_places_of_the_oldest(tokenizer: Path, vae: TrainedVae) -> None:
    shelf = Shelf(SMALL, chunks(tokenizer))
    for _ in range(3):
        shelf.add(vae, CPU)
    torch.manual_seed(0)
    seen = {tuple(map(tuple, labels)) for labels in shelf.sample(200).labels_BQ2.tolist()}
    kept = [make_examples(tokenizer, seed, 1, 17).labels_BQ2[0].tolist() for seed in range(1, 6)]
    assert seen == {tuple(map(tuple, labels)) for labels in kept}


def test_batches_have_about_the_same_number_of_patches_whatever_their_size(
    tokenizer: Path, vae: TrainedVae, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "FIRST_SECONDS", 0.0)
    buckets = [SMALL, Bucket(34, 32, 64, 1.0, 4), Bucket(1, 32, 32, 1.0, 4)]
    with Makers(1) as makers:
        bank_of_three = Bank(buckets, vae, makers, tokenizer, seed=0, chunk_pixels=40_000, device=CPU)
        sizes = {}
        for _ in range(40):
            batch = bank_of_three.sample(160)
            sizes[batch.bucket.num_frames] = tuple(batch.z_BCTHW.shape)
    # 5 x 2 x 2, 10 x 2 x 4 and 1 x 2 x 2 patches a clip.
    assert sizes == {17: (8, 4, 5, 4, 4), 34: (2, 4, 10, 4, 8), 1: (40, 4, 1, 4, 4)}


def test_encoding_takes_its_share_of_the_time_and_no_more(
    tokenizer: Path, vae: TrainedVae, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def slow_add(shelf: Shelf, *_: object) -> None:
        nonlocal now
        now += 10.0
        shelf.num_added += 1

    monkeypatch.setattr(Shelf, "add", slow_add)
    monkeypatch.setattr(bank, "FIRST_SECONDS", 20.0)
    monkeypatch.setattr(bank, "ENCODING_SHARE", 0.25)
    monkeypatch.setattr("training.bank.time.monotonic", lambda: now)
    with Makers(1) as makers:
        one = Bank([SMALL], vae, makers, tokenizer, seed=0, chunk_pixels=40_000, device=CPU)
        added = []
        for elapsed in (0.0, 50.0, 100.0, 200.0):
            one.refresh(elapsed)
            added.append(one.num_clips)
    # Ten seconds each: the first, then until 20 s and a quarter of what is over are used.
    assert added == [2, 4, 5, 7]


def test_the_weights_of_all_buckets_are_parts_of_one() -> None:
    assert sum(bucket.weight for bucket in BUCKETS) == pytest.approx(1.0)
    assert {bucket.num_frames for bucket in BUCKETS} == {1, 17, 34, 51}
