"""The order of storing, trying again, and writing behind the reader's back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest

from runtime.embedded.clickhouse import Endpoint
from sinks.clickhouse.batch import Batch
from sinks.clickhouse.clickhouse import ClickHouseStore
from sinks.clickhouse.errors import Interrupted, Refused, Unavailable
from sinks.clickhouse.mapping import HourlyRow
from sinks.clickhouse.port import MemoryStore, Store
from sinks.clickhouse.position import Place, Position, TopicPartition
from sinks.clickhouse.retry import until_done
from sinks.clickhouse.tables import DUPLICATES, HOURLY, POSITIONS, Table
from sinks.clickhouse.writer import BackgroundWriter, write_batch
from tests.sinks.clickhouse.world import World
from tests.waiting import wait_until

LEDGER = TopicPartition("ledger", 0)
EVENT: Final = "sink.clickhouse.clickhouse_unavailable"
FAR = Position(Place(50, 40, 9), Place(9, 8, 2))
NEAR = Position(Place(30, 20, 5), Place(3, 2, 1))


def total(version: int, quantity_nano: int = 1) -> HourlyRow:
    return HourlyRow("acme", "c", 0, "calls", "", "", 0, 0, quantity_nano, 1, bytes(16), version)


def batch(position: Position = FAR) -> Batch:
    made = Batch()
    made.add(DUPLICATES, ("acme", "c", 5, 1, 0, 7, "e", 3))
    made.add_hourly(total(1))
    made.positions = {LEDGER: position}
    return made


class Flaky(MemoryStore):
    """Cannot take part in every insert but the third of its kind, and may have stored it all the same."""

    tries = 0

    def insert(self, table: Table, rows: pa.Table) -> None:
        self.tries += 1
        if self.tries % 3 == 1:
            super().insert(table, rows)
        if self.tries % 3:
            raise Unavailable("not now")
        super().insert(table, rows)


@pytest.fixture(params=["memory", "clickhouse"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Every store keeps the same promises."""
    if request.param == "memory":
        yield MemoryStore()
        return
    at: Endpoint = request.getfixturevalue("clickhouse")
    world = World("127.0.0.1:1", at, tmp_path)
    made = ClickHouseStore(world.settings)
    made.prepare()
    yield made
    world.query("DROP DATABASE IF EXISTS {db} SYNC")


def test_a_store_gives_back_the_furthest_position_whatever_came_last(store: Store) -> None:
    store.prepare()
    assert store.positions() == {}
    for position in (NEAR, FAR, NEAR):
        write_batch(store, batch(position), threading.Event())
    assert store.positions() == {LEDGER: FAR}


def test_positions_come_last() -> None:
    store = MemoryStore()
    write_batch(store, batch(), threading.Event())
    assert [table for table, _ in store.inserted] == [DUPLICATES, HOURLY, POSITIONS]


def test_each_step_is_repeated_until_it_is_done_before_the_next_begins() -> None:
    store = Flaky()
    write_batch(store, batch(), threading.Event())
    assert [table for table, _ in store.inserted] == [DUPLICATES, DUPLICATES, HOURLY, HOURLY, POSITIONS, POSITIONS]


def test_a_refusal_ends_the_batch_without_its_position() -> None:
    class Refusing(MemoryStore):
        def insert(self, table: Table, rows: pa.Table) -> None:
            if table is HOURLY:
                raise Refused("no such column")
            super().insert(table, rows)

    store = Refusing()
    with pytest.raises(Refused):
        write_batch(store, batch(), threading.Event())
    assert store.positions() == {}


def test_of_a_total_the_newest_version_is_written_whatever_came_last() -> None:
    made, store = Batch(), MemoryStore()
    for version in (2, 5, 3):
        made.add_hourly(total(version, quantity_nano=version))
    assert made.row_count == 1
    write_batch(store, made, threading.Event())
    ((_, (row,)),) = store.inserted
    assert row["version"] == 5


def test_waiting_for_a_server_ends_when_the_process_is_asked_to_stop() -> None:
    stop = threading.Event()

    def away() -> None:
        stop.set()
        raise Unavailable("away")

    with pytest.raises(Interrupted, match="asked to stop while a test was tried again"):
        until_done(away, doing="a test", event=EVENT, stop=stop)


def test_the_background_writer_raises_what_happened_and_takes_one_batch_at_a_time() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def write(_: Batch) -> None:
        begun.set()
        go_on.wait(30)
        raise Refused("no such table")

    writer = BackgroundWriter(write)
    assert writer.is_free()
    writer.start(batch())
    assert begun.wait(30)
    assert not writer.is_free()
    assert writer.unwritten_rows == 2
    with pytest.raises(AssertionError, match="one at a time"):
        writer.start(batch())
    go_on.set()
    with pytest.raises(Refused, match="no such table"):
        wait_until(writer.is_free, "the batch has ended")
