"""Settings of every test run: some before any test imports torch or Triton, one for how workers share the tests."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

# Fixtures were recorded in numbers that this mode gives on every x86-64 processor; tests/parity/check.py says more.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")

# Without a card Triton's kernels run in its interpreter. It looks when it is imported, and much imports it.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

# How long an example takes depends on what else the machine does; speed is measured in benchmarks/.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

REAL_NODE = "tests/cluster/test_real_"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m real_node` and `-m "not real_node"`: a node's pods should not have to share the machine with other tests."""
    for item in items:
        if item.nodeid.startswith(REAL_NODE):
            item.add_marker(pytest.mark.real_node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling | None":
    """`--dist loadscope`, but one worker runs all tests of a real node, so that only one is started."""
    from xdist.scheduler import LoadScopeScheduling

    class OneRealNode(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return REAL_NODE if nodeid.startswith(REAL_NODE) else super()._split_scope(nodeid)

    return OneRealNode(config, log) if config.getoption("dist") == "loadscope" else None
