"""What is printed: the machine, a table with the spread of each figure, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.clock import Cost
from runtime.embedded.jars import kafka_version

__all__ = ["STOCK", "Figure", "as_json", "machine", "print_report"]

STOCK = "stock faust"
_PACKAGES = ("faust-streaming", "aiokafka", "rocksdict", "fastavro", "msgspec", "confluent-kafka")


class Figure(NamedTuple):
    """Smallest, median and largest of the rounds."""

    low: float
    mid: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        return cls(min(values), median(values), max(values))

    def text(self, digits: int = 0) -> str:
        return " / ".join(f"{value:,.{digits}f}" for value in self)


def machine() -> dict[str, Any]:
    """Where the figures were made. The load average says whether anything else ran."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "kafka": kafka_version(),
        **{name: version(name) for name in _PACKAGES},
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else "unknown"


def print_report(about: dict[str, Any], job: str, runs: dict[str, list[Cost]]) -> None:
    console = Console(width=150, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    console.print(job)
    table = Table("", "events", title="min / median / max of the rounds; events/s per core = 1e6 / CPU µs an event")
    for name in (
        "CPU µs an event",
        "events/s per core",
        "events/s by the clock",
        "broker's CPU µs",
        "times stock, per core",
    ):
        table.add_column(name, justify="right")
    for subject, costs in runs.items():
        table.add_row(subject, f"{costs[0].events:,}", *_columns(costs, runs.get(STOCK)))
    console.print(table)


def _columns(costs: list[Cost], stock: list[Cost] | None) -> list[str]:
    per_core = Figure.of([cost.events_per_core_s for cost in costs])
    ratio = "" if stock is None else f"{per_core.mid / _per_core(stock).mid:.1f}"
    return [
        Figure.of([cost.cpu_us_per_event for cost in costs]).text(1),
        per_core.text(),
        Figure.of([cost.events_per_s for cost in costs]).text(),
        f"{median(cost.broker_cpu_s / cost.events * 1e6 for cost in costs):.1f}",
        ratio,
    ]


def _per_core(costs: list[Cost]) -> Figure:
    return Figure.of([cost.events_per_core_s for cost in costs])


def as_json(about: dict[str, Any], settings: dict[str, Any], runs: dict[str, list[Cost]]) -> str:
    rounds = {subject: [_round(cost) for cost in costs] for subject, costs in runs.items()}
    return json.dumps({"machine": about, "settings": settings, "runs": rounds}, indent=2)


def _round(cost: Cost) -> dict[str, float]:
    return {
        **cost._asdict(),
        "cpu_us_per_event": cost.cpu_us_per_event,
        "events_per_core_s": cost.events_per_core_s,
        "events_per_s": cost.events_per_s,
    }
