"""Expired rows go from the disk, and no decision can tell: at both edges of the window, and at any moment of a history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.facts import EventDuplicate, EventRejected, Fact, Reason
from billing.metering.rules import SEEN_MS, WINDOW_MS
from billing.records import Genesis, Tick, UsageEvent
from billing.state import Seen, SeenKey
from schemas.codec import encode
from schemas.ledger import LedgerReader
from schemas.rows import POSITION_KEY, SEEN, seen_expires_at_ms
from streams.app import FoldApp
from streams.edges import Applied
from streams.port import Epoch, Expiring, Expiry, PartitionFold, Row
from streams.port import Record as OnTopic
from streams.sweep import Sweeper
from streams.tables import Swept, TableFiles
from streams.usage import UsageFold
from tests.streams.memory_store import MemoryStore
from tests.streams.toy import ToyFold

DAY_MS = 86_400_000
START_MS = 1_763_712_000_000 - 1_763_712_000_000 % DAY_MS
KEY = b"acme/c"
FOLD = UsageFold(BUILTIN_CATALOG)


@dataclass(frozen=True)
class OnLog:
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = field(default=())


class MemoryTable:
    """The committed rows of one table."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows
        self.swept: Swept | None = None

    def get_many(self, keys: Sequence[bytes]) -> list[Row]:
        return [self.rows.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return sorted(item for item in self.rows.items() if start <= item[0] < stop)[:limit]

    def sweep(self, keys: Iterable[bytes], swept: Swept) -> None:
        for key in keys:
            del self.rows[key]
        self.swept = swept


class World:
    """One partition: what is committed, what is folded and not yet written, and the ledger."""

    def __init__(self, expiry: Expiry = FOLD.expiry) -> None:
        self._expiry = expiry
        self._committed = MemoryStore()
        self._tables = {name: MemoryTable(rows) for name, rows in self._committed.tables.items()}
        self._open: list[Epoch] = []
        self._ledger: list[bytes] = []
        self._log: list[OnLog] = []
        self.restart()

    def append(self, record: Genesis | Tick | UsageEvent, at_ms: int, key: bytes | None = KEY) -> None:
        """Put a record on the log and fold it; its epoch is not written yet."""
        self._log.append(OnLog(len(self._log), key, encode(record), at_ms))
        self._fold_rest()

    def write(self) -> None:
        """The oldest epoch that was folded is committed and written."""
        if self._open:
            epoch = self._open.pop(0)
            self._committed.apply(epoch)
            self._ledger += [value for _, value in epoch.ledger]

    def restart(self) -> None:
        """A crash: what was not committed is folded again."""
        self._open.clear()
        self._fold: PartitionFold = FOLD.open(0, self)
        self._fold_rest()

    def sweep(self, rows_per_step: int = 1_000) -> None:
        """One step."""
        Sweeper(self._expiry, self._tables, rows_per_step).step()

    def settle(self, at_ms: int, *, sweeps: bool) -> None:
        """The log's time comes to `at_ms`, all of it is written, and swept to the end."""
        self.append(Tick(at_ms), at_ms, key=None)
        while self._open:
            self.write()
        for _ in range(3 if sweeps else 0):
            self.sweep()

    def _fold_rest(self) -> None:
        rest = self._log[self._fold.next_offset or 0 :]
        if rest:
            self._open.append(fold_epoch(self._fold, rest))

    # Store

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[Row]:
        found = []
        for key in keys:
            row: Row = self._committed.tables[table].get(key)
            for epoch in self._open:
                row = epoch.rows.get(table, {}).get(key, row)
            found.append(row)
        return found

    def scan(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        merged: dict[bytes, Row] = {**self._committed.tables[table]}
        for epoch in self._open:
            merged |= epoch.rows.get(table, {})
        return sorted((k, v) for k, v in merged.items() if v is not None and start <= k < stop)[:limit]

    # What came of it

    def facts(self) -> list[tuple[Fact, ...]]:
        while self._open:
            self.write()
        reader = LedgerReader()
        return [record.facts for record in (*reader.feed(self._ledger), *reader.flush())]

    @property
    def ids_on_disk(self) -> set[str]:
        return {SEEN.decode_key(key).event_id for key in self._committed.tables["seen"]}


def fold_epoch(fold: PartitionFold, records: Sequence[OnTopic]) -> Epoch:
    fold.fold(records, now_ms=records[-1].timestamp)
    return fold.take()


def opened() -> World:
    world = World()
    world.append(Genesis("deployment", 1, 1, b"k" * 32), START_MS, key=None)
    return world


def usage(event_id: str, occurred_ms: int, quantity: str = "1") -> UsageEvent:
    return UsageEvent(event_id, occurred_ms * 1_000, "c", meter="calls", quantity=quantity)


# The edges of the window

SWEPT_OR_NOT = pytest.mark.parametrize("sweeps", [False, True], ids=["stored", "swept"])


@SWEPT_OR_NOT
@pytest.mark.parametrize(
    ("late_ms", "met"),
    [
        pytest.param(-1, True, id="a millisecond before it expires the id is met"),
        pytest.param(0, False, id="as it expires the id is new"),
    ],
)
def test_an_id_is_met_for_35_days_to_the_millisecond(late_ms: int, *, met: bool, sweeps: bool) -> None:
    """With another payload: the same one bears a time of 35 days ago, and is too old at both edges."""
    world = opened()
    world.append(usage("id", START_MS), START_MS)
    at_ms = START_MS + SEEN_MS + late_ms
    world.settle(at_ms, sweeps=sweeps)
    assert world.ids_on_disk == ({"id"} if met or not sweeps else set())
    world.append(usage("id", START_MS), at_ms)
    world.append(usage("id", at_ms, "2"), at_ms)
    *_, same, other = world.facts()
    assert reason_of(same) is Reason.TOO_OLD, "never counted twice within one id and time of occurrence"
    assert reason_of(other) is (Reason.ID_CONFLICT if met else None)


@SWEPT_OR_NOT
@pytest.mark.parametrize(
    ("past_ms", "reason"),
    [
        pytest.param(0, None, id="34 days back counts"),
        pytest.param(1, Reason.TOO_OLD, id="a millisecond more is too old"),
    ],
)
def test_an_event_of_34_days_ago_is_the_oldest_that_counts_and_its_repeat_is_met(
    past_ms: int, reason: Reason | None, *, sweeps: bool
) -> None:
    world = opened()
    event = usage("id", START_MS - WINDOW_MS - past_ms)
    world.append(event, START_MS)
    world.settle(START_MS, sweeps=sweeps)
    world.append(event, START_MS)
    _, first, *_, second = world.facts()
    assert (reason_of(first), reason_of(second)) == (reason, reason)
    assert isinstance(second[-1], EventDuplicate if reason is None else EventRejected)


def reason_of(facts: Sequence[Fact]) -> Reason | None:
    """Why the event was refused; None: it was not."""
    return facts[-1].reason if isinstance(facts[-1], EventRejected) else None


# Any history

TIMES = st.sampled_from([0, 1, DAY_MS, WINDOW_MS, SEEN_MS - 1, SEEN_MS])
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.sampled_from("ab"), st.sampled_from(["1", "2"]), st.sampled_from([0, DAY_MS])),
        st.tuples(st.just("time"), TIMES),
        st.tuples(st.just("settle"), TIMES),
        st.tuples(st.just("write")),
        st.tuples(st.just("sweep"), st.integers(1, 3)),
        st.tuples(st.just("restart")),
    ),
    max_size=25,
)


def run(moves: Sequence[tuple[object, ...]], expiry: Expiry, *, sweeps: bool) -> list[tuple[Fact, ...]]:
    world = World(expiry)
    now_ms = START_MS
    world.append(Genesis("deployment", 1, 1, b"k" * 32), now_ms, key=None)
    for move in moves:
        match move:
            case ("event", str() as name, str() as quantity, int() as age_ms):
                world.append(usage(name, now_ms - now_ms % DAY_MS - age_ms, quantity), now_ms)
            case ("time", int() as passed_ms):
                now_ms += passed_ms
                world.append(Tick(now_ms), now_ms, key=None)
            case ("settle", int() as passed_ms):
                now_ms += passed_ms
                world.settle(now_ms, sweeps=sweeps)
            case ("write",):
                world.write()
            case ("sweep", int() as rows):
                if sweeps:
                    world.sweep(rows)
            case ("restart",):
                world.restart()
    return world.facts()


@settings(max_examples=300, deadline=None)
@given(moves=MOVES)
def test_a_fold_that_is_swept_at_any_moment_says_the_same(moves: list[tuple[object, ...]]) -> None:
    assert run(moves, FOLD.expiry, sweeps=True) == run(moves, FOLD.expiry, sweeps=False)


def early(value: bytes) -> int:
    """Planted: a millisecond early."""
    return seen_expires_at_ms(value) - 1


def by_the_workers_clock(_: bytes) -> int:
    """Planted: the worker's clock is ahead of the log."""
    return START_MS * 2


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(FOLD.expiry._replace(expires_at_ms=early), id="a millisecond early"),
        pytest.param(FOLD.expiry._replace(log_ms=by_the_workers_clock), id="by the worker's clock"),
    ],
)
def test_a_sweep_that_takes_a_row_too_early_is_found(planted: Expiry) -> None:
    @settings(max_examples=5_000, deadline=None, database=None, derandomize=True)
    @given(moves=MOVES)
    def law(moves: list[tuple[object, ...]]) -> None:
        assert run(moves, planted, sweeps=True) == run(moves, planted, sweeps=False)

    with pytest.raises(AssertionError):
        law()


def test_an_id_that_expired_and_is_accepted_again_outlives_the_sweep() -> None:
    """Its new row waits in an epoch that is not written while the sweep deletes the old one."""
    world = opened()
    world.append(usage("id", START_MS), START_MS)
    again_ms = START_MS + SEEN_MS
    world.append(Tick(again_ms), again_ms, key=None)
    for _ in range(3):
        world.write()
    world.append(usage("id", again_ms), again_ms)
    world.sweep()
    assert world.ids_on_disk == set()
    world.write()
    assert world.ids_on_disk == {"id"}
    world.append(usage("id", again_ms), again_ms + 1)
    assert isinstance(world.facts()[-1][0], EventDuplicate)


# Steps, passes and restarts, on disk


def seen_rows(count: int, accepted_at_ms: Callable[[int], int]) -> list[tuple[bytes, Row]]:
    return [
        (SEEN.encode_key(SeenKey("acme/c", f"id-{n:05}")), SEEN.encode_row(Seen(accepted_at_ms(n), n, b"d" * 16)))
        for n in range(count)
    ]


@dataclass
class Disk:
    """Both tables of a partition on disk, with a position at a log time that the test sets."""

    folder: Path

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.files = TableFiles(self.folder, 1 << 20)
        self.tables = {name: self.files.get(name, 0) for name in ("accounts", "seen")}
        self.sweeper = Sweeper(
            FOLD.expiry._replace(position_key=b"!position", log_ms=int), self.tables, rows_per_step=100
        )

    def close(self) -> None:
        for name in self.tables:
            self.files.close(name)

    def set_log_time(self, log_ms: int) -> None:
        self.tables["accounts"].apply([(b"!position", b"%d" % log_ms)], Applied(1, 0))

    def sweep_all(self) -> int:
        """Steps until the pass is done."""
        count = 1
        while self.sweeper.step():
            count += 1
        return count

    @property
    def row_count(self) -> int:
        return len(self.tables["seen"].scan(b"s", b"t", 10_000))


def test_a_pass_goes_in_steps_once_a_day_of_log_time_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    assert not disk.sweeper.step(), "there is no position yet"
    disk.tables["seen"].apply(seen_rows(1_000, lambda n: START_MS + (n % 2) * DAY_MS), Applied(1_000, 7))
    disk.set_log_time(START_MS + SEEN_MS)
    for _ in range(4):
        assert disk.sweeper.step()
    disk.close()
    disk.open()
    assert disk.row_count == 800, "200 of 400 rows looked at had expired"
    assert disk.sweep_all() == 7, "six hundred rows in steps of a hundred, and one that finds the end"
    assert disk.row_count == 500
    assert disk.tables["seen"].applied == Applied(1_000, 7), (
        "a sweep changes nothing of how far the changelog was applied"
    )
    disk.set_log_time(START_MS + SEEN_MS + DAY_MS - 1)
    assert not disk.sweeper.step(), "the same day of log time"
    disk.set_log_time(START_MS + SEEN_MS + DAY_MS)
    disk.sweep_all()
    assert disk.row_count == 0


def test_a_table_that_was_loaded_anew_is_swept_again(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.set_log_time(START_MS + SEEN_MS)
    disk.tables["seen"].apply(seen_rows(10, lambda _: START_MS), Applied(10, 0))
    disk.sweep_all()
    assert disk.row_count == 0
    disk.tables["seen"].wipe()
    disk.tables["seen"].apply(seen_rows(10, lambda _: START_MS), Applied(10, 0))
    disk.sweep_all()
    assert disk.row_count == 0


def test_rows_of_other_kinds_are_never_looked_at(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.set_log_time(START_MS * 2)
    disk.tables["seen"].apply([(b"r1", b"x"), (b"t1", b"x"), *seen_rows(1, lambda _: 0)], Applied(3, 0))
    disk.sweep_all()
    assert disk.tables["seen"].scan(b"", b"\xff\xff", 9) == [(b"r1", b"x"), (b"t1", b"x")]


async def _swept_by_a_worker(files: TableFiles, owned: dict[int, None]) -> None:
    """The worker's own loop over its partitions, until those that it owned at first are swept."""
    around: Any = SimpleNamespace(
        files=files, engine=SimpleNamespace(partitions=owned), standbys=SimpleNamespace(partitions=frozenset())
    )
    around._sweepers = partial(FoldApp._sweepers, around)
    sweeping = asyncio.create_task(FoldApp.sweep(around, FOLD))
    while not sweeping.done() and any(files.get("seen", number).swept is None for number in owned):
        await asyncio.sleep(0)
    sweeping.cancel()


def test_a_worker_sweeps_the_partitions_that_it_owns(tmp_path: Path) -> None:
    files = TableFiles(tmp_path, 1 << 20)
    position = encode_position_at(START_MS + SEEN_MS)
    for number in (1, 2):
        files.get("accounts", number).apply([(POSITION_KEY, position)], Applied(1, 0))
        files.get("seen", number).apply(seen_rows(3, lambda n: START_MS + n), Applied(3, 0))
    asyncio.run(_swept_by_a_worker(files, {1: None}))
    left = {number: len(files.get("seen", number).scan(b"s", b"t", 9)) for number in (1, 2)}
    assert left == {1: 2, 2: 3}


def encode_position_at(log_ms: int) -> bytes:
    """A position row as the fold writes it."""
    store = MemoryStore()
    fold = FOLD.open(0, store)
    return bytes(
        fold_epoch(fold, [OnLog(0, None, encode(Genesis("deployment", 1, 1, b"k" * 32)), log_ms)]).rows["accounts"][
            POSITION_KEY
        ]
        or b""
    )


def test_a_fold_without_rows_that_expire_is_not_swept() -> None:
    assert not isinstance(ToyFold(), Expiring)
    assert isinstance(FOLD, Expiring)
