"""The pages of probes and scrapers, asked over HTTP, and the text of /metrics, read by a parser of somebody else's."""

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus

import pytest
from prometheus_client.parser import text_string_to_metric_families

from videogen_api.errors import ConfigInvalid
from videogen_operator.cluster.health import Check, check_page, metrics_page, serve
from videogen_operator.cluster.metrics import OperatorMetrics, Reading

PATIENCE_SECONDS = 120.0


def ask(port: int, path: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_SECONDS) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_a_page_says_what_is_wrong_while_it_is_and_ok_again_afterwards() -> None:
    problems: dict[str, str | None] = {"watch": None, "workers": None}
    checks: Mapping[str, Check] = {"watch": lambda: problems["watch"], "workers": lambda: problems["workers"]}

    with serve(0, {"/livez": lambda: check_page(checks)}) as port:
        assert ask(port, "/livez") == (HTTPStatus.OK, "text/plain; charset=utf-8", "ok\n")
        problems["workers"] = "worker-1 ended"
        problems["watch"] = "ended"
        status, _, text = ask(port, "/livez?verbose")
        assert (status, text) == (HTTPStatus.SERVICE_UNAVAILABLE, "watch: ended\nworkers: worker-1 ended\n")
        problems = dict.fromkeys(problems)
        assert ask(port, "/livez")[0] == HTTPStatus.OK


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_pages_are_served_to_ipv6_too() -> None:
    with (
        serve(0, {"/livez": lambda: check_page({})}) as port,
        urllib.request.urlopen(f"http://[::1]:{port}/livez", timeout=PATIENCE_SECONDS) as reply,
    ):
        assert reply.read() == b"ok\n"


def test_another_path_is_told_what_there_is() -> None:
    with serve(0, {"/livez": lambda: check_page({}), "/readyz": lambda: check_page({})}) as port:
        assert ask(port, "/") == (HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "ask for /livez, /readyz\n")


def test_a_taken_port_is_named_with_the_remedy() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104 - as the server itself does
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigInvalid, match=f"port {port} for /livez: cannot listen .*; choose a free one, or 0"),
            serve(port, {"/livez": lambda: check_page({})}),
        ):
            pass


def test_a_scraper_that_hangs_does_not_keep_the_next_one_waiting() -> None:
    with serve(0, {"/livez": lambda: check_page({})}) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET /li")
        assert ask(port, "/livez")[0] == HTTPStatus.OK


def read(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_metrics_are_what_was_recorded() -> None:
    metrics = OperatorMetrics()
    for seconds in (0.0009, 0.001, 0.3, 100.0):
        metrics.record_pass("ok", seconds)
    metrics.record_pass("conflict", 0.02)
    metrics.record_call("GET", "jobs", 200, 0.02)
    metrics.record_call("GET", "jobs", 200, 0.02)
    metrics.record_call("POST", "jobs", 0, 5.0)
    metrics.readings.append(Reading("queue_depth", "Keys that wait.", lambda: {(): 7}))
    metrics.readings.append(
        Reading("stream_age_seconds", "Age.", lambda: {("pods",): 1.5, ("jobs",): 0.5}, ["resource"])
    )

    found = read(metrics.render())

    assert found["videogen_operator_passes_total"] == {(("result", "ok"),): 4, (("result", "conflict"),): 1}
    buckets = {dict(labels)["le"]: count for labels, count in found["videogen_operator_pass_seconds_bucket"].items()}
    assert (buckets["0.001"], buckets["0.025"], buckets["0.25"], buckets["0.5"]) == (2, 3, 3, 4)
    assert (buckets["30.0"], buckets["+Inf"]) == (4, 5)
    assert found["videogen_operator_pass_seconds_count"] == {(): 5}
    assert found["videogen_operator_pass_seconds_sum"] == {(): pytest.approx(100.3219)}
    assert found["videogen_operator_api_calls_total"] == {
        (("code", "200"), ("resource", "jobs"), ("verb", "GET")): 2,
        (("code", "0"), ("resource", "jobs"), ("verb", "POST")): 1,
    }
    assert found["videogen_operator_api_call_seconds_count"] == {(("verb", "GET"),): 2, (("verb", "POST"),): 1}
    assert found["videogen_operator_queue_depth"] == {(): 7}
    assert found["videogen_operator_stream_age_seconds"] == {(("resource", "jobs"),): 0.5, (("resource", "pods"),): 1.5}


def test_counters_say_so_and_gauges_too() -> None:
    metrics = OperatorMetrics()
    metrics.readings.append(Reading("events_total", "Events.", lambda: {("posted",): 3}, ["result"]))
    metrics.readings.append(Reading("leader", "Leads.", lambda: {(): 1}))

    kinds = {family.name: family.type for family in text_string_to_metric_families(metrics.render())}

    assert kinds == {
        "videogen_operator_passes": "counter",
        "videogen_operator_pass_seconds": "histogram",
        "videogen_operator_api_calls": "counter",
        "videogen_operator_api_call_seconds": "histogram",
        "videogen_operator_events": "counter",
        "videogen_operator_leader": "gauge",
    }


def test_odd_label_values_survive() -> None:
    metrics = OperatorMetrics()
    metrics.readings.append(Reading("odd", "Odd.", lambda: {('a"b\\c\nd',): 1}, ["text"]))

    assert read(metrics.render())["videogen_operator_odd"] == {(("text", 'a"b\\c\nd'),): 1}


def test_nothing_is_lost_when_many_threads_record() -> None:
    metrics = OperatorMetrics()
    start = threading.Barrier(8)

    def record() -> None:
        start.wait(PATIENCE_SECONDS)
        for _ in range(500):
            metrics.record_pass("ok", 0.01)

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    found = read(metrics.render())
    assert found["videogen_operator_passes_total"] == {(("result", "ok"),): 4000}
    assert found["videogen_operator_pass_seconds_count"] == {(): 4000}


def test_the_metrics_page_has_the_type_that_scrapers_expect() -> None:
    with serve(0, {"/metrics": lambda: metrics_page("a 1.0\n")}) as port:
        assert ask(port, "/metrics") == (HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", "a 1.0\n")
