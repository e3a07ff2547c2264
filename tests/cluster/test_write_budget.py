"""What the life of a resource costs the API server, counted by a proxy in front of it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.lives import SPEC, Life, World

from videogen_api.status import Phase

WRITES_WITH_ONE_POOL = 14
WRITES_OF_A_FURTHER_POOL = 2


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(control_plane, tmp_path_factory.mktemp("budget")) as world:
        yield world


def life_with_pools(number: int) -> Life:
    pools: list[dict[str, Any]] = [{"name": f"pool-{index}", "gpu": {"count": 0}} for index in range(number)]
    return Life(f"budget-{number}", {**SPEC, "prompts": [{"text": "a red fox", "samples": 8}], "runners": pools})


@pytest.mark.parametrize("num_pools", [1, 2, 4])
def test_a_life_takes_few_writes(world: World, num_pools: int) -> None:
    with world.place(life_with_pools(num_pools)) as place:
        place.live()
        assert place.settle().phase == Phase.SUCCEEDED

        writes = Counter(f"{write.method} {write.what}: {write.code}" for write in place.writes)
        assert writes.total() <= WRITES_WITH_ONE_POOL + WRITES_OF_A_FURTHER_POOL * (num_pools - 1), writes


def test_a_finished_resource_costs_nothing_over_a_restart_of_the_operator(world: World) -> None:
    with world.place(life_with_pools(1)) as place:
        place.live()
        outcome = place.settle()
        num_before = len(place.writes)
        place.kill()

        place.start_operator()
        # Another one's life shows that the new operator is at work.
        place.apply("owl")
        place.wait_for_end("owl")

        assert [write for write in place.writes[num_before:] if "fox" in write.path] == []
        assert place.settle() == outcome
