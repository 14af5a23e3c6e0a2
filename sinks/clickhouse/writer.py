"""The one place that stores anything, and the order in which it does."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial

import pyarrow as pa

from observe.figures import FIGURES
from observe.metrics import CLICKHOUSE_ROWS, CLICKHOUSE_WRITE_S
from sinks.clickhouse.background import in_background, is_done
from sinks.clickhouse.batch import Batch
from sinks.clickhouse.log import say
from sinks.clickhouse.port import Store
from sinks.clickhouse.position import Position, TopicPartition
from sinks.clickhouse.retry import until_done
from sinks.clickhouse.tables import Table

__all__ = ["BackgroundWriter", "write_batch"]


def write_batch(store: Store, batch: Batch, stop: threading.Event) -> None:
    """Store one batch. Durable when it returns; until then any part of it may be.

    1. The rows, table by table.
    2. The positions behind them.

    A crash within 1, or between 1 and 2, leaves rows whose position is not stored: the next start reads the same records
    again, and the same rows replace themselves. Turned around, a crash would lose the rows for good. While ClickHouse is
    away, a step is repeated until it is done; reading goes on until the next batch is full, and then waits.
    Raises Interrupted, MustStop. Kill tests: `tests/sinks/clickhouse/test_kill.py`.
    """
    # 1.
    for table, rows in batch.tables():
        _insert(store, table, rows, stop)
    # 2.
    if batch.positions:
        _insert(store, *batch.position_rows(), stop)


def _insert(store: Store, table: Table, rows: pa.Table, stop: threading.Event) -> None:
    until_done(
        partial(store.insert, table, rows),
        doing=f"insert into {table.name}",
        event="sink.clickhouse.clickhouse_unavailable",
        stop=stop,
    )


class BackgroundWriter:
    """Writes one batch while the next is read: both halves of the work take about as long as each other.

    Batches are written one at a time and in order, so a position is never stored before the rows of an earlier batch.
    """

    def __init__(self, write: Callable[[Batch], None]) -> None:
        self._write = write
        self._busy: Future[None] | None = None
        self.unwritten_rows = 0
        """Of the batch that is being written."""
        self.stored: Mapping[TopicPartition, Position] = {}
        """Positions behind the last batch that was written."""

    def start(self, batch: Batch) -> None:
        """Write `batch`; the writer must be free."""
        assert self._busy is None, "batches are written one at a time"
        self.unwritten_rows = batch.row_count
        self._busy = in_background(lambda: self._run(batch), name="writer")

    def is_free(self, timeout_s: float = 0.0) -> bool:
        """Whether a batch can be handed over, now or within `timeout_s`. Raises what the last one raised."""
        if self._busy is not None and is_done(self._busy, timeout_s):
            self._busy, self.unwritten_rows = None, 0
        return self._busy is None

    def _run(self, batch: Batch) -> None:
        started = time.monotonic()
        self._write(batch)
        took_s = time.monotonic() - started
        self.stored = batch.positions
        FIGURES.add(CLICKHOUSE_ROWS, batch.row_count)
        FIGURES.observe(CLICKHOUSE_WRITE_S, took_s)
        positions = {str(key): position.reached.next_offset for key, position in batch.positions.items()}
        say(
            "sink.clickhouse.batch_written",
            logging.DEBUG,
            rows=batch.row_count,
            positions=positions,
            took_ms=round(took_s * 1_000),
        )
