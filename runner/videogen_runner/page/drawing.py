"""The timeline as SVG, and the same as a table for those who do not see it.

Places along the axis are percentages, so that the drawing fills any width and its words keep their size.
"""

from collections.abc import Iterator

from videogen_api.records import Manifest
from videogen_runner.page.cards import card_id
from videogen_runner.page.html import Html, tag
from videogen_runner.page.timeline import Axis, Bar, Lane, Outcome, build_axis, build_lanes
from videogen_runner.page.words import count, duration, period

# Pixels.
_AXIS_HEIGHT = 28
_LANE_HEIGHT = 64
_NAME_BASELINE = 16
_BAR_TOP = 24
_BAR_HEIGHT = 32
_STAGES_TOP = 22
_STAGES_HEIGHT = _BAR_HEIGHT - _STAGES_TOP

_LEGEND = (
    ("encode", "VAE encode of references"),
    ("denoise", "denoise"),
    ("decode", "VAE decode"),
    ("write", "write the file"),
    ("other", "load weights, checkpoints"),
    ("left", "left to another worker"),
    ("failed", "failed"),
)


def render_timeline(manifest: Manifest) -> Html:
    """The section with drawing, legend and table."""
    lanes = build_lanes(manifest)
    heading = tag("h2", "Timeline", id="timeline")
    if not lanes:
        return tag("section", heading, tag("p", "No times are recorded for the clips of this run."))
    axis = build_axis(lanes)
    bars = sum(len(lane.bars) for lane in lanes)
    told = (
        f"{count(len(lanes), 'worker')}, {duration(axis.busy_seconds)}: {period(axis.began, axis.ended)}, "
        "by the workers' clocks."
    )
    return tag(
        "section",
        heading,
        tag("p", told, id="timeline-about", class_="faint"),
        _drawing(lanes, axis),
        _legend(lanes),
        tag("details", tag("summary", f"The timeline as a table ({bars} rows)"), _table(lanes, axis)),
        aria_labelledby="timeline",
    )


def _drawing(lanes: tuple[Lane, ...], axis: Axis) -> Html:
    height = _AXIS_HEIGHT + _LANE_HEIGHT * len(lanes)
    return tag(
        "svg",
        *_ticks(axis, height),
        *_cuts(axis, height),
        *(_lane(lane, axis, _AXIS_HEIGHT + _LANE_HEIGHT * row) for row, lane in enumerate(lanes)),
        width="100%", height=height, role="group", aria_labelledby="timeline", aria_describedby="timeline-about",
    )  # fmt: skip


def _ticks(axis: Axis, height: int) -> Iterator[Html]:
    for tick in axis.ticks():
        x = _percent(tick.place)
        yield tag("line", x1=x, x2=x, y1=_AXIS_HEIGHT - 8, y2=height, class_="tick")
        yield tag("text", tick.label, x=x, y=_NAME_BASELINE - 2, text_anchor=tick.anchor, class_="faint")


def _cuts(axis: Axis, height: int) -> Iterator[Html]:
    for before, after in zip(axis.spans, axis.spans[1:], strict=False):
        left, right = before.left + before.width, after.left
        yield tag(
            "rect",
            tag("title", f"{duration(after.began - before.ended)} without work"),
            x=_percent(left), y=_AXIS_HEIGHT, width=_percent(right - left), height=height - _AXIS_HEIGHT, class_="cut",
        )  # fmt: skip


def _lane(lane: Lane, axis: Axis, top: int) -> Html:
    spent = sum(bar.seconds for bar in lane.bars)
    made = sum(bar.outcome is Outcome.FINISHED for bar in lane.bars)
    about = tag("tspan", f"  {count(made, 'clip')}, {duration(spent)}", class_="faint")
    name = tag("text", lane.runner, about, x=0, y=top + _NAME_BASELINE)
    return tag("g", name, *(_bar(bar, axis, top + _BAR_TOP) for bar in lane.bars))


def _bar(bar: Bar, axis: Axis, top: int) -> Html:
    left, right = axis.place(bar.stint.began), axis.place(bar.stint.began + bar.seconds)
    told = _told(bar, axis)
    words = tag("text", bar.clip, x=5, y=_STAGES_TOP - 6)
    inside = tag(
        "svg",
        tag("title", told),
        tag("rect", width="100%", height=_BAR_HEIGHT, rx=3, class_=f"bar {_kind(bar)}"),
        *_stages(bar),
        words,
        x=_percent(left), y=top, width=_percent(max(right - left, 0.002)), height=_BAR_HEIGHT, class_="stint",
    )  # fmt: skip
    return tag("a", inside, href=f"#{card_id(bar.position)}", aria_label=told)


def _kind(bar: Bar) -> str:
    return {Outcome.FINISHED: "other", Outcome.LEFT: "left", Outcome.FAILED: "failed"}[bar.outcome]


def _stages(bar: Bar) -> Iterator[Html]:
    """One after the other up to the bar's end: what no stage accounts for, above all loading, came before."""
    total = sum(stage.seconds for stage in bar.stages)
    scale = 1.0 / max(bar.seconds, total) if total else 0.0
    left = 1.0 - total * scale
    for stage in bar.stages:
        width = stage.seconds * scale
        yield tag(
            "rect", x=_percent(left), y=_STAGES_TOP, width=_percent(width), height=_STAGES_HEIGHT,
            class_=stage.name.rpartition(" ")[2],
        )  # fmt: skip
        left += width


def _told(bar: Bar, axis: Axis) -> str:
    stages = "".join(f", {stage.name} {duration(stage.seconds)}" for stage in bar.stages)
    times = f"{duration(bar.stint.began - axis.began)} to {_end(bar, axis)}"
    return f"{bar.clip}: {bar.outcome} by {bar.stint.runner}, {times}{stages}"


def _end(bar: Bar, axis: Axis) -> str:
    return duration(bar.stint.began + bar.seconds - axis.began)


def _legend(lanes: tuple[Lane, ...]) -> Html:
    """Only what is drawn."""
    drawn = {_kind(bar) for lane in lanes for bar in lane.bars}
    drawn |= {stage.name.rpartition(" ")[2] for lane in lanes for bar in lane.bars for stage in bar.stages}
    square = {"width": 12, "height": 12}
    entries = (
        tag("li", tag("svg", tag("rect", class_=kind, **square), **square, aria_hidden="true"), name)
        for kind, name in _LEGEND
        if kind in drawn
    )
    return tag("ul", *entries, class_="legend")


def _table(lanes: tuple[Lane, ...], axis: Axis) -> Html:
    names = ("Worker", "Clip", "From", "To", "Outcome", "VAE encode", "denoise", "VAE decode", "write")
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))
    rows = (_row(lane.runner, bar, axis, names[5:]) for lane in lanes for bar in lane.bars)
    return tag(
        "div", tag("table", head, tag("tbody", *rows)),
        class_="scroll", tabindex=0, role="region", aria_label="The timeline as a table",
    )  # fmt: skip


def _row(runner: str, bar: Bar, axis: Axis, stages: tuple[str, ...]) -> Html:
    seconds = {stage.name: duration(stage.seconds) for stage in bar.stages}
    cells = (bar.clip, duration(bar.stint.began - axis.began), _end(bar, axis), bar.outcome.value)
    return tag(
        "tr", tag("th", runner, scope="row"), *(tag("td", cell) for cell in cells),
        *(tag("td", seconds.get(stage, "")) for stage in stages),
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"
