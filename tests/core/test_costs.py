"""Costs and placement: formulas against published numbers, and the form that each card gets."""

from typing import Any

import pytest

from videogen_api.architecture import architecture_of
from videogen_api.errors import InvalidInput
from videogen_api.plan import DTYPE_BYTES, Device, Dtype, Plan, PlannedVideo
from videogen_api.resource import parse_resource
from videogen_api.video import image_size_of_aspect
from videogen_operator.core import activations, costs
from videogen_operator.core.cards import CARDS, GIB, UNNAMED_CARD, card_of_product
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.planner import make_plan
from videogen_operator.core.totals import totals_of

XL = architecture_of("open-sora-v1.2")


def video_of(resolution: str, frames: int) -> PlannedVideo:
    height, width = image_size_of_aspect(resolution, "16:9")
    return PlannedVideo(height=height, width=width, frames=frames, fps=24, loops=1, condition_frames=17)


def plan_of(gpu: dict[str, Any], *, name: str = "open-sora-v1.2", **spec: Any) -> Plan:
    return make_plan(
        parse_resource(
            {
                "apiVersion": "videogen.dev/v1alpha1",
                "kind": "VideoGeneration",
                "metadata": {"name": "fox"},
                "spec": {
                    "prompts": [{"text": "a red fox runs through fresh snow", "samples": 8}],
                    "model": {"name": name, "weights": "/w"},
                    "storage": {"url": "s3://v"},
                    "runners": [{"name": "pool", "replicas": 2, "gpu": gpu}],
                    **spec,
                },
            }
        ),
        Defaults(),
    )


# ---- Formulas ----


@pytest.mark.parametrize(
    ("resolution", "frames", "petaflops"), [("240p", 51, 0.79), ("480p", 51, 3.32), ("720p", 51, 8.36)]
)
def test_thirty_guided_steps_take_the_operations_that_the_literature_counts(
    resolution: str, frames: int, petaflops: float
) -> None:
    # 480p: 3.15 (TeaCache, arXiv 2411.19108) to 3.23 PFLOP (AdaCache, arXiv 2411.02397), without cross-attention.
    flops = 30 * 2 * costs.denoiser_flops(XL.denoiser, video_of(resolution, frames), 100)

    assert flops / 1e15 == pytest.approx(petaflops, rel=0.01)


def test_the_denoisers_formula_is_that_of_the_design_for_its_released_size() -> None:
    hidden, frames, space, text = 1152, 15, 30 * 53, 200
    tokens = frames * space

    expected = (
        1568 * tokens * hidden**2
        + 112 * hidden * tokens * (space + frames)
        + 224 * hidden * tokens * text
        + 224 * hidden**2 * text
    )

    assert costs.denoiser_flops(XL.denoiser, video_of("480p", 51), text) == expected


def test_a_full_text_takes_the_encoder_2_8_teraflops() -> None:
    assert costs.encoder_flops(XL.encoder, 300) / 1e12 == pytest.approx(2.8, rel=0.01)


@pytest.mark.parametrize(
    ("dtype", "gigabytes"), [(Dtype.FLOAT32, 19.05), (Dtype.BFLOAT16, 9.52), (Dtype.FLOAT16, 11.54)]
)
def test_the_encoders_weights_take_the_bytes_of_their_formats(dtype: Dtype, gigabytes: float) -> None:
    shape = XL.encoder
    embedding = shape.embedding_parameters * DTYPE_BYTES[dtype]
    rest = costs.encoder_rest_bytes(shape, dtype)
    total = embedding + rest + shape.num_layers * costs.encoder_block_bytes(shape, dtype)

    assert total / 1e9 == pytest.approx(gigabytes, abs=0.005)


def test_a_text_has_a_token_for_four_characters_and_never_more_than_the_limit() -> None:
    assert costs.estimate_tokens("a red fox", 300) == 4
    assert costs.estimate_tokens("x" * 10_000, 300) == 300


# ---- Memory at full size, as measured on an H100 (docs/planning.md) ----


@pytest.mark.parametrize(
    ("resolution", "frames", "batch", "gigabytes"),
    [("480p", 51, 2, 1.485), ("720p", 51, 2, 3.299), ("480p", 204, 2, 5.775)],
)
def test_denoising_at_full_size_holds_what_was_measured(
    resolution: str, frames: int, batch: int, gigabytes: float
) -> None:
    predicted = activations.denoise_bytes(XL.denoiser, video_of(resolution, frames), 100, Dtype.BFLOAT16, batch)

    assert predicted / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(
    ("resolution", "dtype", "batch_frames", "gigabytes"),
    [
        ("480p", Dtype.BFLOAT16, 4, 4.127),
        ("480p", Dtype.BFLOAT16, 2, 2.127),
        ("480p", Dtype.BFLOAT16, 1, 1.128),
        ("720p", Dtype.BFLOAT16, 4, 9.338),
        ("720p", Dtype.BFLOAT16, 1, 2.554),
        ("240p", Dtype.FLOAT32, 1, 0.381),
    ],
)
def test_decoding_at_full_size_holds_what_was_measured(
    resolution: str, dtype: Dtype, batch_frames: int, gigabytes: float
) -> None:
    predicted = activations.decode_bytes(XL.vae, video_of(resolution, 51), dtype, batch_frames, Device.CUDA)

    assert predicted / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_encoding_at_full_size_holds_what_was_measured() -> None:
    predicted = activations.encode_bytes(XL.encoder, 300, Dtype.BFLOAT16, Device.CUDA)

    assert predicted / 1e6 == pytest.approx(100.5, rel=0.01)


def test_the_networks_have_as_many_parameters_as_their_modules() -> None:
    # Counted of the built modules at full size.
    assert (XL.denoiser.parameters, costs.vae_parameters(XL.vae), XL.encoder.parameters) == (
        1_208_872_772, 393_341_007, 4_762_310_656,
    )  # fmt: skip


# ---- Cards ----


@pytest.mark.parametrize(
    ("product", "card"),
    [
        ("Tesla-T4", "T4"),
        ("NVIDIA-L4", "L4"),
        ("NVIDIA-A10", "A10"),
        ("NVIDIA-A10G", "A10G"),
        ("NVIDIA-A100-PCIE-40GB", "A100"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "A100-80GB"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-H200", "H200"),
        ("Tesla-V100-SXM2-16GB", "V100"),
        ("Tesla-V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA-GeForce-RTX-2080-Ti", "RTX-2080-TI"),
        ("NVIDIA-GeForce-RTX-3090", "RTX-3090"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
    ],
)
def test_a_card_is_known_by_its_product_label(product: str, card: str) -> None:
    assert card_of_product(product) is CARDS[card]


@pytest.mark.parametrize("product", [None, "", "NVIDIA-GB300", "T400"])
def test_a_card_that_is_not_known_is_taken_for_a_small_one(product: str | None) -> None:
    assert card_of_product(product) is UNNAMED_CARD


def test_stated_memory_makes_a_card_smaller_and_never_larger() -> None:
    assert CARDS["A100-80GB"].with_memory(10 * GIB).memory_bytes == 10 * GIB
    assert CARDS["T4"].with_memory(64 * GIB).memory_bytes == 15 * GIB
    assert UNNAMED_CARD.with_memory(48 * GIB).memory_bytes == 48 * GIB


def test_every_card_leaves_room_for_its_context() -> None:
    assert all(0.8 * card.memory_bytes < card.usable_bytes < card.memory_bytes for card in CARDS.values())  # type: ignore[operator]  # cards have memory


# ---- Placement ----


def test_a_t4_computes_in_fp16_and_decodes_in_fp32_a_frame_at_a_time() -> None:
    pool = plan_of({"product": "Tesla-T4"}, video={"resolution": "480p"}).pools[0]

    assert (pool.device, pool.dtype, pool.vae_dtype) == (Device.CUDA, Dtype.FLOAT16, Dtype.FLOAT32)
    assert (pool.guidance_batch, pool.decode_batch_frames, pool.product) == (2, 1, "Tesla-T4")


def test_later_cards_compute_in_bf16_and_a_cpu_in_fp32() -> None:
    card = plan_of({"product": "NVIDIA-L4"}).pools[0]
    cpu = plan_of({"count": 0}).pools[0]

    assert (card.device, card.dtype, card.vae_dtype, card.gpus) == (Device.CUDA, Dtype.BFLOAT16, Dtype.BFLOAT16, 1)
    assert (cpu.device, cpu.dtype, cpu.vae_dtype, cpu.gpus) == (Device.CPU, Dtype.FLOAT32, Dtype.FLOAT32, 0)


def test_guidance_takes_two_passes_and_slices_get_smaller_where_memory_is_short() -> None:
    video = {"resolution": "720p", "frames": 204}

    forms = [
        (pool.guidance_batch, pool.decode_batch_frames)
        for memory in ("24Gi", "16Gi", "12Gi", "11Gi")
        for pool in plan_of({"product": "NVIDIA-H100-80GB-HBM3", "memory": memory}, video=video,
                            encoder={"gpu": {"count": 0}}).pools
    ]  # fmt: skip

    assert forms == [(2, 4), (1, 4), (1, 3), (1, 2)]


@pytest.mark.parametrize("product", ["NVIDIA-L4", "Tesla-T4", "NVIDIA-A100-PCIE-40GB"])
@pytest.mark.parametrize("resolution", ["240p", "720p", "1080p"])
def test_what_is_placed_fits(product: str, resolution: str) -> None:
    pool = plan_of({"product": product}, video={"resolution": resolution}).pools[0]

    usable_bytes = card_of_product(product).usable_bytes
    assert usable_bytes is not None
    assert pool.cost.peak_memory_bytes <= usable_bytes


def test_a_card_that_holds_no_form_is_refused_with_both_numbers() -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_of({"product": "Tesla-T4"}, video={"resolution": "4k", "frames": 408})

    message = str(caught.value)
    assert message.startswith("spec.runners: pool 'pool': a clip of 3840x2160 and 408 frames needs ")
    assert message.endswith(
        " GiB even in its smallest form, and T4 has 13.8 GiB to use; "
        "lower spec.video.resolution or frames, or name a card with more memory"
    )


def test_the_encoder_is_whole_where_it_fits_and_in_as_few_shards_as_fit_elsewhere() -> None:
    shards = {
        memory: plan_of({"count": 0}, encoder={"gpu": {"product": "Tesla-T4", "memory": memory}}).encoder.shards
        for memory in ("16Gi", "11Gi", "8Gi", "4Gi", "2Gi")
    }

    assert shards == {"16Gi": 1, "11Gi": 2, "8Gi": 2, "4Gi": 4, "2Gi": 12}


def test_an_encoder_that_fits_in_no_number_of_shards_is_refused_with_both_numbers() -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_of({"count": 0}, encoder={"shards": 2, "gpu": {"product": "Tesla-T4", "memory": "4Gi"}})
    assert str(caught.value) == (
        "spec.encoder: 2 shards of the encoder need 5.6 GiB each and T4 has 3.2 GiB to use; "
        "raise shards, name cards with more memory, or set gpu.count to 0 to encode on the CPU"
    )

    with pytest.raises(InvalidInput) as caught:
        plan_of({"count": 0}, encoder={"shards": 25})
    assert str(caught.value) == (
        "spec.encoder.shards: 25 is not allowed: the encoder has 24 blocks; use a number from 1 to 24"
    )


def test_several_cards_of_one_pod_hold_the_encoder_together() -> None:
    gpu = {"product": "Tesla-T4", "memory": "8Gi"}

    assert plan_of({"count": 0}, encoder={"gpu": gpu | {"count": 2}}).encoder.shards == 1


def test_the_encoder_takes_the_runners_cards_and_the_cpu_where_there_are_none() -> None:
    on_cards = plan_of({"product": "NVIDIA-L4"}).encoder
    on_cpu = plan_of({"count": 0}).encoder

    assert (on_cards.device, on_cards.dtype, on_cards.shards) == (Device.CUDA, Dtype.BFLOAT16, 1)
    assert (on_cpu.device, on_cpu.dtype, on_cpu.shards) == (Device.CPU, Dtype.FLOAT32, 1)


def test_a_cpu_pods_memory_limit_counts_as_its_memory() -> None:
    runners = [{"name": "cpu", "gpu": {"count": 0}, "pod": {"resources": {"limits": {"memory": "6Gi"}}}}]

    with pytest.raises(InvalidInput, match=r"and CPU has 6\.0 GiB to use"):
        plan_of({}, runners=runners)


def test_more_loops_take_as_many_times_the_seconds_and_the_operations() -> None:
    one = plan_of({"product": "NVIDIA-L4"}).pools[0].cost
    three = plan_of({"product": "NVIDIA-L4"}, video={"loops": 3}).pools[0].cost

    assert three.seconds == pytest.approx(3 * one.seconds)
    assert three.flops == pytest.approx(3 * one.flops)
    assert three.peak_memory_bytes == one.peak_memory_bytes


# ---- Totals ----


def test_totals_add_up_and_the_faster_pool_makes_more_clips() -> None:
    runners = [
        {"name": "t4", "replicas": 1, "gpu": {"product": "Tesla-T4"}},
        {"name": "h100", "replicas": 1, "gpu": {"product": "NVIDIA-H100-80GB-HBM3"}},
    ]
    plan = plan_of({}, runners=runners, encoder={"gpu": {"count": 0}})
    t4, h100 = (pool.cost.seconds for pool in plan.pools)
    assert t4 > 8 * h100, "this test takes for granted that one T4 has no time for a single clip"

    totals = totals_of(plan)

    assert totals.gpu_seconds == pytest.approx(8 * h100)
    assert totals.seconds == pytest.approx(plan.encoder.cost.seconds + 8 * h100)
    assert totals.flops == pytest.approx(plan.encoder.cost.flops + 8 * plan.pools[1].cost.flops)
    assert totals.peak_memory_bytes == plan.encoder.cost.peak_memory_bytes


def test_equal_runners_share_the_clips_in_rounds() -> None:
    plan = plan_of({"product": "NVIDIA-L4"}, runners=[{"name": "l4", "replicas": 3, "gpu": {"product": "NVIDIA-L4"}}])

    assert totals_of(plan).seconds == pytest.approx(plan.encoder.cost.seconds + 3 * plan.pools[0].cost.seconds)
