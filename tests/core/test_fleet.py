"""The simulated fleet: work is conserved, no clip is made twice, and no run beats what is possible."""

from itertools import pairwise
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import COST, NOW, build_plan, build_pool, build_resource

from videogen_api.balancing import OpenClip, Worker, choose
from videogen_api.naming import Stage
from videogen_api.plan import Plan, Segment
from videogen_api.spec import Strategy
from videogen_api.status import Phase
from videogen_operator.core.fleet import Fleet, Scenario, Span
from videogen_operator.core.simulate import Moment, simulate
from videogen_operator.core.totals import least_seconds
from videogen_operator.core.workload import Runner, Workload


def plan_of(
    *pools: tuple[str, int, float], prompts: int, samples: int = 1, strategy: Strategy = Strategy.SEQUENTIAL
) -> Plan:
    """Pools by name, runners, and seconds that they take for a clip; encoding takes 10 s."""
    plan = build_plan()
    first = plan.prompts[0]
    several = tuple(
        first.model_copy(
            update={"name": f"p{n}", "samples": samples, "text": f"t{n}", "segments": (Segment(loop=0, text=f"t{n}"),)}
        )
        for n in range(prompts)
    )
    cards = tuple(
        build_pool(name, runners).model_copy(update={"cost": COST.model_copy(update={"seconds": seconds})})
        for name, runners, seconds in pools
    )
    changed = plan.model_copy(update={"prompts": several, "pools": cards, "strategy": strategy})
    # Without what the plan of one prompt has computed already.
    return Plan.from_bytes(changed.to_bytes())


def play(plan: Plan, scenario: Scenario) -> tuple[Fleet, tuple[Moment, ...]]:
    fleet = Fleet(plan, scenario, NOW)
    return fleet, simulate(build_resource(), plan, fleet)


def seconds_of(moments: tuple[Moment, ...]) -> float:
    return (moments[-1].time - NOW).total_seconds()


def worked(spans: list[Span], speeds: dict[str, float]) -> float:
    """Clips' worth of kept work, `speeds` in clips a second by pool."""
    return sum(
        (span.end - span.begin) * span.kept * speeds[span.card.rpartition("-")[0]]
        for span in spans
        if span.label != Stage.ENCODE
    )


@settings(max_examples=60, deadline=None)
@given(
    pools=st.lists(st.tuples(st.integers(1, 6), st.integers(5, 400)), min_size=1, max_size=3),
    prompts=st.integers(1, 12),
    samples=st.integers(1, 12),
    losses=st.sampled_from([0.0, 0.05, 0.9, 0.999]),
    start_seconds=st.sampled_from([0.0, 30.0]),
    speed=st.sampled_from([0.25, 1.0, 3.0]),
    strategy=st.sampled_from([Strategy.SEQUENTIAL, Strategy.OVERLAPPED]),
    seed=st.integers(0, 3),
)
def test_every_clip_is_made_once_nobody_makes_two_at_a_time_and_no_work_is_gained_or_lost(
    pools: list[tuple[int, int]],
    prompts: int,
    samples: int,
    losses: float,
    start_seconds: float,
    speed: float,
    strategy: Strategy,
    seed: int,
) -> None:
    named = [(f"pool{n}", runners, float(seconds)) for n, (runners, seconds) in enumerate(pools)]
    plan = plan_of(*named, prompts=prompts, samples=samples, strategy=strategy)
    scenario = Scenario(losses, start_seconds, {"pool0": speed}, seed)

    fleet, moments = play(plan, scenario)

    assert (moments[-1].phase, fleet.done) == (Phase.SUCCEEDED, len(plan.work))
    rates = {name: scenario.speeds.get(name, 1.0) / seconds for name, _, seconds in named}
    assert worked(fleet.spans, rates) == pytest.approx(len(plan.work))
    assert seconds_of(moments) >= least_seconds(plan, scenario.speeds) - 1e-5
    cards: dict[str, list[Span]] = {}
    for span in fleet.spans:
        cards.setdefault(span.card, []).append(span)
    for spans in cards.values():
        in_order = sorted(spans, key=lambda span: span.begin)
        assert all(before.end <= after.begin for before, after in pairwise(in_order))
    if not losses:
        clips = [span.label for span in fleet.spans if span.label != Stage.ENCODE]
        assert sorted(clips) == sorted(clip.name for clip in plan.work)


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    plan = plan_of(("a", 20, 600.0), prompts=50)
    runs = [play(plan, Scenario(losses_per_hour=0.5, seed=seed))[0] for seed in (1, 1, 2)]
    assert runs[0].spans == runs[1].spans
    assert runs[0].spans != runs[2].spans
    assert runs[0].losses > 0


def test_a_slow_card_takes_no_long_clip_when_a_fast_one_will_be_free_sooner() -> None:
    fleet, moments = play(plan_of(("slow", 1, 100.0), ("fast", 1, 30.0), prompts=4), Scenario())
    assert seconds_of(moments) == 10 + 100
    assert sorted((span.card, span.begin) for span in fleet.spans if span.label != Stage.ENCODE) == [
        ("fast-0", 10),
        ("fast-0", 40),
        ("fast-0", 70),
        ("slow-0", 10),
    ]


def test_overlapping_runners_take_a_clip_as_soon_as_it_has_its_embedding() -> None:
    plan = plan_of(("a", 1, 2.0), prompts=5, strategy=Strategy.OVERLAPPED)
    fleet, moments = play(plan, Scenario())
    assert [(span.begin, span.end) for span in fleet.spans if span.label != Stage.ENCODE] == [
        (2, 4), (4, 6), (6, 8), (8, 10), (10, 12),
    ]  # fmt: skip
    assert seconds_of(moments) == 12


@settings(max_examples=200, deadline=None)
@given(
    slow=st.integers(1, 60),
    held=st.lists(st.tuples(st.integers(1, 60), st.floats(0, 100)), max_size=6),
    clips=st.integers(65, 90),
)
def test_counting_gives_the_answer_of_the_rule(slow: int, held: list[tuple[int, float]], clips: int) -> None:
    real = {"mine": float(slow)} | {f"p{n}": float(each) for n, (each, _) in enumerate(held)}
    # While all are alike, everybody takes a clip.
    seconds, paces = dict.fromkeys(real, 1.0), dict.fromkeys(real, 1.0)
    workload = Workload(seconds, paces, [0] * (clips + len(held)), encoded=1)
    for n, (_, free_in) in enumerate(held):
        other = Runner(f"p{n}", 0)
        assert workload.take(other, 0.0)
        other.ends = free_in
    seconds.update(real)
    open_clips = [OpenClip(str(n), seconds) for n in range(clips)]
    others = [Worker(f"p{n}", free_in=free_in) for n, (_, free_in) in enumerate(held)]
    expected = choose(Worker("mine"), open_clips, others) is not None
    assert workload.take(Runner("mine", 0), 0.0) is expected


def test_a_thousand_runners_and_ten_thousand_clips_take_seconds_to_play() -> None:
    pools = (("t4", 500, 600.0), ("l4", 300, 330.0), ("a100", 150, 64.0), ("h100", 50, 30.0))
    plan = plan_of(*pools, prompts=1000, samples=10)
    begun = process_time()
    fleet, moments = play(plan, Scenario(losses_per_hour=0.05, start_seconds=60.0))
    assert process_time() - begun < 20
    assert (fleet.done, moments[-1].phase) == (10_000, Phase.SUCCEEDED)
    assert fleet.losses > 10
    assert seconds_of(moments) < 1.15 * (least_seconds(plan, {}) + 4 * 60)
