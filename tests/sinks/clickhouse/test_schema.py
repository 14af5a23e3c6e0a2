"""The tables as the engine has them, and what their views promise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from runtime.embedded.clickhouse import Endpoint
from sinks.clickhouse import tables
from sinks.clickhouse.batch import Batch
from sinks.clickhouse.clickhouse import SCHEMA_VERSION, ClickHouseStore, schema_statements
from sinks.clickhouse.errors import Refused, SchemaDiffers
from sinks.clickhouse.follow import LedgerFollower, TotalsFollower
from sinks.clickhouse.position import TopicPartition
from sinks.clickhouse.writer import write_batch
from tests.sinks.clickhouse.usage import Usage
from tests.sinks.clickhouse.world import World, assert_equal

NEVER = Event()
TABLES = (tables.EVENTS, tables.REJECTED, tables.DUPLICATES, tables.HOURLY, tables.POSITIONS)


@pytest.fixture
def world(clickhouse: Endpoint, tmp_path: Path) -> Iterator[World]:
    """A database of its own; no broker."""
    made = World("127.0.0.1:1", clickhouse, tmp_path)
    yield made
    made.query("DROP DATABASE IF EXISTS {db} SYNC")


@pytest.fixture
def store(world: World) -> ClickHouseStore:
    made = ClickHouseStore(world.settings)
    made.prepare()
    return made


def batch_of(usage: Usage, *, totals_in_order: bool = True) -> Batch:
    """All that the log says, as the sink would batch it."""
    batch, epoch = Batch(), usage.log.take()
    for number in range(usage.partition_count):
        ledger = LedgerFollower(TopicPartition("ledger", number), None, 0)
        mine = [value for partition, _, value in epoch.ledger if partition == number]
        for offset, value in enumerate(mine):
            ledger.feed(offset, value, usage.now_ms, batch)
        ledger.end(len(mine), batch)
        batch.positions = {**batch.positions, TopicPartition("ledger", number): ledger.position()}
    totals = TotalsFollower(TopicPartition("totals", 0), None, 0, 0)
    records = epoch.totals if totals_in_order else epoch.totals[::-1]
    for offset, (_, _, value) in enumerate(records):
        totals.feed(offset, value, usage.now_ms, batch)
    return batch


def test_every_column_is_in_the_table_that_it_is_written_to(world: World, store: ClickHouseStore) -> None:
    for table in TABLES:
        found = world.query(f"SELECT name FROM system.columns WHERE database = '{{db}}' AND table = '{table.name}'")
        assert {name for (name,) in found} == {column.name for column in table.columns}


def test_a_repeated_insert_changes_no_views_answer(world: World, store: ClickHouseStore) -> None:
    usage = Usage(random.Random(1))
    usage.add(300)
    batch = batch_of(usage)
    for _ in range(3):
        write_batch(store, batch, NEVER)
        assert_equal(world.books(), usage.model.books)
    positions = "SELECT topic, partition, next_offset, log_ms FROM {db}.positions ORDER BY topic, partition"
    assert world.query(positions) == [
        (str(key.topic), key.partition, position.reached.next_offset, position.reached.log_ms)
        for key, position in sorted(batch.positions.items())
    ]
    world.query("OPTIMIZE TABLE {db}.usage_events FINAL")
    world.query("OPTIMIZE TABLE {db}.usage_hourly FINAL")
    assert_equal(world.books(), usage.model.books)


def test_totals_in_any_order_leave_the_newest(world: World, store: ClickHouseStore) -> None:
    usage = Usage(random.Random(2))
    batches: list[Batch] = []
    for _ in range(6):
        usage.add(80)
        batches.append(batch_of(usage) if not batches else _totals_only(usage))
    for batch in [*reversed(batches), *batches[:3]]:
        write_batch(store, batch, NEVER)
    assert world.books().usage == usage.model.books.usage


def test_the_events_under_a_total_prove_it(world: World, store: ClickHouseStore) -> None:
    usage = Usage(random.Random(3))
    usage.add(400)
    write_batch(store, batch_of(usage), NEVER)
    unproven = (
        "SELECT * FROM (SELECT org, customer_id, meter, feature, model, hour, billing_start, sum(quantity) AS q, count() AS n,"
        " sum(digest) AS d FROM {db}.events GROUP BY ALL) AS e"
        " FULL JOIN {db}.usage AS u USING (org, customer_id, meter, feature, model, hour, billing_start)"
        " WHERE e.q != u.quantity OR e.n != u.event_count OR e.d != u.digest"
    )
    assert len(usage.model.books.usage) > 50
    assert not world.query(unproven)
    victim = next(at for at, _ in usage.model.books.events)
    world.query(
        f"ALTER TABLE {{db}}.usage_events DELETE WHERE partition = {victim.partition} AND offset = {victim.offset}"
        " SETTINGS mutations_sync = 1"
    )
    assert world.query(unproven), "an event is gone, and nobody sees it"


def test_a_filter_on_a_view_reaches_the_tables_index(world: World, store: ClickHouseStore) -> None:
    for view in ("usage", "events"):
        explained = "\n".join(
            line
            for (line,) in world.query(
                f"EXPLAIN indexes = 1 SELECT sum(quantity) FROM {{db}}.{view} WHERE org = 'acme' AND customer_id = 'c'"
            )
        )
        keys = explained.split("PrimaryKey")[1] if "PrimaryKey" in explained else ""
        assert "customer_id" in keys or "ReadNothing" in explained, explained


def test_tables_are_made_once_and_found_again(world: World, store: ClickHouseStore) -> None:
    store.prepare()
    ClickHouseStore(world.settings).prepare()
    assert world.query("SELECT max(version) FROM {db}.schema_version") == [(SCHEMA_VERSION,)]


def test_tables_that_were_made_in_part_are_completed(world: World) -> None:
    for statement in schema_statements(world.name)[:4]:
        world.query(statement)
    store = ClickHouseStore(world.settings)
    store.prepare()
    assert store.positions() == {}


def test_tables_of_another_release_stop_the_sink(world: World, store: ClickHouseStore) -> None:
    world.query("INSERT INTO {db}.schema_version (version) VALUES (7)")
    with pytest.raises(SchemaDiffers, match=r"version 7, this release writes version 1"):
        ClickHouseStore(world.settings).prepare()


def test_a_wrong_password_stops_the_sink_and_does_not_show_it(world: World) -> None:
    settings = replace(world.settings, clickhouse_password="not-this-one")
    with pytest.raises(Refused):
        ClickHouseStore(settings).prepare()
    assert "not-this-one" not in repr(settings)


def _totals_only(usage: Usage) -> Batch:
    batch, follower = Batch(), TotalsFollower(TopicPartition("totals", 0), None, 0, 0)
    for offset, (_, _, value) in enumerate(usage.log.take().totals):
        follower.feed(offset, value, usage.now_ms, batch)
    return batch
