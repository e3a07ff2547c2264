"""The page that leads to the pages of several runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import dirname, normpath, relpath

from videogen_api.records import Manifest
from videogen_runner.page.cards import READY_AT_ONCE, render_player
from videogen_runner.page.document import render_document
from videogen_runner.page.files import ClipFiles
from videogen_runner.page.html import Html, link, tag
from videogen_runner.page.run import state_of
from videogen_runner.page.timeline import build_lanes
from videogen_runner.page.words import count, moment


@dataclass(frozen=True)
class RunEntry:
    """A run, the key of its page, and by clip the files that are there, relative to that page."""

    manifest: Manifest
    page: str
    files: Mapping[str, ClipFiles]


def render_overview(entries: Sequence[RunEntry], key: str) -> str:
    """The whole page, to be stored under `key`; the runs stay in the order given."""
    title = count(len(entries), "run")
    cards = (_card(entry, dirname(key), position) for position, entry in enumerate(entries))
    return render_document(title, tag("header", tag("h1", title)), tag("main", tag("div", *cards, class_="cards")))


def _card(entry: RunEntry, folder: str, position: int) -> Html:
    manifest, plan = entry.manifest, entry.manifest.plan
    name_id, about_id = f"name-{position}", f"about-{position}"
    heading = tag("h2", tag("a", plan.name, href=link(relpath(entry.page, folder))), id=name_id)
    about = tag("p", f"{state_of(manifest)}, {plan.model.name}", id=about_id)
    where = " · ".join([f"namespace {plan.namespace}", f"run {plan.run_id}", *_when(manifest)])
    return tag(
        "article",
        _picture(entry, folder, about_id, is_ready=position < READY_AT_ONCE),
        tag("div", heading, about, tag("p", where, class_="faint"), class_="about"),
        aria_labelledby=name_id,
    )


def _picture(entry: RunEntry, folder: str, about_id: str, *, is_ready: bool) -> Html:
    """The first clip."""
    for clip in entry.manifest.clips:
        if clip.sidecar is not None and clip.clip in entry.files:
            video = normpath(f"{dirname(entry.page)}/{entry.files[clip.clip].video}")
            return render_player(clip.clip, relpath(video, folder), clip.sidecar.done, about_id, is_ready=is_ready)
    return tag("p", "No clip of this run is in the store.", class_="none")


def _when(manifest: Manifest) -> list[str]:
    began = [bar.stint.began for lane in build_lanes(manifest) for bar in lane.bars]
    return [moment(min(began))] if began else []
