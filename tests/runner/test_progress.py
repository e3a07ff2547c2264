"""Progress over HTTP: what pollers and Prometheus read, from which address, while a role goes on."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from tests.runner.role_contexts import build_variables, plan_in

from videogen_api.errors import ConfigInvalid
from videogen_api.naming import Stage
from videogen_api.report import Progress, RunnerState
from videogen_runner.environment import Environment
from videogen_runner.progress import ProgressHolder, metrics, serve_progress


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    variables = build_variables(tmp_path, plan_in(tmp_path), Stage.GENERATE)
    return Environment.parse(
        {**variables, "VIDEOGEN_POOL": "t4", "JOB_COMPLETION_INDEX": "3", "VIDEOGEN_NODE": "node-1"}
    )


@pytest.fixture
def holder(environment: Environment) -> ProgressHolder:
    return ProgressHolder.starting(environment)


@pytest.fixture
def address(holder: ProgressHolder, environment: Environment) -> Iterator[str]:
    with serve_progress(holder, environment) as address:
        yield address


def ask(address: str, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply.status, reply.headers.get("Content-Type", ""), reply.read()
    finally:
        connection.close()


def test_progress_says_what_the_process_is_and_does(address: str, holder: ProgressHolder) -> None:
    holder.update(
        state=RunnerState.DENOISING,
        clip="fox-1",
        step=3,
        steps=30,
        seconds_per_step=1.5,
        loops=2,
        loop=1,
        done=1,
        total=4,
    )
    status, kind, body = ask(address, "/progress")
    read = Progress.model_validate_json(body)
    assert (status, kind) == (200, "application/json")
    memory = ("memory_bytes", "memory_peak_bytes", "memory_total_bytes")
    assert read.model_copy(update=dict.fromkeys(memory, 0)) == Progress(
        stage=Stage.GENERATE, pool="t4", index=3, attempt=1, pod="test-generate-0", node="node-1", device="cpu",
        state=RunnerState.DENOISING, clip="fox-1", loop=1, loops=2, step=3, steps=30, seconds_per_step=1.5,
        done=1, total=4,
    )  # fmt: skip
    assert 0 < read.memory_bytes <= read.memory_peak_bytes < read.memory_total_bytes
    assert "secondsPerStep" in json.loads(body)


def test_metrics_are_prometheus_text(address: str, holder: ProgressHolder) -> None:
    holder.update(state=RunnerState.DENOISING, step=3, steps=30, seconds_per_step=0.25)
    holder.update(guidance_batch=1, host_blocks=14)
    status, kind, body = ask(address, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert {family.type for family in families.values()} == {"gauge"}
    assert all(family.documentation for family in families.values())
    values = {
        name: family.samples[0].value
        for name, family in families.items()
        if len(family.samples) == 1 and "memory" not in name
    }
    assert values == {
        "videogen_runner_info": 1, "videogen_runner_done": 0, "videogen_runner_total": 0, "videogen_runner_loop": 0,
        "videogen_runner_loops": 1, "videogen_runner_step": 3, "videogen_runner_steps": 30,
        "videogen_runner_seconds_per_step": 0.25, "videogen_runner_guidance_batch": 1,
        "videogen_runner_host_blocks": 14,
    }  # fmt: skip
    states = {sample.labels["state"]: sample.value for sample in families["videogen_runner_state"].samples}
    assert states == {state.value: float(state is RunnerState.DENOISING) for state in RunnerState}


def test_labels_are_escaped(holder: ProgressHolder) -> None:
    hostile = 'a"b\\c\nd'
    holder.update(node=hostile)
    (info,) = (f for f in text_string_to_metric_families(metrics(holder.snapshot())) if f.name.endswith("_info"))
    assert info.samples[0].labels == {
        "stage": "generate", "pool": "t4", "index": "3", "attempt": "1", "pod": "test-generate-0", "node": hostile,
        "device": "cpu",
    }  # fmt: skip


def test_a_number_that_is_not_known_is_no_sample(holder: ProgressHolder) -> None:
    assert "seconds_per_step" not in metrics(holder.snapshot())


def test_health_and_unknown_paths(address: str) -> None:
    assert ask(address, "/healthz")[::2] == (200, b"ok\n")
    assert ask(address, "/progress?now=1")[0] == 200
    assert ask(address, "/../etc/passwd")[0] == 404
    assert ask(address, "/progress", "POST")[0] == 501


def test_updates_that_are_no_progress_are_refused(holder: ProgressHolder) -> None:
    before = holder.snapshot()
    for wrong in ({"stpe": 1}, {"step": "one"}, {"state": "Dreaming"}):
        with pytest.raises(ValidationError):
            holder.update(**wrong)
    assert holder.snapshot() == before


def test_no_update_is_lost_between_threads(holder: ProgressHolder) -> None:
    fields = ("clip", "step", "steps", "loop", "loops", "done", "total", "node")
    start = threading.Barrier(len(fields))

    def update(field: str) -> None:
        start.wait(30)
        for number in range(200):
            holder.update(**{field: str(number) if field in ("clip", "node") else number})

    with ThreadPoolExecutor(len(fields)) as pool:
        list(pool.map(update, fields))
    progress = holder.snapshot()
    assert {field: str(getattr(progress, field)) for field in fields} == dict.fromkeys(fields, "199")


def test_a_client_that_says_nothing_keeps_nobody_waiting(address: str) -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10):
        assert ask(address, "/healthz")[0] == 200


def test_a_client_that_hangs_up_does_no_harm(address: str) -> None:
    host, port = address.split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=10) as client:
            # RST instead of an orderly end.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"GET /progress HTTP/1.0\r\n\r\n")
    assert ask(address, "/healthz")[0] == 200


def test_a_local_process_writes_its_address_and_listens_on_this_machine_alone(
    address: str, environment: Environment
) -> None:
    assert environment.address_file is not None
    assert environment.address_file.read_text() == address
    assert address.startswith("127.0.0.1:")
    assert [path.name for path in environment.address_file.parent.iterdir() if "partial" in path.name] == []


def test_a_pod_listens_on_every_address(holder: ProgressHolder, environment: Environment) -> None:
    with serve_progress(holder, replace(environment, address_file=None)) as address:
        host, port = address.split(":")
        assert host == ""
        hosts = ["127.0.0.1", *(["[::1]"] if socket.has_dualstack_ipv6() else [])]
        assert {ask(f"{host}:{port}", "/healthz")[0] for host in hosts} == {200}


def test_the_port_is_free_again_afterwards(holder: ProgressHolder, environment: Environment) -> None:
    with serve_progress(holder, environment) as first:
        port = int(first.split(":")[1])
        ask(first, "/healthz")
    with serve_progress(holder, replace(environment, port=port)) as second:
        assert second == first


def test_a_taken_port_is_named(address: str, holder: ProgressHolder, environment: Environment) -> None:
    port = int(address.split(":")[1])
    with (
        pytest.raises(ConfigInvalid, match=rf"VIDEOGEN_PORT: cannot listen on port {port} \(Address already"),
        serve_progress(holder, replace(environment, port=port)),
    ):
        pass


def test_an_address_file_that_cannot_be_written_is_named(holder: ProgressHolder, environment: Environment) -> None:
    nowhere = replace(environment, address_file=Path("/nonexistent/address"))
    with (
        pytest.raises(ConfigInvalid, match="VIDEOGEN_ADDRESS_FILE: cannot write /nonexistent/address: No such file"),
        serve_progress(holder, nowhere),
    ):
        pass
