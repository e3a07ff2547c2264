"""A process that writes to a store and is killed or refused; the tests say what its arguments are."""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from videogen_api.errors import VideogenError
from videogen_runner.store import Store, open_store

# What the interpreter announces before it does it; writing and syncing lie between "open" and the next one.
_FILE_EVENTS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}


def kill_before(number: int) -> None:
    """SIGKILL to this process just before its file operation of this number, counted from 1."""
    seen = 0

    def audit(event: str, _: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _FILE_EVENTS:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


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


def main() -> int:
    scenario, url, *rest = sys.argv[1:]
    if scenario == "killed":
        action, key, body, number = rest
        store = open_store(url, {})
        kill_before(int(number))
        act(store, action, key, body.encode())
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
