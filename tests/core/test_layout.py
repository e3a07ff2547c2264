"""Folders that would shadow a module of the standard library."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STANDARD_FOLDERS = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))


def test_the_operators_folder_is_no_package() -> None:
    # An __init__.py there would make `import operator` find it before the standard library's module.
    assert [name for name in ("__init__.py", "conftest.py") if (ROOT / "operator" / name).exists()] == []


def test_no_folder_of_tests_has_the_name_of_a_standard_module() -> None:
    folders = [path.name for path in (ROOT / "tests").iterdir() if path.is_dir()]

    assert [name for name in folders if name in STANDARD_FOLDERS] == []


def test_the_standard_operator_module_is_found_from_the_root_and_from_the_tests() -> None:
    for folder in (ROOT, ROOT / "tests"):
        result = subprocess.run(
            [sys.executable, "-c", "import operator; print(operator.add(1, 2))"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == "3\n"
