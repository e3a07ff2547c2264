"""Whole lives on a simulated cluster: any mixture of failures, edits and stops of the operator, and what always holds.

What must hold at every single write (no name used twice, no two attempts at work, attempts that only rise, the ledger
and the plan before what needs them) is asserted in world.py.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import NOW, build_plan, build_resource
from tests.core.simulated_cluster import Fate, FateOf, SimulatedCluster
from tests.core.world import Edit, Spec, World, build_spec, cpu_pool

from videogen_api.errors import ExitCode
from videogen_api.status import FINISHED_PHASES, Phase
from videogen_operator.cli.main import main
from videogen_operator.core.fleet import Fleet, Scenario
from videogen_operator.core.simulate import Moment, simulate
from videogen_operator.core.totals import totals_of
from videogen_operator.core.writes import REPORT_EVERY

LABELS = [
    f"{name}_{attempt}"
    for name in ("preflight", "encode", "generate_a", "generate_b", "collect")
    for attempt in (1, 2, 3)
]
WORK_SECONDS = 15.0
DEADLINE = {"startDeadlineSeconds": 30}


def told(**script: Fate) -> FateOf:
    """Groups end as the script says, by label with underscores; where it says nothing they do their work."""
    return lambda group: script.get(group.label.replace("-", "_"), Fate(WORK_SECONDS))


WELL = told()


def edit(seconds: float, **fields: Any) -> Edit:
    return seconds, lambda spec: {**spec, **fields}


def drop(seconds: float, field: str) -> Edit:
    return seconds, lambda spec: {key: value for key, value in spec.items() if key != field}


def prompt(text: str, name: str = "fox") -> list[Spec]:
    return [{"name": name, "text": text, "seed": 1, "samples": 2}]


# One run, played through.


def lines(moments: tuple[Moment, ...]) -> list[tuple[float, Phase, list[str], list[str]]]:
    return [
        (
            (moment.time - NOW).total_seconds(),
            moment.phase,
            [group.label for group in moment.created],
            [group.label for group in moment.deleted],
        )
        for moment in moments
    ]


def test_a_run_takes_the_time_that_its_plan_predicts() -> None:
    plan = build_plan(pools=(("a", 1), ("b", 1)))
    moments = simulate(build_resource(), plan, Fleet(plan, Scenario(), NOW))
    assert lines(moments) == [
        (0.0, Phase.PREFLIGHT, ["preflight-1"], []),
        (0.0, Phase.ENCODING, ["encode-1"], []),
        (10.0, Phase.GENERATING, ["generate-a-1", "generate-b-1"], []),
        (20.0, Phase.COLLECTING, ["collect-1"], []),
        (20.0, Phase.SUCCEEDED, [], []),
    ]
    assert (moments[-1].time - NOW).total_seconds() == totals_of(plan).seconds


def test_a_failure_is_tried_again_after_its_back_off() -> None:
    fate_of = told(encode_1=Fate(1.0, exit_code=ExitCode.STORE_UNAVAILABLE))
    moments = simulate(build_resource(), build_plan(), SimulatedCluster(fate_of, NOW))
    started = [(seconds, created) for seconds, _, created, _ in lines(moments) if created]
    assert started[:3] == [(0.0, ["preflight-1"]), (15.0, ["encode-1"]), (26.0, ["encode-2"])]
    assert moments[-1].phase == Phase.SUCCEEDED


def test_a_group_that_never_starts_is_given_up_and_its_room_awaited() -> None:
    fate_of = told(generate_local_1=Fate(starts=False))
    moments = simulate(
        build_resource(schedule={"startDeadlineSeconds": 100}), build_plan(), SimulatedCluster(fate_of, NOW)
    )
    given_up = next(moment for moment in moments if moment.deleted)
    again = next(moment for moment in moments if [group.label for group in moment.created] == ["generate-local-2"])
    assert 100 <= (given_up.time - NOW).total_seconds() - 30 < 110
    assert (again.time - given_up.time).total_seconds() == 5
    assert "no node has room for generate-local-1" in given_up.message


def test_a_run_that_would_wait_for_ever_is_told_up_to_there() -> None:
    moments = simulate(build_resource(), build_plan(), SimulatedCluster(told(encode_1=Fate(starts=False)), NOW))
    assert (moments[-1].phase, moments[-1].message) == (
        Phase.ENCODING,
        "encoding prompts; no node has room for encode-1",
    )
    suspended = simulate(build_resource(suspend=True), build_plan(), SimulatedCluster(told(), NOW))
    assert [(moment.phase, moment.created) for moment in suspended] == [(Phase.SUSPENDED, ())]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "fox.yaml"
    path.write_text(
        "apiVersion: videogen.dev/v1alpha1\nkind: VideoGeneration\nmetadata: {name: fox}\n"
        "spec:\n"
        "  prompts: [{text: a red fox, samples: 2}]\n"
        "  runners: [{name: t4, replicas: 2, gpu: {product: Tesla-T4}}]\n"
    )
    return path


def test_the_command_shows_what_each_card_does_and_when_each_stage_starts(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(manifest), "--simulate"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in lines[-6:]]
    assert rows[0] == ["AFTER", "PHASE", "STARTS", "MESSAGE"]
    assert [row[1:-1] for row in rows[1:]] == [
        ["Preflight", "preflight-1 (1 pod)"],
        ["Encoding", "encode-1 (1 pod)"],
        ["Generating", "generate-t4-1 (2 pods)"],
        ["Collecting", "collect-1 (1 pod)"],
        ["Succeeded"],
    ]
    assert rows[5][-1] == "2 clips are ready"
    chart = {line.split()[0]: line.split()[1] for line in lines if line.startswith("t4-")}
    assert chart == {"t4-0": "█" * 64, "t4-1": "█" * 64}


def test_scripts_get_the_timeline_as_json(manifest: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["plan", str(manifest), "--simulate", "--output", "json"]) == ExitCode.OK
    found = json.loads(capsysbinary.readouterr().out)
    timeline, simulation = found["timeline"], found["simulation"]
    assert [(moment["phase"], moment["starts"]) for moment in timeline if moment["starts"]] == [
        ("Preflight", {"preflight-1": 1}),
        ("Encoding", {"encode-1": 1}),
        ("Generating", {"generate-t4-1": 2}),
        ("Collecting", {"collect-1": 1}),
    ]
    assert timeline[-1]["seconds"] == simulation["seconds"]
    assert simulation["seconds"] == pytest.approx(found["totals"]["seconds"], abs=1e-5)
    assert simulation["seconds"] == pytest.approx(simulation["leastSeconds"], abs=1e-5)
    assert [(span["card"], span["kept"]) for span in simulation["spans"]] == [("t4-0", 1), ("t4-0", 1), ("t4-1", 1)]


def test_a_slow_pool_and_lost_pods_are_played_as_asked(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(manifest), "--simulate", "--speed", "t4=0.5", "--losses-per-hour", "5%"]) == ExitCode.OK
    words = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert words["lost"].startswith("lost      0 pods")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--losses-per-hour=100%", "'100%' is no share of all; want one such as 5%"),
        ("--losses-per-hour=few", "'few' is no share of all; want one such as 5%"),
        ("--start-seconds=-1", "'-1' is no number of seconds"),
        ("--speed=t4", "'t4' is no speed; want one such as t4=0.5, for half of what is predicted"),
        ("--speed=t4=0", "'t4=0' is no speed; want one such as t4=0.5, for half of what is predicted"),
    ],
)
def test_a_scenario_that_cannot_be_played_is_refused(
    manifest: Path, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["plan", str(manifest), "--simulate", option])
    assert capsys.readouterr().err.endswith(f": {message}\n")


def test_a_speed_of_a_pool_that_is_not_there_is_refused(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(manifest), "--simulate", "--speed", "h100=2"]) == ExitCode.INVALID_INPUT
    assert capsys.readouterr().err == "error: --speed: fox has no pool 'h100'; its pools are t4\n"


# Lives that are stopped after any single write.


@dataclass(frozen=True)
class Script:
    spec: Spec
    fate_of: FateOf = WELL
    edits: tuple[Edit, ...] = ()

    def play(self, stops: frozenset[int] = frozenset(), outage_seconds: float = 0.0) -> World:
        world = World(self.spec, self.fate_of, edits=self.edits, stops=stops, outage_seconds=outage_seconds)
        world.live(most_passes=400)
        return world


FAILS = Fate(WORK_SECONDS, exit_code=ExitCode.INTERNAL)
HANGS = Fate(starts=False)
TOO_LARGE = Fate(WORK_SECONDS, exit_code=ExitCode.OUT_OF_MEMORY)
SCRIPTS = {
    "undisturbed": Script(build_spec()),
    "two pools": Script(build_spec(cpu_pool("a"), cpu_pool("b", 2))),
    "children expire": Script(build_spec(ttlSecondsAfterFinished=100)),
    "failures": Script(build_spec(), told(preflight_1=FAILS, encode_1=FAILS, generate_a_1=FAILS, collect_1=FAILS)),
    "final failure": Script(build_spec(retries=0), told(generate_a_1=FAILS)),
    "another try": Script(
        build_spec(retries=1),
        told(encode_1=FAILS, encode_2=FAILS, encode_3=FAILS),
        (edit(150, retry="1"),),
    ),
    "overlapped": Script(build_spec(schedule={"strategy": "Overlapped"})),
    "runners give way": Script(
        build_spec(schedule={"strategy": "Overlapped", "startDeadlineSeconds": 60}), told(encode_1=HANGS)
    ),
    "encoder runs out of memory": Script(
        build_spec(retries=0), told(encode_1=TOO_LARGE, encode_2=TOO_LARGE, encode_3=TOO_LARGE)
    ),
    "missing embedding": Script(
        build_spec(), told(generate_a_1=Fate(WORK_SECONDS, exit_code=ExitCode.EMBEDDING_MISSING))
    ),
    "late start": Script(build_spec(schedule=DEADLINE), told(encode_1=HANGS, generate_a_1=HANGS)),
    "no start": Script(build_spec(schedule=DEADLINE, retries=1), told(encode_1=HANGS, encode_2=HANGS)),
    "too long": Script(build_spec(schedule={"activeDeadlineSeconds": 40})),
    "vanishing": Script(build_spec(), told(encode_1=Fate(25.0, vanishes=True), generate_a_1=Fate(25.0, vanishes=True))),
    "suspended": Script(build_spec(), WELL, (edit(20, suspend=True), drop(60, "suspend"))),
    "suspended and ended": Script(build_spec(), WELL, (edit(50, suspend=True), drop(51, "suspend"))),
    "other clips": Script(build_spec(), WELL, (edit(40, prompts=prompt("a blue fox")),)),
    "other clips and back": Script(
        build_spec(), WELL, (edit(40, prompts=prompt("a blue fox")), edit(42, prompts=prompt("a red fox")))
    ),
    "more runners": Script(build_spec(), WELL, (edit(40, runners=[cpu_pool("a", 3)]),)),
    "other pods": Script(build_spec(), WELL, (edit(40, runners=[cpu_pool("a", pod={"labels": {"a": "b"}})]),)),
    "another pool": Script(build_spec(), WELL, (edit(40, runners=[cpu_pool("b")]),)),
    "refused and mended": Script(build_spec(), WELL, (edit(40, model={"name": "nobody knows it"}), drop(60, "model"))),
    "edit after the end": Script(build_spec(), WELL, (edit(100, prompts=prompt("a blue fox")),)),
}


def tell(world: World) -> dict[str, Any]:
    """How a life ended, without the times."""
    status = world.status
    return {
        "phase": status.phase,
        "message": status.message,
        "conditions": [(each.type, each.status, each.reason) for each in status.conditions],
        "attempts": status.attempts,
        "clips": status.clips,
        "plan": (status.run_id, status.plan_revision),
        "failures": status.failures,
        "created": dict(world.groups),
        "left": [(group.run_id, group.label, group.state) for group in world.cluster.observe().groups],
        "plans": world.plans,
    }


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_an_operator_that_stops_after_any_write_ends_where_it_would_have_ended(script: Script) -> None:
    undisturbed = script.play()
    for write, what in enumerate(undisturbed.writes, start=1):
        assert tell(script.play(frozenset({write}))) == tell(undisturbed), f"stopped after write {write}: {what}"


def test_an_operator_that_stops_after_every_write_still_comes_to_the_end() -> None:
    undisturbed = SCRIPTS["undisturbed"].play()
    assert tell(SCRIPTS["undisturbed"].play(frozenset(range(1, 1000)), 30.0)) == tell(undisturbed)


@pytest.mark.parametrize(("pools", "budget"), [(("a",), 14), (("a", "b"), 16), (("a", "b", "c", "d"), 20)])
def test_a_life_takes_few_writes(pools: tuple[str, ...], budget: int) -> None:
    world = Script(build_spec(*map(cpu_pool, pools))).play()
    counted = [write for write in world.writes if write != "progress"]
    encoders_service = 1
    assert len(counted) + encoders_service <= budget
    assert world.writes.count("progress") <= world.seconds / REPORT_EVERY.total_seconds() + 1


# Anything at all.


def fates() -> st.SearchStrategy[Fate]:
    seconds = st.integers(0, 40).map(float)
    # Long enough for a pass that may write down that it existed.
    seen = st.integers(int(REPORT_EVERY.total_seconds()) + 1, 40).map(float)
    killed = st.just(137)
    return st.one_of(
        st.builds(Fate, seconds, exit_code=st.sampled_from([*ExitCode, 1, 134, 137, 139])),
        st.builds(Fate, seconds, loses_report=st.just(True)),
        st.builds(Fate, seconds, exit_code=killed, oom_killed=st.just(True)),
        st.builds(Fate, seconds, exit_code=killed, disrupted=st.just(True)),
        st.builds(Fate, starts=st.just(False)),
        st.builds(Fate, seen, vanishes=st.just(True)),
    )


def edits() -> st.SearchStrategy[Edit]:
    changes: list[Callable[[float], Edit]] = [
        lambda at: edit(at, suspend=True),
        lambda at: edit(at, suspend=False),
        lambda at: edit(at, retry="1"),
        lambda at: edit(at, retry="2"),
        lambda at: edit(at, retries=0),
        lambda at: edit(at, retries=5),
        lambda at: edit(at, ttlSecondsAfterFinished=0),
        lambda at: edit(at, ttlSecondsAfterFinished=100),
        lambda at: edit(at, runners=[cpu_pool("a", 2)]),
        lambda at: edit(at, runners=[cpu_pool("a"), cpu_pool("b")]),
        lambda at: edit(at, runners=[cpu_pool("b"), cpu_pool("a", 0)]),
        lambda at: edit(at, model={"name": "nobody knows it"}),
        lambda at: drop(at, "model"),
        lambda at: edit(at, runners=[cpu_pool("a", pod={"labels": {"team": "red"}})]),
        lambda at: edit(at, encoder={"gpu": {"count": 0}, "pod": {"labels": {"team": "red"}}}),
        lambda at: edit(at, prompts=prompt("a red fox", name="renamed")),
        lambda at: edit(at, prompts=prompt("a red fox")),
        lambda at: edit(at, prompts=prompt("a blue fox")),
        lambda at: edit(at, schedule={**DEADLINE, "activeDeadlineSeconds": 50}),
        lambda at: edit(at, schedule={**DEADLINE, "queue": "team-a"}),
    ]
    return st.builds(lambda at, change: change(float(at)), st.integers(0, 200), st.sampled_from(changes))


@settings(max_examples=300, deadline=None)
@given(
    fates=st.dictionaries(st.sampled_from(LABELS), fates(), max_size=6),
    changes=st.lists(edits(), max_size=4),
    pools=st.sampled_from([("a",), ("a", "b")]),
    retries=st.integers(0, 3),
    strategy=st.sampled_from(["Sequential", "Overlapped"]),
    stops=st.frozensets(st.integers(1, 40), max_size=3),
    outage=st.integers(0, 90),
)
def test_whatever_happens_a_life_keeps_its_rules_and_comes_to_an_end(
    fates: dict[str, Fate],
    changes: list[Edit],
    pools: tuple[str, ...],
    retries: int,
    strategy: str,
    stops: frozenset[int],
    outage: int,
) -> None:
    spec = build_spec(*map(cpu_pool, pools), retries=retries, schedule={**DEADLINE, "strategy": strategy})
    resumed = edit(250, suspend=False)
    world = Script(spec, told(**fates), (*changes, resumed)).play(stops, float(outage))
    assert world.status.phase in FINISHED_PHASES
    if not stops:
        assert set(world.groups.values()) <= {1}


@settings(max_examples=150, deadline=None)
@given(
    fates=st.dictionaries(st.sampled_from(LABELS), fates(), max_size=6),
    changes=st.lists(edits(), max_size=4),
    pools=st.sampled_from([("a",), ("a", "b")]),
    strategy=st.sampled_from(["Sequential", "Overlapped"]),
    stops=st.frozensets(st.integers(1, 40), min_size=1, max_size=3),
)
def test_whatever_happens_a_stop_that_takes_no_time_makes_no_difference(
    fates: dict[str, Fate], changes: list[Edit], pools: tuple[str, ...], strategy: str, stops: frozenset[int]
) -> None:
    script = Script(
        build_spec(*map(cpu_pool, pools), retries=1, schedule={**DEADLINE, "strategy": strategy}),
        told(**fates),
        (*changes, edit(250, suspend=False)),
    )
    assert tell(script.play(stops)) == tell(script.play())


@settings(max_examples=50, deadline=None)
@given(
    pools=st.sampled_from([("a",), ("a", "b")]),
    stops=st.frozensets(st.integers(1, 25), max_size=10),
    outage=st.integers(0, 90),
)
def test_stops_alone_change_nothing_however_many_they_are(
    pools: tuple[str, ...], stops: frozenset[int], outage: int
) -> None:
    script = Script(build_spec(*map(cpu_pool, pools)))
    assert tell(script.play(stops, float(outage))) == tell(script.play())
