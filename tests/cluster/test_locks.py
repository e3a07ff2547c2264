"""What the images install, by their locks: `make lock` writes all three."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = {"operator": ("operator", "store"), "runner": ("runner", "store")}


def pins(path: Path) -> set[str]:
    """Each as name==version with its marker."""
    lines = path.read_text().splitlines()
    return {line.rstrip(" \\") for line in lines if re.match(r"[a-z0-9]", line)}


def names(pinned: set[str]) -> set[str]:
    return {pin.partition("==")[0] for pin in pinned}


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


@pytest.mark.parametrize("image", EXTRAS)
def test_an_image_installs_the_versions_that_development_is_tested_with(image: str) -> None:
    def versions(path: Path) -> set[str]:
        return {pin.partition(" ;")[0] for pin in pins(path)}

    assert versions(ROOT / image / "requirements.lock") - versions(ROOT / "requirements.lock") == set()


@pytest.mark.parametrize("image", EXTRAS)
def test_an_image_installs_everything_that_its_extras_name(image: str) -> None:
    wanted = [*project()["dependencies"]]
    for extra in EXTRAS[image]:
        wanted += project()["optional-dependencies"][extra]
    named = {re.split(r"[^a-z0-9-]", requirement.lower())[0] for requirement in wanted}
    assert named - names(pins(ROOT / image / "requirements.lock")) == set()


@pytest.mark.parametrize("image", EXTRAS)
def test_every_pin_has_its_hashes(image: str) -> None:
    text = (ROOT / image / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_operators_image_installs_nothing_of_the_models() -> None:
    heavy = {"torch", "transformers", "numpy", "av", "triton", "accelerate"}
    assert names(pins(ROOT / "operator" / "requirements.lock")) & heavy == set()


def test_the_runners_image_installs_nothing_of_kubernetes() -> None:
    assert names(pins(ROOT / "runner" / "requirements.lock")) & {"kopf", "kubernetes"} == set()
