"""What a worker shows of itself: its figures and its checks, twice a second, from its own loop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from observe.figures import FIGURES
from observe.health import HEALTH, CheckName, CheckState, HealthBoard
from observe.metrics import (
    WORKER_APPEND_AGE_S,
    WORKER_LAG,
    WORKER_LOG_TIME_S,
    WORKER_PARTITIONS,
    WORKER_STANDING,
    WORKER_TABLE_BYTES,
    WORKER_WAITING_S,
)
from observe.waiting import Waiting
from streams.engine import Engine, Place
from streams.port import TABLES, PartitionFold, Stop, StopKind
from streams.usage import UsagePartition

__all__ = ["WatchBounds", "WorkerWatch", "table_bytes"]

_INTERVAL_S: Final = 0.5
_SIZES_INTERVAL_S: Final = 15.0


class WatchBounds(NamedTuple):
    """Past which a check is red."""

    age_s_max: float
    """Of a record that is not committed."""
    take_over_s_max: float


class WorkerWatch:
    """Looks at an engine. What it shows is as old as its last turn, and the main loop's check says how old that is."""

    def __init__(
        self,
        engine: Engine,
        bounds: WatchBounds,
        now_ms: Callable[[], int],
        now_s: Callable[[], float] = time.monotonic,
        board: HealthBoard = HEALTH,
    ) -> None:
        self._engine = engine
        self._bounds = bounds
        self._now_ms = now_ms
        self._now_s = now_s
        self._board = board
        self._waiting = Waiting()

    async def run(self) -> None:
        """Until it is cancelled. Raises whatever is wrong with it: a worker that cannot be watched should not go on."""
        sizes_s = -_SIZES_INTERVAL_S
        while True:
            self.show()
            if self._now_s() - sizes_s >= _SIZES_INTERVAL_S:
                sizes_s = self._now_s()
                sizes = await asyncio.to_thread(table_bytes, self._engine.options.data_dir / "tables")
                FIGURES.set_all(WORKER_TABLE_BYTES, {(table,): size for table, size in sizes.items()})
            await asyncio.sleep(_INTERVAL_S)

    def show(self) -> None:
        """Set every gauge and report every check."""
        now_s = self._now_s()
        self._board.turned()
        places = self._engine.places()
        ages = self._ages(places, now_s)
        stops = self._engine.snapshot().stops
        FIGURES.set(WORKER_PARTITIONS, len(places))
        FIGURES.set_all(WORKER_LAG, {(number,): place.end - place.next_offset for number, place in places.items()})
        FIGURES.set_all(WORKER_WAITING_S, {(number,): age for number, age in ages.items()})
        FIGURES.set_all(WORKER_APPEND_AGE_S, self._append_ages(places))
        FIGURES.set_all(WORKER_LOG_TIME_S, self._log_times(self._engine.partitions))
        kinds = Counter(stop.kind for stop in stops.values())
        FIGURES.set_all(WORKER_STANDING, {(kind,): kinds[kind] for kind in StopKind})
        self._check_stops(stops)
        self._check_progress({number: age for number, age in ages.items() if number not in stops}, places)
        self._check_take_over(now_s)

    def _ages(self, places: Mapping[int, Place], now_s: float) -> dict[int, float]:
        self._waiting.keep_only(set(places))
        for number, place in places.items():
            self._waiting.saw_end(number, place.end, now_s)
        return {number: self._waiting.age(number, place.next_offset, now_s).seconds for number, place in places.items()}

    def _append_ages(self, places: Mapping[int, Place]) -> dict[tuple[int], float]:
        now_ms = self._now_ms()
        return {
            (number,): 0.0 if place.oldest_append_ms is None else (now_ms - place.oldest_append_ms) / 1_000
            for number, place in places.items()
        }

    def _log_times(self, folds: Mapping[int, PartitionFold]) -> dict[tuple[int], float]:
        now_ms = self._now_ms()
        return {
            (number,): (fold.log_ms - now_ms) / 1_000
            for number, fold in folds.items()
            if isinstance(fold, UsagePartition) and fold.log_ms
        }

    def _check_stops(self, stops: Mapping[int, Stop]) -> None:
        if not stops:
            self._board.report(CheckName.FOLD_STANDS)
            return
        message = "; ".join(
            f"partition {number} stands at offset {stop.offset} ({stop.kind}): {stop.message}"
            for number, stop in sorted(stops.items())
        )
        do = "give the order that the message names; docs/operations.md tells which one when"
        self._board.report(CheckName.FOLD_STANDS, CheckState.RED, message, do)

    def _check_progress(self, ages: Mapping[int, float], places: Mapping[int, Place]) -> None:
        worst = max(ages, key=lambda number: ages[number], default=None)
        if worst is None or ages[worst] <= self._bounds.age_s_max:
            self._board.report(CheckName.FOLD_PROGRESS)
            return
        message = (
            f"the record at offset {places[worst].next_offset} of partition {worst} has waited {ages[worst]:.0f} s to be"
            f" counted; {self._bounds.age_s_max:g} s are allowed"
        )
        do = "see that the brokers answer and that this worker has a core; start more workers: meterlog worker"
        self._board.report(CheckName.FOLD_PROGRESS, CheckState.RED, message, do)

    def _check_take_over(self, now_s: float) -> None:
        since_s = self._engine.taking_since_s
        if since_s is None:
            self._board.report(CheckName.TAKE_OVER)
            return
        took_s = now_s - since_s
        state = CheckState.RED if took_s > self._bounds.take_over_s_max else CheckState.YELLOW
        message = f"partitions are being taken over for {took_s:.0f} s; {self._bounds.take_over_s_max:g} s are allowed"
        do = "wait; if it lasts, see in the log whether the group rebalances again and again, and that the brokers answer"
        self._board.report(CheckName.TAKE_OVER, state, message, do)


def table_bytes(directory: Path) -> dict[str, int]:
    """Size of each table's files in a worker's directory; files come and go meanwhile."""
    sizes = dict.fromkeys(TABLES, 0)
    for folder in directory.glob("*-*"):
        table = folder.name.rpartition("-")[0]
        if table in sizes:
            sizes[table] += sum(_size(file) for file in folder.glob("*"))
    return sizes


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
