"""A real browser, started once a session when first asked for."""

import os
from collections.abc import Iterator

import pytest
from tests.cluster.packages import why_no_browser
from tests.gallery.webdriver import Browser, open_browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Skips the test where there is none, or fails it where CI is set."""
    reason = why_no_browser()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with open_browser() as browser:
        yield browser
