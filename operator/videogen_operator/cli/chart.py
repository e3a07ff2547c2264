"""A simulated run as text: what each card did when, and how much of its time was work."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from videogen_api.naming import Stage, runner_name
from videogen_api.plan import Plan
from videogen_operator.cli.tables import format_seconds, render_table
from videogen_operator.core.fleet import Span, encoder_cards

_COLUMNS = 64
_MOST_ROWS = 24
"""With more cards than that, a row is a pool."""

_ENCODES, _LOST, _REST = "e", "x", "·"
_CLIPS = "█▓"
"""Clips of one card in turn, so that one can be told from the next."""
_SHARES = "·▁▂▃▄▅▆▇█"
"""How many of a pool's cards are at work."""


def render_chart(plan: Plan, spans: Sequence[Span], seconds: float) -> str:
    """A row for each card, or for each pool where there are many; `seconds` is the length of the run."""
    of_card: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        of_card[span.card].append(span)
    cards = cards_of(plan)
    names = [name for pool in cards.values() for name in pool]
    if len(names) <= _MOST_ROWS:
        rows = [[name, _draw_card(of_card[name], seconds), share(of_card[name], seconds)] for name in names]
        legend = f"{_ENCODES} encodes, {_CLIPS[0]} and {_CLIPS[1]} clips in turn, {_LOST} pod lost, {_REST} at rest"
    else:
        rows = []
        for pool, members in cards.items():
            work = [of_card[name] for name in members]
            rows.append([f"{pool} ({len(members)})", _draw_pool(work, seconds), _share_of_pool(work, seconds)])
        legend = f"{_SHARES}: none to all of a pool's cards at work"
    scale = f"0{format_seconds(seconds).rjust(_COLUMNS - 1)}"
    return f"{render_table(['CARD', scale, 'WORK'], rows)}\n{legend}"


def cards_of(plan: Plan) -> dict[str, list[str]]:
    """The names of all cards by pool; the encoder's own ones are a pool too."""
    pools = {
        pool.name: [runner_name(pool.name, index) for index in range(pool.replicas)]
        for pool in plan.pools
        if pool.replicas
    }
    shared = {name for names in pools.values() for name in names}
    own = [name for name in encoder_cards(plan) if name not in shared]
    return ({"encoder": own} if own else {}) | pools


def share(spans: Iterable[Span], seconds: float) -> str:
    """How much of the run a card has worked, without what was lost."""
    return _percent(_worked(spans), seconds)


def _share_of_pool(cards: Sequence[Sequence[Span]], seconds: float) -> str:
    worked = [_worked(spans) for spans in cards]
    mean = _percent(sum(worked), seconds * len(cards))
    return f"{mean} ({_percent(min(worked), seconds)} to {_percent(max(worked), seconds)})"


def _worked(spans: Iterable[Span]) -> float:
    return sum((span.end - span.begin) * span.kept for span in spans)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def _draw_card(spans: Sequence[Span], seconds: float) -> str:
    cells = [_REST] * _COLUMNS
    clips = 0
    for span in sorted(spans, key=lambda span: span.begin):
        if span.label == Stage.ENCODE:
            mark = _ENCODES
        else:
            mark = _CLIPS[clips % len(_CLIPS)]
            clips += 1
        first = min(_COLUMNS - 1, _column(span.begin, seconds))
        last = max(first, _column(span.end, seconds) - 1)
        cells[first : last + 1] = mark * (last + 1 - first)
        if span.kept < 1:
            cells[last] = _LOST
    return "".join(cells)


def _column(time: float, seconds: float) -> int:
    return round(_COLUMNS * time / seconds)


def _draw_pool(cards: Sequence[Sequence[Span]], seconds: float) -> str:
    """The share of card time in each column that was work."""
    width = seconds / _COLUMNS
    busy = [0.0] * _COLUMNS
    for spans in cards:
        for span in spans:
            for column in range(int(span.begin / width), min(_COLUMNS, int(span.end / width) + 1)):
                begin, end = max(span.begin, column * width), min(span.end, (column + 1) * width)
                busy[column] += max(0.0, end - begin)
    most = len(_SHARES) - 1
    levels = [min(most, round(most * seconds_busy / (width * len(cards)))) for seconds_busy in busy]
    return "".join(
        _SHARES[level if level or not seconds_busy else 1] for level, seconds_busy in zip(levels, busy, strict=True)
    )
