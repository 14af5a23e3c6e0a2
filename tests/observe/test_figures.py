"""Metrics: declared once, with a name that Prometheus takes, and their values safe from any thread."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path

import pytest

from observe.figures import Figures
from observe.metrics import METRICS, Kind, Metric, Role

ROOT = Path(__file__).parents[2]
COUNT = Metric("meterlog_tests_total", Kind.COUNTER, Role.WORKER, "Tests.", ("outcome",))
PLAIN = Metric("meterlog_plain_total", Kind.COUNTER, Role.WORKER, "Plain.")
GAUGE = Metric("meterlog_lag", Kind.GAUGE, Role.WORKER, "Lag.", ("partition",))
TIME = Metric("meterlog_time_seconds", Kind.HISTOGRAM, Role.WORKER, "Time.", (), (0.1, 1.0))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_declared_metric_is_well_formed(metric: Metric) -> None:
    assert re.fullmatch(r"meterlog(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.bounds) == sorted(metric.bounds)
    assert metric.meaning.endswith(".")
    room = {Role.ANY: "", Role.CLICKHOUSE_SINK: "sink_clickhouse_", Role.STRIPE_SINK: "sink_stripe_"}
    assert metric.name.startswith(f"meterlog_{room.get(metric.role, metric.role + '_')}")


def test_a_name_is_declared_once() -> None:
    assert [name for name, count in Counter(metric.name for metric in METRICS).items() if count > 1] == []


def test_no_room_spells_a_metric_s_name() -> None:
    rooms = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests", "bench")]
    files = [file for room in rooms for file in room.rglob("*.py") if file != ROOT / "observe" / "metrics.py"]
    names = re.compile("|".join(metric.name for metric in METRICS))
    assert [file.name for file in files if names.search(file.read_text())] == []


def test_every_declared_metric_is_used_by_a_room() -> None:
    """That it is set, too, when a stack runs: tests/faults/test_watch.py."""
    import observe.metrics

    declared = [name for name, value in vars(observe.metrics).items() if isinstance(value, Metric)]
    rooms = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests", "bench")]
    text = "\n".join(file.read_text() for room in rooms for file in room.rglob("*.py") if file.name != "metrics.py")
    assert [name for name in declared if not re.search(rf"\b{name}\b", text)] == []


def test_figures_are_added_set_and_observed() -> None:
    figures = Figures()
    figures.add(COUNT, 2, "good")
    figures.add(COUNT, 1, "good")
    figures.set_all(GAUGE, {(1,): 5, (2,): 6})
    figures.set_all(GAUGE, {(2,): 7})
    for value in (0.05, 0.1, 0.5, 3.0):
        figures.observe(TIME, value)
    assert figures.numbers(COUNT) == {("good",): 3}
    assert figures.numbers(GAUGE) == {("2",): 7}, "a partition that was given away is not shown"
    assert figures.numbers(PLAIN) == {(): 0}
    [(labels, histogram)] = figures.histograms(TIME)
    assert (labels, histogram.counts) == ((), (2, 1, 1))
    assert histogram.total == pytest.approx(3.65)


def test_a_figure_in_a_wrong_way_is_a_programmer_s_error() -> None:
    figures = Figures()
    with pytest.raises(AssertionError, match="no counter"):
        figures.add(GAUGE, 1, "1")
    with pytest.raises(AssertionError, match="labels"):
        figures.add(COUNT)


def test_nothing_is_lost_between_threads() -> None:
    figures = Figures()

    def add() -> None:
        for _ in range(5_000):
            figures.add(PLAIN)
            figures.observe(TIME, 0.5)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert figures.numbers(PLAIN) == {(): 20_000}
    [(_, histogram)] = figures.histograms(TIME)
    assert histogram.counts[1] == 20_000
