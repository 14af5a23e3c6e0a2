"""The sink as a process of its own, for tests: `python -m tests.sinks.clickhouse.sink_process '{"settings": …}'`.

`die_at: n` kills it with SIGKILL around its n-th insert: before it for an even n, behind it for an odd one.
`planted: "position_first"` stores the position before the rows, which the tests must find out.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from itertools import count
from typing import Any

import pyarrow as pa

from sinks.clickhouse.batch import Batch
from sinks.clickhouse.clickhouse import ClickHouseStore
from sinks.clickhouse.port import Store
from sinks.clickhouse.settings import SinkSettings
from sinks.clickhouse.sink import run_over
from sinks.clickhouse.tables import Table
from sinks.clickhouse.writer import write_batch


class DyingStore(ClickHouseStore):
    """The real store, in a process that is killed at one of its steps."""

    def __init__(self, settings: SinkSettings, die_at: int | None) -> None:
        super().__init__(settings)
        self._die_at = die_at
        self._steps = count()

    def insert(self, table: Table, rows: pa.Table) -> None:
        self._step()
        super().insert(table, rows)
        self._step()

    def _step(self) -> None:
        if next(self._steps) == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def position_first(store: Store, batch: Batch, stop: threading.Event) -> None:
    """The planted fault."""
    if batch.positions:
        store.insert(*batch.position_rows())
    for table, rows in batch.tables():
        store.insert(table, rows)


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = SinkSettings(**told["settings"])
    write = position_first if told.get("planted") == "position_first" else write_batch
    sys.exit(run_over(DyingStore(settings, told.get("die_at")), settings, stop, write))


if __name__ == "__main__":
    main()
