"""Plain text in columns: for a terminal of any kind, a log, or a diff."""

from collections.abc import Sequence

_GAP = "  "


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns under a header, as wide as their widest cell; no line ends in spaces."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def render_fields(fields: Sequence[tuple[str, str]]) -> str:
    """Names and values, the values below each other."""
    width = max(len(name) for name, _ in fields)
    return "\n".join(f"{name.ljust(width)}{_GAP}{value}" for name, value in fields)


def format_bytes(count: int) -> str:
    """In MiB below a GiB, in GiB above."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def format_seconds(seconds: float) -> str:
    """Three digits, two units at most: 35 ms, 12.3 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_flops(flops: float) -> str:
    """Floating-point operations with the unit that gives them few digits."""
    for size, unit in ((1e15, "PFLOP"), (1e12, "TFLOP")):
        if flops >= size:
            return f"{flops / size:,.2f} {unit}"
    return f"{flops / 1e9:.2f} GFLOP"
