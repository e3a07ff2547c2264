"""A run's page: what was asked for in all, the clips, and the timeline."""

from collections.abc import Iterator, Mapping

from videogen_api.records import DoneMarker, Manifest
from videogen_runner.page.cards import render_card
from videogen_runner.page.document import render_document
from videogen_runner.page.drawing import render_timeline
from videogen_runner.page.files import ClipFiles
from videogen_runner.page.html import Html, joined, tag
from videogen_runner.page.words import count, duration, size

_SHORT_DIGEST = 12


def render_page(manifest: Manifest, files: Mapping[str, ClipFiles]) -> str:
    """The whole page; `files` names, by clip, the videos that are there."""
    plan = manifest.plan
    texts = {prompt.name: prompt.text for prompt in plan.prompts}
    cards = (
        render_card(plan, clip, texts[clip.prompt], files.get(clip.clip), position)
        for position, clip in enumerate(manifest.clips)
    )
    return render_document(
        plan.name,
        _header(manifest),
        tag(
            "main",
            tag(
                "section",
                tag("h2", "Clips", id="clips"),
                tag("div", joined(*cards, by="\n"), class_="cards"),
                aria_labelledby="clips",
            ),
            render_timeline(manifest),
        ),
    )


def state_of(manifest: Manifest) -> str:
    """`3 of 5 clips are done, 1 failed, 1 is not made yet`, and so on."""
    done = sum(clip.sidecar is not None for clip in manifest.clips)
    failed = sum(clip.failure is not None for clip in manifest.clips)
    missing = len(manifest.clips) - done - failed
    parts = [f"{done} of {count(len(manifest.clips), 'clip')} done"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{missing} not made yet"] if missing else []
    return ", ".join(parts)


def _header(manifest: Manifest) -> Html:
    facts = (tag("div", tag("dt", name), tag("dd", value)) for name, value in _facts(manifest))
    links = (tag("a", "Clips", href="#clips"), " ", tag("a", "Timeline", href="#timeline"))
    return tag(
        "header",
        tag("h1", manifest.plan.name),
        tag("p", state_of(manifest), class_="state"),
        tag("dl", *facts, class_="facts"),
        tag("nav", *links, aria_label="Sections"),
    )


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    plan = manifest.plan
    video, sampling = plan.video, plan.sampling
    height, width = video.decoded_size
    yield "model", f"{plan.model.name}, {plan.model.precision}"
    yield "sampling", f"rectified flow, {count(sampling.steps, 'step')}, guidance {sampling.guidance:g}"
    frames = "1 frame" if video.total_frames == 1 else f"{video.total_frames} frames at {video.fps} fps"
    loops = f", {video.loops} loops of {video.frames} frames" if video.loops > 1 else ""
    yield "video", f"{width} × {height}, {frames}{loops}"  # noqa: RUF001
    yield "prompts", str(len(plan.prompts))
    yield from _totals(manifest)
    yield "namespace", plan.namespace
    yield "run", plan.run_id
    weights = manifest.weights
    for name, digest in (("encoder", weights.encoder), ("denoiser", weights.denoiser), ("VAE", weights.vae)):
        yield f"{name} weights", f"{digest[:_SHORT_DIGEST]}…"


def _totals(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Equal clips under two names were made once, and count once."""
    done = {clip.sidecar.done.clip_digest: clip.sidecar.done for clip in manifest.clips if clip.sidecar is not None}
    if not done:
        return
    spent = [marker.timings for marker in done.values()]
    seconds = sum(each.encode + each.denoise + each.decode + each.write for each in spent)
    yield "compute", f"{duration(seconds)}, {duration(sum(each.denoise for each in spent))} of it denoising"
    yield "workers", str(len({name for marker in done.values() for name in _workers(marker)}))
    yield "files", size(sum(marker.video.bytes for marker in done.values()))


def _workers(marker: DoneMarker) -> tuple[str, ...]:
    return tuple(stint.runner for stint in marker.stints) or (marker.runner,)
