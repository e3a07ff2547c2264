"""What S3 must do beyond the common suite: lost requests and replies, refusals, and servers that are not there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import store_writer
from store_backends import BUCKET, ENV, Backend, free_port
from store_proxy import Fault, Proxy, Reply

from videogen_api.errors import ConfigInvalid, ExitCode, StoreDenied, StoreUnavailable, VideogenError
from videogen_runner.store import ConditionsUnsupported, Entry, NotFound, Store, open_store
from videogen_runner.store.s3_clients import Limits

QUICK = Limits(connect_seconds=5.0, read_seconds=2.0, attempts=2)


@pytest.fixture
def store(s3: Backend, proxy: Proxy) -> Store:
    """The server behind the proxy."""
    return s3.through(proxy.endpoint, QUICK)


@pytest.fixture
def direct(s3: Backend) -> Store:
    """The same objects, past the proxy."""
    return s3.open()


@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.HANG])
def test_a_create_whose_reply_is_lost_is_known_to_have_won(
    store: Store, direct: Store, proxy: Proxy, fault: Fault
) -> None:
    proxy.plan("PUT", fault)
    etag = store.create("claim", b"mine")
    assert (etag, direct.get("claim").body) == (direct.get("claim").etag, b"mine")
    assert proxy.methods == ["PUT", "GET"]  # sent once, then looked up


def test_a_swap_whose_reply_is_lost_is_known_to_have_won(store: Store, direct: Store, proxy: Proxy) -> None:
    direct.put("claim", b"old")
    proxy.plan("PUT", Fault.DROP_REPLY)
    etag = store.swap("claim", b"mine", direct.get("claim").etag)
    assert (etag, direct.get("claim").body) == (direct.get("claim").etag, b"mine")
    assert proxy.methods == ["PUT", "GET"]


def test_a_create_that_never_arrived_is_sent_again(store: Store, direct: Store, proxy: Proxy) -> None:
    proxy.plan("PUT", Fault.DROP_REQUEST)
    assert store.create("claim", b"mine") == direct.get("claim").etag
    assert (direct.get("claim").body, proxy.methods) == (b"mine", ["PUT", "GET", "PUT"])


def test_a_swap_that_never_arrived_is_sent_again(store: Store, direct: Store, proxy: Proxy) -> None:
    direct.put("claim", b"old")
    proxy.plan("PUT", Fault.DROP_REQUEST)
    assert store.swap("claim", b"mine", direct.get("claim").etag) == direct.get("claim").etag
    assert (direct.get("claim").body, proxy.methods) == (b"mine", ["PUT", "GET", "PUT"])


@pytest.mark.parametrize("fault", [Fault.DROP_REQUEST, Fault.DROP_REPLY, Fault.NONE])
def test_losing_is_noticed_whatever_was_lost(store: Store, direct: Store, proxy: Proxy, fault: Fault) -> None:
    direct.put("claim", b"old")
    etag = direct.get("claim").etag
    direct.put("claim", b"theirs")
    proxy.plan("PUT", fault, fault)
    assert store.create("claim", b"mine") is None
    assert store.swap("claim", b"mine", etag) is None
    assert direct.get("claim").body == b"theirs"


def test_a_request_that_arrives_late_changes_nothing_after_its_repetition_won(
    store: Store, direct: Store, proxy: Proxy
) -> None:
    proxy.plan("PUT", Fault.LATE)
    first = store.create("claim", b"one")
    assert first is not None
    assert proxy.deliver_late() == [412]
    proxy.plan("PUT", Fault.LATE)
    assert store.swap("claim", b"two", first) is not None
    assert proxy.deliver_late() == [412]
    assert direct.get("claim").body == b"two"


def test_a_late_duplicate_undoes_nothing_that_came_after(store: Store, direct: Store, proxy: Proxy) -> None:
    proxy.plan("PUT", Fault.DUPLICATE, Fault.DUPLICATE)
    first = store.create("claim", b"one")
    assert first is not None
    second = store.swap("claim", b"two", first)
    assert second is not None
    assert store.swap("claim", b"three", second) is not None
    assert proxy.deliver_late() == [412, 412]
    assert direct.get("claim").body == b"three"


def test_a_conditional_write_gives_up_after_bounded_attempts(store: Store, direct: Store, proxy: Proxy) -> None:
    proxy.plan("PUT", *[Fault.DROP_REQUEST] * QUICK.attempts)
    with pytest.raises(StoreUnavailable, match=r"PutObject of '.*claim' in bucket"):
        store.create("claim", b"mine")
    assert proxy.methods == ["PUT", "GET"] * QUICK.attempts
    assert list(direct.list()) == []


@pytest.mark.parametrize("reply", [Reply(409, "ConditionalRequestConflict"), Reply(503, "SlowDown"), Reply(500, "Oh")])
def test_a_conditional_write_is_sent_again_where_the_server_was_too_busy(
    store: Store, direct: Store, proxy: Proxy, reply: Reply
) -> None:
    proxy.plan("PUT", reply)
    assert store.create("claim", b"mine") == direct.get("claim").etag
    assert proxy.methods == ["PUT", "GET", "PUT"]


@pytest.mark.parametrize("fault", [Fault.DROP_REQUEST, Fault.DROP_REPLY, Reply(503, "SlowDown"), Reply(500, "Oh")])
def test_an_unconditional_request_is_repeated(store: Store, direct: Store, proxy: Proxy, fault: Fault | Reply) -> None:
    proxy.plan("PUT", fault)
    store.put("object", b"body")
    proxy.plan("GET", fault)
    assert store.get("object").body == direct.get("object").body == b"body"
    assert proxy.methods == ["PUT", "PUT", "GET", "GET"]


def test_a_failing_server_is_asked_a_bounded_number_of_times(store: Store, proxy: Proxy) -> None:
    proxy.plan("PUT", *[Reply(500, "InternalError")] * QUICK.attempts)
    with pytest.raises(StoreUnavailable, match="the store failed with 500 InternalError made up"):
        store.put("object", b"body")
    assert proxy.methods == ["PUT"] * QUICK.attempts


def test_a_reply_that_breaks_off_is_asked_for_again(store: Store, direct: Store, proxy: Proxy, tmp_path: Path) -> None:
    body = bytes(range(256)) * 4096
    direct.put("object", body)
    proxy.plan("GET", Fault.CUT_REPLY)
    assert store.get("object").body == body
    proxy.plan("GET", Fault.CUT_REPLY)
    store.get_file("object", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == body
    proxy.plan("GET", *[Fault.CUT_REPLY] * QUICK.attempts)
    with pytest.raises(StoreUnavailable, match=r"no answer to GetObject of '.*object'"):
        store.get_file("object", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_writer_killed_in_the_middle_of_a_put_leaves_the_old_object(s3: Backend, direct: Store, proxy: Proxy) -> None:
    direct.put("object", b"old")
    proxy.plan("PUT", Fault.HALF_REQUEST)
    arguments = [s3.url, "object", str(8 << 20), proxy.endpoint]
    writer = subprocess.Popen([sys.executable, store_writer.__file__, "s3", *arguments], env=os.environ | ENV)
    assert proxy.half_sent.wait(60)
    writer.kill()
    writer.wait(30)
    assert direct.get("object").body == b"old"
    assert list(direct.list()) == [Entry("object", 3)]


REFUSALS: list[tuple[Reply, type[VideogenError], str]] = [
    (Reply(403, "AccessDenied"), StoreDenied, "check the credentials"),
    (Reply(403, "InvalidAccessKeyId"), StoreDenied, "check the credentials"),
    (Reply(403, "RequestTimeTooSkewed"), StoreDenied, "the clock"),
    (Reply(401, "Unauthorized"), StoreDenied, "check the credentials"),
    (Reply(404, "NoSuchBucket"), StoreDenied, "create it or correct spec.storage.url"),
    (Reply(404, "NoSuchKey"), NotFound, "no such object"),
    (Reply(404, "XAdminUserNotFound"), StoreDenied, "XAdminUserNotFound"),
    (Reply(400, "AuthorizationHeaderMalformed"), ConfigInvalid, "correct spec.storage.region"),
    (Reply(400, "InvalidRequest"), StoreDenied, "400 InvalidRequest made up"),
    (Reply(507, "StorageFull"), StoreUnavailable, "the store failed with 507 StorageFull"),
    (Reply(429, "TooManyRequests"), StoreUnavailable, "run again later"),
]


@pytest.mark.parametrize(("reply", "error", "text"), REFUSALS, ids=[reply.code for reply, _, _ in REFUSALS])
def test_a_refusal_is_one_line_that_names_bucket_key_and_action(
    store: Store, proxy: Proxy, reply: Reply, error: type[VideogenError], text: str
) -> None:
    proxy.plan("GET", *[reply] * QUICK.attempts)
    with pytest.raises(error) as caught:
        store.get("some/key")
    message = str(caught.value)
    assert [word for word in (text, "GetObject", "some/key", BUCKET) if word not in message] == []
    assert "\n" not in message
    proxy.reset()  # a final refusal is not asked twice


def test_a_server_without_conditional_writes_says_so(store: Store, proxy: Proxy) -> None:
    proxy.plan("PUT", Reply(501, "NotImplemented"))
    with pytest.raises(ConditionsUnsupported, match="does not offer"):
        store.create("claim", b"mine")
    assert proxy.methods == ["PUT"]


METHODS: dict[str, Callable[[Store, Path], object]] = {
    "get": lambda store, _: store.get("k"),
    "get_range": lambda store, _: store.get_range("k", 0, 1),
    "get_file": lambda store, folder: store.get_file("k", folder / "new"),
    "head": lambda store, _: store.head("k"),
    "put": lambda store, _: store.put("k", b"x"),
    "put_file": lambda store, folder: store.put_file("k", folder / "file"),
    "copy": lambda store, _: store.copy("k", "l"),
    "create": lambda store, _: store.create("k", b"x"),
    "swap": lambda store, _: store.swap("k", b"x", '"etag"'),
    "list": lambda store, _: list(store.list()),
    "delete": lambda store, _: store.delete("k"),
}


def what_each_method_raises(store: Store, folder: Path) -> dict[str, tuple[type[Exception], ExitCode, str]]:
    """Error, exit code and text of every method of a store that cannot be used."""
    (folder / "file").write_bytes(b"x" * (17 << 20))
    raised: dict[str, tuple[type[Exception], ExitCode, str]] = {}
    for name, call in METHODS.items():
        with pytest.raises(VideogenError) as caught:
            call(store, folder)
        raised[name] = (caught.type, caught.value.exit_code, str(caught.value))
    return raised


def test_a_missing_bucket_is_named_by_every_method(s3: Backend, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/team", ENV, endpoint=s3.endpoint)
    for error, code, text in what_each_method_raises(store, tmp_path).values():
        assert (error, code) == (StoreDenied, ExitCode.STORE_DENIED)
        assert "in bucket 'no-such-bucket'" in text
        assert "there is no such bucket; create it or correct spec.storage.url" in text


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_final_for_every_method(versity: Backend, tmp_path: Path, wrong: str) -> None:
    store = open_store(versity.url, ENV | {wrong: "wrong"}, endpoint=versity.endpoint)
    for error, code, text in what_each_method_raises(store, tmp_path).values():
        assert (error, code) == (StoreDenied, ExitCode.STORE_DENIED)
        assert f"in bucket {BUCKET!r}" in text
        assert "\n" not in text


def test_an_endpoint_where_nobody_listens_is_unavailable_for_every_method(versity: Backend, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = versity.through(endpoint, Limits(connect_seconds=1.0, attempts=1))
    for error, code, text in what_each_method_raises(store, tmp_path).values():
        assert (error, code) == (StoreUnavailable, ExitCode.STORE_UNAVAILABLE)
        assert endpoint in text
        assert "check spec.storage.endpoint and network" in text


def test_without_credentials_the_store_is_not_even_asked() -> None:
    for env in ({}, {"AWS_ACCESS_KEY_ID": "only"}):
        with pytest.raises(StoreDenied, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            open_store("s3://videos/team", env, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("url", "endpoint", "text"),
    [
        ("s3:///team", None, "not of the form s3://bucket/prefix"),
        ("s3://UPPER_case!/team", None, "no bucket name"),
        ("s3://videos/team?x=1", None, "not of the form s3://bucket/prefix"),
        ("s3://videos/team", "minio:9000", "not a url such as http://"),
        ("gs://videos/team", None, "neither s3://bucket/prefix nor"),
        ("file://host/folder", None, "file:///absolute/path"),
        ("", None, "neither s3://bucket/prefix nor"),
    ],
)
def test_a_url_of_another_form_is_refused(url: str, endpoint: str | None, text: str) -> None:
    with pytest.raises(ConfigInvalid, match=text):
        open_store(url, ENV, endpoint=endpoint)


def test_objects_lie_under_the_prefix_of_the_url(s3: Backend) -> None:
    store = s3.open()
    store.put("a/b", b"x")
    bucket = open_store(f"s3://{BUCKET}", ENV, endpoint=s3.endpoint)
    prefix = s3.url.removeprefix(f"s3://{BUCKET}/")
    assert bucket.get(f"{prefix}/a/b").body == b"x"
    assert bucket.url(f"{prefix}/a/b") == store.url("a/b") == f"{s3.url}/a/b"


def test_objects_carry_the_type_by_which_a_browser_shows_them(s3: Backend, tmp_path: Path) -> None:
    store = s3.open()
    (tmp_path / "clip").write_bytes(b"x")
    store.put("index.html", b"x")
    store.put_file("video.mp4", tmp_path / "clip")
    store.copy("video.mp4", "fox-1.png")
    store.put("done", b"x")
    types = {key: content_type_of(s3, key) for key in ("index.html", "video.mp4", "fox-1.png", "done")}
    assert types == {
        "index.html": "text/html",
        "video.mp4": "video/mp4",
        "fox-1.png": "image/png",
        "done": "application/octet-stream",
    }


def content_type_of(s3: Backend, key: str) -> str:
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=ENV["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ENV["AWS_SECRET_ACCESS_KEY"],
    )
    prefix = s3.url.removeprefix(f"s3://{BUCKET}/")
    content_type: str = client.head_object(Bucket=BUCKET, Key=f"{prefix}/{key}")["ContentType"]
    return content_type


def test_moto_accepts_any_credentials_which_is_why_versitygw_tests_them(s3: Backend) -> None:
    s3.open().put("object", b"x")
    wrong = open_store(s3.url, ENV | {"AWS_SECRET_ACCESS_KEY": "wrong"}, endpoint=s3.endpoint)
    if s3.kind == "moto":
        assert wrong.get("object").body == b"x"
    else:
        with pytest.raises(StoreDenied):
            wrong.get("object")


def test_equal_bodies_have_equal_etags_which_is_why_bodies_carry_a_nonce(s3: Backend) -> None:
    store = s3.open()
    first = store.create("claim", b"same")
    assert first is not None
    store.swap("claim", b"other", first)
    store.put("claim", b"same")
    assert store.get("claim").etag == first
