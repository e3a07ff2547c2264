"""What a folder must do beyond the common suite: crashes, full disks, and files that people look at."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypedDict

import pytest
import store_writer

from videogen_api.errors import ExitCode, StoreDenied
from videogen_runner.store import DirectoryStore, Entry, NotFound, directory, open_store

WRITER = [sys.executable, store_writer.__file__]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "out")


def read_or_none(store: DirectoryStore, key: str) -> bytes | None:
    try:
        return store.get(key).body
    except NotFound:
        return None


def test_an_object_is_a_plain_file_under_its_name(store: DirectoryStore, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(b"frames")
    store.put_file("videos/default/fox/snow-42.mp4", tmp_path / "clip")
    store.put("runs/fox/manifest.json", b"{}")
    assert Path(store.url("videos/default/fox/snow-42.mp4")).read_bytes() == b"frames"
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"videos/default/fox/snow-42.mp4", "runs/fox/manifest.json"}


def test_a_folder_needs_neither_boto3_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from videogen_runner.store import open_store, tensors; open_store(sys.argv[1], {}).put('a', b'');"
    )
    code += "print(sorted({'boto3', 'torch', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_folder_is_opened_by_path_and_by_url(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    open_store(str(folder), {}).put("a", b"x")
    assert open_store(f"file://{tmp_path}/with%20space", {}).get("a").body == b"x"


def test_a_folder_that_is_only_read_is_not_touched(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "nowhere"), {})
    assert list(store.list()) == []
    with pytest.raises(NotFound):
        store.get("a")
    assert list(tmp_path.iterdir()) == []


def test_a_copied_folder_is_the_same_store(store: DirectoryStore, tmp_path: Path) -> None:
    store.create("claim", b"one")
    store.swap("claim", b"two", store.get("claim").etag)
    shutil.copytree(tmp_path / "out", tmp_path / "moved", copy_function=shutil.copyfile)
    assert DirectoryStore(tmp_path / "moved").get("claim") == store.get("claim")


def test_what_a_user_put_there_is_not_listed(store: DirectoryStore, tmp_path: Path) -> None:
    store.put("a", b"x")
    for name in ("my holiday.txt", ".DS_Store", "ü"):
        (tmp_path / "out" / name).write_bytes(b"")
    assert list(store.list()) == [Entry("a", 1)]


def test_a_file_and_a_folder_cannot_have_one_name(store: DirectoryStore) -> None:
    store.put("a", b"x")
    store.put("b/c", b"x")
    for key in ("a/b", "b"):
        with pytest.raises(StoreDenied, match="want the same name"):
            store.put(key, b"y")
        assert read_or_none(store, key) is None
    assert list(store.list()) == [Entry("a", 1), Entry("b/c", 1)]


# What is done to an object, and what it can be afterwards: if the kill came in time, and if it came too late.
STATES = {
    "put": (b"old", b"new"),
    "create": (None, b"new"),
    "swap": (b"old", b"new"),
    "swap again": (b"older", b"new"),
    "put on swapped": (b"older", b"new"),
    "delete": (b"old", None),
    "delete swapped": (b"older", None),
}


@pytest.mark.parametrize(("action", "states"), STATES.items(), ids=STATES)
def test_a_killed_writer_leaves_the_old_object_or_the_new_one(
    tmp_path: Path, action: str, states: tuple[bytes | None, bytes | None]
) -> None:
    subprocess.run([*WRITER, "killed", tmp_path, action], check=True)
    stores = [DirectoryStore(tmp_path / str(number + 1)) for number in range(len(list(tmp_path.iterdir())))]
    found = [read_or_none(store, "x/object") for store in stores]
    assert (found[0], found[-1]) == states
    assert set(found) == set(states)
    assert found == sorted(found, key=states.index)  # once it is done, it stays done
    for store, state in zip(stores, found, strict=True):
        assert [entry.key for entry in store.list()] == ([] if state is None else ["x/object"])
        # Whatever was left behind is in nobody's way.
        store.put("x/object", b"next")
        assert store.swap("x/object", b"after next", store.get("x/object").etag) is not None
        store.delete("x/object")
        assert store.create("x/object", b"again") is not None
        assert [store.get(entry.key).body for entry in store.list()] == [b"again"]


def test_a_writer_killed_in_the_middle_of_a_file_leaves_the_old_one(store: DirectoryStore, tmp_path: Path) -> None:
    store.put("video", b"old")
    os.mkfifo(tmp_path / "source")
    code = "import sys; from pathlib import Path; from videogen_runner.store import open_store; "
    code += "open_store(sys.argv[1], {}).put_file('video', Path(sys.argv[2]))"
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path / "out", tmp_path / "source"])
    with (tmp_path / "source").open("wb") as source:
        source.write(b"n" * (3 << 20))
        source.flush()  # comes back when the writer has read all but the last pipe full; it waits for more
        writer.kill()
        writer.wait(30)
    (half,) = (tmp_path / "out" / ".tmp").iterdir()
    assert half.stat().st_size > 0
    assert (store.get("video").body, list(store.list())) == (b"old", [Entry("video", 3)])


def test_what_killed_writers_left_is_removed_after_a_day(tmp_path: Path) -> None:
    tmp = tmp_path / ".tmp"
    (tmp / "old-folder").mkdir(parents=True)
    (tmp / "old-folder" / "1").write_bytes(b"x")
    (tmp / "old").write_bytes(b"x")
    (tmp / "new").write_bytes(b"x")
    for name in ("old", "old-folder"):
        os.utime(tmp / name, (0, (tmp / name).stat().st_mtime - 86_500))
    DirectoryStore(tmp_path)
    assert [path.name for path in tmp.iterdir()] == ["new"]


class Refusal(TypedDict):
    exit: int
    message: str
    left: list[str]


def refused(root: Path, size: int, limit: str, *, mount: str | None = None) -> Refusal:
    """What a put of `size` bytes says in a process of its own; `mount` options give it a file system of its own."""
    writer = [*WRITER, "refused", str(root), "x/object", str(size), limit]
    if mount is not None:
        script = f'mount -t tmpfs -o {mount} none "$0" && exec "$@"'
        writer = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(root), *writer]
    done = subprocess.run(writer, check=True, capture_output=True, text=True)
    answer: Refusal = json.loads(done.stdout)
    return answer


@pytest.fixture
def mountable(tmp_path: Path) -> Path:
    """A folder on which a child process may mount a file system in a namespace of its own."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    script = f'mount -t tmpfs -o size=1m none "{folder}"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    if shutil.which("unshare") is None or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount in a user namespace")
    return folder


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter and read, and only this one may write."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(mountable: Path) -> None:
    answer = refused(mountable, 2 << 20, "", mount="size=1m")
    assert answer == {
        "exit": ExitCode.STORE_UNAVAILABLE,
        "message": f"cannot write {mountable}/x/object: No space left on device; free some space there and run again",
        "left": [],
    }


def test_a_file_size_limit_is_one_clear_line_and_leaves_the_old_object(store: DirectoryStore, tmp_path: Path) -> None:
    store.put("x/object", b"old")
    answer = refused(tmp_path / "out", 8192, "file size")
    assert answer == {
        "exit": ExitCode.STORE_UNAVAILABLE,
        "message": f"cannot write {tmp_path}/out/x/object: File too large; free some space there and run again",
        "left": [],
    }
    assert store.get("x/object").body == b"old"


def test_a_read_only_file_system_is_one_clear_line(mountable: Path) -> None:
    answer = refused(mountable, 10, "", mount="ro")
    assert (answer["exit"], answer["left"]) == (ExitCode.STORE_DENIED, [])
    assert answer["message"].startswith(f"cannot write {mountable}/x/object: Read-only file system; give this user")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_is_one_clear_line(shared_folder: Path) -> None:
    answer = refused(shared_folder, 10, "other user")
    assert (answer["exit"], answer["left"], list(shared_folder.iterdir())) == (ExitCode.STORE_DENIED, [], [])
    assert answer["message"].startswith(f"cannot write {shared_folder}/x/object: Permission denied; give this user")


def test_a_swapper_that_slept_loses_to_those_that_went_on(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etag = store.create("claim", b"zero")
    assert etag is not None
    link = directory._link

    def sleep_then_link(staged: Path, target: Path) -> bool:
        monkeypatch.setattr(directory, "_link", link)
        rival = DirectoryStore(tmp_path / "out")
        for body in (b"one", b"two", b"three"):
            assert rival.swap("claim", body, rival.get("claim").etag) is not None
        return link(staged, target)

    monkeypatch.setattr(directory, "_link", sleep_then_link)
    assert store.swap("claim", b"mine", etag) is None
    assert store.get("claim").body == b"three"


def test_readers_never_see_a_version_that_was_emptied(store: DirectoryStore) -> None:
    store.create("claim", b"body 0")
    finished = threading.Event()

    def read() -> set[bytes]:
        seen = set()
        while not finished.is_set():
            seen.add(store.get("claim").body[:5])
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(1, 200):
            store.swap("claim", b"body %d" % number, store.get("claim").etag)
        finished.set()
        assert [reader.result() for reader in readers] == [{b"body "}] * 2


def test_superseded_versions_take_no_room(store: DirectoryStore, tmp_path: Path) -> None:
    store.create("claim", b"0" * 1000)
    for number in range(1, 5):
        store.swap("claim", b"%d" % number * 1000, store.get("claim").etag)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out" / ".claim.versions").iterdir()}
    assert sizes == {"1": 0, "2": 0, "3": 0, "4": 1000}


def test_one_of_many_processes_wins(store: DirectoryStore, tmp_path: Path) -> None:
    processes = 8
    store.put("start", b"start")
    context = get_context("forkserver")
    barrier, results = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=store_writer.contend, args=(tmp_path / "out", number, barrier, results))
        for number in range(processes)
    ]
    for process in started:
        process.start()
    won = [results.get(timeout=300) for _ in started]
    for process in started:
        process.join(60)
    assert (sum(created for created, _ in won), sum(swapped for _, swapped in won)) == (1, 1)
