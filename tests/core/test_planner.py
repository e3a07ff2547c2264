"""make_plan: what a manifest becomes, what it refuses, and what its identity depends on."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videogen_api.errors import ConfigInvalid, InvalidInput
from videogen_api.plan import (
    Clip,
    Device,
    Dtype,
    Inputs,
    Plan,
    PlannedPrompt,
    PlannedReference,
    PlannedSampling,
    PlannedStorage,
    PlannedVideo,
    Segment,
    WeightsDigests,
    seed_of_text,
)
from videogen_api.resource import VideoGeneration, parse_resource
from videogen_api.spec import Encoder, Gpu, ModelRef, RunnerPool, Storage, Strategy
from videogen_operator.core.defaults import Defaults, local_defaults
from videogen_operator.core.planner import MAX_PLAN_BYTES, keep_strategy, make_plan
from videogen_operator.core.totals import totals_of

BASE: dict[str, Any] = {
    "prompts": [{"text": "a red fox", "seed": 7}],
    "model": {"weights": "/weights"},
    "storage": {"url": "s3://videos/team-a"},
}
NO_DEFAULTS = Defaults()
SCORE = " aesthetic score: 6.5."


def resource(name: str = "fox", **spec: Any) -> VideoGeneration:
    return parse_resource(
        {
            "apiVersion": "videogen.dev/v1alpha1",
            "kind": "VideoGeneration",
            "metadata": {"name": name},
            "spec": BASE | spec,
        }
    )


def plan_of(**spec: Any) -> Plan:
    return make_plan(resource(**spec), NO_DEFAULTS)


def prompt_of(text: str, **spec: Any) -> PlannedPrompt:
    return plan_of(prompts=[{"text": text}], **spec).prompts[0]


def refusal_of(defaults: Defaults = NO_DEFAULTS, **spec: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        make_plan(resource(**spec), defaults)
    return str(caught.value)


def inputs_of(plan: Plan) -> Inputs:
    references = {reference.url: "ab" for prompt in plan.prompts for reference in prompt.references}
    return Inputs(weights=WeightsDigests(encoder="e", denoiser="d", vae="v"), references=references, claims=True)


def digests_of(plan: Plan) -> list[str]:
    return [plan.clip_digest(clip, inputs_of(plan)) for clip in plan.clips]


# ---- What is left out ----


def test_what_the_manifest_leaves_out_is_the_references_default() -> None:
    plan = plan_of(prompts=[{"text": " a red fox\n"}])

    assert plan.prompts == (
        PlannedPrompt(
            name="p000",
            text="a red fox",
            seed=seed_of_text("a red fox"),
            samples=1,
            segments=(Segment(loop=0, text=f"a red fox{SCORE}"),),
            references=(),
        ),
    )
    assert plan.video == PlannedVideo(height=240, width=426, frames=51, fps=24, loops=1, condition_frames=17)
    assert plan.sampling == PlannedSampling(steps=30, guidance=7.0)
    assert plan.storage == PlannedStorage(url="s3://videos/team-a", endpoint=None, region=None)
    assert (plan.model.name, plan.retries, plan.strategy) == ("open-sora-v1.2", 3, Strategy.SEQUENTIAL)
    assert [(pool.name, pool.replicas, pool.gpus) for pool in plan.pools] == [("default", 1, 1)]


def test_a_ratio_is_width_to_height_as_people_write_it() -> None:
    tall = plan_of(video={"resolution": "480p", "aspectRatio": "9:16"}).video
    exact = plan_of(video={"size": {"width": 128, "height": 64}}).video

    assert (tall.height, tall.width) == (854, 480)
    assert (exact.height, exact.width) == (64, 128)


def test_zero_is_a_value_and_not_left_out() -> None:
    plan = plan_of(
        prompts=[{"text": "a", "seed": 0}],
        sampling={"guidance": 0, "aestheticScore": 0, "motionScore": 0},
        retries=0,
    )

    assert (plan.sampling.guidance, plan.prompts[0].seed, plan.retries) == (0.0, 0, 0)
    assert plan.prompts[0].segments[0].text == "a aesthetic score: 0.0. motion score: 0.0."


def test_the_clusters_defaults_come_before_the_codes_and_after_the_manifests() -> None:
    cluster = Defaults(
        storage=Storage(url="s3://cluster/", endpoint="http://minio:9000", region="r1"),
        model=ModelRef(weights="pvc://models/open-sora"),
        runners=(RunnerPool(name="cluster", replicas=2, gpu=Gpu(product="Tesla-T4")),),
    )

    bare = make_plan(resource(storage={}, model={}), cluster)
    own = make_plan(resource(storage={"url": "s3://mine/"}, model={"weights": "/w"}, runners=[{"name": "l4"}]), cluster)

    assert bare.storage == PlannedStorage(url="s3://cluster/", endpoint="http://minio:9000", region="r1")
    assert (bare.model.weights, bare.pools[0].name, bare.pools[0].product) == (
        "pvc://models/open-sora", "cluster", "Tesla-T4",
    )  # fmt: skip
    assert own.storage == PlannedStorage(url="s3://mine/", endpoint="http://minio:9000", region="r1")
    assert (own.model.weights, own.pools[0].name, own.pools[0].product) == ("/w", "l4", None)


def test_the_clusters_weights_are_not_taken_for_another_model() -> None:
    cluster = Defaults(model=ModelRef(weights="pvc://models/open-sora"))

    assert refusal_of(cluster, model={"name": "open-sora-v1.2-tiny"}) == (
        "spec.model.weights: missing; say where the weights are: s3://bucket/path, pvc://claim/path or a path"
    )


def test_one_machine_takes_the_place_of_pools_and_of_the_encoders_cards() -> None:
    spec = {
        "prompts": [{"text": "a red fox", "samples": 3}],
        "encoder": {"shards": 4, "gpu": {"product": "Tesla-T4"}},
        "runners": [{"name": "t4", "replicas": 8, "gpu": {"product": "Tesla-T4"}}],
        "storage": {},
    }

    plan = make_plan(resource(**spec), local_defaults("/out", workers=5))

    assert plan.storage.url == "/out"
    assert (plan.encoder.shards, plan.encoder.device) == (1, Device.CPU)
    # Five workers would have nothing to do for two of them.
    assert [(pool.name, pool.replicas, pool.device, pool.gpus) for pool in plan.pools] == [("local", 3, Device.CPU, 0)]


def test_a_plan_needs_weights_storage_a_known_model_and_someone_to_work() -> None:
    assert refusal_of(model={}).startswith("spec.model.weights: missing;")
    assert refusal_of(storage={}) == "spec.storage.url: missing; say where results go: s3://bucket/path"
    assert refusal_of(model={"name": "sora", "weights": "/w"}) == (
        "spec.model.name: 'sora' is unknown; use one of open-sora-v1.2, open-sora-v1.2-tiny, shapes"
    )
    assert refusal_of(runners=[{"name": "a", "replicas": 0}]) == (
        "spec.runners: no pool has a replica, so nothing would run; raise replicas, or set spec.suspend to pause"
    )


# ---- Prompts ----


def test_segments_carry_their_scores_and_hold_until_the_next() -> None:
    prompt = prompt_of("|0| a fox |2| a hen", video={"loops": 4}, sampling={"cameraMotion": "pan left"})

    assert prompt.segments == (
        Segment(loop=0, text=f"a fox{SCORE} camera motion: pan left."),
        Segment(loop=2, text=f"a hen{SCORE} camera motion: pan left."),
    )
    assert [prompt.text_of_loop(loop)[:5] for loop in range(4)] == ["a fox", "a fox", "a hen", "a hen"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|0| a |2| b", "loop 2 has a text, but spec.video.loops is 2; raise it, or drop it"),
        ("|0| a |1| b |1| c", "loop 1 stands after loop 1; write the loops in rising order"),
        ("|0| a |1| ", "the text of loop 1 is empty; write what the video should show"),
        ('{"reference_path": "a.png"}', "the prompt is empty; write what the video should show"),
        ("|0| a |x| b", "'x' between bars in the prompt is no loop number; write |0| first |1| second"),
        ('a {"path": "x"}', "'path' in the prompt's braces is unknown; use reference_path or mask_strategy"),
        (
            'a {"reference_path": "a.png;b.png"}',
            "2 references in the braces, and no mask_strategy that says where they go",
        ),
        (
            'a {"reference_path": "a.png", "mask_strategy": "0,1"}',
            "the mask_strategy names reference 1, and reference_path holds 1; they count from 0",
        ),
        (
            'a {"mask_strategy": "0"}',
            "the mask_strategy names reference 0, and reference_path holds 0; they count from 0",
        ),
        (
            'a {"reference_path": "http://x", "mask_strategy": "0"}',
            "reference_path 'http://x' is not allowed: want s3://bucket/path or a path",
        ),
        (
            'a {"reference_path": "a.png", "mask_strategy": "2"}',
            "a.png goes into loop 2, but spec.video.loops is 2; they count from 0",
        ),
        (
            'a {"reference_path": "a.png", "mask_strategy": "0,0,0,15"}',
            "a.png goes to latent frame 15, but a loop has 15 of them; they count from 0",
        ),
        (
            'a {"reference_path": "a.png", "mask_strategy": "0,0,0,0,0"}',
            "a.png has length 0; want at least 1 latent frame",
        ),
        (
            'a {"reference_path": "a.png", "mask_strategy": "0,0,0,0,1,1.5"}',
            "a.png has edit ratio 1.5; want 0 (kept) to 1 (free)",
        ),
    ],
)
def test_a_text_that_contradicts_itself_or_the_clip_is_refused_with_its_field(text: str, message: str) -> None:
    prompts = [{"text": "fine"}, {"text": text}]

    assert refusal_of(prompts=prompts, video={"loops": 2}) == f"spec.prompts[1].text: {message}"


def test_a_reference_that_does_not_fit_the_clip_is_refused_with_its_field() -> None:
    references = [{"url": "a.png"}, {"url": "b.png", "at": -16}]

    assert refusal_of(prompts=[{"text": "a", "references": references}]) == (
        "spec.prompts[0].references[1]: b.png goes to latent frame -16, but a loop has 15 of them; they count from 0"
    )


def test_references_of_the_spec_and_of_the_braces_are_placed_in_that_order() -> None:
    text = 'a fox {"reference_path": "s3://in/b.mp4;c.png", "mask_strategy": "0,1;1,0,2,-5,5,0.5"}'
    references = [{"url": "a.png", "sha256": "0" * 64, "at": 10, "edit": 1}]

    planned = plan_of(prompts=[{"text": text, "references": references}], video={"loops": 2}).prompts[0]

    assert planned.references == (
        PlannedReference(url="a.png", sha256="0" * 64, loop=0, start=0, at=10, length=1, edit=1.0),
        PlannedReference(url="c.png", sha256=None, loop=0, start=0, at=0, length=1, edit=0.0),
        PlannedReference(url="s3://in/b.mp4", sha256=None, loop=1, start=2, at=-5, length=5, edit=0.5),
    )
    assert planned.segments == (Segment(loop=0, text=f"a fox{SCORE}"),)


def test_a_single_reference_without_a_strategy_goes_to_the_first_frame() -> None:
    assert prompt_of('a fox {"reference_path": "a.png"}').references == (
        PlannedReference(url="a.png", sha256=None, loop=0, start=0, at=0, length=1, edit=0.0),
    )


def test_a_loop_must_have_frames_of_its_own() -> None:
    assert refusal_of(video={"frames": 17, "loops": 2}) == (
        "spec.video.conditionFrames: 17 of 17 frames would leave a loop nothing of its own; lower it, raise frames, or "
        "set loops to 1"
    )
    assert plan_of(video={"frames": 34, "loops": 2}).video.total_frames == 51


# ---- Clips and identity ----


def test_samples_count_the_seed_up() -> None:
    samples = plan_of(prompts=[{"name": "a", "text": "a fox", "seed": 5, "samples": 2}])
    apart = plan_of(prompts=[{"name": "a", "text": "a fox", "seed": 5}, {"name": "b", "text": "a fox", "seed": 6}])

    assert [(clip.name, clip.seed) for clip in samples.clips] == [("a-5", 5), ("a-6", 6)]
    assert [clip.ask for clip in samples.clips] == [clip.ask for clip in apart.clips]
    assert samples.run_id == apart.run_id


def test_equal_clips_are_made_once_and_equal_texts_encoded_once() -> None:
    prompts = [{"name": "a", "text": "a fox", "seed": 5, "samples": 2}, {"name": "b", "text": "a fox ", "seed": 6}]

    plan = plan_of(prompts=prompts)

    assert plan.texts == (f"a fox{SCORE}",)
    assert [clip.name for clip in plan.clips] == ["a-5", "a-6", "b-6"]
    assert [clip.name for clip in plan.work] == ["a-5", "a-6"]


def test_numbers_that_are_equal_make_equal_runs() -> None:
    assert plan_of(sampling={"guidance": 7}).run_id == plan_of(sampling={"guidance": 7.0}).run_id == plan_of().run_id


SAME_CLIPS: dict[str, dict[str, Any]] = {
    "replicas and pools": {"runners": [{"name": "other", "replicas": 9, "gpu": {"product": "NVIDIA-L4"}}]},
    "shards": {"encoder": {"shards": 3}},
    "time to live": {"ttlSecondsAfterFinished": 5},
    "retries": {"retries": 9},
    "retry": {"retry": "again"},
    "suspend": {"suspend": True},
    "deadlines": {"schedule": {"activeDeadlineSeconds": 60, "queue": "team-a", "strategy": "Sequential"}},
    "storage": {"storage": {"url": "s3://elsewhere"}},
    "a prompt's name": {"prompts": [{"name": "vixen", "text": "a red fox", "seed": 7}]},
    "one sample, said": {"prompts": [{"text": "a red fox", "seed": 7, "samples": 1}]},
    "a default, said": {
        "video": {"resolution": "240p", "aspectRatio": "16:9", "frames": 51},
        "sampling": {"steps": 30},
    },
}


@pytest.mark.parametrize("change", SAME_CLIPS.values(), ids=SAME_CLIPS)
def test_what_does_not_change_the_clips_does_not_change_the_run(change: dict[str, Any]) -> None:
    before, after = plan_of(), plan_of(**change)

    assert (after.run_id, digests_of(after)) == (before.run_id, digests_of(before))


OTHER_CLIPS: dict[str, dict[str, Any]] = {
    "text": {"prompts": [{"text": "a red foxes", "seed": 7}]},
    "seed": {"prompts": [{"text": "a red fox", "seed": 8}]},
    "references": {"prompts": [{"text": "a red fox", "seed": 7, "references": [{"url": "a.png"}]}]},
    "steps": {"sampling": {"steps": 31}},
    "guidance": {"sampling": {"guidance": 6.9}},
    "aesthetic score": {"sampling": {"aestheticScore": 6.4}},
    "camera motion": {"sampling": {"cameraMotion": "pan left"}},
    "size": {"video": {"resolution": "144p"}},
    "ratio": {"video": {"aspectRatio": "9:16"}},
    "frames": {"video": {"frames": 34}},
    "frames per second": {"video": {"fps": 30}},
    "loops": {"video": {"loops": 2}},
    "model": {"model": {"name": "open-sora-v1.2-tiny", "weights": "/weights"}},
}


@pytest.mark.parametrize("change", OTHER_CLIPS.values(), ids=OTHER_CLIPS)
def test_what_changes_a_clip_changes_the_run_and_the_clips_digest(change: dict[str, Any]) -> None:
    before, after = plan_of(), plan_of(**change)

    assert after.run_id != before.run_id
    assert not set(digests_of(after)) & set(digests_of(before))


def test_other_weights_are_another_run_but_their_content_decides_the_clips_digest() -> None:
    before, moved = plan_of(), plan_of(model={"weights": "/elsewhere"})

    assert moved.run_id != before.run_id
    assert digests_of(moved) == digests_of(before)


_PROMPT = st.fixed_dictionaries(
    {"text": st.text(st.characters(exclude_characters="{|", exclude_categories=("Cs",)), min_size=1, max_size=40)
     .filter(lambda text: text.strip())},
    optional={"seed": st.integers(0, 2**53 - 1), "samples": st.integers(1, 3)},
)  # fmt: skip
_SPEC = st.fixed_dictionaries(
    {"prompts": st.lists(_PROMPT, min_size=1, max_size=6)},
    optional={
        "video": st.fixed_dictionaries(
            {}, optional={"resolution": st.sampled_from(["144p", "480p"]), "frames": st.sampled_from([1, 17, 51])}
        ),
        "sampling": st.fixed_dictionaries(
            {}, optional={"steps": st.integers(1, 100), "guidance": st.floats(0, 100), "motionScore": st.floats(0, 9)}
        ),
        "runners": st.just([{"name": "t4", "gpu": {"product": "Tesla-T4"}}, {"name": "cpu", "gpu": {"count": 0}}]),
    },
)  # fmt: skip


def shuffled(value: Any, order: random.Random) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        order.shuffle(items)
        return {key: shuffled(item, order) for key, item in items}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(_SPEC, st.randoms(use_true_random=False))
def test_the_same_manifest_gives_the_same_bytes_in_whatever_order_its_keys_stand(
    spec: dict[str, Any], order: random.Random
) -> None:
    plan = plan_of(**spec)

    assert plan_of(**shuffled(spec, order)).to_bytes() == plan.to_bytes()


@given(_SPEC)
def test_a_plan_is_read_back_as_it_was_written(spec: dict[str, Any]) -> None:
    plan = plan_of(**spec)

    read = Plan.from_bytes(plan.to_bytes())

    assert read == plan
    assert read.to_bytes() == plan.to_bytes()
    assert (read.clips, read.work, read.texts) == (plan.clips, plan.work, plan.texts)


def test_resources_of_one_name_in_two_namespaces_have_runs_of_their_own_and_the_same_clips() -> None:
    plan = plan_of()
    there = plan.model_copy(update={"namespace": "team-b"})
    assert (there.run_id, digests_of(there)) == (plan.run_id, digests_of(plan))
    assert (plan.run, there.run) == (f"default.fox-{plan.run_id}", f"team-b.fox-{plan.run_id}")


@given(_SPEC)
def test_names_of_prompts_decide_neither_the_run_nor_its_clips(spec: dict[str, Any]) -> None:
    plan = plan_of(**spec)
    named = [{**prompt, "name": f"other-{index}"} for index, prompt in enumerate(spec["prompts"])]

    renamed = plan_of(**(spec | {"prompts": named}))

    assert renamed.run_id == plan.run_id
    assert digests_of(renamed) == digests_of(plan)


@given(_SPEC)
def test_clips_are_numbered_in_the_order_of_the_manifest_and_named_apart(spec: dict[str, Any]) -> None:
    clips: tuple[Clip, ...] = plan_of(**spec).clips

    assert [clip.index for clip in clips] == list(range(len(clips)))
    assert [clip.prompt for clip in clips] == sorted(clip.prompt for clip in clips)
    assert len({clip.name for clip in clips}) == len(clips)


def test_a_thousand_prompts_of_all_the_text_that_is_allowed_fit_a_config_map() -> None:
    prompts = [{"name": f"{'n' * 59}{index:04d}", "text": f"{index:03d} ".ljust(150, "x")} for index in range(1000)]

    assert len(plan_of(prompts=prompts).to_bytes()) < MAX_PLAN_BYTES < 2**20


def test_prompts_that_would_not_fit_a_config_map_are_refused() -> None:
    prompts = [{"text": "\U0001f98a" * 150} for _ in range(1000)]

    assert refusal_of(prompts=prompts).endswith(
        f"bytes, and Kubernetes keeps {MAX_PLAN_BYTES:,}; use several VideoGenerations"
    )


def test_a_plan_of_another_version_is_refused_by_field() -> None:
    content = plan_of().to_bytes().replace(b'"retries":3', b'"retries":"3"')

    with pytest.raises(ConfigInvalid) as caught:
        Plan.from_bytes(content)
    assert str(caught.value) == (
        "the plan does not fit this image (retries: Input should be a valid integer); "
        "use images and operator of one version"
    )


# ---- Strategy ----


def test_the_encoder_goes_first_where_it_shares_the_runners_cards() -> None:
    plan = plan_of(runners=[{"name": "t4", "gpu": {"product": "Tesla-T4"}}])

    assert (plan.strategy, plan.why) == (
        Strategy.SEQUENTIAL,
        (
            "The encoder (1 pod) and the runners (1 card) use the same cards, so the encoder finishes first and leaves "
            "room for them."
        ),
    )


def test_stages_overlap_where_the_encoder_has_cards_of_its_own_and_that_saves_time() -> None:
    prompts = [{"text": f"a fox {n}"} for n in range(100)]
    slow: dict[str, Any] = {
        "encoder": {"gpu": {"count": 0}},
        "runners": [{"name": "t4", "gpu": {"product": "Tesla-T4"}}],
    }
    fast = slow | {"encoder": {"gpu": {"product": "NVIDIA-L4"}}}

    long, short = plan_of(prompts=prompts, **slow), plan_of(prompts=prompts, **fast)

    assert (long.strategy, long.why) == (
        Strategy.OVERLAPPED,
        (
            "Overlapped should take about 6742 s and Sequential 7108 s, starts of pods included, and there are cards "
            "for both at once."
        ),
    )
    assert (short.strategy, short.why) == (
        Strategy.SEQUENTIAL,
        (
            "Overlapped should take about 6739 s and Sequential 6802 s, starts of pods included: too little for "
            "runners to hold cards while they wait for embeddings."
        ),
    )


@pytest.mark.parametrize(("cards", "strategy"), [(4, Strategy.SEQUENTIAL), (5, Strategy.OVERLAPPED)])
def test_stages_overlap_on_the_same_cards_where_there_are_enough_for_both(cards: int, strategy: Strategy) -> None:
    gpu = {"product": "Tesla-T4"}
    plan = plan_of(
        prompts=[{"text": "a fox", "samples": 2}],
        encoder={"shards": 3},
        runners=[{"name": "t4", "replicas": cards, "gpu": gpu}],
    )

    assert (plan.strategy, plan.pools[0].replicas, plan.pools[0].shares_encoder_cards) == (strategy, 2, True)


def test_a_queue_admits_stage_by_stage() -> None:
    plan = plan_of(encoder={"gpu": {"count": 0}}, schedule={"queue": "team-a"})

    assert (plan.strategy, plan.why) == (
        Strategy.SEQUENTIAL,
        "Stages wait in a queue, so the encoder gives its quota back before runners ask.",
    )


@pytest.mark.parametrize(
    ("encoder", "pool", "shares"),
    [
        ({"product": "Tesla-T4"}, {"product": "Tesla-T4"}, True),
        ({"product": "Tesla-T4"}, {"product": "NVIDIA-L4"}, False),
        ({"product": "Tesla-T4"}, {}, True),
        ({}, {"product": "Tesla-T4"}, True),
        ({"resource": "amd.com/gpu"}, {}, False),
        ({"count": 0}, {}, False),
        ({}, {"count": 0}, False),
        ({"count": 0}, {"count": 0}, True),
    ],
)
def test_encoder_and_runners_share_cards_that_either_may_get(
    encoder: dict[str, Any], pool: dict[str, Any], shares: bool
) -> None:
    runners = [{"name": "a", "gpu": pool}, {"name": "cards", "gpu": {"product": "NVIDIA-H100"}}]
    plan = plan_of(model={"name": "open-sora-v1.2-tiny", "weights": "/w"}, encoder={"gpu": encoder}, runners=runners)

    assert plan.pools[0].shares_encoder_cards is shares


# ---- Pools of several kinds ----


def test_each_pool_has_the_form_that_fits_its_own_card() -> None:
    runners = [
        {"name": "t4", "replicas": 2, "gpu": {"product": "Tesla-T4"}},
        {"name": "a10g", "replicas": 2, "gpu": {"product": "NVIDIA-A10G", "memory": "10Gi"}},
        {"name": "h100", "gpu": {"product": "NVIDIA-H100"}},
    ]
    plan = plan_of(
        prompts=[{"text": "a fox", "samples": 8}], video={"resolution": "720p", "frames": 204}, runners=runners
    )

    assert [
        (
            pool.name,
            pool.replicas,
            pool.dtype,
            pool.vae_dtype,
            pool.guidance_batch,
            pool.decode_batch_frames,
            pool.unfit,
        )
        for pool in plan.pools
    ] == [
        ("t4", 2, Dtype.FLOAT16, Dtype.FLOAT32, 1, 1, ""),
        ("a10g", 2, Dtype.BFLOAT16, Dtype.BFLOAT16, 1, 2, ""),
        ("h100", 1, Dtype.BFLOAT16, Dtype.BFLOAT16, 2, 4, ""),
    ]


def test_a_pool_that_no_clip_fits_gets_no_runners_and_says_why() -> None:
    runners = [
        {"name": "small", "replicas": 4, "gpu": {"product": "Tesla-T4", "memory": "5Gi"}},
        {"name": "large", "replicas": 2, "gpu": {"product": "NVIDIA-L4"}},
    ]
    plan = plan_of(prompts=[{"text": "a fox", "samples": 8}], video={"resolution": "480p"}, runners=runners)

    assert [(pool.name, pool.replicas, pool.unfit) for pool in plan.pools] == [
        (
            "small",
            0,
            (
                "pool 'small': a clip of 854x480 and 51 frames needs 5.2 GiB even in its smallest form, and T4 has 4.2 "
                "GiB to use"
            ),
        ),
        ("large", 2, ""),
    ]
    assert totals_of(plan).peak_memory_bytes < 22 * 2**30


def test_a_clip_that_fits_no_pool_is_refused_with_the_numbers_of_each() -> None:
    runners = [
        {"name": "small", "gpu": {"product": "Tesla-T4", "memory": "5Gi"}},
        {"name": "off", "replicas": 0, "gpu": {"product": "NVIDIA-H100"}},
        {"name": "odd", "gpu": {"product": "NVIDIA-L4", "memory": "3Gi"}},
    ]
    assert refusal_of(video={"resolution": "480p"}, encoder={"gpu": {"count": 0}}, runners=runners) == (
        "spec.runners: pool 'small': a clip of 854x480 and 51 frames needs 5.2 GiB even in its smallest form, and T4 "
        "has 4.2 GiB to use; pool 'odd': a clip of 854x480 and 51 frames needs 4.1 GiB even in its smallest form, and "
        "L4 has 2.3 GiB to use; lower spec.video.resolution or frames, or name a card with more memory"
    )


def test_the_manifest_may_choose_the_strategy() -> None:
    plan = plan_of(schedule={"strategy": "Overlapped"})

    assert (plan.strategy, plan.why) == (
        Strategy.OVERLAPPED,
        "Overlapped is what spec.schedule.strategy asks for.",
    )


def test_shards_that_the_cluster_names_are_taken() -> None:
    assert make_plan(resource(), Defaults(encoder=Encoder(shards=2))).encoder.shards == 2


def test_a_pod_is_told_how_much_of_its_card_the_manifest_gives_it() -> None:
    gpu = {"memory": "14.5Gi", "product": "Tesla-T4"}
    pools = [{"name": "share", "gpu": gpu}, {"name": "whole", "gpu": {"product": "NVIDIA-L4"}}]
    plan = plan_of(encoder={"gpu": gpu}, runners=pools)
    stated = int(14.5 * 2**30)
    assert (plan.encoder.card_bytes, *(pool.card_bytes for pool in plan.pools)) == (stated, stated, None)


def test_processes_of_one_machine_may_share_its_cards() -> None:
    defaults = local_defaults("/out", workers=4, device="cuda", gpu_memory="14.5Gi", encoder_shards=4)
    plan = make_plan(resource(), defaults)
    stated = int(14.5 * 2**30)
    assert (plan.encoder.card_bytes, *(pool.card_bytes for pool in plan.pools)) == (stated, stated)


def test_a_run_that_has_begun_keeps_its_strategy_whatever_its_next_placement_would_choose() -> None:
    before = plan_of().model_copy(update={"strategy": Strategy.OVERLAPPED, "why": "it was faster"})
    replanned = plan_of(retries=1)
    kept = keep_strategy(resource(), replanned, before)
    assert kept == replanned.model_copy(update={"strategy": Strategy.OVERLAPPED, "why": "it was faster"})


def test_a_strategy_that_the_manifest_asks_for_or_another_run_is_not_bound_to_the_one_before() -> None:
    before = plan_of().model_copy(update={"strategy": Strategy.OVERLAPPED})
    asked = {"schedule": {"strategy": "Sequential"}}
    assert keep_strategy(resource(**asked), plan_of(**asked), before) == plan_of(**asked)
    other = plan_of(prompts=[{"text": "an owl"}])
    assert keep_strategy(resource(), other, before) == other
