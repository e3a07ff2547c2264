import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.cluster.faulty_server import RESET, FaultyServer, Reply

from videogen_api.errors import ConfigInvalid
from videogen_operator.cluster.api_errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NamespaceTerminating,
    NotFound,
    NotLeader,
    TooManyRequests,
    Unavailable,
)
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.resources import JOBS, LEASES, PODS, SERVICES, VIDEO_GENERATIONS

OTHER_UID = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyServer]:
    server = FaultyServer(tmp_path / "kubeconfig")
    yield server
    server.close()


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", Invalid),
        (401, "Unauthorized", Forbidden),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (504, "Timeout", Unavailable),
    ],
)
def test_refusals_become_errors_that_carry_the_servers_words(
    faulty: FaultyServer, code: int, reason: str, expected: type[ApiError]
) -> None:
    faulty.replies = [Reply(code, status(code, reason, "the server's words"))]
    with pytest.raises(ApiError) as caught:
        faulty.client.get(JOBS, "team", "fox")
    assert type(caught.value) is expected
    assert caught.value.code == code
    assert str(caught.value) == f"GET /apis/batch/v1/namespaces/team/jobs/fox: {code}: the server's words"


def test_a_refusal_because_the_namespace_goes_is_told_from_others(faulty: FaultyServer) -> None:
    refusal = status(403, "Forbidden", "it is being terminated")
    cause = {"reason": "NamespaceTerminating", "message": "namespace team is being terminated"}
    faulty.replies = [Reply(403, refusal | {"details": {"causes": [cause]}})]
    with pytest.raises(NamespaceTerminating):
        faulty.client.try_create(JOBS, "team", {"metadata": {"name": "fox"}})
    assert [(request.method, request.path) for request in faulty.requests] == [
        ("POST", "/apis/batch/v1/namespaces/team/jobs?dryRun=All")
    ]


def test_the_time_that_the_server_asks_to_wait_is_kept(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(429, status(429, "TooManyRequests", "slow down"), {"Retry-After": "7"})]
    with pytest.raises(TooManyRequests) as caught:
        faulty.client.get(JOBS, "team", "fox")
    assert (caught.value.retry_after, len(faulty.requests)) == (7.0, 1)


@pytest.mark.parametrize("value", ["-1", "soon", "Tue, 24 Nov 2026 12:00:00 GMT", ""])
def test_a_time_to_wait_that_is_no_number_of_seconds_is_none(faulty: FaultyServer, value: str) -> None:
    faulty.replies = [Reply(503, b"", {"Retry-After": value})]
    with pytest.raises(Unavailable) as caught:
        faulty.client.get(JOBS, "team", "fox")
    assert caught.value.retry_after is None


def test_what_a_proxy_on_the_way_says_is_shown_as_it_is(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(502, b"<html>bad gateway</html>")]
    with pytest.raises(Unavailable, match=r"502: <html>bad gateway</html>$"):
        faulty.client.get(JOBS, "team", "fox")


def test_a_redirect_is_not_followed(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(302, b"", {"Location": f"{faulty.address}/elsewhere"})]
    with pytest.raises(Unavailable):
        faulty.client.get(JOBS, "team", "fox")
    assert [request.path for request in faulty.requests] == ["/apis/batch/v1/namespaces/team/jobs/fox"]


@pytest.mark.parametrize("reply", [RESET, Reply(500), Reply(429, headers={"Retry-After": "0"}), Reply(503)])
def test_no_write_is_sent_twice(faulty: FaultyServer, reply: Reply) -> None:
    """Nobody knows whether it was carried out: the next pass looks."""
    writes = [
        lambda: faulty.client.create(JOBS, "team", {"metadata": {"name": "fox"}}),
        lambda: faulty.client.replace(LEASES, "team", "lease", {}),
        lambda: faulty.client.patch(JOBS, "team", "fox", {}),
        lambda: faulty.client.patch_status(VIDEO_GENERATIONS, "team", "fox", "1", {}),
        lambda: faulty.client.delete(JOBS, "team", "fox", OTHER_UID),
    ]
    for position, write in enumerate(writes):
        faulty.replies = [reply]
        with pytest.raises((Unavailable, TooManyRequests)):
            write()
        assert len(faulty.requests) == position + 1


def test_a_message_says_what_was_asked_without_its_options(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(403, status(403, "Forbidden", "exceeded quota"))]
    with pytest.raises(Forbidden) as caught:
        faulty.client.create(JOBS, "team", {})
    assert str(caught.value) == "POST /apis/batch/v1/namespaces/team/jobs: 403: exceeded quota"
    assert urlsplit(faulty.requests[0].path).query == "fieldManager=videogen"


def test_text_that_is_not_unicode_can_be_written(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(200, {"metadata": {}})]
    faulty.client.patch(JOBS, "team", "fox", {"message": "\ud800 rot: é"})
    assert faulty.requests[0].body == {"message": "\ud800 rot: é"}


def test_a_replica_that_does_not_lead_writes_nothing(faulty: FaultyServer) -> None:
    client = faulty.connect(faulty.address, may_write=lambda: False)
    faulty.replies = [Reply(200, {"read": 1})]
    with pytest.raises(NotLeader):
        client.create(JOBS, "team", {})
    assert client.get(JOBS, "team", "fox") == {"read": 1}
    client.close()
    assert [request.method for request in faulty.requests] == ["GET"]


def test_after_a_broken_connection_the_next_call_makes_a_new_one(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(200, {"first": 1}), RESET, Reply(200, {"third": 3})]
    assert faulty.client.get(JOBS, "team", "fox") == {"first": 1}
    with pytest.raises(Unavailable) as caught:
        faulty.client.get(JOBS, "team", "fox")
    assert caught.value.code == 0
    assert faulty.client.get(JOBS, "team", "fox") == {"third": 3}


def test_a_server_that_is_not_there_is_unavailable(faulty: FaultyServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = faulty.connect(address)
        with pytest.raises(Unavailable, match="no answer") as caught:
            client.get(JOBS, "team", "fox")
    assert caught.value.code == 0


def test_a_deletion_that_meets_another_object_is_done(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(409, status(409, "Conflict", "uid")), Reply(200, {"metadata": {"uid": "another"}})]
    faulty.client.delete(JOBS, "team", "fox", OTHER_UID)
    faulty.replies = [Reply(409, status(409, "Conflict", "uid")), Reply(404)]
    faulty.client.delete(JOBS, "team", "fox", OTHER_UID)
    assert [request.method for request in faulty.requests] == ["DELETE", "GET", "DELETE", "GET"]


def test_a_deletion_that_conflicts_for_another_reason_is_not_done(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(409, status(409, "Conflict", "busy")), Reply(200, {"metadata": {"uid": OTHER_UID}})]
    with pytest.raises(Conflict, match="busy"):
        faulty.client.delete(JOBS, "team", "fox", OTHER_UID)


def page(names: list[str], following: str = "") -> Reply:
    items = [{"metadata": {"name": name, "uid": name, "resourceVersion": "3", "labels": {}}} for name in names]
    return Reply(200, {"metadata": {"resourceVersion": "9", "continue": following}, "items": items})


def test_a_list_is_read_page_by_page(faulty: FaultyServer) -> None:
    faulty.replies = [page(["a", "b"], "next"), page(["c"])]
    found = faulty.client.list(PODS, None, label_selector="x=y", keep=lambda item: {"kept": item["metadata"]["name"]})
    assert (found.items, found.resource_version) == (({"kept": "a"}, {"kept": "b"}, {"kept": "c"}), "9")
    asked = [(urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)) for request in faulty.requests]
    assert asked == [
        ("/api/v1/pods", {"labelSelector": ["x=y"], "limit": ["500"]}),
        ("/api/v1/pods", {"labelSelector": ["x=y"], "limit": ["500"], "continue": ["next"]}),
    ]


def test_a_list_whose_start_is_forgotten_begins_again_in_one_piece(faulty: FaultyServer) -> None:
    faulty.replies = [page(["a", "b"], "next"), Reply(410, status(410, "Expired", "too old")), page(["a", "c"])]
    found = faulty.client.list_metadata(PODS, "team")
    assert found.items == tuple({"metadata": {"uid": uid, "resourceVersion": "3"}} for uid in ("a", "c"))
    assert urlsplit(faulty.requests[-1].path).query == ""


def test_a_list_that_is_forgotten_again_is_given_up(faulty: FaultyServer) -> None:
    faulty.replies = [page(["a"], "next"), Reply(410), Reply(410)]
    with pytest.raises(Gone):
        faulty.client.list(PODS, "team")


def test_every_call_is_recorded(faulty: FaultyServer) -> None:
    calls: list[tuple[str, str, int]] = []
    client = faulty.connect(faulty.address, record_call=lambda verb, kind, code, _: calls.append((verb, kind, code)))
    faulty.replies = [Reply(200), Reply(404), RESET]
    client.get(JOBS, "team", "fox")
    client.delete(PODS, "team", "fox", OTHER_UID)
    with pytest.raises(Unavailable):
        client.get(JOBS, "team", "fox")
    client.close()
    assert calls == [("GET", "jobs", 200), ("DELETE", "pods", 404), ("GET", "jobs", 0)]


def test_an_address_with_a_path_keeps_it(faulty: FaultyServer) -> None:
    faulty.replies = [Reply(200)]
    client = faulty.connect(f"{faulty.address}/k8s/clusters/c-1/")
    client.get(SERVICES, "team", "fox")
    client.close()
    assert faulty.requests[0].path == "/k8s/clusters/c-1/api/v1/namespaces/team/services/fox"
    assert faulty.requests[0].headers["Authorization"] == "Bearer secret"


def test_without_a_cluster_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="set KUBECONFIG"):
        KubernetesClient.connect({"KUBECONFIG": str(tmp_path / "absent")}, threads=1)


def test_the_models_of_the_kubernetes_package_are_not_loaded() -> None:
    """They cost 80 MB."""
    script = (
        "import sys, videogen_operator.cluster.client\n"
        "print(sum(name.startswith(('kubernetes.client.models.', 'kubernetes.client.api.')) for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 10
