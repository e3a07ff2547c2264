"""`videogen gallery`: which pages it makes, where they lead, and what it says where it cannot."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.gallery.runs import broken_links, finish_run, parse
from tests.runner.role_contexts import build_inputs, changed, plan_in
from tests.store.store_backends import ENV, moto

from videogen_api import keys
from videogen_api.errors import ExitCode
from videogen_api.plan import Plan
from videogen_runner.gallery import rebuild
from videogen_runner.gallery_cli import main
from videogen_runner.store import DirectoryStore, Object, Store, open_store
from videogen_runner.store.records import put_record

PAGE = "videos/default/test/index.html"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_in(tmp_path)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)


def other_run(plan: Plan, name: str, seed: int = 7) -> Plan:
    """Of the same store: other seeds, and so other clips."""
    prompt = plan.prompts[0].model_copy(update={"seed": seed})
    return changed(plan, name=name, run_id=f"{seed:016x}", prompts=(prompt,))


def text_of(store: Store, page: str) -> str:
    return store.get(page).body.decode()


def test_the_page_of_a_run_is_made_anew_as_collect_has_written_it(tmp_path: Path, plan: Plan) -> None:
    store = finish_run(tmp_path, plan)
    written = text_of(store, PAGE)
    store.delete(PAGE)
    assert rebuild(store).pages == (store.url(PAGE),)
    assert text_of(store, PAGE) == written
    assert broken_links(store, PAGE) == []


def test_nothing_but_pages_is_written(tmp_path: Path, plan: Plan) -> None:
    store = finish_run(tmp_path, plan)
    finish_run(tmp_path, other_run(plan, "other"))

    def records() -> dict[str, bytes]:
        return {entry.key: store.get(entry.key).body for entry in store.list() if not entry.key.endswith("index.html")}

    before = records()
    rebuild(store)
    assert records() == before


def test_several_runs_get_a_page_each_and_one_that_leads_to_them(tmp_path: Path, plan: Plan) -> None:
    store = finish_run(tmp_path, plan)
    finish_run(tmp_path, other_run(plan, "other"))
    pages = ["runs/index.html", "videos/default/other/index.html", PAGE]
    assert rebuild(store).pages == tuple(map(store.url, pages))
    assert [broken_links(store, page) for page in pages] == [[], [], []]
    overview = parse(text_of(store, "runs/index.html"))
    assert overview.texts["h1"] == ["2 runs"]
    assert overview.texts["a"] == ["other", "test"]
    assert overview.links == [
        "../videos/default/other/fox-7.mp4", "../videos/default/other/index.html",
        "../videos/default/test/fox-1.mp4", "../videos/default/test/index.html",
    ]  # fmt: skip
    assert overview.texts["p"][0] == "2 of 2 clips done, open-sora-v1.2-tiny"
    assert overview.texts["p"][1].endswith(" · 2027-01-15 12:00:00 UTC")


def test_a_run_that_has_made_way_for_a_later_one_of_its_name_plays_the_originals(tmp_path: Path, plan: Plan) -> None:
    store = finish_run(tmp_path, plan)
    later = other_run(plan, "test")
    finish_run(tmp_path, later)
    older = keys.run_page(plan.run)
    assert sorted(rebuild(store).pages) == sorted(map(store.url, ["runs/index.html", older, PAGE]))
    assert [broken_links(store, page) for page in ("runs/index.html", older, PAGE)] == [[], [], []]
    assert [video["aria-label"] for video in parse(text_of(store, PAGE)).all("video")] == ["Clip fox-7", "Clip fox-8"]
    old_page = parse(text_of(store, older))
    assert [video["aria-label"] for video in old_page.all("video")] == ["Clip fox-1", "Clip fox-2"]
    assert {link for link in old_page.links if link.endswith(".json")} == {"manifest.json"}


def test_a_video_whose_copy_is_cut_off_is_played_from_the_original_and_one_that_is_gone_says_so(
    tmp_path: Path, plan: Plan
) -> None:
    store = finish_run(tmp_path, plan)
    for seed in (1, 2):
        store.put(f"videos/default/test/fox-{seed}.mp4", b"vid")
    [second] = [e.key for e in store.list("clips/") if "/video/" in e.key and store.get(e.key).body == b"video of 2"]
    store.delete(second)
    rebuild(store)
    page = parse(text_of(store, PAGE))
    assert [video["src"] for video in page.all("video")] == [page.links[0]]
    assert page.links[0].startswith("../../../clips/")
    assert broken_links(store, PAGE) == []
    assert "Its video is missing or cut off in the store; run again to make it." in page.texts["p"]


def test_a_manifest_that_is_cut_off_leaves_its_page_alone_and_the_others_are_made(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    store = finish_run(tmp_path, plan)
    other = other_run(plan, "other")
    finish_run(tmp_path, other)
    key = keys.manifest(plan.run)
    store.put(key, store.get(key).body[:-100])
    store.put(PAGE, b"as it was")
    store.delete("videos/default/other/index.html")
    assert main([plan.storage.url]) == ExitCode.INTERNAL
    printed = capsys.readouterr()
    assert printed.err == (
        f"videogen gallery: {store.url(key)} is no Manifest of this version; delete it, and run again to make it anew\n"
    )
    assert printed.out == f"{store.url('videos/default/other/index.html')}\n"
    assert text_of(store, PAGE) == "as it was"


class SlowStore(DirectoryStore):
    """Does something else between the first look at the last run and what comes after it."""

    def __init__(self, root: Path, last: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._last, self._meanwhile = keys.manifest(last), [meanwhile]

    def get(self, key: str, sha256: str | None = None) -> Object:
        found = super().get(key, sha256)
        if key == self._last and self._meanwhile:
            self._meanwhile.pop()()
        return found


def test_a_run_that_ends_while_others_are_looked_at_gets_the_page_of_its_end(tmp_path: Path, plan: Plan) -> None:
    later = other_run(plan, "zebra")
    store = finish_run(tmp_path, later)
    finish_run(tmp_path, plan)
    manifest = store.get(keys.manifest(plan.run)).body
    ended = text_of(store, PAGE)
    store.put(keys.manifest(plan.run), manifest.replace(b"A red fox", b"A red cat"))
    rebuild(SlowStore(Path(store.url("")), later.run, lambda: store.put(keys.manifest(plan.run), manifest)))
    assert text_of(store, PAGE) == ended


def test_a_manifest_that_names_what_no_store_holds_does_not_stop_the_others(tmp_path: Path, plan: Plan) -> None:
    store = finish_run(tmp_path, plan)
    other = other_run(plan, "other")
    finish_run(tmp_path, other)
    key = keys.manifest(plan.run)
    store.put(key, store.get(key).body.replace(b'"key":"clips/', b'"key":"../clips/'))
    for seed in (1, 2):
        store.delete(f"videos/default/test/fox-{seed}.mp4")
    assert len(rebuild(store).pages) == 3
    sentence = "Its video is missing or cut off in the store; run again to make it."
    assert sentence in parse(text_of(store, PAGE)).texts["p"]


def test_a_run_that_collect_has_not_come_to_is_named_and_no_error(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    store = finish_run(tmp_path, plan)
    begun = other_run(plan, "begun")
    put_record(store, keys.inputs(begun.run), build_inputs(begun))
    assert main([plan.storage.url]) == ExitCode.OK
    assert capsys.readouterr().err == (
        f"videogen gallery: {begun.run} has no manifest yet, so it has no page; run it to its end\n"
    )


def test_a_place_where_no_run_has_a_manifest_is_refused(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    put_record(open_store(plan.storage.url, {}), keys.inputs(plan.run), build_inputs(plan))
    assert main([plan.storage.url]) == ExitCode.INVALID_INPUT
    assert capsys.readouterr().err == (
        f"videogen gallery: {plan.run} in {plan.storage.url} has no manifest yet; run it to its end\n"
    )


@pytest.mark.parametrize(
    ("folder", "complaint"),
    [
        ("nowhere", "there is no folder {}; give the one of `videogen run --out`"),
        ("plan.json", "there is no folder {}; give the one of `videogen run --out`"),
        ("store/videos", "there is no run in {}; give the folder of `videogen run --out`, or the url of spec.storage"),
    ],
)
def test_a_place_without_runs_is_refused_in_one_sentence(
    tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str], folder: str, complaint: str
) -> None:
    finish_run(tmp_path, plan)
    assert main([str(tmp_path / folder)]) == ExitCode.INVALID_INPUT
    assert capsys.readouterr().err == f"videogen gallery: {complaint.format(tmp_path / folder)}\n"
    assert not (tmp_path / "nowhere").exists()


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    store = finish_run(tmp_path, plan)
    store.delete(PAGE)
    (tmp_path / "store" / PAGE / "in the way").mkdir(parents=True)
    assert main([plan.storage.url]) == ExitCode.STORE_DENIED
    assert capsys.readouterr().err == (
        f"videogen gallery: cannot write {store.url(PAGE)}: Is a directory; a file and a folder want the same name: "
        "move one of them away\n"
    )
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


@pytest.mark.usefixtures("credentials")
def test_the_page_of_a_bucket_is_made_anew(tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finish_run(tmp_path, plan)
    with moto() as backend:
        assert backend.endpoint is not None
        bucket = backend.open()
        for entry in folder.list():
            if entry.key != PAGE:
                bucket.put(entry.key, folder.get(entry.key).body)
        assert main([backend.url, "--endpoint", backend.endpoint]) == ExitCode.OK
        assert capsys.readouterr().out == f"{backend.url}/{PAGE}\n"
        assert bucket.get(PAGE).body == folder.get(PAGE).body


@pytest.mark.usefixtures("credentials")
def test_an_endpoint_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with refusing_server() as endpoint:
        pass  # nobody listens there any more
    assert main(["s3://bucket/runs", "--endpoint", endpoint]) == ExitCode.STORE_UNAVAILABLE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("videogen gallery: no answer to ListObjectsV2")
    assert f"at {endpoint}" in line


@pytest.mark.usefixtures("credentials")
def test_missing_rights_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with refusing_server() as endpoint:
        assert main(["s3://bucket/prefix", "--endpoint", endpoint]) == ExitCode.STORE_DENIED
    [line] = capsys.readouterr().err.splitlines()
    assert "ListObjectsV2 of 'prefix/runs/' in bucket 'bucket'" in line
    assert "was refused: AccessDenied" in line


@contextmanager
def refusing_server() -> Iterator[str]:
    """An S3 service that gives nobody any right."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing is written to the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_command_needs_nothing_but_the_base_installation(tmp_path: Path, plan: Plan) -> None:
    finish_run(tmp_path, plan)
    wanted = json.dumps(["torch", "numpy", "boto3", "av", "einops", "safetensors", "kopf", "kubernetes", "rich"])
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({wanted}))\n"
        "from videogen_runner.gallery_cli import main\n"
        "print(main([sys.argv[1]]), main(['s3://bucket']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, plan.storage.url], capture_output=True, text=True, check=False
    )
    assert (result.stdout.splitlines(), result.stderr) == (
        [str(tmp_path / "store" / PAGE), "0 78"],
        "videogen gallery: s3:// needs boto3: pip install 'videogen[store]'\n",
    )


def test_videogen_hands_its_arguments_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "videogen_operator.cli.main", "gallery", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (ExitCode.INVALID_INPUT, "")
    assert result.stderr.startswith(f"videogen gallery: there is no folder {tmp_path / 'nowhere'}; ")
