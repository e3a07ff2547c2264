"""Names: long ones and dotted ones, the same one twice, and children whose names somebody else has already taken."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.lives import SPEC, Life, World
from tests.cluster.scenes import Scene, open_scene

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_api.status import Attempts, ConditionType, Phase
from videogen_operator.cluster.resources import CONFIG_MAPS, JOBS, SERVICES, VIDEO_GENERATIONS, Object, Resource

LONG = "a-name-of-sixty-three-characters-of-which-thirty-are-in-no-chi-d"[:62] + "z"
DOTTED = "fox.v1.final"
LIKE_LONG = LONG[:62] + "y"
WHOLE_LIFE = {
    ("Job", stage, *pool, "1"): 1
    for stage, pool in (("preflight", ()), ("encode", ()), ("generate", ("cpu",)), ("collect", ()))
}


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(control_plane, tmp_path_factory.mktemp("names")) as world:
        yield world


@contextmanager
def open_two_scenes(world: World) -> Iterator[tuple[Scene, Scene]]:
    """Two namespaces under one operator."""
    with open_scene(world, "names") as scene, world.place(Life("names-too", SPEC)) as place:
        scene.place.start_operator(namespaces=[scene.namespace, place.namespace])
        yield scene, Scene(world, place, {})


@pytest.fixture(scope="module")
def scenes(world: World) -> Iterator[tuple[Scene, Scene]]:
    with open_two_scenes(world) as scenes:
        here, there = scenes
        for name in (LONG, LIKE_LONG, DOTTED, "fox"):
            here.apply(name)
        there.apply("fox")
        yield scenes


@pytest.mark.parametrize("name", [LONG, LIKE_LONG, DOTTED], ids=["long", "as long", "dotted"])
def test_a_resource_of_any_legal_name_finishes_with_children_of_its_own(scenes: tuple[Scene, Scene], name: str) -> None:
    here, _ = scenes

    assert here.wait_for_end(name).phase == Phase.SUCCEEDED

    assert here.outcome(name).jobs_created == WHOLE_LIFE
    names = [job["metadata"]["name"] for job in here.all_jobs(name)]
    assert all(len(name) <= naming.MAX_NAME_LENGTH - len("-0000") and "." not in name for name in names)


def test_children_of_equal_names_in_two_namespaces_are_distinct(scenes: tuple[Scene, Scene]) -> None:
    assert [scene.wait_for_end("fox").phase for scene in scenes] == [Phase.SUCCEEDED, Phase.SUCCEEDED]

    assert [scene.outcome("fox").jobs_created for scene in scenes] == [WHOLE_LIFE, WHOLE_LIFE]
    here, there = ({job["metadata"]["name"] for job in scene.all_jobs("fox")} for scene in scenes)
    assert here & there == set()


def test_one_of_the_same_name_that_comes_again_starts_afresh(scenes: tuple[Scene, Scene]) -> None:
    here, _ = scenes
    first = here.apply("again")["metadata"]["uid"]
    here.wait_for_end("again")
    here.delete("again")
    here.wait_until(lambda: here.is_gone(VIDEO_GENERATIONS, "again"))

    second = here.apply("again")["metadata"]["uid"]
    here.wait_until(lambda: here.is_of("again", second) and here.status("again").phase == Phase.SUCCEEDED)

    jobs = here.all_jobs("again")
    stages = {
        uid: sorted(job["metadata"]["labels"][naming.LABEL_STAGE] for job in jobs if owner_of(job) == uid)
        for uid in (first, second)
    }
    # What the first one made is still in the store.
    assert stages == {first: ["collect", "encode", "generate", "preflight"], second: ["collect", "preflight"]}
    assert len({job["metadata"]["name"] for job in jobs}) == len(jobs)
    assert here.status("again").attempts == Attempts(preflight=1, collect=1)


def owner_of(child: Object) -> str:
    return str(child["metadata"]["ownerReferences"][0]["uid"])


@dataclass(frozen=True)
class Taken:
    """A child whose name is taken, by an object of nobody's or of another controller's."""

    stage: Stage | None
    """None: the plan."""
    kind: Resource
    phase: Phase
    owned: bool

    @property
    def name(self) -> str:
        return f"{self.stage or 'plan'}-{'other' if self.owned else 'nobody'}"

    def child(self, prefix: str) -> str:
        return naming.plan_name(prefix, 1) if self.stage is None else naming.child_name(prefix, self.stage, None, 1)


TAKEN = [
    Taken(None, CONFIG_MAPS, Phase.PENDING, owned=True),
    Taken(Stage.PREFLIGHT, JOBS, Phase.PREFLIGHT, owned=False),
    Taken(Stage.PREFLIGHT, JOBS, Phase.PREFLIGHT, owned=True),
    Taken(Stage.ENCODE, SERVICES, Phase.ENCODING, owned=True),
    Taken(Stage.COLLECT, JOBS, Phase.COLLECTING, owned=False),
]


def render_foreign(kind: Resource, name: str, owner: Object | None) -> Object:
    """Somebody else's object; `owner` is the metadata of a ConfigMap."""
    references = []
    if owner is not None:
        references = [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["name"], "uid": owner["uid"], "controller": True}
        ]
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "other", "image": "other:1"}]}}
    bodies: dict[Resource, Object] = {
        CONFIG_MAPS: {"data": {naming.PLAN_FILE: "{}"}},
        JOBS: {"spec": {"suspend": True, "template": template}},
        SERVICES: {"spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
    }
    group = f"{kind.group}/" if kind.group else ""
    metadata = {"name": name, "ownerReferences": references}
    return {"apiVersion": f"{group}{kind.version}", "kind": kind.kind, "metadata": metadata, **bodies[kind]}


@pytest.fixture(scope="module")
def scene(world: World) -> Iterator[Scene]:
    """Resources one of whose children's names is taken when the operator comes."""
    with open_scene(world, "taken") as scene:
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}}
        owner = scene.client.create(CONFIG_MAPS, scene.namespace, owner)
        for taken in TAKEN:
            child = taken.child(scene.child_prefix(scene.apply(taken.name)))
            foreign = render_foreign(taken.kind, child, owner if taken.owned else None)
            scene.client.create(taken.kind, scene.namespace, foreign)
        scene.place.start_operator()
        yield scene


def test_a_child_whose_name_is_taken_is_refused_and_made_when_the_name_is_free(scene: Scene) -> None:
    for taken in TAKEN:
        child = taken.child(scene.child_prefix(scene.get(taken.name)))
        message = (
            f"{taken.kind.kind} {child} exists and belongs to somebody else; delete or rename it, or give this "
            "VideoGeneration another name"
        )
        status = scene.wait(taken.name, lambda status, message=message: status.message == message)

        assert status.phase == taken.phase
        assert scene.conditions(taken.name, ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED) == {
            ConditionType.READY: ("False", "NameTaken", message),
            ConditionType.RECONCILING: ("True", "NameTaken", message),
            ConditionType.STALLED: ("False", "NameTaken", message),
        }
        found = scene.client.get(taken.kind, scene.namespace, child)
        owner = scene.client.get(CONFIG_MAPS, scene.namespace, "owner")["metadata"] if taken.owned else None
        assert without_servers_fields(found) == without_servers_fields(render_foreign(taken.kind, child, owner))
        scene.client.delete(taken.kind, scene.namespace, child, found["metadata"]["uid"])

    assert {taken.name: scene.wait_for_end(taken.name).phase for taken in TAKEN} == {
        taken.name: Phase.SUCCEEDED for taken in TAKEN
    }
    assert {taken.name: scene.outcome(taken.name).jobs_created for taken in TAKEN} == {
        taken.name: WHOLE_LIFE for taken in TAKEN
    }
    assert {taken.name: scene.events(taken.name).count(("Warning", "NameTaken")) for taken in TAKEN} == {
        taken.name: 1 for taken in TAKEN
    }


def without_servers_fields(found: Object) -> Object:
    """What its owner wrote, as far as the operator could have changed it."""
    metadata = found["metadata"]
    return {
        "labels": {key: value for key, value in metadata.get("labels", {}).items() if "videogen" in key},
        "ownerReferences": metadata.get("ownerReferences", []),
        "generation": metadata.get("generation", 1),
        "deleted": metadata.get("deletionTimestamp"),
        "data": found.get("data"),
    }


def test_the_children_of_a_deleted_resource_go_and_those_of_its_namesake_stay(scenes: tuple[Scene, Scene]) -> None:
    """The last test of all: the garbage collector of a new cluster hears of a new kind after half a minute."""
    here, _ = scenes
    owner = here.get("again")["metadata"]["uid"]

    here.wait_until(lambda: {owner_of(job) for job in here.children(JOBS, "again")} == {owner})

    here.wait_until(lambda: {owner_of(plan) for plan in here.children(CONFIG_MAPS, "again")} == {owner})
    assert len(here.children(JOBS, "again")) == 2
