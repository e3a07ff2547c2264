"""The environment as a value: what is read, what is left out, and what is refused by name."""

from pathlib import Path

import pytest

from videogen_api.errors import ConfigInvalid
from videogen_api.naming import Stage
from videogen_runner.environment import Environment

USUAL = {
    "VIDEOGEN_ROLE": "generate",
    "VIDEOGEN_PLAN": "/plan/plan.json",
    "VIDEOGEN_POOL": "t4",
    "VIDEOGEN_ATTEMPT": "2",
    "JOB_COMPLETION_INDEX": "3",
    "VIDEOGEN_POD": "fox-gen-2-3",
}


def test_an_environment_is_parsed_whole(tmp_path: Path) -> None:
    optional = {
        "VIDEOGEN_NODE": "node-1",
        "VIDEOGEN_WEIGHTS": "/weights",
        "VIDEOGEN_BUILTIN_WEIGHTS": "/builtin",
        "VIDEOGEN_DEVICE": "cuda:1",
        "VIDEOGEN_PORT": "9000",
        "VIDEOGEN_ADDRESS_FILE": "/run/address",
        "VIDEOGEN_TERMINATION_LOG": "/run/log",
        "VIDEOGEN_SCRATCH": str(tmp_path),
        "VIDEOGEN_SHARDS_ADDRESS": "fox-enc-1-0.fox-enc-1:29500",
        "VIDEOGEN_SHARDS_LISTENER": "7",
        "VIDEOGEN_START_DEADLINE": "600",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "do not print",
        "HOME": "/root",
    }
    environment = Environment.parse({**USUAL, **optional})
    assert environment == Environment(
        stage=Stage.GENERATE,
        plan=Path("/plan/plan.json"),
        pool="t4",
        index=3,
        attempt=2,
        pod="fox-gen-2-3",
        node="node-1",
        weights="/weights",
        builtin_weights="/builtin",
        device="cuda:1",
        port=9000,
        address_file=Path("/run/address"),
        termination_log=Path("/run/log"),
        scratch=tmp_path,
        shards_address="fox-enc-1-0.fox-enc-1:29500",
        shards_listener=7,
        start_deadline_seconds=600,
        credentials={"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "do not print"},
    )
    assert "do not print" not in repr(environment)


def test_what_a_pod_leaves_out_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    variables = {key: value for key, value in USUAL.items() if key not in ("VIDEOGEN_POOL", "JOB_COMPLETION_INDEX")}
    assert Environment.parse({**variables, "VIDEOGEN_ROLE": "collect", "VIDEOGEN_DEVICE": ""}) == Environment(
        stage=Stage.COLLECT,
        plan=Path("/plan/plan.json"),
        pool=None,
        index=0,
        attempt=2,
        pod="fox-gen-2-3",
        node=None,
        weights=None,
        builtin_weights=None,
        device=None,
        port=8080,
        address_file=None,
        termination_log=Path("/dev/termination-log"),
        scratch=tmp_path,
        shards_address=None,
        shards_listener=None,
        start_deadline_seconds=3600,
        credentials={},
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        *[(key, None, "is not set") for key in USUAL],
        ("VIDEOGEN_PLAN", "", "is not set"),
        ("VIDEOGEN_ROLE", "dream", "is 'dream'; set it to one of preflight, encode, generate, collect"),
        ("VIDEOGEN_ATTEMPT", "0", "is '0'; set it to a whole number from 1"),
        ("VIDEOGEN_ATTEMPT", "two", "is 'two'"),
        ("VIDEOGEN_ATTEMPT", "1_0", "is '1_0'"),
        ("JOB_COMPLETION_INDEX", "-1", "is '-1'; set it to a whole number from 0"),
        ("VIDEOGEN_PORT", "65536", "is '65536'; set it to a whole number from 0 to 65535"),
        ("VIDEOGEN_PORT", "http", "is 'http'"),
        ("VIDEOGEN_DEVICE", "tpu", "is 'tpu'; set it to cpu, cuda or cuda:N"),
        ("VIDEOGEN_DEVICE", "cuda:", "is 'cuda:'"),
        ("VIDEOGEN_START_DEADLINE", "0", "is '0'; set it to a whole number from 1"),
        ("VIDEOGEN_SHARDS_LISTENER", "x", "is 'x'; set it to a whole number from 0"),
        ("VIDEOGEN_SCRATCH", "/nonexistent", "is '/nonexistent'; set it to a folder that exists"),
    ],
)
def test_a_key_that_is_missing_or_wrong_is_named(key: str, value: str | None, said: str) -> None:
    variables = {name: text for name, text in {**USUAL, key: value}.items() if text is not None}
    with pytest.raises(ConfigInvalid) as caught:
        Environment.parse(variables)
    assert f"environment key {key} {said}" in str(caught.value)
