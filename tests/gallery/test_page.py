"""The page: what it shows, that it needs nothing else, and that a prompt stays text."""

from pathlib import Path

import pytest
from tests.gallery.runs import build_manifest, parse, render, stint
from tests.runner.role_contexts import build_inputs, changed, finish_clip, plan_in

from videogen_api.errors import Reason
from videogen_api.plan import Plan
from videogen_api.records import ClipFailure, DoneMarker, Manifest, Timings
from videogen_runner.page import files_beside, render_page
from videogen_runner.store import DirectoryStore


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_in(tmp_path)


def make(tmp_path: Path, plan: Plan, position: int, suffix: str = "mp4", **changes: object) -> DoneMarker:
    clip = plan.clips[position]
    return finish_clip(DirectoryStore(tmp_path), plan, build_inputs(plan), clip, suffix, **changes)


def build_failure(message: str, clip: str = "fox-1") -> ClipFailure:
    return ClipFailure(clip=clip, clip_digest="c", reason=Reason.INVALID_INPUT, message=message, runner="local-1")


def test_every_clip_plays_in_place_muted_and_over_again_from_the_file_beside_the_page(
    tmp_path: Path, plan: Plan
) -> None:
    page = render(build_manifest(plan, make(tmp_path, plan, 0), make(tmp_path, plan, 1)))
    assert page.all("video") == [
        {
            "src": f"fox-{seed}.mp4", "width": "64", "height": "64", "aria-label": f"Clip fox-{seed}",
            "aria-describedby": f"prompt-{seed - 1}", "controls": None, "loop": None, "muted": None,
            "playsinline": None, "preload": "metadata",
        }
        for seed in (1, 2)
    ]  # fmt: skip
    assert page.links == ["fox-1.mp4", "fox-1.mp4", "fox-1.json", "fox-2.mp4", "fox-2.mp4", "fox-2.json"]


def test_the_header_says_what_the_run_asked_for_and_what_it_took(tmp_path: Path, plan: Plan) -> None:
    page = render(build_manifest(plan, make(tmp_path, plan, 0), make(tmp_path, plan, 1)))
    assert page.texts["h1"] == page.texts["title"] == ["test"]
    assert page.texts["p"][0] == "2 of 2 clips done"
    assert page.facts(-1) == {
        "model": "open-sora-v1.2-tiny, exact",
        "sampling": "rectified flow, 4 steps, guidance 7",
        "video": "64 × 64, 17 frames at 24 fps",  # noqa: RUF001
        "prompts": "1",
        "compute": "8.0 s, 6.0 s of it denoising",
        "workers": "1",
        "files": "0 kB",
        "namespace": "default",
        "run": plan.run_id,
        "encoder weights": "eeeeeeeeeeee…",
        "denoiser weights": "dddddddddddd…",
        "VAE weights": "aaaaaaaaaaaa…",
    }


def test_a_clip_says_how_it_was_made(tmp_path: Path, plan: Plan) -> None:
    done = make(tmp_path, plan, 0)
    page = render(build_manifest(plan, done))
    assert (page.texts["h3"][0], page.texts["p"][1]) == ("fox-1", "a red fox")
    assert page.facts(0) == {
        "seed": "1",
        "size": "64 × 64",  # noqa: RUF001
        "frames": "17 at 24 fps, 0.7 s",
        "VAE encode": "0.5 s",
        "denoise": "3.0 s, 4 steps",
        "VAE decode": "0.2 s",
        "write": "0.2 s, 0 kB",
        "worker": "local-0",
    }
    assert page.texts["code"] == [f"{done.video.sha256[:8]}…"]
    assert [button["data-copy"] for button in page.all("button")] == [done.video.sha256]


@pytest.mark.parametrize(
    ("earlier", "steps", "told"),
    [
        (("local-1",), 3, {"resumed": "after 1 of 4 steps, from local-1"}),
        (("local-1", "local-2", "local-1"), 1, {"resumed": "after 3 of 4 steps, from local-1, local-2"}),
        (("local-1",), 4, {"begun anew": "after local-1"}),
        ((), 4, {}),
        ((), 3, {"resumed": "after 1 of 4 steps"}),  # of an earlier version, which kept no stints
    ],
)
def test_a_clip_that_changed_hands_says_from_whom_and_after_which_step(
    tmp_path: Path, plan: Plan, earlier: tuple[str, ...], steps: int, told: dict[str, str]
) -> None:
    stints = tuple(stint(runner, 0, 5) for runner in (*earlier, "local-0"))
    done = make(tmp_path, plan, 0, stints=stints if earlier else (), timings=Timings(denoise=1.0, steps=steps))
    facts = render(build_manifest(plan, done)).facts(0)
    assert {name: value for name, value in facts.items() if name in ("resumed", "begun anew")} == told


def test_an_adapted_clip_says_what_may_differ(tmp_path: Path, plan: Plan) -> None:
    facts = render(build_manifest(plan, make(tmp_path, plan, 0, adapted=True))).facts(0)
    assert facts["memory"] == "adapted: equal within bf16 rounding, not bit for bit"


def test_a_single_frame_is_an_image(tmp_path: Path, plan: Plan) -> None:
    page = render(build_manifest(plan, make(tmp_path, plan, 0, "png")))
    assert page.all("video") == []
    assert page.all("img") == [
        {
            "src": "fox-1.png", "alt": "Clip fox-1", "aria-describedby": "prompt-0", "width": "64", "height": "64",
            "loading": "lazy",
        }
    ]  # fmt: skip
    assert "frames" not in page.facts(0)


def test_what_failed_or_is_missing_says_so(plan: Plan) -> None:
    page = render(build_manifest(plan, failure=build_failure("fox.png is no image")))
    assert (page.all("video"), page.all("img"), page.links) == ([], [], [])
    assert (page.texts["strong"], page.texts["span"]) == (["Failed: InvalidInput"], ["fox.png is no image"])
    assert page.texts["p"] == [
        "0 of 2 clips done, 1 failed, 1 not made yet",
        "a red fox",
        "Not made yet.",
        "a red fox",
        "No times are recorded for the clips of this run.",
    ]
    assert page.facts(0) == {"seed": "1", "worker": "local-1"}


def test_a_clip_whose_video_is_gone_says_so_and_how_it_was_made(tmp_path: Path, plan: Plan) -> None:
    page = parse(render_page(build_manifest(plan, make(tmp_path, plan, 0)), {}))
    assert page.texts["p"][1] == "Its video is missing or cut off in the store; run again to make it."
    assert page.facts(0)["denoise"] == "3.0 s, 4 steps"
    assert page.links == []


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</style></title></p><iframe src='//evil'>",
        "'; alert(1) //",
        "&lt;b&gt; & <b>",
        "line\nbreak",
    ],
)
def test_a_prompt_is_text_and_nothing_else(tmp_path: Path, plan: Plan, attack: str) -> None:
    usual = build_manifest(plan, make(tmp_path, plan, 0), failure=build_failure(attack, "fox-2"))
    prompt = plan.prompts[0].model_copy(update={"text": attack})
    hostile = usual.model_copy(update={"plan": changed(plan, prompts=(prompt,))})
    page = render(hostile)
    assert page.elements == render(usual).elements
    assert page.texts["p"].count(attack) == 2
    assert page.texts["span"] == [attack]


def test_every_name_from_a_manifest_stays_text(tmp_path: Path, plan: Plan) -> None:
    attack = '"><img src=x onerror=alert(1)>'
    done = make(tmp_path, plan, 0, stints=(stint(attack, 0, 1), stint("local-0", 1, 2)))
    manifest = build_manifest(plan, done)
    hostile = manifest.model_copy(update={"plan": changed(plan, name=attack, namespace=attack)})
    page = render(hostile)
    assert page.all("img") == []
    assert page.texts["h1"] == [attack]
    assert {attribute for _, attributes in page.elements for attribute in attributes if attribute[:2] == "on"} == set()


def test_nothing_is_loaded_from_elsewhere_and_no_other_script_may_run(tmp_path: Path, plan: Plan) -> None:
    manifest = build_manifest(plan, make(tmp_path, plan, 0))
    text = render_page(manifest, files_beside(manifest))
    page = parse(text)
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "object", "embed", "base"} == set()
    assert page.all("script") == [{}]
    assert [word for word in ("http:", "https:", "url(", "@import") if word in text] == []
    [policy] = [meta["content"] or "" for meta in page.all("meta") if "http-equiv" in meta]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["script-src"].startswith("'sha256-")
    assert directives["connect-src"] == directives["base-uri"] == directives["object-src"] == "'none'"


def test_every_element_that_is_named_by_another_is_there_once(tmp_path: Path, plan: Plan) -> None:
    page = render(build_manifest(plan, make(tmp_path, plan, 0, stints=(stint("local-0", 0, 5),))))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    named = {
        value
        for _, attributes in page.elements
        for name in ("aria-labelledby", "aria-describedby")
        if (value := attributes.get(name)) is not None
    }
    anchors = {(link["href"] or "")[1:] for link in page.all("a") if (link["href"] or "").startswith("#")}
    assert sorted(set(ids)) == sorted(ids)
    assert (named | anchors) - set(ids) == set()


def test_equal_manifests_give_equal_pages(tmp_path: Path, plan: Plan) -> None:
    manifest = build_manifest(plan, make(tmp_path, plan, 0, stints=(stint("local-0", 0, 5),)))
    again = Manifest.model_validate_json(manifest.model_dump_json(by_alias=True))
    assert render_page(manifest, files_beside(manifest)) == render_page(again, files_beside(again))
