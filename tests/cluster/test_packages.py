import os
from pathlib import Path

import pytest
from tests.cluster import conftest, packages


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of root's with one of two packages."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(packages, "DEBIAN", {str(tmp_path / "there"): "here", str(tmp_path / "absent"): "elsewhere"})
    monkeypatch.setattr(packages, "BROWSER", {str(tmp_path / "browser"): "chromium"})
    (tmp_path / "there").touch()
    return tmp_path


def test_only_packages_that_are_missing_are_named(machine: Path) -> None:
    assert packages.why_no_node() == "a real node needs elsewhere: run `make cluster-deps`"
    (machine / "absent").touch()
    assert (packages.missing(), packages.why_no_node()) == ([], None)
    assert packages.why_no_browser() == "a real browser needs chromium: run `make cluster-deps`"
    (machine / "browser").touch()
    assert packages.why_no_browser() is None


@pytest.mark.usefixtures("machine")
def test_without_root_nothing_is_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert packages.why_no_node() == "a real node needs root, and `make cluster-deps` before"
    assert packages.main() == 1
    assert capsys.readouterr().err == "run `make cluster-deps` as root: it installs elsewhere chromium with apt-get\n"


def test_what_cannot_run_is_skipped_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no node"):
        conftest.give_up("no node")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no node"):
        conftest.give_up("no node")
