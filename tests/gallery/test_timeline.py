"""Who did what when, as lanes and as places on an axis, and how that is drawn."""

from pathlib import Path

import pytest
from tests.gallery.runs import NOON, build_manifest, render, stint
from tests.runner.role_contexts import build_inputs, finish_clip, plan_in

from videogen_api.errors import Reason
from videogen_api.plan import Plan
from videogen_api.records import ClipFailure, DoneMarker, Stint, Timings
from videogen_runner.page.timeline import Axis, Bar, Lane, Outcome, Span, StageTime, build_axis, build_lanes
from videogen_runner.page.words import duration, offset, period, size
from videogen_runner.store import DirectoryStore

STAGES = (
    StageTime("VAE encode", 0.5),
    StageTime("denoise", 3.0),
    StageTime("VAE decode", 0.25),
    StageTime("write", 0.25),
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_in(tmp_path)


def make(tmp_path: Path, plan: Plan, position: int, *stints: Stint) -> DoneMarker:
    clip = plan.clips[position]
    return finish_clip(DirectoryStore(tmp_path), plan, build_inputs(plan), clip, stints=stints)


def lane(*stretches: tuple[float, float]) -> Lane:
    bars = (Bar(0, "fox-1", stint("gpu-0", began, ended), Outcome.FINISHED) for began, ended in stretches)
    return Lane("gpu-0", tuple(bars))


def places(axis: Axis) -> list[tuple[float, float, float, float]]:
    return [(span.began - NOON, span.ended - NOON, round(span.left, 3), round(span.width, 3)) for span in axis.spans]


def test_each_worker_has_a_lane_with_what_it_finished_left_and_failed(tmp_path: Path, plan: Plan) -> None:
    first = make(tmp_path, plan, 0, stint("gpu-10", 0, 4), stint("gpu-9", 64, 70))
    failure = ClipFailure(
        clip="fox-2", clip_digest="c", reason=Reason.INTERNAL, message="no", runner="gpu-10",
        stints=(stint("gpu-10", 5, 6),),
    )  # fmt: skip
    assert build_lanes(build_manifest(plan, first, failure=failure)) == (
        Lane("gpu-9", (Bar(0, "fox-1", stint("gpu-9", 64, 70), Outcome.FINISHED, STAGES),)),
        Lane(
            "gpu-10",
            (
                Bar(0, "fox-1", stint("gpu-10", 0, 4), Outcome.LEFT),
                Bar(1, "fox-2", stint("gpu-10", 5, 6), Outcome.FAILED),
            ),
        ),
    )


def test_one_clip_under_two_names_was_made_once(tmp_path: Path, plan: Plan) -> None:
    done = make(tmp_path, plan, 0, stint("gpu-0", 0, 5))
    assert [len(lane.bars) for lane in build_lanes(build_manifest(plan, done, done))] == [1]


def test_records_of_an_earlier_version_have_no_timeline(tmp_path: Path, plan: Plan) -> None:
    manifest = build_manifest(plan, make(tmp_path, plan, 0))
    assert build_lanes(manifest) == ()
    assert render(manifest).all("svg") == []


def test_a_stage_that_took_no_time_is_left_out(tmp_path: Path, plan: Plan) -> None:
    done = make(tmp_path, plan, 0, stint("gpu-0", 0, 5))
    brief = done.model_copy(update={"timings": Timings(encode=0.002, denoise=3.0)})
    [lane] = build_lanes(build_manifest(plan, brief))
    assert lane.bars[0].stages == (StageTime("denoise", 3.0),)


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ([(0, 40)], [(0, 40, 0.0, 1.0)]),
        ([(0, 40), (40, 60)], [(0, 60, 0.0, 1.0)]),
        ([(0, 40), (30, 35), (60, 100)], [(0, 100, 0.0, 1.0)]),
        # A night between two halves of a run.
        ([(0, 60), (36_000, 36_060)], [(0, 60, 0.0, 0.48), (36_000, 36_060, 0.52, 0.48)]),
        ([(7, 7)], [(7, 7, 0.0, 1.0)]),
        # A clock that was set back.
        ([(10, 4), (20, 30)], [(10, 30, 0.0, 1.0)]),
    ],
)
def test_the_axis_keeps_what_is_worked_and_cuts_long_gaps(
    stretches: list[tuple[float, float]], expected: list[tuple[float, float, float, float]]
) -> None:
    assert places(build_axis([lane(*stretches)])) == expected


def test_many_gaps_leave_most_of_the_drawing_to_the_work() -> None:
    axis = build_axis([lane(*((hour * 3600.0, hour * 3600.0 + 10) for hour in range(100)))])
    assert len(axis.spans) == 100
    assert sum(span.width for span in axis.spans) == pytest.approx(0.6)
    assert axis.spans[-1].left + axis.spans[-1].width == pytest.approx(1.0)


def test_a_moment_has_its_place_and_one_outside_is_at_the_edge() -> None:
    axis = Axis((Span(0, 10, 0.0, 0.4), Span(100, 110, 0.6, 0.4)))
    assert [round(axis.place(moment), 3) for moment in (-5, 0, 5, 10, 50, 100, 105, 200)] == [
        0.0, 0.0, 0.2, 0.4, 0.6, 0.6, 0.8, 1.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ([(0, 5)], ["0 s start", "1 s middle", "2 s middle", "3 s middle", "4 s middle", "5 s end"]),
        ([(0, 75)], ["0 s start", "15 s middle", "30 s middle", "45 s middle", "1 min middle"]),
        ([(0, 5000)], ["0 s start", "20 min middle", "40 min middle", "1 h middle"]),
        # Where words would run into each other, the later ones are left out.
        ([(0, 60), (36_031, 36_100)], ["0 s start", "30 s middle", "1 min middle", "10 h 1 min middle"]),
        ([(0, 0)], ["0 s start"]),
    ],
)
def test_ticks_are_round_numbers_that_leave_each_other_room(
    stretches: list[tuple[float, float]], expected: list[str]
) -> None:
    ticks = build_axis([lane(*stretches)]).ticks()
    assert [f"{tick.label} {tick.anchor}" for tick in ticks] == expected


def test_the_drawing_has_a_link_for_each_bar_that_tells_everything(tmp_path: Path, plan: Plan) -> None:
    first = make(tmp_path, plan, 0, stint("gpu-1", 0, 4), stint("gpu-0", 10, 20))
    page = render(build_manifest(plan, first, make(tmp_path, plan, 1, stint("gpu-1", 4, 12))))
    told = [
        "fox-1: finished by gpu-0, 10.0 s to 20.0 s, VAE encode 0.5 s, denoise 3.0 s, VAE decode 0.2 s, write 0.2 s",
        "fox-1: left to another worker by gpu-1, 0.0 s to 4.0 s",
        "fox-2: finished by gpu-1, 4.0 s to 12.0 s, VAE encode 0.5 s, denoise 3.0 s, VAE decode 0.2 s, write 0.2 s",
    ]
    bars = [link for link in page.all("a") if (link["href"] or "").startswith("#clip-")]
    assert bars == [
        {"href": f"#clip-{position}", "aria-label": text} for position, text in zip((0, 0, 1), told, strict=True)
    ]
    assert page.texts["title"][1:] == told
    assert page.texts["p"][-1] == "2 workers, 20.0 s: 2027-01-15 12:00:00 to 12:00:20 UTC, by the workers' clocks."
    places = [(bar["x"], bar["width"]) for bar in page.all("svg") if bar.get("class") == "stint"]
    assert places == [("50.000%", "50.000%"), ("0.000%", "20.000%"), ("20.000%", "40.000%")]
    denoise = [rect for rect in page.all("rect") if rect.get("class") == "denoise" and rect.get("x")]
    # 4 s of stages at the end of 10 s and of 8 s: loading came before.
    assert [(rect["x"], rect["width"]) for rect in denoise] == [("65.000%", "30.000%"), ("56.250%", "37.500%")]
    assert page.texts["li"] == [
        "VAE encode of references", "denoise", "VAE decode", "write the file", "load weights, checkpoints",
        "left to another worker",
    ]  # fmt: skip


def test_the_table_says_the_same_as_the_drawing(tmp_path: Path, plan: Plan) -> None:
    page = render(build_manifest(plan, make(tmp_path, plan, 0, stint("gpu-1", 0, 4), stint("gpu-0", 10, 20))))
    columns = ["Worker", "Clip", "From", "To", "Outcome", "VAE encode", "denoise", "VAE decode", "write"]
    assert page.texts["th"] == [*columns, "gpu-0", "gpu-1"]
    assert page.texts["td"] == [
        "fox-1", "10.0 s", "20.0 s", "finished", "0.5 s", "3.0 s", "0.2 s", "0.2 s",
        "fox-1", "0.0 s", "4.0 s", "left to another worker",
    ]  # fmt: skip
    assert page.texts["summary"] == ["The timeline as a table (2 rows)"]


def test_a_cut_says_how_long_nobody_worked(tmp_path: Path, plan: Plan) -> None:
    first = make(tmp_path, plan, 0, stint("gpu-0", 0, 60), stint("gpu-0", 36_060, 36_120))
    assert render(build_manifest(plan, first)).texts["title"][1] == "10 h 00 min without work"


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [
        (0, "0.0 s", "0 s"),
        (2.54, "2.5 s", "2.5 s"),
        (15, "15.0 s", "15 s"),
        (59.96, "1 min 00 s", "1 min"),
        (60, "1 min 00 s", "1 min"),
        (200, "3 min 20 s", "3 min 20 s"),
        (3599.7, "1 h 00 min", "1 h"),
        (40_025, "11 h 07 min", "11 h 7 min 5 s"),
        (5400, "1 h 30 min", "1 h 30 min"),
        (90_000, "1 d 1 h", "25 h"),
    ],
)
def test_times_read_as_people_say_them(seconds: float, long: str, short: str) -> None:
    assert (duration(seconds), offset(seconds)) == (long, short)


@pytest.mark.parametrize(("num_bytes", "told"), [(0, "0 kB"), (949_517, "950 kB"), (4_700_000, "4.7 MB")])
def test_sizes_read_as_people_say_them(num_bytes: int, told: str) -> None:
    assert size(num_bytes) == told


def test_a_period_names_a_day_once() -> None:
    assert period(NOON, NOON + 20) == "2027-01-15 12:00:00 to 12:00:20 UTC"
    assert period(NOON, NOON + 90_000) == "2027-01-15 12:00:00 to 2027-01-16 13:00:00 UTC"
