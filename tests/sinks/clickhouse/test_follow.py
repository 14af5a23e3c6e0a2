"""What a partition's records become, and where a start begins again; without a broker or an engine."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from billing.records import UsageEvent
from schemas.ledger import PART_BYTES_MAX
from sinks.clickhouse.batch import Batch
from sinks.clickhouse.errors import LedgerBroken
from sinks.clickhouse.follow import Follower, LedgerFollower, TotalsFollower
from sinks.clickhouse.port import MemoryStore
from sinks.clickhouse.position import Place, Position, TopicPartition, Trail
from sinks.clickhouse.sink import WriteBatch
from sinks.clickhouse.tables import HOURLY, Table
from sinks.clickhouse.writer import write_batch
from tests.sinks.clickhouse.sink_process import position_first
from tests.sinks.clickhouse.usage import START_MS, Usage
from tests.support.fold_log import FoldLog

LEDGER = TopicPartition("ledger", 0)
TOTALS = TopicPartition("totals", 0)
NEVER = threading.Event()
MINUTE_MS = 60_000
REWIND_MS = 15 * MINUTE_MS
OnTopic = Sequence[tuple[int, bytes]]
"""Offset and value of each record, with the holes that transaction markers leave."""


class Crash(Exception):
    """The process ends here."""


class CrashingStore(MemoryStore):
    """Ends the process behind the insert of that number."""

    inserts_left: int | None = None

    def insert(self, table: Table, rows: pa.Table) -> None:
        super().insert(table, rows)
        if self.inserts_left is not None:
            self.inserts_left -= 1
            if not self.inserts_left:
                raise Crash


def on_topic(values: Sequence[bytes], rng: random.Random) -> OnTopic:
    offset, records = 0, []
    for value in values:
        records.append((offset, value))
        offset += rng.choice((1, 1, 1, 2))
    return records


def usage_of_one_partition(seed: int, count: int = 300) -> tuple[OnTopic, OnTopic]:
    """Ledger and totals."""
    usage = Usage(random.Random(seed), partition_count=1)
    ledger: list[bytes] = []
    totals: list[bytes] = []
    for _ in range(count // 20):
        usage.add(20)
        epoch = usage.log.take()
        ledger += [value for _, _, value in epoch.ledger]
        totals += [value for _, _, value in epoch.totals]
    return on_topic(ledger, usage.rng), on_topic(totals, usage.rng)


def follow(
    store: MemoryStore,
    ledger: OnTopic,
    totals: OnTopic,
    rng: random.Random,
    rewind_ms: int = 0,
    write: WriteBatch = write_batch,
) -> None:
    """One process, from the stored positions to the end, unless the store ends it: batches cut anywhere."""
    stored = store.positions()
    followers: dict[TopicPartition, Follower] = {
        LEDGER: LedgerFollower(LEDGER, stored.get(LEDGER), rewind_ms),
        TOTALS: TotalsFollower(TOTALS, stored.get(TOTALS), rewind_ms, 0),
    }
    left = {
        partition: [record for record in records if record[0] >= followers[partition].position().reached.next_offset]
        for partition, records in ((LEDGER, ledger), (TOTALS, totals))
    }

    def hand_over(batch: Batch) -> None:
        batch.positions = {partition: follower.position() for partition, follower in followers.items()}
        write(store, batch, NEVER)

    batch = Batch()
    while any(left.values()):
        partition = rng.choice([partition for partition in left if left[partition]])
        offset, value = left[partition].pop(0)
        followers[partition].feed(offset, value, START_MS + offset, batch)
        if not left[partition]:
            followers[partition].end(offset + 2, batch)
        if rng.random() < 0.05:
            hand_over(batch)
            batch = Batch()
    hand_over(batch)


def rows_of(store: MemoryStore) -> dict[str, set[Any]]:
    """The rows that stay when each replaces its like."""
    kept: dict[str, set[Any]] = {}
    newest: dict[Any, Any] = {}
    for table, rows in store.inserted:
        for row in rows:
            frozen = tuple(repr(value) for value in row.values())
            if table is HOURLY:
                key = frozen[:8]
                newest[key] = max(newest.get(key, (0,)), (row["version"], frozen))
            elif table.name != "sink_positions":
                kept.setdefault(table.name, set()).add(frozen)
    return kept | {HOURLY.name: {frozen for _, frozen in newest.values()}}


def crash_often(seed: int, rewind_ms: int, write: WriteBatch = write_batch) -> bool:
    """Whether the rows after ten crashes are those of a process that never crashed."""
    rng = random.Random(seed)
    ledger, totals = usage_of_one_partition(seed)
    undisturbed = MemoryStore()
    follow(undisturbed, ledger, totals, rng)

    store, crashes = CrashingStore(), 0
    for inserts_left in (1, 2, 3, 4, 5, 7, 11, 6, 3, 1):
        store.inserts_left = inserts_left
        try:
            follow(store, ledger, totals, rng, rewind_ms, write)
        except Crash:
            crashes += 1
    store.inserts_left = None
    follow(store, ledger, totals, rng, rewind_ms, write)
    assert crashes >= 5
    return rows_of(store) == rows_of(undisturbed)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rewind_ms", [0, REWIND_MS], ids=["from its position", "from 15 minutes before"])
def test_crashes_behind_any_insert_change_no_row(seed: int, rewind_ms: int) -> None:
    assert crash_often(seed, rewind_ms)


def test_positions_stored_before_their_rows_would_lose_some() -> None:
    assert not any(crash_often(seed, 0, position_first) for seed in range(2))


def test_a_totals_topic_in_the_wrong_order_and_twice_leaves_the_same_rows() -> None:
    rng = random.Random(4)
    _, totals = usage_of_one_partition(4)
    in_order, shuffled = MemoryStore(), MemoryStore()
    follow(in_order, [], totals, rng)
    values = [value for _, value in totals]
    follow(shuffled, [], on_topic(rng.sample(values * 2, 2 * len(values)), rng), rng)
    assert rows_of(shuffled) == rows_of(in_order)


def test_a_closed_total_has_the_same_row_from_the_ledger_as_from_the_totals() -> None:
    ledger, totals = usage_of_one_partition(9, count=2_000)
    both, ledger_alone = MemoryStore(), MemoryStore()
    follow(both, ledger, totals, random.Random(1))
    follow(ledger_alone, ledger, [], random.Random(1))
    closed = rows_of(ledger_alone)[HOURLY.name]
    assert closed
    assert closed <= rows_of(both)[HOURLY.name]


def test_a_gap_in_the_ledger_is_found_behind_a_restart_too() -> None:
    ledger, _ = usage_of_one_partition(5)
    half = len(ledger) // 2
    store = MemoryStore()
    follow(store, ledger[:half], [], random.Random(5))
    reached = store.positions()[LEDGER].reached.next_offset
    beyond = [record for record in ledger if record[0] >= reached]
    with pytest.raises(LedgerBroken, match="the last one read is"):
        follow(store, beyond[6:], [], random.Random(5))


@pytest.mark.parametrize(
    "value",
    [b"", b"\xc1", b"\x99\x63", msgspec.msgpack.encode([1, 1, 1, 0, 7, 0, 0, None, [99, "from a later release"]])],
    ids=["empty", "garbage", "unknown record", "unknown fact"],
)
def test_a_ledger_record_that_cannot_be_read_stops_the_sink(value: bytes) -> None:
    follower = LedgerFollower(LEDGER, None, 0)
    with pytest.raises(LedgerBroken, match="ledger/0 at offset 0"):
        follower.feed(0, value, START_MS, Batch())


def test_a_ledger_that_does_not_begin_at_its_beginning_stops_the_sink() -> None:
    ledger, _ = usage_of_one_partition(6)
    with pytest.raises(LedgerBroken, match="the last one read is -1"):
        follow(MemoryStore(), ledger[1:], [], random.Random(6))


def test_a_start_never_begins_within_a_fact_in_parts() -> None:
    log = FoldLog(START_MS, partition_count=1)
    for number in range(4):
        big = {"k": "v" * (PART_BYTES_MAX + 10_000)} if number % 2 else {}
        log.add_event("acme", UsageEvent(f"e-{number}", START_MS * 1_000, "c", meter="calls", properties=big), START_MS)
    records = on_topic([value for _, _, value in log.take().ledger], random.Random(1))
    assert len(records) == 8, "genesis, four events, the first one opens the account, two come in two parts"

    places = set[int]()
    follower = LedgerFollower(LEDGER, None, 0)
    for offset, value in records:
        follower.feed(offset, value, START_MS, Batch())
        reached = follower.position().reached
        places.add(reached.next_offset)
        again = LedgerFollower(LEDGER, Position(reached, reached), 0)
        for later_offset, later in records:
            if later_offset >= reached.next_offset:
                again.feed(later_offset, later, START_MS, Batch())
    assert len(places) == 5, "the beginning, and before each event"


def test_a_trail_goes_back_at_least_as_far_as_told_and_little_further() -> None:
    trail = Trail(Place(0, -1, 0), REWIND_MS)
    for minute in range(600):
        for second in range(0, 60, 10):
            log_ms = START_MS + minute * MINUTE_MS + second * 1_000
            trail.pass_by(Place(minute * 100 + second, minute, log_ms))
            back_ms = log_ms - trail.position().rewind.log_ms
            assert minute < 15 or REWIND_MS <= back_ms < REWIND_MS + 2 * MINUTE_MS


def test_a_trail_after_a_quiet_week_goes_back_to_before_it() -> None:
    trail = Trail(Place(0, -1, 0), REWIND_MS)
    trail.pass_by(Place(10, 5, START_MS))
    trail.pass_by(Place(20, 9, START_MS + 7 * 24 * 60 * MINUTE_MS))
    assert trail.position().rewind == Place(10, 5, START_MS)
