"""A real browser for the tests of a module: one that plays videos would take its share from all that come after."""

import os
from collections.abc import Iterator

import pytest
from tests.cluster.packages import why_no_browser
from tests.gallery.webdriver import Browser, open_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Skips the test where there is none, or fails it where CI is set."""
    reason = why_no_browser()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with open_browser() as browser:
        yield browser
