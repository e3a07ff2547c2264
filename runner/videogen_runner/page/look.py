"""Style and script of every page. Colours hold 4.5:1 for text in both themes."""

STYLE = """
:root { color-scheme: light dark; --back: #f5f5f3; --card: #fff; --text: #1a1b1c; --faint: #5c6165; --line: #d9d9d5;
  --bad: #b3261e; --focus: #0b57d0; --other: #e3e4e1; --encode: #1b7f5c; --denoise: #3b76c4; --decode: #d9822b;
  --write: #8d6bb8 }
@media (prefers-color-scheme: dark) { :root { --back: #121314; --card: #1c1e1f; --text: #ececea; --faint: #a0a6ab;
  --line: #34383a; --bad: #ff8a80; --focus: #8ab4f8; --other: #34383a; --encode: #3fb68b; --denoise: #6ea3e8;
  --decode: #e89b4c; --write: #b394dc } }
* { box-sizing: border-box }
html { scroll-behavior: smooth }
body { margin: 0 auto; max-width: 112rem; padding: 1.25rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1, h2, h3, p, dl, dd, ul { margin: 0 }
h1 { font-size: 1.6rem; line-height: 1.2 }
h2 { font-size: 1.15rem; margin: 1.75rem 0 .75rem }
h3 { font-size: 1rem }
a { color: inherit }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px }
.faint, dt { color: var(--faint) }
.state { margin: .25rem 0 .75rem; font-weight: 600 }
.facts { font-size: .875rem; line-height: 1.4 }
.facts dt, .facts dd { display: inline }
.facts dt::after { content: " " }
header .facts { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem }
nav { margin-top: .75rem; display: flex; gap: 1.25rem; font-size: .875rem }
.cards { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)) }
article { display: flex; flex-direction: column; background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem; overflow: hidden; scroll-margin-top: 1rem }
article:target { border-color: var(--focus); box-shadow: 0 0 0 1px var(--focus) }
article h2 { margin: 0 }
video, img { display: block; width: 100%; height: auto; max-height: 80vh; object-fit: contain; background: #000 }
.none { display: grid; align-content: center; justify-items: center; gap: .25rem; aspect-ratio: 16 / 9; overflow: auto;
  padding: 1rem; text-align: center; border-bottom: 1px solid var(--line); color: var(--faint) }
.bad { color: var(--bad) }
.about { display: flex; flex-direction: column; flex: 1; gap: .5rem; padding: .75rem 1rem 1rem }
.prompt { white-space: pre-wrap; max-height: 12rem; overflow-y: auto }
article .facts { display: grid; grid-template-columns: max-content 1fr; column-gap: .75rem }
article .facts div { display: contents }
.files { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .6rem; margin-top: auto; font-size: .875rem;
  color: var(--faint) }
.files a { color: var(--text) }
code { font: .8125rem ui-monospace, monospace }
button { min-width: 4rem; padding: .125rem .375rem; border: 1px solid var(--line); border-radius: .375rem;
  background: none; color: var(--text); font: inherit; cursor: pointer }
@media (scripting: none) { button { display: none } }
section > svg { display: block; margin: .75rem 0; overflow: visible }
svg text { fill: currentColor; font-size: 12px; white-space: pre }
svg .faint { fill: var(--faint) }
.tick { stroke: var(--line) }
.cut { fill: var(--line); opacity: .6 }
.stint { overflow: hidden }
a:focus-visible .bar, a:hover .bar { stroke: var(--focus); stroke-width: 3px }
.other, .bar { fill: var(--other); stroke: var(--faint); stroke-width: 2px }
.left { fill: none; stroke: var(--faint); stroke-width: 2px; stroke-dasharray: 4 3 }
.failed { fill: none; stroke: var(--bad); stroke-width: 3px }
.encode { fill: var(--encode) } .denoise { fill: var(--denoise) }
.decode { fill: var(--decode) } .write { fill: var(--write) }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; font-size: .875rem }
.legend svg { margin-right: .4rem; vertical-align: -1px }
details { margin-top: .75rem; font-size: .875rem }
summary { cursor: pointer }
.scroll { overflow-x: auto; margin-top: .5rem }
table { border-collapse: collapse; white-space: nowrap; overflow-wrap: normal }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; font-weight: 400; border-bottom: 1px solid var(--line) }
thead th { color: var(--faint) }
"""

# Players run while they are seen, unless somebody stopped them or wants less motion.
SCRIPT = """
const seen = new Set(), stopped = new WeakSet();
const still = matchMedia("(prefers-reduced-motion: reduce)");
const players = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      seen.add(target);
      if (!still.matches && !stopped.has(target)) target.play().catch(() => {});
    } else if (seen.delete(target)) {
      target.pause();
    }
  }
}, { rootMargin: "100px" });
for (const video of document.querySelectorAll("video")) {
  video.addEventListener("pause", () => { if (seen.has(video)) stopped.add(video); });
  video.addEventListener("play", () => stopped.delete(video));
  players.observe(video);
}
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("not copied");
}
for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    button.textContent = await copy(button.dataset.copy).then(() => "copied", () => "failed");
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}
"""
