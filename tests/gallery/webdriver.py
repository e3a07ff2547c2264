"""A client of WebDriver (https://www.w3.org/TR/webdriver2/), as much of it as the tests need, for Chromium."""

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

from tests.cluster.packages import CHROMEDRIVER, CHROMIUM

START_SECONDS = 60.0
REPLY_SECONDS = 120.0
# As root there is no sandbox, and the pages are our own; shared memory is small in containers.
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")


class BrowserError(Exception):
    """What the browser refused, or a script that failed."""


class Browser:
    """One session."""

    def __init__(self, port: int) -> None:
        self._port = port
        options = {"binary": CHROMIUM, "args": ARGUMENTS}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        reply = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{reply['sessionId']}"

    def open(self, url: str) -> None:
        """Returns once the page has loaded; its videos may still be loading."""
        self._ask("POST", f"{self._session}/url", {"url": url})

    def evaluate(self, body: str, *arguments: object) -> Any:
        """What the body of an async function returns; it finds its arguments in `args`."""
        script = f"const args = arguments; return (async () => {{ {body} }})()"
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def log(self) -> list[str]:
        """The console's messages since the last call, whatever their level."""
        return [entry["message"] for entry in self._ask("POST", f"{self._session}/se/log", {"type": "browser"})]

    def press(self, key: str) -> None:
        """A key, to whatever has the focus."""
        strokes = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keyboard", "actions": strokes}]
        self._ask("POST", f"{self._session}/actions", {"actions": actions})

    def resize(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """The view in CSS pixels, and what the user prefers."""
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self._send("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def close(self) -> None:
        self._ask("DELETE", self._session)

    def _send(self, command: str, **parameters: object) -> Any:
        """A command of the DevTools protocol, for what WebDriver does not have."""
        return self._ask("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=REPLY_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise BrowserError(f"{value['error']}: {value['message']}")
        return value


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser of its own, closed in the end."""
    with subprocess.Popen([CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        try:
            browser = Browser(_port_of(driver))
            try:
                yield browser
            finally:
                browser.close()
        finally:
            driver.terminate()


def _port_of(driver: "subprocess.Popen[str]") -> int:
    """From the line that says so; the reading ends at the latest with the process."""
    assert driver.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    for line in driver.stdout:
        if "started successfully on port" in line:
            return int(line.rstrip().rstrip(".").rpartition(" ")[2])
        if time.monotonic() > deadline:
            break
    raise BrowserError("chromedriver has not started")
