"""What the operator measures of itself, in Prometheus's text format.

Written by hand as in the runner (videogen_runner/progress.py), so that the small image holds nothing for it. No label
names an object: the number of series must not grow with the number of resources. The format:
https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

PREFIX = "videogen_operator_"

_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Labels = tuple[str, ...]
"""Values, in the order of the family's label names."""


class Counter:
    """Counts by label values. Safe to use from many threads."""

    def __init__(self, name: str, text: str, label_names: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._label_names = label_names
        self._lock = threading.Lock()
        self._counts: dict[Labels, int] = {}

    def add(self, *labels: str) -> None:
        with self._lock:
            self._counts[labels] = self._counts.get(labels, 0) + 1

    def lines(self) -> Iterator[str]:
        with self._lock:
            counts = sorted(self._counts.items())
        yield from _family(self._name, self._text, "counter")
        for labels, count in counts:
            yield _sample(self._name, zip(self._label_names, labels, strict=True), count)


class Histogram:
    """Seconds by label values. Safe to use from many threads."""

    def __init__(self, name: str, text: str, label_names: Sequence[str] = ()) -> None:
        self._name = name
        self._text = text
        self._label_names = label_names
        self._lock = threading.Lock()
        self._counts: dict[Labels, list[int]] = {}
        """How many fell into each bucket; the last one has no upper bound."""
        self._sums: dict[Labels, float] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        with self._lock:
            counts = self._counts.setdefault(labels, [0] * (len(_SECONDS_BUCKETS) + 1))
            counts[bisect_left(_SECONDS_BUCKETS, seconds)] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + seconds

    def lines(self) -> Iterator[str]:
        with self._lock:
            observed = sorted((labels, tuple(counts), self._sums[labels]) for labels, counts in self._counts.items())
        yield from _family(self._name, self._text, "histogram")
        for labels, counts, total in observed:
            pairs = tuple(zip(self._label_names, labels, strict=True))
            below = 0
            for bound, count in zip((*map(repr, _SECONDS_BUCKETS), "+Inf"), counts, strict=True):
                below += count
                yield _sample(f"{self._name}_bucket", (*pairs, ("le", bound)), below)
            yield _sample(f"{self._name}_sum", pairs, total)
            yield _sample(f"{self._name}_count", pairs, below)


class Reading:
    """A value that is read when it is asked for: a gauge, or a counter that somebody else keeps."""

    def __init__(
        self, name: str, text: str, read: Callable[[], Mapping[Labels, float]], label_names: Sequence[str] = ()
    ) -> None:
        self._name = name
        self._text = text
        self._read = read
        self._label_names = label_names

    def lines(self) -> Iterator[str]:
        yield from _family(self._name, self._text, "counter" if self._name.endswith("_total") else "gauge")
        for labels, value in sorted(self._read().items()):
            yield _sample(self._name, zip(self._label_names, labels, strict=True), value)


class OperatorMetrics:
    """Everything that is counted where it happens; `readings` are added by whoever knows where to read."""

    def __init__(self) -> None:
        self._passes = Counter("passes_total", "Passes over one resource, by how they ended.", ["result"])
        self._pass_seconds = Histogram("pass_seconds", "Seconds that a pass took.")
        self._calls = Counter(
            "api_calls_total", "Calls of the API server; code 0: no answer.", ["verb", "resource", "code"]
        )
        self._call_seconds = Histogram("api_call_seconds", "Seconds that a call of the API server took.", ["verb"])
        self.readings: list[Reading] = []

    def record_pass(self, result: str, seconds: float) -> None:
        self._passes.add(result)
        self._pass_seconds.observe(seconds)

    def record_call(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Fits connection.CallRecorder."""
        self._calls.add(verb, resource, str(code))
        self._call_seconds.observe(seconds, verb)

    def render(self) -> str:
        families: tuple[Counter | Histogram | Reading, ...] = (
            self._passes,
            self._pass_seconds,
            self._calls,
            self._call_seconds,
            *self.readings,
        )
        return "".join(f"{line}\n" for family in families for line in family.lines())


def _family(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}{name} {text}"
    yield f"# TYPE {PREFIX}{name} {kind}"


def _sample(name: str, pairs: Iterable[tuple[str, str]], value: float) -> str:
    labels = ",".join(f'{key}="{_escape(text)}"' for key, text in pairs)
    return f"{PREFIX}{name}{f'{{{labels}}}' if labels else ''} {float(value)!r}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
