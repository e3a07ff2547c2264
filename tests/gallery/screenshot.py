"""Takes the picture of docs/gallery.md: `python -m tests.gallery.screenshot PAGE docs/gallery.png`.

With few colours, because films are big as PNG.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from tests.gallery.webdriver import open_browser

WIDTH, HEIGHT = 1180, 900
COLOURS = 96
ALL_SEEN = """
await Promise.all([...document.querySelectorAll("video")].map(async video => {
  await video.play();
  video.pause();
  const middle = new Promise(next => video.addEventListener("seeked", next, { once: true }));
  video.currentTime = video.duration / 2;
  await middle;
}));
"""


def main(page: Path, target: Path) -> None:
    with open_browser() as browser:
        browser.resize(WIDTH, HEIGHT)
        browser.open(page.resolve().as_uri())
        browser.evaluate(ALL_SEEN)
        picture = browser.picture()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
