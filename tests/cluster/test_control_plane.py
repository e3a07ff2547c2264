import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cluster import control_plane as control_planes
from tests.cluster.binaries import KUBERNETES
from tests.cluster.cluster import KubectlError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.leftovers import processes_naming, wait_until_ended

STARTS_ONE_AND_IS_KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tests.cluster.control_plane import control_plane
with control_plane() as plane:
    print(plane.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_api_server_is_the_version_that_was_asked_for(control_plane: ControlPlane) -> None:
    versions = json.loads(control_plane.kubectl("version", "--output=json"))
    assert (versions["clientVersion"]["gitVersion"], versions["serverVersion"]["gitVersion"]) == (
        KUBERNETES,
        KUBERNETES,
    )


def test_what_is_written_is_read_back(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "round-trip")
    control_plane.kubectl("create", "configmap", "kept", "--from-literal=key=value", "--namespace=round-trip")
    kept = json.loads(control_plane.kubectl("get", "configmap", "kept", "--namespace=round-trip", "--output=json"))
    assert kept["data"] == {"key": "value"}


def test_the_job_controller_makes_pods(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "jobs")
    control_plane.kubectl("create", "job", "one", "--image=none", "--namespace=jobs")
    control_plane.kubectl(
        "wait", "pod", "--for=create", "--selector=job-name=one", "--namespace=jobs", "--timeout=300s"
    )


def test_a_refusal_carries_the_servers_words(control_plane: ControlPlane) -> None:
    with pytest.raises(KubectlError, match='namespaces "absent" not found'):
        control_plane.kubectl("get", "namespace", "absent")


def test_rights_are_checked(control_plane: ControlPlane) -> None:
    account = "--as=system:serviceaccount:default:default"
    with pytest.raises(KubectlError, match="cannot list resource"):
        control_plane.kubectl("get", "secrets", account)


def test_nothing_is_left_afterwards() -> None:
    with control_planes.control_plane() as plane:
        running = processes_naming(plane.folder)
        assert len(running) == 3
    assert (processes_naming(plane.folder), plane.folder.exists()) == ([], False)


def test_no_process_outlives_tests_that_were_killed() -> None:
    here = str(Path(__file__).parents[2])
    killed = subprocess.run(
        [sys.executable, "-c", STARTS_ONE_AND_IS_KILLED, here], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -9, killed.stderr
    folder = Path(killed.stdout.strip())
    try:
        assert wait_until_ended(folder) == []
    finally:
        shutil.rmtree(folder)
