"""The values of a process's metrics, from any thread; whoever shows them reads them all at once.

One object for the process, as `logging` has: a room adds what it did where it did it, and knows nothing of who asks.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, TypeVar

from observe.metrics import Kind, Metric

__all__ = ["FIGURES", "Figures", "Histogram"]

Labels = tuple[str, ...]
L = TypeVar("L", bound=tuple[object, ...])


class Histogram(NamedTuple):
    """`counts[n]` values lay at or below `metric.bounds[n]` and above the bound before; the last lay above all."""

    counts: tuple[int, ...]
    total: float


class Figures:
    """Values by metric and labels. A figure that nobody has set yet has no value; a counter without labels is 0."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[Metric, dict[Labels, float]] = {}
        self._histograms: dict[Metric, dict[Labels, tuple[list[int], float]]] = {}

    def add(self, metric: Metric, amount: float = 1, *labels: object) -> None:
        """Let a counter grow; `labels` are the values of the metric's labels, in their order."""
        assert metric.kind is Kind.COUNTER, f"{metric.name} is no counter"
        key = _key(metric, labels)
        with self._lock:
            values = self._numbers.setdefault(metric, {})
            values[key] = values.get(key, 0) + amount

    def set(self, metric: Metric, value: float) -> None:
        """Set a gauge that has no labels."""
        self.set_all(metric, {(): value})

    def set_all(self, metric: Metric, values: Mapping[L, float]) -> None:
        """Set a gauge for these labels, and for no others any more: a partition that was given away is not shown."""
        assert metric.kind is Kind.GAUGE, f"{metric.name} is no gauge"
        told = {_key(metric, labels): value for labels, value in values.items()}
        with self._lock:
            self._numbers[metric] = told

    def observe(self, metric: Metric, value: float, *labels: object) -> None:
        """Note a value of a histogram."""
        assert metric.kind is Kind.HISTOGRAM, f"{metric.name} is no histogram"
        key = _key(metric, labels)
        with self._lock:
            found = self._histograms.setdefault(metric, {})
            counts, total = found.get(key) or ([0] * (len(metric.bounds) + 1), 0.0)
            counts[bisect_left(metric.bounds, value)] += 1
            found[key] = (counts, total + value)

    def numbers(self, metric: Metric) -> dict[Labels, float]:
        """Of a counter or gauge, by label values."""
        with self._lock:
            found = dict(self._numbers.get(metric, {}))
        return found or ({(): 0.0} if metric.kind is Kind.COUNTER and not metric.labels else {})

    def histograms(self, metric: Metric) -> Iterator[tuple[Labels, Histogram]]:
        """By label values."""
        with self._lock:
            found = {
                key: Histogram(tuple(counts), total)
                for key, (counts, total) in self._histograms.get(metric, {}).items()
            }
        yield from found.items()


def _key(metric: Metric, labels: tuple[object, ...]) -> Labels:
    assert len(labels) == len(metric.labels), f"{metric.name} has the labels {metric.labels}, not {labels}"
    return tuple(str(label) for label in labels)


FIGURES: Final = Figures()
"""This process's."""
