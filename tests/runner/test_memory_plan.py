"""The planner's forms and the runner's ladder speak of the same bytes."""

import pytest

from videogen_api.plan import Device, Dtype, PlannedPool
from videogen_api.resource import parse_resource
from videogen_operator.core.cards import GIB, card_of_product
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.planner import make_plan
from videogen_runner.ladder import Form, Ladder, Needs, Room, Work

BLOCKS = 56
HOST = 100 * GIB


def pool_of(product: str, resolution: str, frames: int, memory: str | None = None) -> PlannedPool:
    gpu = {"product": product, **({"memory": memory} if memory else {})}
    return make_plan(
        parse_resource(
            {
                "apiVersion": "videogen.dev/v1alpha1",
                "kind": "VideoGeneration",
                "metadata": {"name": "fox"},
                "spec": {
                    "prompts": [{"text": "a red fox runs through fresh snow"}],
                    "model": {"name": "open-sora-v1.2", "weights": "/w"},
                    "storage": {"url": "s3://v"},
                    "video": {"resolution": resolution, "frames": frames},
                    "encoder": {"gpu": {"count": 0}},
                    "runners": [{"name": "pool", "replicas": 1, "gpu": gpu}],
                },
            }
        ),
        Defaults(),
    ).pools[0]


def ladder_of(pool: PlannedPool) -> Ladder:
    """As adaptation.py makes it of models on a card; a block is 41 MiB in 16 bits."""
    block = 41 * 2**20
    needs = Needs(
        fixed=pool.cost.weight_bytes - BLOCKS * block,
        block=block,
        host_block=64 * 2**20,
        num_blocks=BLOCKS,
        denoise=pool.form_bytes.denoise,
        decode=pool.form_bytes.decode,
    )
    return Ladder.of_plan(Form(pool.guidance_batch, pool.decode_batch_frames), needs)


@pytest.mark.parametrize("product", ["Tesla-T4", "NVIDIA-L4", "NVIDIA-A100-PCIE-40GB", "NVIDIA-H100-80GB-HBM3"])
@pytest.mark.parametrize(("resolution", "frames"), [("240p", 51), ("480p", 51), ("720p", 102)])
def test_on_the_card_that_was_planned_for_every_work_stays_in_the_planned_form(
    product: str, resolution: str, frames: int
) -> None:
    pool = pool_of(product, resolution, frames)
    usable = card_of_product(product).usable_bytes
    assert usable is not None
    ladder = ladder_of(pool)
    for work in (Work.DENOISE, Work.DECODE, Work.DENOISE):
        ladder = ladder.before(work, Room(usable, HOST))
        assert ladder.form == ladder.planned
    assert max(ladder.needs.of(work, ladder.planned) for work in Work) == pool.cost.peak_memory_bytes


def test_a_card_with_less_memory_than_the_manifest_says_begins_lower() -> None:
    pool = pool_of("NVIDIA-L4", "480p", 204)
    ladder = ladder_of(pool)
    assert ladder.planned == Form(2, 4)
    assert ladder.before(Work.DENOISE, Room(8 * GIB, HOST)).form == Form(1, 4)
    assert ladder.before(Work.DECODE, Room(7 * GIB, HOST)).form == Form(2, 3)
    # Three quarters of the blocks wait on the host.
    assert ladder.before(Work.DENOISE, Room(4 * GIB, HOST)).form == Form(1, 4, 42)


def test_the_form_that_a_smaller_card_would_be_planned_in_is_the_one_that_the_ladder_takes_there() -> None:
    large, small = pool_of("NVIDIA-L4", "720p", 204), pool_of("NVIDIA-L4", "720p", 204, memory="12Gi")
    usable = card_of_product("NVIDIA-L4").with_memory(12 * GIB).usable_bytes
    assert usable is not None
    ladder = ladder_of(large)
    for work in Work:
        ladder = ladder.before(work, Room(usable, HOST))
    assert ladder.form == Form(small.guidance_batch, small.decode_batch_frames)


def test_a_t4_computes_in_fp16_beside_an_autoencoder_in_fp32_that_decodes_one_frame_at_a_time() -> None:
    pool = pool_of("Tesla-T4", "480p", 51)
    assert (pool.device, pool.dtype, pool.vae_dtype) == (Device.CUDA, Dtype.FLOAT16, Dtype.FLOAT32)
    assert (pool.decode_batch_frames, set(pool.form_bytes.decode)) == (1, {1})
