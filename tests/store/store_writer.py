"""A process that writes to a store and is killed or refused; the tests say what its arguments are."""

import json
import os
import resource
import signal
import sys
from itertools import count
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import FrameType

from videogen_api.errors import VideogenError
from videogen_runner.store import DirectoryStore, Store, open_store

_FILE_CALLS = {
    *("open", "write", "flush", "fsync", "close", "__exit__", "sendfile", "copyfileobj"),
    *("link", "mkdir", "rename", "replace", "rmdir", "truncate", "unlink"),
}


def kill_before(number: int) -> None:
    """SIGKILL to this process just before its file operation of this number, counted from 1."""
    seen = 0

    def profile(_: FrameType, event: str, function: object) -> None:
        nonlocal seen
        if event == "c_call" and getattr(function, "__name__", "") in _FILE_CALLS:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(profile)


def kill_everywhere(root: Path, action: str) -> None:
    """Does the action in one process after another, each killed one file operation later, until one gets through.

    The store that process n leaves behind is `root/n`. Of the action's words the first says what is done.
    """
    for number in count(1):
        store = open_store(str(root / str(number)), {})
        if action != "create":
            store.put("x/object", b"old")
        if action in ("swap again", "put on swapped", "delete swapped"):
            assert store.swap("x/object", b"older", store.get("x/object").etag) is not None
        child = os.fork()
        if child == 0:
            kill_before(number)
            act(store, action.split(maxsplit=1)[0], "x/object", b"new")
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return


def act(store: Store, action: str, key: str, body: bytes) -> None:
    """One write of the named kind."""
    match action:
        case "put":
            store.put(key, body)
        case "create":
            store.create(key, body)
        case "swap":
            assert store.swap(key, body, store.get(key).etag) is not None
        case "delete":
            store.delete(key)


def contend(root: Path, number: int, barrier: Barrier, results: "Queue[tuple[bool, bool]]") -> None:
    """One process of a race: whether it won the create, and the swap."""
    store = DirectoryStore(root)
    etag = store.get("start").etag
    barrier.wait(60)
    created = store.create("claim", b"process %d" % number) is not None
    barrier.wait(60)
    results.put((created, store.swap("start", b"process %d" % number, etag) is not None))


def main() -> int:
    scenario, url, *rest = sys.argv[1:]
    if scenario == "killed":
        kill_everywhere(Path(url), *rest)
        return 0
    if scenario == "s3":
        key, size, endpoint = rest
        open_store(url, os.environ, endpoint=endpoint).put(key, b"n" * int(size))
        return 0
    # "refused": what happens where there is no room, or no right to write; the last word says how to get there.
    key, size, limit = rest
    if limit == "file size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    elif limit == "other user":
        os.seteuid(65534)
    try:
        open_store(url, {}).put(key, b"n" * int(size))
    except VideogenError as error:
        tmp = Path(url, ".tmp")
        left = [path.name for path in tmp.iterdir()] if tmp.is_dir() else []
        print(json.dumps({"exit": int(error.exit_code), "message": str(error), "left": left}))
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
