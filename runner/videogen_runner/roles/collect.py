"""The truth about a run, and its results under names for people. No torch.

Collect reads what done markers and failures say, verifies the videos, and writes copies, sidecars, page and manifest.
Whatever it writes is a function of the store: running it twice changes nothing.
"""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from videogen_api import keys
from videogen_api.plan import Clip, Inputs, Plan, canonical_json
from videogen_api.records import ClipFailure, DoneMarker, Manifest, ManifestClip, Sidecar, StoredFile
from videogen_api.report import ClipFailureLine, CollectReport, RunnerState
from videogen_api.status import Output
from videogen_runner.compute import ComputeThread
from videogen_runner.done import is_intact, look_for_marker
from videogen_runner.page import files_beside, render_page
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.inputs import read_inputs
from videogen_runner.roles.parallel import map_in_threads
from videogen_runner.store import NotFound, Store
from videogen_runner.store.records import get_record

log = logging.getLogger("videogen")

# Only what collect itself writes is ever removed from the folder that people open.
_COPY = re.compile(r".+-[0-9]+\.(mp4|png|json)")


@dataclass(frozen=True)
class _Result:
    """What became of one piece of work: done, failed, or missing where both are None."""

    done: DoneMarker | None
    failure: ClipFailure | None


def run(context: RoleContext) -> CollectReport:
    """Writes the results of whatever is finished; a clip that is missing is reported, and no error.

    Raises StoreUnavailable, StoreDenied, Interrupted; NotFound where preflight has not run.
    """
    return ComputeThread(context.stop).run(lambda: _collect(context))


def _collect(context: RoleContext) -> CollectReport:
    plan, store = context.plan, context.store
    inputs = read_inputs(context)
    context.progress.update(state=RunnerState.CHECKING, total=len(plan.work) + len(plan.clips))
    found = map_in_threads(context, lambda clip: _result_of(store, plan, plan.clip_digest(clip, inputs)), plan.work)
    result_of_ask = {clip.ask: result for clip, result in zip(plan.work, found, strict=True)}
    context.progress.update(state=RunnerState.WRITING)
    manifest = Manifest(
        plan=plan,
        weights=inputs.weights,
        clips=tuple(
            map_in_threads(
                context, lambda clip: _publish(store, plan, inputs, clip, result_of_ask[clip.ask]), plan.clips
            )
        ),
    )
    page = render_page(manifest, files_beside(manifest))
    _put_if_changed(store, keys.page(plan.namespace, plan.name), page.encode())
    _put_if_changed(store, keys.manifest(plan.run), canonical_json(manifest.model_dump(mode="json", by_alias=True)))
    _remove_old_copies(store, manifest)
    for result in found:
        context.raise_if_stopped()
        if result.done is not None:
            _remove_checkpoints(store, result.done)
    report = _report(manifest, store.url(keys.manifest(plan.run)))
    log.info("%d clips are done, %d have failed, %d are missing", report.succeeded, report.failed, report.missing)
    return report


def _result_of(store: Store, plan: Plan, clip_digest: str) -> _Result:
    seen = look_for_marker(store, clip_digest)
    if seen.marker is not None:
        return _Result(seen.marker, None)
    if seen.etag is not None:
        log.warning("%s does not count: its video is not the one that it names", keys.clip_done(clip_digest))
    try:
        return _Result(None, get_record(store, keys.clip_failure(plan.run, clip_digest), ClipFailure).record)
    except NotFound:
        return _Result(None, None)


def _publish(store: Store, plan: Plan, inputs: Inputs, clip: Clip, result: _Result) -> ManifestClip:
    """Writes the clip's copy and sidecar where they are not there already; what the manifest says of it."""
    prompt, done = plan.prompts[clip.prompt], result.done
    if done is None:
        return ManifestClip(
            clip=clip.name, prompt=prompt.name, seed=clip.seed, url=None, sidecar=None, failure=result.failure
        )
    sidecar = Sidecar(
        clip=clip.name,
        prompt=prompt.name,
        text=prompt.text,
        seed=clip.seed,
        video=plan.video,
        sampling=plan.sampling,
        model=plan.model.name,
        weights=inputs.weights,
        run_id=plan.run_id,
        done=done,
    )
    copy = keys.video(plan.namespace, plan.name, clip.name, video_suffix(done))
    if not is_intact(store, StoredFile(key=copy, bytes=done.video.bytes, sha256=done.video.sha256)):
        store.copy(done.video.key, copy)
    _put_if_changed(store, keys.video(plan.namespace, plan.name, clip.name, "json"), _for_people(sidecar))
    return ManifestClip(
        clip=clip.name, prompt=prompt.name, seed=clip.seed, url=store.url(copy), sidecar=sidecar, failure=None
    )


def video_suffix(done: DoneMarker) -> str:
    """mp4, or png for a single frame."""
    return PurePosixPath(done.video.key).suffix.removeprefix(".")


def _for_people(sidecar: Sidecar) -> bytes:
    return json.dumps(
        sidecar.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True, ensure_ascii=False
    ).encode()


def _put_if_changed(store: Store, key: str, body: bytes) -> None:
    try:
        if store.get(key).body == body:
            return
    except NotFound:
        pass
    store.put(key, body)


def _remove_old_copies(store: Store, manifest: Manifest) -> None:
    """What an earlier run, or this one before a video was lost, left under names for people."""
    plan = manifest.plan
    named = {
        keys.video(plan.namespace, plan.name, clip.clip, suffix)
        for clip in manifest.clips
        if clip.sidecar is not None
        for suffix in (video_suffix(clip.sidecar.done), "json")
    }
    folder = keys.video_prefix(plan.namespace, plan.name)
    for entry in store.list(folder):
        if entry.key not in named and _COPY.fullmatch(entry.key.removeprefix(folder)):
            store.delete(entry.key)


def _remove_checkpoints(store: Store, done: DoneMarker) -> None:
    """A finished clip needs its final latents alone."""
    for entry in store.list(keys.checkpoint_prefix(done.clip_digest)):
        if entry.key != done.latents.key:
            store.delete(entry.key)


def _report(manifest: Manifest, url: str) -> CollectReport:
    outputs = tuple(
        _output(clip, clip.url, clip.sidecar.done)
        for clip in manifest.clips
        if clip.url is not None and clip.sidecar is not None
    )
    failures = tuple(
        ClipFailureLine(clip=clip.clip, reason=clip.failure.reason, message=clip.failure.message)
        for clip in manifest.clips
        if clip.failure is not None
    )
    return CollectReport(
        succeeded=len(outputs),
        failed=len(failures),
        missing=len(manifest.clips) - len(outputs) - len(failures),
        failures=failures,
        outputs=outputs,
        manifest=url,
    )


def _output(clip: ManifestClip, url: str, done: DoneMarker) -> Output:
    return Output(
        clip=clip.clip,
        prompt=clip.prompt,
        seed=clip.seed,
        url=url,
        sha256=done.video.sha256,
        frames=done.frames,
        width=done.width,
        height=done.height,
        seconds=done.frames / done.fps,
    )
