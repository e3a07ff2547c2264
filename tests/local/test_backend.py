"""The local backend with real processes: what they are told, what is seen of them, and how they are ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.builders import build_plan, build_resource, encode_report, preflight_report, write_script

from videogen_api.errors import ConfigInvalid, ExitCode, Reason, StoreDenied
from videogen_api.naming import Stage
from videogen_api.status import VideoGenerationStatus
from videogen_operator.core.observed import Group, GroupState, ObservedGroup
from videogen_operator.local.backend import LocalBackend, OutputBusy

PLAN = build_plan()
RESOURCE = build_resource()
ENCODE = Group(Stage.ENCODE, None, 1, 1, 1)

REPORTING = """
import os, sys
open(os.environ["VIDEOGEN_TERMINATION_LOG"], "w").write({report!r})
sys.exit({code})
"""
OBEDIENT = """
import os, signal, sys, threading
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
open(os.environ["VIDEOGEN_ADDRESS_FILE"], "w").write("127.0.0.1:1")
stop.wait()
sys.exit(75)
"""
ECHOING = """
import json, os
names = [n for n in os.environ if n.startswith("VIDEOGEN_") or n in ("JOB_COMPLETION_INDEX", "OMP_NUM_THREADS")]
print(json.dumps({n: os.environ[n] for n in names}), flush=True)
"""

MEETING = """
import os, socket, sys
host, port = os.environ["VIDEOGEN_SHARDS_ADDRESS"].split(":")
if os.environ["JOB_COMPLETION_INDEX"] == "0":
    listener = socket.socket(fileno=int(os.environ["VIDEOGEN_SHARDS_LISTENER"]))
    print([listener.accept()[0].recv(1) for _ in range(2)], flush=True)
else:
    assert "VIDEOGEN_SHARDS_LISTENER" not in os.environ
    socket.create_connection((host, int(port))).sendall(b"x")
"""
ONE_SHARD_DIES = """
import os, signal, sys, threading
if os.environ["JOB_COMPLETION_INDEX"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
stop.wait()
sys.exit(75)
"""

Open = Callable[[str], LocalBackend]


@pytest.fixture
def open_backend(tmp_path: Path) -> Iterator[Open]:
    backends: list[LocalBackend] = []

    def open_with(script: str) -> LocalBackend:
        path = write_script(tmp_path / f"runner{len(backends)}.py", script)
        backend = LocalBackend(tmp_path / "out", os.environ, device="cpu", command=(sys.executable, str(path)))
        backends.append(backend)
        return backend

    yield open_with
    for backend in backends:
        backend.stop()
        backend.close()


def ended(backend: LocalBackend, count: int = 1) -> tuple[ObservedGroup, ...]:
    return wait_for(backend, lambda groups: sum(g.state != GroupState.RUNNING for g in groups) >= count)


def wait_for(backend: LocalBackend, seen: Callable[[tuple[ObservedGroup, ...]], bool]) -> tuple[ObservedGroup, ...]:
    deadline = time.monotonic() + 30
    while not seen(groups := backend.observe(RESOURCE).groups):
        assert time.monotonic() < deadline, f"never seen: {groups}"
        backend.wait(0.1)
    return groups


def test_a_process_that_ends_well_is_seen_with_its_report(open_backend: Open) -> None:
    report = encode_report()
    backend = open_backend(REPORTING.format(report=report.to_bytes().decode(), code=0))
    backend.create(RESOURCE, PLAN, ENCODE)
    (group,) = ended(backend)
    assert (group.stage, group.attempt, group.state) == (Stage.ENCODE, 1, GroupState.SUCCEEDED)
    assert group.report == report


def test_a_process_gets_the_environment_that_a_pod_would_get(open_backend: Open, tmp_path: Path) -> None:
    backend = open_backend(ECHOING)
    backend.create(RESOURCE, PLAN, Group(Stage.GENERATE, "local", 3, 2, 1))
    (group,) = ended(backend)
    told = json.loads(group.processes[1].log_tail)
    folder = Path(told["VIDEOGEN_PLAN"]).parent
    assert folder.parent == tmp_path / "out" / ".videogen"
    assert Path(told.pop("VIDEOGEN_PLAN")).read_bytes() == PLAN.to_bytes()
    pod = group.processes[1].name
    assert told == {
        "VIDEOGEN_ROLE": "generate",
        "VIDEOGEN_POOL": "local",
        "VIDEOGEN_ATTEMPT": "3",
        "JOB_COMPLETION_INDEX": "1",
        "VIDEOGEN_POD": pod,
        "VIDEOGEN_PORT": "0",
        "VIDEOGEN_DEVICE": "cpu",
        "VIDEOGEN_ADDRESS_FILE": str(folder / pod / "address"),
        "VIDEOGEN_TERMINATION_LOG": str(folder / pod / "termination.json"),
        "OMP_NUM_THREADS": "1",
    }


def test_gpus_are_shared_out_among_the_processes_of_a_group(tmp_path: Path) -> None:
    script = write_script(tmp_path / "runner.py", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)")
    command = (sys.executable, str(script))
    backend = LocalBackend(tmp_path / "out", os.environ, device="cuda", gpus=("0", "GPU-3"), command=command)
    try:
        backend.create(RESOURCE, PLAN, Group(Stage.GENERATE, "local", 1, 3, 1))
        (group,) = ended(backend)
        assert [process.log_tail for process in group.processes] == ["0\n", "GPU-3\n", "0\n"]
    finally:
        backend.close()


def test_shards_meet_on_a_port_that_the_first_one_has_inherited(open_backend: Open) -> None:
    backend = open_backend(MEETING)
    backend.create(RESOURCE, PLAN, Group(Stage.ENCODE, None, 1, 3, 1))
    (group,) = ended(backend)
    assert group.state == GroupState.SUCCEEDED, [process.log_tail for process in group.processes]
    assert group.processes[0].log_tail == "[b'x', b'x']\n"


def test_where_one_shard_has_failed_the_others_are_told_to_stop(open_backend: Open) -> None:
    backend = open_backend(ONE_SHARD_DIES)
    backend.create(RESOURCE, PLAN, Group(Stage.ENCODE, None, 1, 3, 1))
    (group,) = ended(backend)
    assert group.state == GroupState.FAILED
    assert [process.exit_code for process in group.processes][1] == 137
    assert {group.processes[shard].exit_code for shard in (0, 2)} <= {75, 143}


def test_a_process_that_dies_without_a_report_is_an_internal_failure_with_its_log(open_backend: Open) -> None:
    backend = open_backend("import os, sys; print('half way', flush=True); os.kill(os.getpid(), 9)")
    backend.create(RESOURCE, PLAN, ENCODE)
    (group,) = ended(backend)
    (process,) = group.processes
    assert (group.state, process.exit_code, process.reason) == (GroupState.FAILED, 137, Reason.INTERNAL)
    assert process.log_tail == "half way\n"


def test_a_report_of_an_earlier_process_in_the_same_folder_is_not_believed(open_backend: Open) -> None:
    stale = preflight_report().to_bytes().decode()
    backend = open_backend(REPORTING.format(report=stale, code=ExitCode.INTERNAL.value))
    backend.create(RESOURCE, PLAN, ENCODE)
    (group,) = ended(backend)
    assert group.processes[0].reason == Reason.INTERNAL


def test_stop_asks_with_sigterm_and_waits_for_the_end(open_backend: Open, tmp_path: Path) -> None:
    backend = open_backend(OBEDIENT)
    backend.create(RESOURCE, PLAN, ENCODE)
    wait_for(backend, lambda _: any((tmp_path / "out").rglob("address")))
    backend.stop()
    (group,) = backend.observe(RESOURCE).groups
    assert group.processes[0].exit_code == ExitCode.INTERRUPTED


def test_a_deleted_group_is_ended_and_forgotten(open_backend: Open, tmp_path: Path) -> None:
    backend = open_backend(OBEDIENT)
    backend.create(RESOURCE, PLAN, ENCODE)
    (group,) = wait_for(backend, lambda _: any((tmp_path / "out").rglob("address")))
    backend.delete(group)
    assert backend.observe(RESOURCE).groups == ()


def test_the_status_survives_the_command(open_backend: Open) -> None:
    backend = open_backend(ECHOING)
    assert backend.read_status(RESOURCE) == VideoGenerationStatus()
    status = VideoGenerationStatus(run_id="abc", progress=40)
    backend.write_status(RESOURCE, status)
    assert backend.read_status(RESOURCE) == status


def test_a_damaged_status_is_named_and_not_thrown_away(open_backend: Open, tmp_path: Path) -> None:
    backend = open_backend(ECHOING)
    path = tmp_path / "out" / ".videogen" / "default.test.json"
    path.write_text("{")
    with pytest.raises(ConfigInvalid, match=r"default\.test\.json is damaged or of another version"):
        backend.read_status(RESOURCE)
    assert path.read_text() == "{"


def test_a_second_command_on_the_same_folder_is_refused(open_backend: Open) -> None:
    open_backend(ECHOING)
    with pytest.raises(OutputBusy, match="another videogen run works on this folder"):
        open_backend(ECHOING)


def test_an_output_folder_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreDenied) as caught:
        LocalBackend(tmp_path / "out", os.environ, device=None)
    assert (
        str(caught.value)
        == f"{tmp_path / 'out'}: cannot be used as output folder: Not a directory; choose another --out"
    )


def test_the_folder_stays_locked_while_a_process_of_a_killed_command_is_at_work(tmp_path: Path) -> None:
    script = write_script(tmp_path / "runner.py", OBEDIENT)
    command = f"""
import os, signal, sys
from pathlib import Path
from tests.builders import build_plan, build_resource
from videogen_api.naming import Stage
from videogen_operator.core.observed import Group
from videogen_operator.local.backend import LocalBackend
command = (sys.executable, {str(script)!r})
backend = LocalBackend(Path({str(tmp_path / "out")!r}), os.environ, device=None, command=command)
backend.create(build_resource(), build_plan(), Group(Stage.ENCODE, None, 1, 1, 1))
print(next(iter(backend._groups.values())).processes[0].popen.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", command], stdout=subprocess.PIPE, check=False)
    orphan = int(done.stdout)
    try:
        with pytest.raises(OutputBusy):
            LocalBackend(tmp_path / "out", os.environ, device=None)
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_a_process_that_was_started_before_another_one_could_not_be_is_ended(
    open_backend: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def start_one(*args: Any, **kwargs: Any) -> "subprocess.Popen[bytes]":
        if started:
            raise OSError("no more processes")
        started.append(start(*args, **kwargs))
        return started[0]

    backend = open_backend(OBEDIENT)
    monkeypatch.setattr(subprocess, "Popen", start_one)
    with pytest.raises(OSError, match="no more processes"):
        backend.create(RESOURCE, PLAN, Group(Stage.GENERATE, "local", 1, 2, 1))
    assert started[0].poll() is not None
