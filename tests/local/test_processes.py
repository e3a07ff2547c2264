"""What is seen of local processes that answer badly, or not to the end."""

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from videogen_api.naming import Stage
from videogen_operator.core.observed import Group, GroupState, ObservedProcess
from videogen_operator.local.processes import LocalProcess, RunningGroup

HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n"


@pytest.mark.parametrize("answer", [b"", HEAD, HEAD + b'{"stage": "gen', b"garbage\r\n\r\n"])
def test_a_process_whose_answer_breaks_off_is_seen_at_work_without_progress(tmp_path: Path, answer: bytes) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(["sleep", "60"]) as popen,
    ):
        try:
            thread = threading.Thread(target=answer_once, args=(listener, answer))
            thread.start()
            (tmp_path / "address").write_text(f"127.0.0.1:{listener.getsockname()[1]}")
            process = LocalProcess(0, "clips-gen-1-0", popen, tmp_path)
            running = RunningGroup("run", Group(Stage.GENERATE, "local", 1, 1, 1), (process,))

            seen = running.observe()

            thread.join()
            assert (seen.state, seen.processes) == (GroupState.RUNNING, (ObservedProcess(0, "clips-gen-1-0"),))
        finally:
            popen.kill()


def answer_once(listener: socket.socket, answer: bytes) -> None:
    caller, _ = listener.accept()
    with caller:
        caller.recv(4096)
        caller.sendall(answer)
