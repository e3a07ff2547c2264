"""The page in a real browser: it plays what our own writer made, fits any width, and works without a mouse."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.gallery.runs import finish_run
from tests.gallery.webdriver import Browser
from tests.runner.role_contexts import changed, plan_in

from videogen_api.plan import Plan
from videogen_runner.media import write_mp4

HEIGHT, WIDTH, FPS = 144, 256, 24
COLOURS = ((200, 40, 40), (40, 60, 200))
HOSTILE = """</p><script>window.hurt = 1</script><img src=x onerror="window.hurt = 2">"""
TAB, ENTER = "\ue004", "\ue007"
WIDTHS = ((1280, 900), (390, 844))

NEXT_FRAMES = """
const video = document.querySelectorAll("video")[args[0]];
await video.play();
const seen = new Set();
while (seen.size < 3) {
  await new Promise(next => video.requestVideoFrameCallback((now, frame) => { seen.add(frame.mediaTime); next(); }));
}
return { width: video.videoWidth, height: video.videoHeight, milliseconds: Math.round(video.duration * 1000),
  times: seen.size, muted: video.muted, loop: video.loop, inline: video.playsInline };
"""


# Until the browser has told every observer, ours last, that the clip is in view; and played or stopped what it said.
SCROLL_TO = """
const video = document.querySelectorAll("video")[args[0]];
video.scrollIntoView({ block: "center", behavior: "instant" });
await new Promise(next => new IntersectionObserver(([entry]) => entry.isIntersecting && next()).observe(video));
await new Promise(next => setTimeout(next));
"""
PAUSED = "return [...document.querySelectorAll('video')].map(video => video.paused)"


def write_clip(path: Path, colour: tuple[int, int, int], frames: int) -> bytes:
    """A white square that moves to the right over one colour."""
    frames_THWC = np.empty((frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames_THWC[:] = colour
    for position, frame_HWC in enumerate(frames_THWC):
        frame_HWC[8:24, 4 * position : 4 * position + 16] = 255
    write_mp4(path, frames_THWC, FPS)
    return path.read_bytes()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run of two clips, whose prompt tries to be more than text."""
    folder = tmp_path_factory.mktemp("run")
    plan = plan_in(folder)
    video = plan.video.model_copy(update={"height": HEIGHT, "width": WIDTH, "frames": 51})
    prompt = plan.prompts[0].model_copy(update={"text": HOSTILE})
    plan = changed(plan, video=video, prompts=(prompt,))
    clips = [write_clip(folder / "clip.mp4", colour, plan.video.total_frames) for colour in COLOURS]
    finish_run(folder, plan, clips)
    return plan


@pytest.fixture
def page(plan: Plan, browser: Browser) -> Browser:
    """The run's page, just opened from the disk; at the end nothing may have been said on the console."""
    browser.log()
    browser.resize(*WIDTHS[0])
    browser.open(f"file://{plan.storage.url}/videos/default/test/index.html")
    return browser


def test_every_clip_plays_in_its_own_size(page: Browser, plan: Plan) -> None:
    frames = plan.video.total_frames
    for position in range(2):
        assert page.evaluate(NEXT_FRAMES, position) == {
            "width": WIDTH, "height": HEIGHT, "milliseconds": round(frames / FPS * 1000), "times": 3, "muted": True,
            "loop": True, "inline": True,
        }  # fmt: skip
    assert page.log() == []


def test_a_clip_plays_by_itself_while_it_is_seen_and_not_where_somebody_stopped_it(page: Browser) -> None:
    page.resize(390, 400)
    page.evaluate(SCROLL_TO, 0)
    assert page.evaluate(PAUSED) == [False, True]
    page.evaluate(SCROLL_TO, 1)
    assert page.evaluate(PAUSED) == [True, False]
    page.evaluate(
        "const video = document.querySelectorAll('video')[1]; video.pause();"
        "await new Promise(next => video.addEventListener('pause', next))"
    )
    page.evaluate(SCROLL_TO, 0)
    page.evaluate(SCROLL_TO, 1)
    assert page.evaluate(PAUSED) == [True, True]


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_the_page_fits_and_shows_the_clips_colours(
    page: Browser, tmp_path: Path, width: int, height: int, is_dark: bool
) -> None:
    page.resize(width, height, is_dark=is_dark)
    page.evaluate(NEXT_FRAMES, 0)
    assert page.evaluate("return document.documentElement.scrollWidth") == width
    box = page.evaluate(
        "const box = document.querySelector('video').getBoundingClientRect();"
        "return [box.left + box.width / 2, scrollY + box.top + box.height / 2, box.width / box.height]"
    )
    picture = page.picture()
    (tmp_path / "page.png").write_bytes(picture)
    with Image.open(io.BytesIO(picture)) as image:
        assert image.width == width
        shown = image.convert("RGB").getpixel((round(box[0]), round(box[1])))
        corner = image.convert("L").getpixel((2, 2))
    assert np.abs(np.subtract(shown, COLOURS[0])).max() <= 12
    assert box[2] == pytest.approx(WIDTH / HEIGHT, rel=0.01)
    assert (corner < 64) is is_dark
    assert page.log() == []


def test_nothing_moves_while_the_page_loads(page: Browser) -> None:
    page.evaluate(NEXT_FRAMES, 1)
    shifts = page.evaluate(
        "return await new Promise(done => { const seen = [];"
        "new PerformanceObserver(list => seen.push(...list.getEntries().map(entry => entry.value)))"
        ".observe({ type: 'layout-shift', buffered: true });"
        "requestAnimationFrame(() => setTimeout(() => done(seen))) })"
    )
    assert shifts == []


def test_a_prompt_stays_text_and_nothing_is_asked_of_any_other_place(page: Browser) -> None:
    assert page.evaluate("return document.querySelector('.prompt').textContent") == HOSTILE
    assert page.evaluate("return window.hurt ?? null") is None
    hosts = page.evaluate("return performance.getEntriesByType('resource').map(entry => new URL(entry.name).protocol)")
    assert set(hosts) <= {"file:"}
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), { text: 'window.hurt = 3' }))")
    assert page.evaluate("return window.hurt ?? null") is None
    [message] = page.log()  # the only one in all tests: the policy has stopped that script
    assert "Content Security Policy" in message


def test_the_keyboard_reaches_everything_and_everything_has_a_name(page: Browser) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    reached = []
    for _ in range(40):
        page.press(TAB)
        name = page.evaluate(
            "const at = document.activeElement;"
            "return at === document.body ? null : at.ariaLabel ?? at.textContent.trim()"
        )
        if name is None:
            break
        if name not in reached:
            reached.append(name)
    table = "The timeline as a table"
    clips = [
        name
        for clip in ("fox-1", "fox-2")
        for name in (
            f"Clip {clip}",
            f"Copy the sha256 of {clip}",
            f"Video file of {clip}",
            f"Details of {clip} as JSON",
        )
    ]
    assert [name.split(":")[0] for name in reached] == [
        "Clips", "Timeline", *clips, "fox-1", "fox-2", f"{table} (2 rows)", table,
    ]  # fmt: skip


def test_a_bar_of_the_timeline_leads_to_its_clip(page: Browser) -> None:
    page.evaluate("document.querySelector('svg a[href=\"#clip-1\"]').focus()")
    page.press(ENTER)
    assert page.evaluate("return document.querySelector(':target h3').textContent") == "fox-2"
    assert page.log() == []


def test_the_whole_digest_is_copied(page: Browser) -> None:
    copied = page.evaluate(
        "let copied = null; navigator.clipboard.writeText = async text => { copied = text; };"
        "const button = document.querySelector('button'); const said = button.textContent;"
        "const changes = new Promise(next => new MutationObserver(next).observe(button, { childList: true }));"
        "button.click(); await changes; return [said, button.textContent, copied, button.dataset.copy]"
    )
    assert copied[:2] == ["copy", "copied"]
    assert copied[2] == copied[3]
    assert len(copied[2]) == 64


def test_clips_that_do_not_load_with_the_page_load_as_they_come_into_view(tmp_path: Path, browser: Browser) -> None:
    plan = plan_in(tmp_path)
    prompt = plan.prompts[0].model_copy(update={"samples": 40})
    plan = changed(plan, prompts=(prompt,))
    finish_run(tmp_path, plan, [write_clip(tmp_path / "clip.mp4", COLOURS[0], 5)] * 40)
    browser.resize(*WIDTHS[0])
    browser.open(f"file://{plan.storage.url}/videos/default/test/index.html")
    loaded = browser.evaluate("return [...document.querySelectorAll('video')].map(video => video.preload)")
    assert loaded == ["metadata"] * 24 + ["none"] * 16
    widths = browser.evaluate(
        "const widths = []; for (const video of document.querySelectorAll('video')) {"
        "video.scrollIntoView({ block: 'center', behavior: 'instant' });"
        "if (video.readyState < 1) await new Promise(next => video.addEventListener('loadedmetadata', next));"
        "widths.push(video.videoWidth) } return widths"
    )
    assert widths == [WIDTH] * 40
    assert browser.log() == []
