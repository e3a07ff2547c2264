"""Numbers and times as people read them."""

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_MEGABYTE = 1_000_000


def count(number: int, noun: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """`3.2 s`, `3 min 20 s`, `1 h 05 min` or `2 d 3 h`."""
    if round(seconds, 1) < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def offset(seconds: float) -> str:
    """A mark on an axis, to the second: `0 s`, `2.5 s`, `15 s`, `1 min`, `2 h 30 s`."""
    if round(seconds, 1) < _MINUTE:
        return f"{round(seconds, 1):g} s"
    whole = round(seconds)
    parts = ((whole // _HOUR, "h"), (whole % _HOUR // _MINUTE, "min"), (whole % _MINUTE, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def size(num_bytes: int) -> str:
    """`950 kB` or `4.7 MB`."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= _MEGABYTE else f"{num_bytes / 1e3:.0f} kB"


def period(began: float, ended: float) -> str:
    """`2026-03-01 12:00:00 to 12:03:20 UTC`; both days where they differ."""
    first, last = moment(began), moment(ended)
    return f"{first.removesuffix(' UTC')} to {last.removeprefix(f'{first[:10]} ')}"


def moment(unix_seconds: float) -> str:
    """`2026-03-01 12:00:00 UTC`."""
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
