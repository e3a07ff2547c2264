"""The page that plays all clips of a run: one HTML file, next to the videos that it shows, with nothing from outside.

It works from a disk as well as from a bucket, because every link is the bare name of a file beside it.
"""

from html import escape
from urllib.parse import quote

from videogen_api.records import DoneMarker, Manifest, ManifestClip

_STYLE = """
:root { color-scheme: light dark; --back: #f6f6f4; --card: #fff; --text: #1b1c1d; --faint: #62666a; --line: #dcdcd8;
  --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --back: #131415; --card: #1d1f20; --text: #ececea; --faint: #9aa0a5;
  --line: #303335; --bad: #ff8a80 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 110rem; padding: 1.25rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere }
header p { margin: .25rem 0 1.25rem; color: var(--faint) }
main { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)) }
article { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; overflow: hidden }
video, img { display: block; width: 100%; height: auto; max-height: 80vh; object-fit: contain; background: #000 }
.none { display: grid; place-items: center; aspect-ratio: 16 / 9; padding: 1rem; text-align: center;
  border-bottom: 1px solid var(--line); color: var(--faint); overflow-wrap: anywhere }
.bad { color: var(--bad) }
.about { padding: .75rem 1rem 1rem }
h2 { margin: 0; font-size: 1rem; overflow-wrap: anywhere }
.prompt { margin: .25rem 0 .75rem; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 12rem; overflow-y: auto }
.facts { margin: 0; color: var(--faint); font-size: .875rem }
a { color: inherit }
""".strip()


def render_page(manifest: Manifest) -> str:
    """The whole page; equal manifests give equal pages."""
    title = escape(manifest.plan.name)
    texts = {prompt.name: prompt.text for prompt in manifest.plan.prompts}
    cards = "\n".join(_card(clip, texts[clip.prompt]) for clip in manifest.clips)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{escape(_summary(manifest))}</p>
</header>
<main>
{cards}
</main>
</body>
</html>
"""


def _summary(manifest: Manifest) -> str:
    plan = manifest.plan
    done = sum(clip.sidecar is not None for clip in manifest.clips)
    failed = sum(clip.failure is not None for clip in manifest.clips)
    missing = len(manifest.clips) - done - failed
    return " · ".join(
        [
            f"{done} of {_count(len(manifest.clips), 'clip')}",
            *([f"{failed} failed"] if failed else []),
            *([f"{missing} not made yet"] if missing else []),
            plan.model.name,
            f"{plan.sampling.steps} steps, guidance {plan.sampling.guidance:g}",
            f"run {plan.run_id}",
        ]
    )


def _card(clip: ManifestClip, text: str) -> str:
    about = [f"seed {clip.seed}"]
    if clip.sidecar is not None and clip.url is not None:
        done = clip.sidecar.done
        picture = _picture(clip.clip, _link(clip.url), done)
        about += [*_facts(done), f'<a href="{_link(f"{clip.clip}.json")}">details</a>']
    elif clip.failure is not None:
        picture = f'<div class="none bad">{escape(f"{clip.failure.reason}: {clip.failure.message}")}</div>'
    else:
        picture = '<div class="none">not made yet</div>'
    return f"""<article>
{picture}
<div class="about">
<h2>{escape(clip.prompt)}</h2>
<p class="prompt">{escape(text)}</p>
<p class="facts">{" · ".join(about)}</p>
</div>
</article>"""


def _picture(name: str, link: str, done: DoneMarker) -> str:
    size = f'width="{done.width}" height="{done.height}"'
    if done.frames == 1:
        return f'<img src="{link}" alt="{escape(name)}" {size} loading="lazy">'
    return f'<video src="{link}" {size} controls loop muted playsinline preload="metadata"></video>'


def _facts(done: DoneMarker) -> list[str]:
    spent = done.timings
    size = [f"{done.width} &times; {done.height}"]
    length = [f"{done.frames} frames at {done.fps} fps, {done.frames / done.fps:.1f} s"] if done.frames > 1 else []
    seconds = spent.encode + spent.denoise + spent.decode + spent.write
    return [*size, *length, f"made in {seconds:.1f} s ({_count(spent.steps, 'step')} in {spent.denoise:.1f} s)"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _link(url: str) -> str:
    """The bare file name, relative to the page."""
    return escape(quote(url.rpartition("/")[2]))
