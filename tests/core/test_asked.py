"""Digests of what a manifest says: what makes another run, and what makes other pods."""

from typing import Any

import pytest
from tests.builders import build_resource

from videogen_api.naming import Stage
from videogen_api.spec import VideoGenerationSpec
from videogen_operator.core.asked import asked_digest, template_digest

PROMPT = {"name": "fox", "text": "a red fox", "seed": 1, "samples": 2}
T4 = {"name": "t4", "replicas": 2, "gpu": {"product": "Tesla-T4"}}
A100 = {"name": "a100", "gpu": {"memory": "80Gi"}}


def spec(**fields: Any) -> VideoGenerationSpec:
    return build_resource(**fields).spec


@pytest.mark.parametrize(
    "fields",
    [
        {"prompts": [{**PROMPT, "name": "renamed"}]},
        {"prompts": [{key: value for key, value in PROMPT.items() if key != "name"}]},
        {"runners": [T4, A100]},
        {"encoder": {"shards": 4}},
        {"schedule": {"queue": "team-a", "startDeadlineSeconds": 60, "activeDeadlineSeconds": 60}},
        {"ttlSecondsAfterFinished": 60},
        {"retries": 7},
        {"suspend": True},
        {"retry": "1"},
    ],
)
def test_what_does_not_decide_the_clips_leaves_the_run_as_it_is(fields: dict[str, Any]) -> None:
    assert asked_digest(spec(**fields)) == asked_digest(spec())


@pytest.mark.parametrize(
    "fields",
    [
        {"prompts": [{**PROMPT, "text": "a blue fox"}]},
        {"prompts": [{**PROMPT, "seed": 2}]},
        {"prompts": [{**PROMPT, "samples": 3}]},
        {"prompts": [{**PROMPT, "references": [{"url": "s3://in/fox.png"}]}]},
        {"prompts": [PROMPT, {**PROMPT, "name": "hen", "text": "a hen"}]},
        {"video": {"frames": 17}},
        {"sampling": {"steps": 4}},
        {"model": {"weights": "builtin"}},
        {"storage": {"url": "s3://videos/team-b"}},
    ],
)
def test_what_decides_the_clips_and_where_they_go_asks_for_another_run(fields: dict[str, Any]) -> None:
    assert asked_digest(spec(**fields)) != asked_digest(spec())


def test_two_prompts_in_another_order_are_another_run_for_their_files_are_numbered() -> None:
    fox, hen = {"text": "a fox"}, {"text": "a hen"}
    assert asked_digest(spec(prompts=[fox, hen])) != asked_digest(spec(prompts=[hen, fox]))


def test_a_pools_pods_are_what_the_manifest_says_of_that_pool_but_for_their_number() -> None:
    before = template_digest(spec(runners=[T4, A100]), Stage.GENERATE, "t4")
    more = template_digest(spec(runners=[{**T4, "replicas": 9}, A100]), Stage.GENERATE, "t4")
    beside_another = template_digest(spec(runners=[{**A100, "gpu": {"memory": "40Gi"}}, T4]), Stage.GENERATE, "t4")
    other_image = template_digest(spec(runners=[{**T4, "pod": {"labels": {"a": "b"}}}]), Stage.GENERATE, "t4")
    assert more == before == beside_another
    assert other_image != before


def test_the_encoders_pods_are_what_the_manifest_says_of_the_encoder() -> None:
    before = template_digest(spec(encoder={"shards": 2}), Stage.ENCODE, None)
    assert template_digest(spec(encoder={"shards": 2}, runners=[T4]), Stage.ENCODE, None) == before
    assert template_digest(spec(encoder={"shards": 4}), Stage.ENCODE, None) != before


@pytest.mark.parametrize("stage", [Stage.PREFLIGHT, Stage.COLLECT])
def test_preflight_and_collect_look_the_same_whatever_the_pools_are(stage: Stage) -> None:
    assert template_digest(spec(runners=[T4], encoder={"shards": 2}), stage, None) == template_digest(
        spec(), stage, None
    )


@pytest.mark.parametrize("stage", list(Stage))
def test_another_queue_makes_other_pods_in_every_stage_and_a_deadline_does_not(stage: Stage) -> None:
    pool = "t4" if stage == Stage.GENERATE else None
    before = template_digest(spec(runners=[T4]), stage, pool)
    assert template_digest(spec(runners=[T4], schedule={"queue": "team-a"}), stage, pool) != before
    assert template_digest(spec(runners=[T4], schedule={"activeDeadlineSeconds": 60}), stage, pool) == before
