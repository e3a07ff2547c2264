"""helm itself, built once into the user's cache."""

import os

import pytest
from tests.chart.chart import Chart
from tests.cluster import binaries


@pytest.fixture(scope="session")
def chart() -> Chart:
    helm = binaries.helm()
    if helm is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("helm is built with Go: https://go.dev/dl")
    return Chart(helm)
