"""The page: what it shows, that it needs nothing else, and that a prompt stays text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.runner.role_contexts import build_inputs, changed, finish_clip, plan_in

from videogen_api.errors import Reason
from videogen_api.plan import Plan
from videogen_api.records import ClipFailure, DoneMarker, Manifest, ManifestClip, Sidecar
from videogen_runner.page import render_page
from videogen_runner.store import DirectoryStore

VOID = {"meta", "img"}


@dataclass
class Page(HTMLParser):
    """What a browser makes of the page: elements with their attributes, and the text of each element."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def build_manifest(plan: Plan, *done: DoneMarker, failure: ClipFailure | None = None) -> Manifest:
    """The first clips are done, the next one has failed (if `failure` is given), the rest is missing."""
    clips: list[ManifestClip] = []
    for position, clip in enumerate(plan.clips):
        prompt = plan.prompts[clip.prompt]
        url, sidecar = None, None
        if position < len(done):
            suffix = done[position].video.key.rpartition(".")[2]
            url = f"s3://bucket/videos/default/test/{clip.name}.{suffix}"
            sidecar = Sidecar(
                clip=clip.name, prompt=prompt.name, text=prompt.text, seed=clip.seed, video=plan.video,
                sampling=plan.sampling, model=plan.model.name, weights=build_inputs(plan).weights, run_id=plan.run_id,
                done=done[position],
            )  # fmt: skip
        failed = failure if position == len(done) else None
        clips.append(
            ManifestClip(clip=clip.name, prompt=prompt.name, seed=clip.seed, url=url, sidecar=sidecar, failure=failed)
        )
    return Manifest(plan=plan, weights=build_inputs(plan).weights, clips=tuple(clips))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_in(tmp_path)


def make(tmp_path: Path, plan: Plan, position: int, suffix: str = "mp4") -> DoneMarker:
    return finish_clip(DirectoryStore(tmp_path), plan, build_inputs(plan), plan.clips[position], suffix)


def test_every_clip_plays_from_the_file_beside_the_page(tmp_path: Path, plan: Plan) -> None:
    page = parse(render_page(build_manifest(plan, make(tmp_path, plan, 0), make(tmp_path, plan, 1))))
    assert page.all("video") == [
        {
            "src": f"fox-{seed}.mp4", "width": "64", "height": "64", "controls": None, "loop": None, "muted": None,
            "playsinline": None, "preload": "metadata",
        }
        for seed in (1, 2)
    ]  # fmt: skip
    assert page.all("a") == [{"href": "fox-1.json"}, {"href": "fox-2.json"}]
    assert page.texts["h2"] == ["fox", "fox"]
    assert page.texts["h1"] == ["test"]
    assert page.texts["p"] == [
        f"2 of 2 clips · open-sora-v1.2-tiny · 4 steps, guidance 7 · run {plan.run_id}",
        "a red fox",
        "seed 1 · 64 × 64 · 17 frames at 24 fps, 0.7 s · made in 4.0 s (4 steps in 3.0 s) · ",  # noqa: RUF001
        "a red fox",
        "seed 2 · 64 × 64 · 17 frames at 24 fps, 0.7 s · made in 4.0 s (4 steps in 3.0 s) · ",  # noqa: RUF001
    ]


def test_a_single_frame_is_an_image(tmp_path: Path, plan: Plan) -> None:
    page = parse(render_page(build_manifest(plan, make(tmp_path, plan, 0, "png"))))
    assert page.all("video") == []
    assert page.all("img") == [{"src": "fox-1.png", "alt": "fox-1", "width": "64", "height": "64", "loading": "lazy"}]
    assert page.texts["p"][2] == "seed 1 · 64 × 64 · made in 4.0 s (4 steps in 3.0 s) · "  # noqa: RUF001


def test_what_failed_or_is_missing_says_so(plan: Plan) -> None:
    failure = ClipFailure(
        clip="fox-1", clip_digest="c", reason=Reason.INVALID_INPUT, message="fox.png is no image", runner="r"
    )
    page = parse(render_page(build_manifest(plan, failure=failure)))
    assert (page.all("video"), page.all("img"), page.all("a")) == ([], [], [])
    assert page.texts["div"] == ["InvalidInput: fox.png is no image", "not made yet"]
    assert page.texts["p"][0].startswith("0 of 2 clips · 1 failed · 1 not made yet · ")


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
    done = make(tmp_path, plan, 0)
    failure = ClipFailure(clip="fox-2", clip_digest="c", reason=Reason.INTERNAL, message=attack, runner="r")
    usual = build_manifest(plan, done, failure=failure)
    prompt = plan.prompts[0].model_copy(update={"text": attack})
    hostile = usual.model_copy(update={"plan": changed(plan, prompts=(prompt,))})
    page = parse(render_page(hostile))
    assert page.elements == parse(render_page(usual)).elements
    assert page.texts["p"].count(attack) == 2
    assert page.texts["div"] == [f"Internal: {attack}"]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path, plan: Plan) -> None:
    text = render_page(build_manifest(plan, make(tmp_path, plan, 0)))
    page = parse(text)
    links = [value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")]
    assert links == ["fox-1.mp4", "fox-1.json"]
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed"} == set()
    assert [word for word in ("http:", "https:", "url(", "@import") if word in text] == []


def test_equal_manifests_give_equal_pages(tmp_path: Path, plan: Plan) -> None:
    manifest = build_manifest(plan, make(tmp_path, plan, 0))
    again = Manifest.model_validate_json(manifest.model_dump_json(by_alias=True))
    assert render_page(manifest) == render_page(again)
