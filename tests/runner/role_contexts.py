"""What the tests of main, preflight and collect share: a role's context on a directory store, and finished clips."""

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from tests.builders import build_plan

from videogen_api import keys
from videogen_api.naming import Stage
from videogen_api.plan import Clip, Inputs, Plan, PlannedReference, WeightsDigests
from videogen_api.records import DoneMarker, StoredFile, Timings
from videogen_runner.environment import Environment
from videogen_runner.progress import ProgressHolder
from videogen_runner.roles.context import Clock, RoleContext
from videogen_runner.store import Store, open_store
from videogen_runner.store.records import put_record


def write_weights(folder: Path, value: float = 0.0) -> Path:
    """A weights directory that preflight can take the digests of: one number for each network."""
    for component in ("encoder", "denoiser", "vae"):
        (folder / component).mkdir(parents=True)
        (folder / component / "config.json").write_text(json.dumps({"of": component}))
        save_file({"w": torch.tensor([value])}, folder / component / "model.safetensors")
    (folder / "encoder" / "tokenizer.json").write_text("{}")
    return folder


def changed(plan: Plan, **fields: Any) -> Plan:
    """The plan with other fields; by way of its bytes, because a copy would keep the clips that it has derived."""
    return Plan.from_bytes(plan.model_copy(update=fields).to_bytes())


def plan_in(folder: Path) -> Plan:
    """A plan of two clips of one prompt, with its store and weights below `folder`."""
    plan = build_plan(storage=str(folder / "store"))
    return changed(plan, model=plan.model.model_copy(update={"weights": str(folder / "weights")}))


def with_references(plan: Plan, *references: tuple[str, str | None]) -> Plan:
    """The plan with these urls and pinned digests on its prompt."""
    planned = tuple(
        PlannedReference(url=url, sha256=sha256, loop=0, start=0, at=0, length=1, edit=0.0)
        for url, sha256 in references
    )
    prompt = plan.prompts[0].model_copy(update={"references": planned})
    return changed(plan, prompts=(prompt,))


def build_variables(folder: Path, plan: Plan, stage: Stage) -> dict[str, str]:
    """The environment of a process with this plan; its files lie in `folder`."""
    (folder / "plan.json").write_bytes(plan.to_bytes())
    return {
        "VIDEOGEN_ROLE": stage,
        "VIDEOGEN_PLAN": str(folder / "plan.json"),
        "VIDEOGEN_ATTEMPT": "1",
        "VIDEOGEN_POD": f"test-{stage}-0",
        "VIDEOGEN_PORT": "0",
        "VIDEOGEN_ADDRESS_FILE": str(folder / "address"),
        "VIDEOGEN_TERMINATION_LOG": str(folder / "termination.json"),
    }


def build_context(
    folder: Path, plan: Plan, stage: Stage, credentials: Mapping[str, str] = MappingProxyType({})
) -> RoleContext:
    environment = Environment.parse({**build_variables(folder, plan, stage), **credentials})
    return RoleContext(
        environment=environment,
        plan=plan,
        store=open_store(plan.storage.url, credentials, endpoint=plan.storage.endpoint),
        progress=ProgressHolder.starting(environment),
        stop=threading.Event(),
        clock=Clock(),
    )


def build_inputs(plan: Plan) -> Inputs:
    """Inputs as preflight could have found them."""
    urls = [reference.url for prompt in plan.prompts for reference in prompt.references]
    return Inputs(
        weights=WeightsDigests(encoder="e" * 64, denoiser="d" * 64, vae="a" * 64),
        references={url: hashlib.sha256(url.encode()).hexdigest() for url in urls},
        claims=True,
    )


def finish_clip(
    store: Store,
    plan: Plan,
    inputs: Inputs,
    clip: Clip,
    suffix: str = "mp4",
    *,
    video: bytes | None = None,
    **changes: Any,
) -> DoneMarker:
    """Puts the clip's video, latents and done marker, with `changes`, into the store, as generate leaves them."""
    digest = plan.clip_digest(clip, inputs)
    video, latents = video or f"video of {clip.seed}".encode(), f"latents of {clip.seed}".encode()
    video_sha256 = hashlib.sha256(video).hexdigest()
    video_file = StoredFile(key=keys.clip_video(digest, 1, video_sha256, suffix), bytes=len(video), sha256=video_sha256)
    latents_sha256 = hashlib.sha256(latents).hexdigest()
    latents_file = StoredFile(
        key=keys.CheckpointKey(loop=0, step=4, epoch=1, sha256=latents_sha256).key(digest),
        bytes=len(latents),
        sha256=latents_sha256,
    )
    store.put(video_file.key, video)
    store.put(latents_file.key, latents)
    marker = DoneMarker(
        clip_digest=digest,
        epoch=1,
        video=video_file,
        latents=latents_file,
        frames_sha256="f" * 64,
        frames=plan.video.total_frames if suffix == "mp4" else 1,
        width=plan.video.width,
        height=plan.video.height,
        fps=plan.video.fps,
        runner="local-0",
        timings=Timings(encode=0.5, denoise=3.0, decode=0.25, write=0.25, steps=4),
    ).model_copy(update=changes)
    put_record(store, keys.clip_done(digest), marker)
    return marker
