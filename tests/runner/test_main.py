"""The process: its exit codes and last words, and how it stops."""

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tests.runner.role_contexts import build_inputs, build_variables, changed, plan_in, write_weights

from videogen_api import keys
from videogen_api.errors import ExitCode, InvalidInput, Reason, StoreUnavailable
from videogen_api.naming import Stage
from videogen_api.plan import Inputs, Plan
from videogen_api.report import Bitmap, CollectReport, PreflightReport, TerminationReport
from videogen_runner.environment import Environment
from videogen_runner.main import failure_of, main, termination_report
from videogen_runner.roles.context import Clock
from videogen_runner.store import NotFound, open_store
from videogen_runner.store.records import put_record
from videogen_runner.weights import open_weights

DEADLINE = 600.0


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_weights(tmp_path / "weights")
    return plan_in(tmp_path)


def start(variables: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "videogen_runner.main"], env=variables, stderr=subprocess.PIPE, text=True
    )


def run(variables: dict[str, str]) -> tuple[int, str]:
    """Exit code and stderr of a process with this environment and nothing else."""
    with start(variables) as process:
        _, log = process.communicate(timeout=DEADLINE)
    return process.returncode, log


def run_without(variables: dict[str, str], *packages: str) -> tuple[int, str]:
    """The same where these packages are not installed: None in sys.modules makes Python refuse the import."""
    program = (
        f"import runpy, sys\nsys.modules.update(dict.fromkeys({packages!r}))\n"
        "runpy.run_module('videogen_runner.main', run_name='__main__')"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    return process.returncode, process.stderr


def last_words(variables: dict[str, str]) -> TerminationReport:
    report = TerminationReport.from_bytes(Path(variables["VIDEOGEN_TERMINATION_LOG"]).read_bytes())
    assert report is not None
    return report


def test_preflight_runs_and_reports(tmp_path: Path, plan: Plan) -> None:
    variables = build_variables(tmp_path, plan, Stage.PREFLIGHT)
    code, log = run(variables)
    assert code == 0, log
    report = last_words(variables)
    assert report.seconds > 0
    assert 10_000_000 < report.peak_memory_bytes < 1_000_000_000
    assert report.preflight is not None
    assert report == TerminationReport(
        stage=Stage.PREFLIGHT,
        pool=None,
        index=0,
        attempt=1,
        exit_code=0,
        reason=None,
        message="preflight is complete",
        seconds=report.seconds,
        peak_memory_bytes=report.peak_memory_bytes,
        preflight=PreflightReport(
            weights=report.preflight.weights, embeddings=Bitmap.of([False]), clips=Bitmap.of([False] * 2), claims=True
        ),
    )


def test_collect_runs_and_reports_what_is_missing(tmp_path: Path, plan: Plan) -> None:
    store = open_store(plan.storage.url, {})
    put_record(store, keys.inputs(plan.run), build_inputs(plan))
    variables = build_variables(tmp_path, plan, Stage.COLLECT)
    code, log = run(variables)
    assert code == 0, log
    assert last_words(variables).collect == CollectReport(
        succeeded=0, failed=0, missing=2, manifest=store.url(keys.manifest(plan.run))
    )


def test_logs_are_one_line_an_event_with_its_time(tmp_path: Path, plan: Plan) -> None:
    _, log = run(build_variables(tmp_path, plan, Stage.PREFLIGHT))
    lines = log.splitlines()
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO (.*)"
    said = [matched[1] if (matched := re.fullmatch(pattern, line)) else line for line in lines]
    assert re.fullmatch(r"preflight test-preflight-0, attempt 1, serves on 127\.0\.0\.1:\d+", said[0])
    assert said[1:] == ["0 of 1 embeddings and 0 of 2 clips are there", "preflight is complete"]


@pytest.mark.parametrize("stage", [Stage.PREFLIGHT, Stage.COLLECT])
def test_preflight_and_collect_run_where_there_is_no_torch(tmp_path: Path, plan: Plan, stage: Stage) -> None:
    put_record(open_store(plan.storage.url, {}), keys.inputs(plan.run), _real_inputs(plan))
    variables = build_variables(tmp_path, plan, stage)
    banned = ["torch", "transformers", "numpy", "safetensors", "PIL", "av", "prometheus_client", "boto3"]
    code, log = run_without(variables, *banned)
    assert code == 0, log


def _real_inputs(plan: Plan) -> Inputs:
    return build_inputs(plan).model_copy(
        update={"weights": open_weights(plan.model.weights, {}, model=plan.model.name).digests()}
    )


def test_a_package_that_the_image_lacks_is_named(tmp_path: Path, plan: Plan) -> None:
    storage = plan.storage.model_copy(update={"url": "s3://bucket/prefix"})
    variables = build_variables(tmp_path, changed(plan, storage=storage), Stage.PREFLIGHT)
    code, _ = run_without(variables, "boto3")
    report = last_words(variables)
    assert (code, report.reason) == (ExitCode.CONFIG_INVALID, Reason.CONFIG_INVALID)
    assert report.message == "this image lacks the Python package boto3; use the one made for this stage"


def test_an_environment_without_a_role_leaves_a_sentence_for_the_kubelet(tmp_path: Path) -> None:
    words = tmp_path / "termination"
    code, log = run({"VIDEOGEN_TERMINATION_LOG": str(words)})
    assert code == ExitCode.CONFIG_INVALID
    sentence = "environment key VIDEOGEN_ROLE is not set; set it to one of preflight, encode, generate, collect"
    assert words.read_text() == sentence
    assert log.rstrip().endswith(f"ERROR ConfigInvalid: {sentence}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"the plan file .*plan\.json cannot be read: No such file or directory"),
        (b"{}", r"the plan does not fit this image \(name: Field required\)"),
        (b"\xff", r"the plan does not fit this image"),
    ],
)
def test_a_plan_that_cannot_be_used_is_named(tmp_path: Path, plan: Plan, content: bytes | None, said: str) -> None:
    variables = build_variables(tmp_path, plan, Stage.COLLECT)
    path = Path(variables["VIDEOGEN_PLAN"])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert main(variables, Clock()) is ExitCode.CONFIG_INVALID
    assert re.match(said, last_words(variables).message)


def test_a_plan_of_other_numerics_is_refused(tmp_path: Path, plan: Plan) -> None:
    variables = build_variables(tmp_path, changed(plan, numerics_version=999), Stage.COLLECT)
    assert main(variables, Clock()) is ExitCode.CONFIG_INVALID
    assert "has numerics version 999, this image 1" in last_words(variables).message


def test_missing_weights_end_with_66(tmp_path: Path, plan: Plan) -> None:
    variables = build_variables(tmp_path, plan, Stage.PREFLIGHT) | {"VIDEOGEN_WEIGHTS": str(tmp_path / "nowhere")}
    code, log = run(variables)
    report = last_words(variables)
    assert (code, report.exit_code, report.reason) == (66, 66, Reason.WEIGHTS_MISSING)
    assert str(tmp_path / "nowhere") in report.message
    assert "Traceback" not in log


def test_what_nobody_foresaw_ends_with_70_and_a_traceback(tmp_path: Path, plan: Plan) -> None:
    open_store(plan.storage.url, {}).put(keys.inputs(plan.run), b"not json")
    variables = build_variables(tmp_path, plan, Stage.COLLECT)
    code, log = run(variables)
    report = last_words(variables)
    assert (code, report.exit_code, report.reason) == (70, 70, Reason.INTERNAL)
    assert "inputs.json is no Inputs of this version" in report.message
    assert "Traceback (most recent call last)" in log


def test_a_report_that_cannot_be_written_does_not_change_the_exit_code(tmp_path: Path, plan: Plan) -> None:
    variables = build_variables(tmp_path, plan, Stage.PREFLIGHT) | {"VIDEOGEN_TERMINATION_LOG": "/nonexistent/log"}
    code, log = run(variables)
    assert code == 0
    assert "WARNING cannot write the termination report /nonexistent/log: No such file or directory" in log


def _host_allocator_error() -> Exception:
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("the machine has an exbibyte of memory")


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (InvalidInput("a"), 65, Reason.INVALID_INPUT),
        (StoreUnavailable("a"), 69, Reason.STORE_UNAVAILABLE),
        (NotFound("a"), 70, Reason.INTERNAL),
        (KeyError("a"), 70, Reason.INTERNAL),
        (RuntimeError("CUDA error: device-side assert"), 70, Reason.INTERNAL),
        (MemoryError(), 71, Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), 71, Reason.OUT_OF_MEMORY),
        (_host_allocator_error(), 71, Reason.OUT_OF_MEMORY),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 78, Reason.CONFIG_INVALID),
    ],
)
def test_every_error_has_its_exit_code(error: Exception, code: int, reason: Reason) -> None:
    failure = failure_of(error)
    assert (failure.exit_code, failure.reason) == (code, reason)
    assert "\n" not in str(failure)


def test_a_long_message_still_fits_the_kubelet(tmp_path: Path, plan: Plan) -> None:
    environment = Environment.parse(build_variables(tmp_path, plan, Stage.PREFLIGHT))
    report = termination_report(environment, InvalidInput("x" * 10_000), 1.0, 1)
    content = report.to_bytes()
    assert len(content) <= 4096
    assert TerminationReport.from_bytes(content) is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_for_a_silent_store(
    tmp_path: Path, plan: Plan, number: signal.Signals
) -> None:
    """The store takes connections and never answers: without the signal, preflight would wait for minutes."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        silent.settimeout(DEADLINE)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        storage = plan.storage.model_copy(update={"url": "s3://bucket/prefix", "endpoint": endpoint})
        variables = build_variables(tmp_path, changed(plan, storage=storage), Stage.PREFLIGHT)
        variables |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
        with start(variables) as process:
            connection, _ = silent.accept()
            assert process.stderr is not None
            connection.recv(1)
            process.send_signal(number)
            _, log = process.communicate(timeout=10)
            connection.close()
    report = last_words(variables)
    assert (process.returncode, report.exit_code, report.reason) == (75, 75, Reason.INTERRUPTED)
    assert f"INFO {number.name}: stopping" in log
    assert "Traceback" not in log


def test_signals_are_as_before_when_main_returns(tmp_path: Path, plan: Plan) -> None:
    before = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    main(build_variables(tmp_path, plan, Stage.PREFLIGHT), Clock())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert [thread.name for thread in threading.enumerate() if thread.name in ("signals", "progress")] == []
