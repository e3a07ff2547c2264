"""What every store must do, on all of them: a folder, moto, and a real S3 server."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from store_backends import Backend

from videogen_api.errors import InvalidInput
from videogen_runner.store import Entry, NotFound, Store, StoreCorrupt
from videogen_runner.store.tensors import get_tensors, pack_tensors, put_tensors

RACERS = 32


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.open()


def race(contend: Callable[[int], str | None]) -> dict[int, str]:
    """Calls `contend` from many threads at one moment; who won, with the ETag."""
    barrier = threading.Barrier(RACERS)

    def run(number: int) -> str | None:
        barrier.wait(30)
        return contend(number)

    with ThreadPoolExecutor(RACERS) as pool:
        results = list(pool.map(run, range(RACERS)))
    return {number: etag for number, etag in enumerate(results) if etag is not None}


def test_what_was_put_is_read(store: Store) -> None:
    store.put("a/b.json", b"first")
    assert store.get("a/b.json").body == b"first"
    store.put("a/b.json", b"second")
    assert store.get("a/b.json").body == b"second"
    assert store.head("a/b.json") == Entry("a/b.json", 6)


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.put("empty", b"")
    assert (store.get("empty").body, store.head("empty").size, store.get_range("empty", 0, 4)) == (b"", 0, b"")


def test_reading_a_missing_object_says_which(store: Store, tmp_path: Path) -> None:
    for read in (
        lambda: store.get("a/missing"),
        lambda: store.head("a/missing"),
        lambda: store.get_range("a/missing", 0, 1),
        lambda: store.get_file("a/missing", tmp_path / "file"),
        lambda: store.copy("a/missing", "a/copy"),
        lambda: get_tensors(store, "a/missing"),
    ):
        with pytest.raises(NotFound, match="a/missing"):
            read()
    assert (list(tmp_path.iterdir()), list(store.list())) == ([], [])


def test_only_the_first_create_wins(store: Store) -> None:
    etag = store.create("claim", b"one")
    assert store.create("claim", b"two") is None
    assert (store.get("claim").body, store.get("claim").etag) == (b"one", etag)


def test_create_finds_an_object_that_was_put(store: Store) -> None:
    store.put("claim", b"one")
    assert store.create("claim", b"two") is None


def test_one_of_many_creators_wins(store: Store) -> None:
    won = race(lambda number: store.create("claim", f"racer {number}".encode()))
    assert len(won) == 1
    (number,) = won
    assert (store.get("claim").body, store.get("claim").etag) == (f"racer {number}".encode(), won[number])


def test_one_of_many_swappers_wins(store: Store) -> None:
    store.create("claim", b"start")
    etag = store.get("claim").etag
    won = race(lambda number: store.swap("claim", f"racer {number}".encode(), etag))
    assert len(won) == 1
    (number,) = won
    assert (store.get("claim").body, store.get("claim").etag) == (f"racer {number}".encode(), won[number])


def test_no_increment_is_lost_between_swapping_counters(store: Store) -> None:
    store.create("counter", b"0 by nobody")
    threads, increments = 4, 10

    def count(thread: int) -> None:
        done = 0
        while done < increments:
            seen = store.get("counter")
            value = int(seen.body.split()[0])
            # The body is unique: no other thread writes the same one, and this thread writes each value once.
            if store.swap("counter", f"{value + 1} by {thread}".encode(), seen.etag) is not None:
                done += 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, range(threads)))
    assert store.get("counter").body.split()[0] == str(threads * increments).encode()


def test_a_swap_needs_the_newest_etag(store: Store) -> None:
    first = store.create("claim", b"one")
    assert first is not None
    second = store.swap("claim", b"two", first)
    assert second is not None
    assert store.swap("claim", b"three", first) is None
    assert store.get("claim").body == b"two"
    assert store.swap("claim", b"four", second) is not None
    assert store.get("claim").body == b"four"
    assert store.create("claim", b"five") is None


def test_a_swap_of_nothing_is_lost(store: Store) -> None:
    store.put("other", b"x")
    assert store.swap("claim", b"one", store.get("other").etag) is None
    assert list(store.list()) == [Entry("other", 1)]


def test_put_and_swap_follow_each_other(store: Store) -> None:
    store.put("done", b"put 1")
    assert store.swap("done", b"swap 1", store.get("done").etag) is not None
    before = store.get("done").etag
    store.put("done", b"put 2")
    assert store.get("done").body == b"put 2"
    assert store.swap("done", b"late", before) is None
    assert store.swap("done", b"swap number 2", store.get("done").etag) is not None
    assert (list(store.list()), store.get_range("done", 5, 6)) == ([Entry("done", 13)], b"number")


def test_a_deleted_object_is_gone_and_its_key_is_free(store: Store) -> None:
    store.put("done", b"one")
    store.swap("done", b"two", store.get("done").etag)
    store.delete("done")
    assert (list(store.list()), store.swap("done", b"three", "1-x")) == ([], None)
    with pytest.raises(NotFound):
        store.get("done")
    assert store.create("done", b"four") is not None
    assert store.get("done").body == b"four"
    store.delete("never-was")


def test_a_listing_is_in_order_and_keeps_to_its_folder(store: Store) -> None:
    for key in ["b/2", "b/10", "b.json", "b-1/x", "a/deep/er/y", "bb/z"]:
        store.put(key, key.encode())
    assert [entry.key for entry in store.list()] == ["a/deep/er/y", "b-1/x", "b.json", "b/10", "b/2", "bb/z"]
    assert list(store.list("b/")) == [Entry("b/10", 4), Entry("b/2", 3)]
    assert list(store.list("nothing/")) == []


def test_a_listing_goes_on_after_a_thousand(store: Store) -> None:
    keys = [f"many/{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    assert list(store.list("many/")) == [Entry(key, 1) for key in keys]


def test_a_digest_is_checked_on_read(store: Store, tmp_path: Path) -> None:
    body = b"frames"
    digest, other = hashlib.sha256(body).hexdigest(), "0" * 64
    store.put("a/video.mp4", body)
    assert store.get("a/video.mp4", digest).body == body
    store.get_file("a/video.mp4", tmp_path / "good", digest)
    assert (tmp_path / "good").read_bytes() == body
    for read in (
        lambda: store.get("a/video.mp4", other),
        lambda: store.get_file("a/video.mp4", tmp_path / "bad", other),
    ):
        with pytest.raises(StoreCorrupt) as caught:
            read()
        assert [word in str(caught.value) for word in ("a/video.mp4", digest, other)] == [True] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_a_big_file_goes_in_and_out_whole(store: Store, tmp_path: Path) -> None:
    block = hashlib.sha512(b"seed").digest() * 16384
    with (tmp_path / "big").open("wb") as file:
        for number in range(36):
            file.write(bytes([number]) + block)
    store.put_file("weights/big.bin", tmp_path / "big")
    assert store.head("weights/big.bin").size == 36 * (len(block) + 1)
    store.get_file("weights/big.bin", tmp_path / "new" / "copy")
    with (tmp_path / "big").open("rb") as sent, (tmp_path / "new" / "copy").open("rb") as received:
        assert hashlib.file_digest(sent, "sha256").digest() == hashlib.file_digest(received, "sha256").digest()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]
    assert store.get_range("weights/big.bin", len(block) + 1, 1) == b"\x01"


def test_a_range_ends_with_the_object(store: Store) -> None:
    store.put("digits", b"0123456789")
    ranges = {(0, 3): b"012", (7, 3): b"789", (8, 9): b"89", (9, 1): b"9", (10, 1): b"", (99, 5): b""}
    assert {asked: store.get_range("digits", *asked) for asked in ranges} == ranges


def test_a_copy_is_an_object_of_its_own(store: Store) -> None:
    store.put("clips/x/video", b"frames")
    store.copy("clips/x/video", "videos/ns/fox/snow-42.mp4")
    store.put("clips/x/video", b"other")
    assert store.get("videos/ns/fox/snow-42.mp4").body == b"frames"


def test_readers_never_see_half_an_object(store: Store) -> None:
    bodies = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]
    store.put("object", bodies[0])
    finished = threading.Event()

    def read() -> set[bytes]:
        seen = set()
        while not finished.is_set():
            seen.add(store.get("object").body)
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(40):
            store.put("object", bodies[number % len(bodies)])
        finished.set()
        assert set().union(*(reader.result() for reader in readers)) <= set(bodies)


TENSORS = {
    "z": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4),
    "text": torch.linspace(-1, 1, 7).to(torch.bfloat16),
    "nothing": torch.zeros(0, 5, dtype=torch.int64),
}


def test_tensors_and_their_metadata_come_back_bit_equal(store: Store) -> None:
    about = {"step": "7", "loop": "0", "numerics": "1", "prompt": 'a "red" fox, ä'}
    digest = put_tensors(store, "latents", TENSORS, about)
    tensors, metadata = get_tensors(store, "latents", digest)
    assert metadata == about
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in TENSORS.items()
    }
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert hashlib.sha256(store.get("latents").body).hexdigest() == digest


def test_equal_tensors_give_equal_bytes() -> None:
    about = {f"key {number}": str(number) for number in range(20)}
    packed = {pack_tensors(dict(order), about) for order in (TENSORS.items(), reversed(TENSORS.items()))}
    assert len(packed) == 1
    assert load(packed.pop()).keys() == TENSORS.keys()


def flip_last_byte(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "data": flip_last_byte,
    "metadata": lambda body: body.replace(b'"step":"7"', b'"step":"8"'),
    "shape": lambda body: body.replace(b"[2,3,4]", b"[4,3,2]"),
    "cut data": lambda body: body[:-1],
    "cut header": lambda body: body[:100],
    "cut length": lambda body: body[:5],
    "empty": lambda _: b"",
    "no tensor file": lambda _: b"<html>not found</html>",
    "json of another kind": lambda _: (2).to_bytes(8, "little") + b"[]",
    "not signed": lambda _: save(TENSORS, {"step": "7"}),
}


def test_damaged_tensors_are_noticed_without_a_known_digest(store: Store) -> None:
    put_tensors(store, "latents", TENSORS, {"step": "7"})
    intact = store.get("latents").body
    bodies = {name: damage(intact) for name, damage in DAMAGES.items()}
    assert [name for name, body in bodies.items() if body == intact] == []
    for body in bodies.values():
        store.put("latents", body)
        with pytest.raises(StoreCorrupt, match="latents"):
            get_tensors(store, "latents")


def test_metadata_cannot_claim_a_digest() -> None:
    with pytest.raises(ValueError, match="sha256"):
        pack_tensors(TENSORS, {"sha256": "0"})


ODD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    ".hidden",
    "a/.tmp/b",
    "-a",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "a\\b",
]
ODD_KEYS += ["x" * 201, "/".join(["x" * 100] * 8)]


def test_an_odd_key_is_refused_before_anything_happens(store: Store, tmp_path: Path) -> None:
    def uses(key: str) -> list[Callable[[], object]]:
        return [
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.get_file(key, tmp_path / "new"),
            lambda: store.put(key, b"x"),
            lambda: store.put_file(key, tmp_path / "file"),
            lambda: store.copy("file", key),
            lambda: store.copy(key, "file"),
            lambda: store.create(key, b"x"),
            lambda: store.swap(key, b"x", "etag"),
            lambda: store.head(key),
            lambda: store.delete(key),
            lambda: list(store.list(f"{key}/")),
        ]

    (tmp_path / "file").write_bytes(b"x")
    for use in (use for key in ODD_KEYS for use in uses(key)):
        with pytest.raises(InvalidInput, match=r"object (key|prefix) .* is not allowed"):
            use()
    assert (list(store.list()), [path.name for path in tmp_path.iterdir()]) == ([], ["file"])
