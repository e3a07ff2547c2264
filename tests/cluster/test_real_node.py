import json
import socketserver
import threading
from typing import Any

import pytest
from tests.cluster.node import GPU
from tests.cluster.real import RealCluster

pytestmark = pytest.mark.timeout(3600)

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
GREETING = b"from the tests\n"


@pytest.fixture(scope="module")
def namespace(real_node: RealCluster) -> str:
    real_node.kubectl("create", "namespace", "harness")
    real_node.kubectl("label", "namespace", "harness", "pod-security.kubernetes.io/enforce=restricted")
    real_node.kubectl("wait", "serviceaccount/default", "--for=create", "--namespace=harness", "--timeout=300s")
    return "harness"


def run_pod(cluster: RealCluster, name: str, script: str, **container: Any) -> None:
    """A pod of busybox in the namespace of these tests, under a restricted security context; it runs a shell script."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "harness", "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "containers": [
                {
                    "name": "busybox",
                    "image": cluster.busybox_image,
                    "command": ["sh", "-c", script],
                    "securityContext": RESTRICTED,
                    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                    **container,
                }
            ],
        },
    }
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(pod))


def wait_for_phase(cluster: RealCluster, name: str, phase: str) -> None:
    cluster.kubectl(
        *("wait", f"pod/{name}", "--namespace=harness", f"--for=jsonpath={{.status.phase}}={phase}", "--timeout=300s")
    )


def logs(cluster: RealCluster, name: str) -> str:
    return cluster.kubectl("logs", name, "--namespace=harness")


@pytest.mark.usefixtures("namespace")
def test_a_restricted_pod_runs_and_its_log_can_be_read(real_node: RealCluster) -> None:
    run_pod(real_node, "restricted", "id -u; touch /here 2>&1 || true")
    wait_for_phase(real_node, "restricted", "Succeeded")
    assert logs(real_node, "restricted") == "65532\ntouch: /here: Read-only file system\n"


def test_a_service_is_reached_by_its_name_and_address(real_node: RealCluster, namespace: str) -> None:
    run_pod(real_node, "web", "echo hello > /scratch/index.html; httpd -f -p 8080 -h /scratch")
    real_node.kubectl("expose", "pod", "web", "--port=80", "--target-port=8080", f"--namespace={namespace}")
    real_node.kubectl("wait", "pod/web", "--for=condition=Ready", f"--namespace={namespace}", "--timeout=300s")
    # DNS and kube-proxy learn of the Service a moment after the API server.
    find = "until ip=$(nslookup web.harness.svc.cluster.local | sed -n 's/^Address: //p'); [ $ip ]; do :; done"
    ask = "until printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc $ip 80; do :; done"
    run_pod(real_node, "client", f"{find}; {ask}")
    wait_for_phase(real_node, "client", "Succeeded")
    assert logs(real_node, "client").splitlines()[-1] == "hello"


def test_a_command_runs_in_a_running_pod(real_node: RealCluster, namespace: str) -> None:
    run_pod(real_node, "waiting", "sleep 600")
    real_node.kubectl("wait", "pod/waiting", "--for=condition=Ready", f"--namespace={namespace}", "--timeout=300s")
    assert real_node.kubectl("exec", "waiting", f"--namespace={namespace}", "--", "hostname") == "waiting\n"


@pytest.mark.usefixtures("namespace")
def test_a_pod_reaches_a_server_of_the_tests(real_node: RealCluster) -> None:
    if real_node.host_address is None:
        pytest.skip("KUBECONFIG is set: pods elsewhere cannot reach this machine")

    class Greet(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(GREETING)

    with socketserver.TCPServer((real_node.host_address, 0), Greet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            run_pod(real_node, "outward", f"nc {real_node.host_address} {server.server_address[1]}")
            wait_for_phase(real_node, "outward", "Succeeded")
        finally:
            server.shutdown()
            thread.join()
    assert logs(real_node, "outward") == GREETING.decode()


def test_pretended_gpus_are_counted(real_node: RealCluster, namespace: str) -> None:
    run_pod(real_node, "modest", "true", resources={"limits": {GPU: "2"}})
    wait_for_phase(real_node, "modest", "Succeeded")
    run_pod(real_node, "greedy", "true", resources={"limits": {GPU: "1000"}})
    reason = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}=Unschedulable"
    real_node.kubectl("wait", "pod/greedy", f"--for={reason}", f"--namespace={namespace}", "--timeout=300s")
    found = json.loads(real_node.kubectl("get", "pod", "greedy", f"--namespace={namespace}", "--output=json"))
    assert f"Insufficient {GPU}" in found["status"]["conditions"][0]["message"]


def test_memory_beyond_the_limit_ends_the_container(real_node: RealCluster, namespace: str) -> None:
    run_pod(real_node, "hungry", "tail /dev/zero", resources={"limits": {"memory": "32Mi"}})
    wait_for_phase(real_node, "hungry", "Failed")
    found = json.loads(real_node.kubectl("get", "pod", "hungry", f"--namespace={namespace}", "--output=json"))
    ended = found["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
