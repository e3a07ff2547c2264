"""Makes the pages of all runs of a store anew, from their manifests. No torch.

A run's page lies beside the copies of its videos, where collect puts it. A run whose copies have made way for those of
a later one of the same name gets its page among its own records, which plays the originals. Where there are several
runs, one more page leads to all of them. Each page is written whole or not at all; nothing else is changed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname, relpath

from videogen_api import keys
from videogen_api.errors import InvalidInput
from videogen_api.records import Manifest, Sidecar, StoredFile
from videogen_runner.page import ClipFiles, RunEntry, render_overview, render_page
from videogen_runner.store import DirectoryStore, NotFound, Store, StoreCorrupt
from videogen_runner.store.records import get_record


@dataclass(frozen=True)
class Rebuilt:
    """What became of the runs of a store; pages as people find them, the overview first where there is one."""

    pages: tuple[str, ...]
    without_manifest: tuple[str, ...]
    """Names of runs that collect has not come to yet."""
    damaged: tuple[StoreCorrupt, ...]
    """One for each manifest that cannot be read."""


def rebuild(store: Store) -> Rebuilt:
    """Writes all pages.

    Raises InvalidInput where no run has come to its end, StoreUnavailable and StoreDenied.
    """
    if isinstance(store, DirectoryStore) and not Path(store.url("")).is_dir():
        raise InvalidInput(f"there is no folder {store.url('')}; give the one of `videogen run --out`")
    runs = {entry.key.split("/")[1] for entry in store.list("runs/") if entry.key.count("/") > 1}
    if not runs:
        raise InvalidInput(
            f"there is no run in {store.url('')}; give the folder of `videogen run --out`, or the url of spec.storage"
        )
    without, damaged = list[str](), list[StoreCorrupt]()

    def manifests(names: Iterable[str]) -> Iterator[tuple[str, Manifest]]:
        for name in names:
            try:
                yield name, get_record(store, keys.manifest(name), Manifest).record
            except NotFound:
                without.append(name)
            except StoreCorrupt as error:
                damaged.append(error)

    owners = {run: (manifest.plan.namespace, manifest.plan.name) for run, manifest in manifests(sorted(runs))}
    if without and not owners and not damaged:
        raise InvalidInput(f"{', '.join(without)} in {store.url('')} has no manifest yet; run it to its end")
    num_runs = Counter(owners.values())
    entries = []
    # Read again: of a run that went on while others were looked at, the page must not be that of before.
    for run, manifest in manifests(owners):
        entry = _entry(store, manifest, is_only=num_runs[owners[run]] == 1)
        store.put(entry.page, render_page(manifest, entry.files).encode())
        entries.append(entry)
    pages = [entry.page for entry in entries]
    if len(entries) > 1:
        store.put(keys.overview(), render_overview(entries, keys.overview()).encode())
        pages.insert(0, keys.overview())
    return Rebuilt(tuple(map(store.url, pages)), tuple(without), tuple(damaged))


def _entry(store: Store, manifest: Manifest, *, is_only: bool) -> RunEntry:
    """Where the run's page belongs, and which of its videos are there."""
    plan = manifest.plan
    owner = _run_of_copies(store, plan.namespace, plan.name)
    if owner == plan.run_id or (owner is None and is_only):
        copies = {entry.key: entry.size for entry in store.list(keys.video_prefix(plan.namespace, plan.name))}
        page = keys.page(plan.namespace, plan.name)
    else:
        copies, page = {}, keys.run_page(plan.run)
    return RunEntry(manifest, page, dict(_files(store, manifest, page, copies)))


def _run_of_copies(store: Store, namespace: str, name: str) -> str | None:
    """The id of the run whose copies lie in the folder for people; None where there are none."""
    for entry in store.list(keys.video_prefix(namespace, name)):
        if entry.key.endswith(".json"):
            try:
                return get_record(store, entry.key, Sidecar).record.run_id
            except (NotFound, StoreCorrupt):
                continue
    return None


def _files(store: Store, manifest: Manifest, page: str, copies: Mapping[str, int]) -> Iterator[tuple[str, ClipFiles]]:
    """Names of clips with their files, relative to the page; `copies` are sizes by key. A video whose copy is gone or
    cut off is played from the original, and left out where that is gone too."""
    plan, folder = manifest.plan, dirname(page)
    for clip in manifest.clips:
        if clip.sidecar is None or clip.url is None:
            continue
        original = clip.sidecar.done.video
        copy, sidecar = (
            f"{keys.video_prefix(plan.namespace, plan.name)}{name}"
            for name in (clip.url.rpartition("/")[2], f"{clip.clip}.json")
        )
        details = sidecar if sidecar in copies else keys.manifest(plan.run)
        if copies.get(copy) == original.bytes:
            yield clip.clip, ClipFiles(relpath(copy, folder), relpath(details, folder))
        elif _is_there(store, original):
            yield clip.clip, ClipFiles(relpath(original.key, folder), relpath(details, folder))


def _is_there(store: Store, file: StoredFile) -> bool:
    """Without reading it; a manifest that was changed by hand may name what no store holds."""
    try:
        return store.head(file.key).size == file.bytes
    except (NotFound, InvalidInput):
        return False
