"""Numbers and times as people read them."""

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


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
    """A mark on an axis: `0 s`, `2.5 s`, `15 s`, `1 min`, `1 min 30 s`, `2 h`."""
    if round(seconds, 1) < _MINUTE:
        return f"{round(seconds, 1):g} s"
    return duration(seconds).removesuffix(" 00 s").removesuffix(" 00 min")


def period(began: float, ended: float) -> str:
    """`2026-03-01 12:00:00 to 12:03:20 UTC`; both days where they differ."""
    first, last = moment(began), moment(ended)
    return f"{first.removesuffix(' UTC')} to {last.removeprefix(f'{first[:10]} ')}"


def moment(unix_seconds: float) -> str:
    """`2026-03-01 12:00:00 UTC`."""
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
