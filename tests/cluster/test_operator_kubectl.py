"""What people see: the output of `kubectl get` and `kubectl describe`, as golden text, at the moments of a life.

Each resource stands at one of them, under its name, when the operator is stopped and everything is looked at.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.behaviours import Behaviour, SimulatedPod, crash, fail, hang, succeed, unschedulable
from tests.cluster.control_plane import ControlPlane
from tests.cluster.lives import World
from tests.cluster.rendering import GOLDEN
from tests.cluster.scenes import Scene, Script, at, open_scene

from videogen_api.naming import Stage

FOUR_CLIPS = {"prompts": [{"name": "snow", "text": "a red fox runs through fresh snow", "seed": 42, "samples": 4}]}
TWO_RUNNERS = {"runners": [{"name": "cpu", "replicas": 2, "gpu": {"count": 0}}]}
DENIED = "bucket videos: PutObject denied; allow it for the access key of the Secret s3"


def second_hangs(pod: SimulatedPod) -> Behaviour:
    return hang if (pod.stage, pod.index) == (Stage.GENERATE, 1) else succeed


def encode_crashes_once(pod: SimulatedPod) -> Behaviour:
    if pod.stage == Stage.ENCODE and pod.attempt == 1:
        return crash(139, "loading 3 of 9 files\nSegmentation fault")
    return fail(77, DENIED) if pod.stage == Stage.COLLECT else succeed


@dataclass(frozen=True)
class Moment:
    """How a resource comes to it, how its message then begins, and the last event that tells of it."""

    script: Script
    message: str
    event: str
    suspend: bool = False
    queue: str | None = None
    model: str = "open-sora-v1.2-tiny"


MOMENTS = {
    "waiting": Moment(at(Stage.PREFLIGHT, unschedulable), "checking store and weights; no node", "Unschedulable"),
    "queued": Moment(at(Stage.PREFLIGHT, hang), "checking store and weights; queue", "Queued", queue="team-a"),
    "encoding": Moment(at(Stage.ENCODE, hang), "encoding", "Encoding"),
    "generating": Moment(second_hangs, "denoising: 0 at work, 2 of 4 done", "Generating"),
    "suspended": Moment(at(Stage.GENERATE, hang), "suspended", "Suspended", suspend=True),
    "refused": Moment(at(Stage.PREFLIGHT, hang), "spec.model.name", "InvalidInput", model="sora-9"),
    "failed": Moment(encode_crashes_once, DENIED, "StoreDenied"),
    "succeeded": Moment(lambda _: succeed, "4 clips", "Succeeded"),
}


@pytest.fixture(scope="module")
def scene(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with World(control_plane, tmp_path_factory.mktemp("kubectl")) as world, open_scene(world, "film") as scene:
        scene.place.start_operator()
        for name, moment in MOMENTS.items():
            schedule = {"schedule": {"queue": moment.queue}} if moment.queue is not None else {}
            model = {"model": {"name": moment.model, "weights": "builtin"}}
            scene.apply(name, moment.script, **FOUR_CLIPS, **TWO_RUNNERS, **model, **schedule, suspend=moment.suspend)
        for name, moment in MOMENTS.items():
            scene.wait(name, lambda status, begin=moment.message: (status.message or "").startswith(begin))
            scene.wait_until(
                lambda name=name, last=moment.event: last in [reason for _, reason in scene.events(name)],
                lambda name=name: (name, scene.events(name)),
            )
        scene.place.kill()
        scene.apply("fresh", **FOUR_CLIPS)
        yield scene


VOLATILE = {
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "<uid>",
    r"\b[0-9a-f]{16}\b": "<digest>",
    r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ": "<time>",
    # Of the children's names the hash, and what Kubernetes adds for a pod.
    r"-[0-9a-f]{8}-(pre|enc|gen-[0-9a-f]{4}|col)-(\d+)": r"-<hash>-\1-\2",
    r"(-<hash>-[-a-z0-9]+-\d+)-[a-z0-9]{5}\b": r"\1-<pod>",
    r"(Resource Version:\s+)\d+": r"\1<version>",
    r"(?<=\s)(\d+[smh])+(?=\s)": "<age>",
    # Predictions in bytes; how good they are is tested elsewhere.
    r"\b\d{7,}\b": "<bytes>",
}
"""What differs from one run to the next, wherever it stands."""


def steady(text: str) -> str:
    for pattern, name in VOLATILE.items():
        text = re.sub(pattern, name, text)
    return text


def steady_table(text: str) -> str:
    """As `steady`, for a table of kubectl, whose columns are as wide as their widest cell."""
    lines = text.splitlines()
    starts = [found.start() for found in re.finditer(r"\S+( \S+)*", lines[0])]
    spans = [slice(*bounds) for bounds in zip(starts, [*starts[1:], None], strict=True)]
    rows = [[steady(f" {line[span].strip()} ").strip() for span in spans] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(padded) + "\n"


def steady_description(text: str) -> str:
    """As `steady`, for a description, in which kubectl aligns what stands on the right."""
    return re.sub(r"(?<=\S) {2,}|-{3,}", lambda found: "---" if "-" in found[0] else "  ", steady(text))


def compare(found: str, golden: Path, folder: Path) -> None:
    kept = folder / golden.name
    kept.write_text(found)
    assert found == (golden.read_text() if golden.exists() else ""), f"if every difference is meant: cp {kept} {golden}"


@pytest.mark.parametrize("output", ["", "wide"])
def test_a_list_shows_where_each_run_stands(scene: Scene, tmp_path: Path, output: str) -> None:
    options = [f"--output={output}"] if output else []
    shown = scene.world.plane.kubectl("get", "vg", f"--namespace={scene.namespace}", *options)
    compare(steady_table(shown), GOLDEN / f"kubectl-get{output and f'-{output}'}.txt", tmp_path)


@pytest.mark.parametrize("name", ["generating", "failed", "succeeded"])
def test_a_description_tells_the_whole_story(scene: Scene, tmp_path: Path, name: str) -> None:
    shown = scene.world.plane.kubectl("describe", "vg", name, f"--namespace={scene.namespace}")
    compare(steady_description(shown), GOLDEN / f"kubectl-describe-{name}.txt", tmp_path)
