"""Encoder groups that compete for the same cards start one after the other."""

from typing import Any

import pytest
from tests.builders import build_resource
from tests.cluster.child_objects import NOW

from videogen_api.naming import Stage
from videogen_operator.cluster.gate import Cards, EncoderGate, cards_of
from videogen_operator.cluster.plans import FrozenPlan
from videogen_operator.cluster.resources import Key
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.observed import (
    GroupState,
    Observed,
    ObservedGroup,
    ObservedProcess,
    Waiting,
    WaitingReason,
)
from videogen_operator.core.planner import make_plan

NVIDIA = Cards("nvidia.com/gpu", frozenset())
AMD = Cards("amd.com/gpu", frozenset())
FOX, OWL, HEN = (Key("team", name) for name in ("fox", "owl", "hen"))
STORE = {"url": "s3://videos/tests"}
MODEL = {"name": "open-sora-v1.2-tiny", "weights": "builtin"}


def encoder(
    *, size: int = 4, started: int = 0, state: GroupState = GroupState.RUNNING, waiting: Waiting | None = None
) -> Observed:
    processes = tuple(ObservedProcess(index, f"enc-{index}", started=index < started) for index in range(size))
    return Observed(
        (ObservedGroup("5f1c", Stage.ENCODE, None, 1, 1, state, processes, expected=size, waiting=waiting),)
    )


HALF_STARTED = encoder(started=2)
QUEUED = encoder(waiting=Waiting(WaitingReason.QUEUED, "not admitted", NOW))


def build_gate(*keys: Key) -> EncoderGate:
    """One that has looked at these resources, none of which has children."""
    gate = EncoderGate()
    gate.begin(keys)
    for key in keys:
        gate.look(key, NVIDIA, Observed())
    return gate


def cards(defaults: dict[str, Any] | None = None, **spec: Any) -> Cards | None:
    resource = build_resource(**{"storage": STORE, "model": MODEL, **spec})
    values = Defaults.model_validate(defaults or {}, strict=False)
    return cards_of(resource.spec, FrozenPlan(make_plan(resource, values), 1, values))


def test_while_one_group_is_half_started_no_other_may_start_on_those_cards() -> None:
    gate = build_gate(FOX, OWL)

    assert gate.look(FOX, NVIDIA, HALF_STARTED) is True
    assert gate.look(OWL, NVIDIA, Observed()) is False
    assert gate.take(OWL, NVIDIA) is False
    assert gate.look(OWL, AMD, Observed()) is True


@pytest.mark.parametrize(
    "observed",
    [encoder(started=4), encoder(started=2, state=GroupState.ENDING), Observed(), QUEUED, encoder(size=1)],
    ids=["it has started", "it was deleted", "it is gone", "it waits in a queue", "it is one process"],
)
def test_others_may_start_again_when(observed: Observed) -> None:
    gate = build_gate(FOX, OWL)
    gate.look(FOX, NVIDIA, HALF_STARTED)

    gate.look(FOX, NVIDIA, observed)

    assert gate.look(OWL, NVIDIA, Observed()) is True


def test_of_two_that_may_start_only_one_takes_the_gate() -> None:
    gate = build_gate(FOX, OWL)

    assert [gate.look(key, NVIDIA, Observed()) for key in (FOX, OWL)] == [True, True]
    assert [gate.take(key, NVIDIA) for key in (FOX, OWL, FOX)] == [True, False, True]


def test_a_finished_holder_leaves_the_gate_open() -> None:
    gate = build_gate(FOX, OWL)
    gate.take(FOX, NVIDIA)

    gate.forget(FOX)

    assert gate.take(OWL, NVIDIA) is True


def test_a_holder_that_is_sent_to_other_cards_leaves_the_gate_of_its_old_ones_open() -> None:
    gate = build_gate(FOX, OWL)
    gate.look(FOX, NVIDIA, HALF_STARTED)

    assert gate.look(FOX, AMD, encoder(state=GroupState.ENDING)) is True
    assert gate.take(FOX, AMD) is True

    assert gate.look(OWL, NVIDIA, Observed()) is True
    assert gate.look(OWL, AMD, Observed()) is False


def test_after_a_restart_nobody_starts_before_everybody_has_been_looked_at() -> None:
    gate = EncoderGate()
    gate.begin((FOX, OWL, HEN))

    assert gate.look(FOX, NVIDIA, Observed()) is False
    gate.forget(HEN)
    assert gate.look(FOX, NVIDIA, Observed()) is False
    assert gate.look(OWL, NVIDIA, HALF_STARTED) is True
    assert gate.look(FOX, NVIDIA, Observed()) is False
    assert gate.look(OWL, NVIDIA, encoder(started=4)) is True
    assert gate.look(FOX, NVIDIA, Observed()) is True


def test_a_resource_that_nobody_can_look_at_does_not_keep_the_others_from_starting() -> None:
    gate = EncoderGate()
    gate.begin((FOX, OWL))

    gate.pass_over(OWL)

    assert gate.look(FOX, NVIDIA, Observed()) is True


def test_a_group_that_the_cluster_refused_holds_nobody_back() -> None:
    gate = build_gate(FOX, OWL)
    assert gate.take(FOX, NVIDIA) is True

    gate.refused(FOX, Observed())

    assert gate.take(OWL, NVIDIA) is True


def test_a_half_started_group_keeps_the_gate_whatever_else_the_cluster_refuses() -> None:
    gate = build_gate(FOX, OWL)
    assert gate.look(FOX, NVIDIA, HALF_STARTED) is True

    gate.refused(FOX, HALF_STARTED)

    assert gate.take(OWL, NVIDIA) is False


def test_an_encoder_without_cards_to_wait_for_may_start_at_any_time_and_holds_nobody_back() -> None:
    gate = EncoderGate()
    gate.begin((FOX, OWL))

    assert gate.look(FOX, None, HALF_STARTED) is True
    assert gate.look(OWL, NVIDIA, Observed()) is True


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"encoder": {"shards": 4}}, NVIDIA),
        ({"encoder": {"shards": 4, "gpu": {"resource": "amd.com/gpu"}}}, AMD),
        ({"encoder": {"shards": 4}, "runners": [{"name": "a", "gpu": {"resource": "amd.com/gpu"}}]}, AMD),
        (
            {
                "encoder": {"shards": 4},
                "runners": [{"name": "c", "gpu": {"count": 0}}, {"name": "a", "gpu": {"resource": "amd.com/gpu"}}],
            },
            AMD,
        ),
        (
            {"encoder": {"shards": 4, "pod": {"nodeSelector": {"zone": "a"}}}},
            Cards("nvidia.com/gpu", frozenset({("zone", "a")})),
        ),
        ({"encoder": {"shards": 1}}, None),
        ({"encoder": {"shards": 4, "gpu": {"count": 0}}}, None),
        ({"encoder": {"shards": 4}, "runners": [{"name": "c", "gpu": {"count": 0}}]}, None),
    ],
)
def test_what_the_shards_of_an_encoder_compete_for(spec: dict[str, Any], expected: Cards | None) -> None:
    assert cards(**spec) == expected


def test_the_cards_of_the_clusters_defaults_count_where_a_manifest_names_none() -> None:
    pools = {"runners": [{"name": "a", "gpu": {"resource": "amd.com/gpu"}}]}
    assert cards(pools, encoder={"shards": 4}) == AMD
    assert cards({"encoder": {"gpu": {"resource": "amd.com/gpu"}}}, encoder={"shards": 4}) == AMD
