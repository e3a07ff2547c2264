"""The live view on a terminal, drawn with rich."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_api.status import VideoGenerationStatus
from videogen_operator.cli.view import View, describe_runner, describe_time_left, stage_marks

_STYLES = {"done": "green", "now": "bold cyan", "next": "dim"}
_MARKS = {"done": "✓", "now": "▸", "next": "·"}


class _LiveView:
    def __init__(self, name: str, live: Live) -> None:
        self._name = name
        self._live = live

    def show(self, status: VideoGenerationStatus) -> None:
        self._live.update(draw(self._name, status, datetime.now(UTC)), refresh=True)


@contextlib.contextmanager
def open_live_view(resource: VideoGeneration, plan: Plan) -> Iterator[View]:
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield _LiveView(f"{resource.metadata.name} ({len(plan.work)} clips)", live)


def draw(name: str, status: VideoGenerationStatus, now: datetime) -> Group:
    """Stages, bar, message and one row per runner."""
    stages = Text(f"{name}  ", style="bold")
    for stage, mark in stage_marks(status.phase):
        stages.append(f"{_MARKS[mark]} {stage}  ", style=_STYLES[mark])
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=100, completed=status.progress, width=40),
        f"{status.progress} %{describe_time_left(status, now)}",
    )
    runners = Table.grid(padding=(0, 2))
    for runner in status.runners:
        runners.add_row(*describe_runner(runner))
    return Group(stages, bar, Text(status.message or ""), runners)
