"""Runs to make pages of: manifests as values, finished runs in a store, and what a browser would make of a page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from tests.runner.role_contexts import build_context, build_inputs, finish_clip

from videogen_api import keys
from videogen_api.naming import Stage
from videogen_api.plan import Plan
from videogen_api.records import ClipFailure, DoneMarker, Manifest, ManifestClip, Sidecar, Stint
from videogen_runner.page import files_beside, render_page
from videogen_runner.roles import collect
from videogen_runner.store import Store, open_store
from videogen_runner.store.records import put_record

NOON = 1_800_014_400.0
"""2027-01-15 12:00:00 UTC."""
_VOID = {"meta", "img"}


@dataclass
class Page(HTMLParser):
    """Elements with their attributes, and the text of each element."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def links(self) -> list[str]:
        """Everything outside the page that it names."""
        found = [attributes.get(name) for _, attributes in self.elements for name in ("src", "href")]
        return [unquote(link) for link in found if link is not None and not link.startswith("#")]

    def facts(self, position: int) -> dict[str, str]:
        """Of the clip at this position; -1 is the header."""
        lists: list[dict[str, str]] = []
        names, values = iter(self.texts["dt"]), iter(self.texts["dd"])
        for element, _ in self.elements:
            if element == "dl":
                lists.append({})
            elif element == "dt":
                lists[-1][next(names)] = next(values)
        return lists[position + 1]


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def render(manifest: Manifest) -> Page:
    """The page as collect writes it."""
    return parse(render_page(manifest, files_beside(manifest)))


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


def stint(runner: str, began: float, ended: float) -> Stint:
    """Seconds after noon."""
    return Stint(runner=runner, began=NOON + began, ended=NOON + ended)


def finish_run(folder: Path, plan: Plan, videos: Sequence[bytes | None] = (None, None)) -> Store:
    """All clips of the plan are done and collected; returns their store. `folder` keeps the process's files."""
    store, inputs = open_store(plan.storage.url, {}), build_inputs(plan)
    put_record(store, keys.inputs(plan.run), inputs)
    for number, (clip, video) in enumerate(zip(plan.work, videos, strict=True)):
        stints = (stint("local-0", 10.0 * number, 10.0 * number + 5),)
        finish_clip(store, plan, inputs, clip, video=video, stints=stints)
    collect.run(build_context(folder, plan, Stage.COLLECT))
    return store


def broken_links(store: Store, page: str) -> list[str]:
    """What the page under this key names and the store does not have."""
    here = {entry.key for entry in store.list()}
    links = parse(store.get(page).body.decode()).links
    return [link for link in links if _resolve(PurePosixPath(page).parent / link) not in here]


def _resolve(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)
