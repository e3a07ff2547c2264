"""The `videogen` command before it knows which subcommand is meant."""

from importlib.metadata import version

import pytest

from videogen_operator.cli.main import main


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert (ended.value.code, capsys.readouterr().out) == (0, f"videogen {version('videogen')}\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["rendr"], "argument COMMAND: invalid choice: 'rendr'"),
        (["plan"], "the following arguments are required: file"),
    ],
)
def test_a_call_that_cannot_be_understood_ends_with_2_and_says_why(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
