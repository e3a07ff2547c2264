"""The operator's configuration: what is wrong with a file is told like what is wrong with a manifest."""

from pathlib import Path

import pytest

from videogen_api.errors import ConfigInvalid
from videogen_operator.config import Allowed, Images, OperatorConfig

IMAGES = "images: {operator: a, runner: b}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "operator.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    config = OperatorConfig.read(write(tmp_path, f"{IMAGES}allowed: {{serviceAccounts: [video]}}\n"))

    assert config == OperatorConfig(
        images=Images(operator="a", runner="b"), allowed=Allowed(service_accounts=("video",))
    )


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("images: {operator: a}\n", ["images.runner: missing; it is required"]),
        (f"{IMAGES}nmespaces: [a]\n", ["nmespaces: unknown field; did you mean namespaces?"]),
        (
            f"{IMAGES}namespaces: []\ndefaults: {{runners: [{{name: T4, replicas: '4'}}]}}\n",
            [
                "namespaces: 0 items are not allowed: want at least 1",
                (
                    'defaults.runners[0].name: "T4" is not allowed: want lower-case letters, digits and dashes, '
                    "a letter or digit at both ends"
                ),
                'defaults.runners[0].replicas: "4" is not allowed: want a valid integer',
            ],
        ),
        (f"{IMAGES}allowed: {{endpoints: [minio]}}\n",
         ['allowed.endpoints[0]: "minio" is not allowed: want http://host:port or https://host:port']),
        ("images: [a\n", ["not valid YAML: line 2, column 1: expected ',' or ']', but got '<stream end>'"]),
        (f"{IMAGES}{IMAGES}", ["not valid YAML: line 2, column 1: the key 'images' stands twice"]),
        ("", ["holds 0 documents; want one"]),
        (f"{IMAGES}---\n{IMAGES}", ["holds 2 documents; want one"]),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_has_a_line_with_its_field(tmp_path: Path, text: str, problems: list[str]) -> None:
    path = write(tmp_path, text)

    with pytest.raises(ConfigInvalid) as caught:
        OperatorConfig.read(path)

    assert str(caught.value).splitlines() == [f"{path}: {problem}" for problem in problems]


def test_a_file_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"

    with pytest.raises(ConfigInvalid) as caught:
        OperatorConfig.read(path)

    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"
