"""One clip: its player, what was asked for, and how it was made; or why there is none."""

from collections.abc import Iterator

from videogen_api.plan import Plan
from videogen_api.records import DoneMarker, ManifestClip, Stint
from videogen_runner.page.files import ClipFiles
from videogen_runner.page.html import Html, joined, link, tag
from videogen_runner.page.timeline import stages_of
from videogen_runner.page.words import count, duration, size

# A page of a thousand clips must not ask for all of them at once: the others load as they come into view.
READY_AT_ONCE = 24
_SHORT_SHA256 = 8

Fact = tuple[str, str]


def card_id(position: int) -> str:
    """The anchor of a clip's card."""
    return f"clip-{position}"


def render_card(plan: Plan, clip: ManifestClip, text: str, files: ClipFiles | None, position: int) -> Html:
    """`files` is None where there is no video, made or not."""
    name_id, prompt_id = f"name-{position}", f"prompt-{position}"
    about = tag(
        "div",
        tag("h3", clip.clip, id=name_id),
        tag("p", text, id=prompt_id, class_="prompt"),
        tag("dl", *(_fact(*fact) for fact in _facts(plan, clip)), class_="facts"),
        *_files(clip, files),
        class_="about",
    )
    picture = _picture(clip, files, position, prompt_id)
    return tag("article", picture, about, id=card_id(position), aria_labelledby=name_id, tabindex="-1")


def render_player(name: str, path: str, done: DoneMarker, described_by: str, *, is_ready: bool) -> Html:
    """A video, or the picture where it has one frame; takes its place before it has loaded."""
    room = {"width": done.width, "height": done.height}
    if done.frames == 1:
        return tag("img", src=link(path), alt=f"Clip {name}", aria_describedby=described_by, **room, loading="lazy")
    return tag(
        "video", src=link(path), **room, aria_label=f"Clip {name}", aria_describedby=described_by,
        controls=True, loop=True, muted=True, playsinline=True, preload="metadata" if is_ready else "none",
    )  # fmt: skip


def _picture(clip: ManifestClip, files: ClipFiles | None, position: int, prompt_id: str) -> Html:
    if clip.failure is not None:
        return tag(
            "p", tag("strong", f"Failed: {clip.failure.reason}"), tag("span", clip.failure.message), class_="none bad"
        )
    if clip.sidecar is None:
        return tag("p", "Not made yet.", class_="none")
    if files is None:
        return tag("p", "Its video is missing or cut off in the store; run again to make it.", class_="none")
    return render_player(clip.clip, files.video, clip.sidecar.done, prompt_id, is_ready=position < READY_AT_ONCE)


def _fact(name: str, value: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", value))


def _facts(plan: Plan, clip: ManifestClip) -> Iterator[Fact]:
    yield "seed", str(clip.seed)
    if clip.sidecar is not None:
        done = clip.sidecar.done
        yield "size", f"{done.width} × {done.height}"  # noqa: RUF001
        yield from _lengths(done)
        yield from _seconds(done)
        yield "worker", done.runner
        yield from _earlier(plan, done.stints, done.timings.steps)
        if done.adapted:
            yield "memory", "adapted: equal within bf16 rounding, not bit for bit"
    elif clip.failure is not None:
        yield "worker", clip.failure.runner


def _lengths(done: DoneMarker) -> Iterator[Fact]:
    if done.frames > 1:
        yield "frames", f"{done.frames} at {done.fps} fps, {duration(done.frames / done.fps)}"


def _seconds(done: DoneMarker) -> Iterator[Fact]:
    more = {"denoise": f", {count(done.timings.steps, 'step')}", "write": f", {size(done.video.bytes)}"}
    for stage in stages_of(done.timings):
        yield stage.name, f"{duration(stage.seconds)}{more.get(stage.name, '')}"


def _earlier(plan: Plan, stints: tuple[Stint, ...], steps: int) -> Iterator[Fact]:
    """Who worked on it before; a clip that was begun anew has all of its steps from the last one."""
    before = list(dict.fromkeys(stint.runner for stint in stints[:-1]))
    all_steps = plan.sampling.steps * plan.video.loops
    if before and steps < all_steps:
        yield "resumed", f"after {all_steps - steps} of {all_steps} steps, from {', '.join(before)}"
    elif before:
        yield "begun anew", f"after {', '.join(before)}"
    elif steps < all_steps:
        yield "resumed", f"after {all_steps - steps} of {all_steps} steps"


def _files(clip: ManifestClip, files: ClipFiles | None) -> Iterator[Html]:
    if clip.sidecar is None:
        return
    sha256 = clip.sidecar.done.video.sha256
    label = f"Copy the sha256 of {clip.clip}"
    parts = [
        joined("sha256 ", tag("code", f"{sha256[:_SHORT_SHA256]}…", title=sha256)),
        tag("button", "copy", type="button", data_copy=sha256, aria_label=label, class_="copy"),
    ]
    if files is not None:
        parts += [
            tag("a", "video", href=link(files.video), aria_label=f"Video file of {clip.clip}"),
            tag("a", "details", href=link(files.details), aria_label=f"Details of {clip.clip} as JSON"),
        ]
    yield tag("p", *parts, class_="files")
