"""A fold that stands: before what, until when, and what lets it go on. Nothing that precedes the record is lost or done twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from billing.behaviours import BEHAVIOURS, Behaviours, Rules
from billing.catalog.builtin import BUILTIN_CATALOG
from billing.errors import StoreFailed
from billing.facts import EventCounted, EventRejected, Fact, OrderHonoured, OrderRepeated, Reason, Ticked, TotalClosed
from billing.fold import decide, evolve, is_due
from billing.orders.types import (
    Order,
    QuarantineAccount,
    QuarantineRecord,
    ReleaseAccount,
    Resume,
    SwitchBehaviour,
    Time,
)
from billing.records import Genesis, Position, Record, Tick
from schemas.codec import decode_record, encode
from schemas.ledger import LedgerReader, SourceRecord
from schemas.rows import POSITION_KEY, decode_position
from streams import usage
from streams.port import PartitionFold, Stop, StopKind
from streams.standing import AHEAD_MS_MAX
from streams.usage import UsageFold, UsagePartition
from tests.streams.memory_store import MemoryStore
from tests.streams.test_usage import DAY_MS, START_MS, OnLog, event
from tests.support.operator import STRANGERS_KEY, key_of, public_key, signed

GENESIS = encode(Genesis("test", 1, 1, public_key()))
YEAR_MS = 365 * DAY_MS
POISONED = "acme/poison"


def crashing(*, half: bool = False) -> Behaviours:
    """Version 1, but what an account has is its end: an event of its, and what of it falls due."""

    def is_poisoned(fact: Fact) -> bool:
        return isinstance(fact, (EventCounted, TotalClosed)) and fact.account == POISONED

    def decide_or_crash(*args: Any) -> list[Fact]:
        facts = decide(*args)
        if not half and any(is_poisoned(fact) for fact in facts):
            raise ZeroDivisionError("planted")
        return facts

    def evolve_or_crash(state: Any, catalog: Any, fact: Fact, *rest: Any) -> None:
        evolve(state, catalog, fact, *rest)
        if half and is_poisoned(fact):
            raise ZeroDivisionError("planted")

    return {1: Rules(decide_or_crash, evolve_or_crash, is_due)}


class Partition:
    """A log, a store, and one life of the fold after another, driven as the engine drives them."""

    def __init__(self, behaviours: Behaviours = BEHAVIOURS, now_ms: int | None = None) -> None:
        self.behaviours = behaviours
        self.now_ms = now_ms
        """The worker's clock; None: never behind a record."""
        self.log = [OnLog(0, None, GENESIS, START_MS)]
        self.store = MemoryStore()
        self.ledger: list[bytes] = []
        self.letters: list[bytes] = []
        self.fold: PartitionFold = self._open()
        self._stood_at_ms: int | None = None

    def add(self, key: bytes | None, value: bytes, append_ms: int = START_MS) -> int:
        self.log.append(OnLog(self.log[-1].offset + 1, key, value, append_ms))
        return self.log[-1].offset

    def event(self, number: int, customer: str = "c", append_ms: int = START_MS) -> int:
        return self.add(*event(number, customer, START_MS), append_ms)

    def tick(self, append_ms: int = START_MS) -> int:
        return self.add(None, encode(Tick(0)), append_ms)

    def order(self, order: Order, append_ms: int = START_MS, **how: Any) -> int:
        return self.add(key_of(order), encode(signed(order, **how)), append_ms)

    @property
    def stop(self) -> Stop | None:
        return self.fold.stop

    def run(self, *, hearing: bool = True) -> Stop | None:
        """Fold to the log's end, or to where the fold stands for good."""
        while (rest := self._rest()) and self._may_go_on(rest, hearing=hearing):
            latest_ms = max(record.timestamp for record in self.log)
            self.fold.fold(rest, latest_ms if self.now_ms is None else self.now_ms)
        return self.fold.stop

    def commit(self) -> None:
        epoch = self.fold.take()
        self.store.apply(epoch)
        self.ledger += [value for _, value in epoch.ledger]
        self.letters += [value for _, value in epoch.dead_letters]

    def restart(self, behaviours: Behaviours | None = None) -> None:
        """The next owner: it has what was committed."""
        self.behaviours = behaviours or self.behaviours
        self.fold = self._open()

    def told(self) -> list[SourceRecord]:
        reader = LedgerReader()
        return [*reader.feed(self.ledger), *reader.flush()]

    def facts(self, offset: int) -> tuple[Fact, ...]:
        (facts,) = [told.facts for told in self.told() if told.position.offset == offset]
        return facts

    def _open(self) -> PartitionFold:
        return UsageFold(BUILTIN_CATALOG, self.behaviours).open(0, self.store)

    def _rest(self) -> Sequence[OnLog]:
        return [record for record in self.log if record.offset >= (self.fold.next_offset or 0)]

    def _may_go_on(self, rest: Sequence[OnLog], *, hearing: bool) -> bool:
        stop = self.fold.stop
        if stop is None:
            return True
        if stop.kind is StopKind.AHEAD and self.now_ms != self._stood_at_ms:
            self._stood_at_ms = self.now_ms
            return True
        behind = [record for record in rest if record.offset > stop.offset]
        if not hearing or not any(self.fold.hear(record) or self.fold.stop != stop for record in behind):
            return False
        if self.fold.stop is None:
            return True
        self.commit()  # parked by an order, which is honoured once the position row says so
        return self._may_go_on(rest, hearing=hearing)


def at(offset: int) -> Position:
    return Position(1, 0, offset)


# Ahead of the worker's clock


def test_a_record_ahead_of_the_workers_clock_waits_for_it() -> None:
    partition = Partition(now_ms=START_MS)
    partition.event(1, append_ms=START_MS + AHEAD_MS_MAX)
    late = partition.event(2, append_ms=START_MS + AHEAD_MS_MAX + 1_000)
    stop = partition.run(hearing=False)
    assert stop is not None
    assert (stop.offset, stop.kind) == (late, StopKind.AHEAD)
    assert f"meterlog freeze-time --partition 0 --offset {late}" in stop.message
    partition.commit()
    assert partition.fold.next_offset == late, "what precedes it counts"
    partition.now_ms = START_MS + 1_000
    assert partition.run(hearing=False) is None


def test_waiting_for_the_clock_changes_no_fact() -> None:
    patient, hasty = Partition(now_ms=START_MS), Partition()
    for partition in (patient, hasty):
        for n in range(10):
            partition.event(n, append_ms=START_MS + n * AHEAD_MS_MAX)
    for n in range(10):
        patient.now_ms = START_MS + n * AHEAD_MS_MAX
        patient.run()
    hasty.run()
    patient.commit()
    hasty.commit()
    assert patient.ledger == hasty.ledger
    assert patient.store.tables == hasty.store.tables


def test_an_order_settles_what_the_clock_would_not() -> None:
    partition = Partition(now_ms=START_MS)
    first = partition.event(1, append_ms=START_MS + YEAR_MS)
    last = partition.event(2, append_ms=START_MS + YEAR_MS)
    order = partition.order(Time(at(first), last + 1), START_MS + YEAR_MS)
    assert order == last + 1
    after = partition.event(3)
    assert partition.run() is None
    partition.commit()
    assert [told.log_ms for told in partition.told()] == [START_MS] * 5
    assert isinstance(partition.facts(first)[0], OrderHonoured)
    assert isinstance(partition.facts(last)[-1], EventCounted), "the order's stretch lets it through"
    assert partition.facts(order) == (OrderRepeated("time"),)
    assert isinstance(partition.facts(after)[-1], EventCounted)


def test_an_order_about_time_is_honoured_by_whoever_owns_the_partition_once_it_is_parked() -> None:
    """A worker whose clock has come round folds the record without the order: it must not, once another has honoured it."""
    partition = Partition(now_ms=START_MS)
    ahead = partition.event(1, append_ms=START_MS + YEAR_MS)
    partition.order(Time(at(ahead), ahead))
    partition.fold.fold(partition.log, START_MS)
    assert not partition.fold.hear(partition.log[-1]), "it parks first"
    assert partition.stop is not None
    assert partition.stop.kind is StopKind.PARKED
    partition.commit()
    partition.restart()
    partition.now_ms = None
    assert partition.run() is None
    partition.commit()
    assert isinstance(partition.facts(ahead)[0], OrderHonoured)


def test_an_account_order_settles_no_time() -> None:
    partition = Partition(now_ms=START_MS)
    ahead = partition.event(1, append_ms=START_MS + YEAR_MS)
    partition.order(QuarantineAccount("acme/c", at(ahead)))
    stop = partition.run()
    assert stop is not None
    assert stop.kind is StopKind.AHEAD


# Parked


@pytest.mark.parametrize("half", [False, True], ids=["deciding", "half applied"])
def test_a_record_that_crashes_parks_and_what_precedes_it_counts(*, half: bool) -> None:
    partition, whole = Partition(crashing(half=half)), Partition()
    for n in range(5):
        partition.event(n)
        whole.event(n)
    partition.event(3)
    whole.event(3)
    bad = partition.event(10, "poison")
    partition.event(11)
    stop = partition.run()
    whole.run()
    assert stop is not None
    assert (stop.offset, stop.kind) == (bad, StopKind.PARKED)
    assert "ZeroDivisionError: planted" in stop.message
    for command in (
        f"meterlog quarantine --partition 0 --offset {bad}",
        f"meterlog quarantine --account acme/poison --partition 0 --offset {bad}",
        f"meterlog resume --partition 0 --offset {bad}",
    ):
        assert command in stop.message
    partition.commit()
    whole.commit()
    assert partition.ledger == whole.ledger
    row, expected = (p.store.tables["accounts"].pop(POSITION_KEY) for p in (partition, whole))
    assert partition.store.tables == whole.store.tables
    assert decode_position(row).partition_row == decode_position(expected).partition_row
    parked = decode_position(row).parked
    assert parked is not None
    assert (parked.offset, parked.message) == (stop.offset, stop.message)


def test_whoever_takes_a_parked_partition_over_stands_too() -> None:
    partition = Partition(crashing())
    bad = partition.event(1, "poison")
    before = partition.run()
    partition.commit()
    partition.restart(BEHAVIOURS)
    assert partition.fold.stop == before, "mended code goes on by order only"
    assert partition.run() == before
    partition.order(Resume(at(bad)))
    assert partition.run() is None
    partition.commit()
    honoured, *_, counted = partition.facts(bad)
    assert isinstance(honoured, OrderHonoured)
    assert isinstance(counted, EventCounted)
    assert decode_position(partition.store.tables["accounts"][POSITION_KEY]).parked is None


def test_a_quarantined_record_is_a_dead_letter_and_the_rest_goes_on() -> None:
    partition = Partition(crashing())
    bad, good = partition.event(1, "poison"), partition.event(2)
    order = partition.order(QuarantineRecord(at(bad)))
    assert partition.run() is None
    partition.commit()
    honoured, rejected = partition.facts(bad)
    assert isinstance(honoured, OrderHonoured)
    assert isinstance(rejected, EventRejected)
    assert rejected.reason is Reason.QUARANTINED
    assert len(partition.letters) == 1
    assert isinstance(partition.facts(good)[-1], EventCounted)
    assert partition.facts(order) == (OrderRepeated("quarantine_record"),)


def test_a_quarantined_account_parks_nothing_more_until_its_release() -> None:
    partition = Partition(crashing())
    bad = partition.event(1, "poison")
    second, good = partition.event(2, "poison"), partition.event(3)
    order = partition.order(QuarantineAccount(POISONED, at(bad)), issued_at_ms=5)
    partition.tick(START_MS + DAY_MS)
    assert partition.run() is None
    partition.commit()
    for offset in (bad, second):
        rejected = partition.facts(offset)[-1]
        assert isinstance(rejected, EventRejected)
        assert rejected.reason is Reason.QUARANTINED
    assert isinstance(partition.facts(good)[-1], EventCounted)
    assert partition.facts(order) == (OrderRepeated("quarantine_account"),)
    partition.restart(BEHAVIOURS)
    partition.order(ReleaseAccount(POISONED), START_MS + DAY_MS, issued_at_ms=6)
    again = partition.event(1, "poison", START_MS + DAY_MS)
    assert partition.run() is None
    partition.commit()
    assert isinstance(partition.facts(again)[-1], EventCounted)


def test_a_tick_that_an_account_crashes_passes_without_it() -> None:
    partition = Partition()
    partition.event(1, "poison")
    partition.event(2)
    partition.run()
    partition.commit()
    partition.restart(crashing())
    bad = partition.tick(START_MS + DAY_MS)
    stop = partition.run()
    assert stop is not None
    assert stop.offset == bad
    assert not partition.fold.is_due(START_MS + DAY_MS), "no tick is put behind one that waits"  # type: ignore[attr-defined]
    partition.order(QuarantineAccount(POISONED, at(bad)), START_MS + DAY_MS)
    assert partition.run() is None
    partition.commit()
    honoured, ticked, *closed = partition.facts(bad)
    assert isinstance(honoured, OrderHonoured)
    assert ticked == Ticked(more=False)
    assert {fact.account for fact in closed if isinstance(fact, TotalClosed)} == {"acme/c"}
    assert not partition.fold.is_due(START_MS + DAY_MS)  # type: ignore[attr-defined]
    partition.restart()
    assert not partition.fold.is_due(START_MS + DAY_MS), "nor for the next owner"  # type: ignore[attr-defined]


def test_due_rows_of_others_are_found_behind_those_of_many_quarantined() -> None:
    """Rows of quarantined accounts are passed over in steps of 200: they must hide nobody behind them."""
    partition = Partition()
    for n in range(700):
        partition.event(n, f"a{n:03}")
    for n in range(700):
        partition.order(QuarantineAccount(f"acme/a{n:03}", None))
    partition.event(700, "z")
    partition.run()
    partition.commit()
    assert partition.fold.is_due(START_MS + DAY_MS)  # type: ignore[attr-defined]
    tick = partition.tick(START_MS + DAY_MS)
    partition.run()
    partition.commit()
    assert {fact.account for fact in partition.facts(tick)[1:] if isinstance(fact, TotalClosed)} == {"acme/z"}


def test_a_jump_of_log_time_parks() -> None:
    partition = Partition()
    far = partition.event(1, append_ms=START_MS + YEAR_MS)
    stop = partition.run()
    assert stop is not None
    assert (stop.offset, stop.kind) == (far, StopKind.PARKED)
    assert f"meterlog resume --partition 0 --offset {far}" in stop.message
    assert f"meterlog freeze-time --partition 0 --offset {far}" in stop.message
    partition.order(Resume(at(far)), START_MS + YEAR_MS)
    assert partition.run() is None
    partition.commit()
    assert partition.told()[-1].log_ms == START_MS + YEAR_MS


FORGERIES: dict[str, Callable[[Partition, int], object]] = {
    "a stranger's": lambda p, bad: p.order(QuarantineRecord(at(bad)), by=STRANGERS_KEY),
    "another deployment's": lambda p, bad: p.order(QuarantineRecord(at(bad)), deployment_id="other"),
    "about another record": lambda p, bad: p.order(QuarantineRecord(at(bad + 1))),
    "about another partition": lambda p, bad: p.order(QuarantineRecord(Position(1, 1, bad))),
    "about an account, without a position": lambda p, _: p.order(QuarantineAccount(POISONED, None)),
    "garbage": lambda p, _: p.add(None, b"garbage"),
}


def test_no_event_is_decoded_in_search_of_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition may stand before millions; 15 µs each, they would leave other partitions' commits no time."""
    partition = Partition(crashing())
    bad = partition.event(1, "poison")
    partition.run()
    behind = [partition.log[partition.event(n)] for n in range(3)]
    partition.order(QuarantineRecord(at(bad)))
    decoded: list[bytes | None] = []

    def decode_and_note(value: bytes | None) -> Record:
        decoded.append(value)
        return decode_record(value)

    monkeypatch.setattr(usage, "decode_record", decode_and_note)
    assert not any(partition.fold.hear(record) for record in behind)
    assert decoded == []
    assert partition.fold.hear(partition.log[-1])


@pytest.mark.parametrize("forgery", FORGERIES)
def test_nobody_goes_past_a_parked_record_by(forgery: str) -> None:
    partition = Partition(crashing())
    bad = partition.event(1, "poison")
    FORGERIES[forgery](partition, bad)
    stop = partition.run()
    assert stop is not None
    assert stop.offset == bad


def test_an_order_that_does_not_help_is_tried_once_and_the_next_is_heard() -> None:
    """Tried again and again, it would keep the worker from ever reading on to the one that helps."""
    partition = Partition(crashing())
    bad = partition.event(1, "poison")
    resumed = partition.order(Resume(at(bad)))
    stop = partition.run()
    assert stop is not None
    assert (stop.offset, stop.kind) == (bad, StopKind.PARKED)
    partition.order(QuarantineRecord(at(bad)))
    assert partition.run() is None
    second = partition.event(2, "poison")
    partition.order(QuarantineRecord(at(second)))
    assert partition.run() is None, "what was tried for one record counts for no other"
    partition.commit()
    assert "position: 1 is folded" in getattr(partition.facts(resumed)[0], "message", "")


def test_an_order_that_did_not_help_does_not_hide_the_next() -> None:
    """Whoever stands reads the log behind the record from its beginning, again and again."""
    partition = Partition(crashing())
    bad = partition.event(1, "poison")
    partition.order(Resume(at(bad)))
    partition.order(QuarantineRecord(at(bad)))
    assert partition.run() is None
    partition.commit()
    assert [type(fact) for fact in partition.facts(bad)] == [OrderHonoured, EventRejected]


def test_an_order_that_had_its_effect_and_needs_an_order_itself_is_still_a_repeated_one() -> None:
    partition = Partition(now_ms=START_MS)
    first = partition.event(1, append_ms=START_MS + YEAR_MS)
    order = partition.order(Time(at(first), first), START_MS + YEAR_MS)
    partition.order(Resume(at(order)))
    assert partition.run() is None
    partition.commit()
    assert partition.facts(order)[-1] == OrderRepeated("time")


def test_a_disk_that_does_not_answer_parks_nothing() -> None:
    class Broken(MemoryStore):
        def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
            if table == "seen":
                raise OSError("input/output error")
            return super().get_many(table, keys)

    fold = UsageFold(BUILTIN_CATALOG).open(0, Broken())
    key, value = event(1, "c", START_MS)
    with pytest.raises(StoreFailed, match="input/output error"):
        fold.fold([OnLog(0, None, GENESIS, START_MS), OnLog(1, key, value, START_MS)], START_MS)


# Behaviour versions


def test_a_worker_that_lacks_the_rules_waits_for_an_upgrade() -> None:
    partition = Partition()
    switch = partition.order(SwitchBehaviour(2))
    after = partition.event(1)
    partition.order(Resume(at(after)))
    stop = partition.run()
    assert stop is not None
    assert (stop.offset, stop.kind) == (after, StopKind.BEHAVIOUR)
    assert "version 2" in stop.message
    partition.commit()
    assert partition.fold.next_offset == switch + 1
    partition.restart()
    assert not partition.fold.is_due(START_MS + YEAR_MS)  # type: ignore[attr-defined]
    assert partition.run() == stop
    partition.restart({**BEHAVIOURS, 2: BEHAVIOURS[1]})
    assert partition.run() is None
    partition.commit()
    assert isinstance(partition.facts(after)[-1], EventCounted)


# However the log is cut into epochs and lives


def ordered_history(rng: random.Random, partition: Partition) -> None:
    """Poison, jumps and the orders about them among good events; every stop is let through further on."""
    now_ms = START_MS
    for number in range(120):
        now_ms += rng.choice((0, 1_000, DAY_MS // 8))
        choice = rng.random()
        if choice < 0.06:
            bad = partition.event(number, "poison", now_ms)
            order: Order = rng.choice((QuarantineRecord(at(bad)), QuarantineAccount(POISONED, at(bad))))
            partition.order(order, now_ms, issued_at_ms=number)
        elif choice < 0.09:
            far = partition.event(number, "c-0", now_ms + YEAR_MS)
            partition.order(Time(at(far), far + 3), now_ms, issued_at_ms=number)
        elif choice < 0.14:
            partition.order(ReleaseAccount(POISONED), now_ms, issued_at_ms=number)
        elif choice < 0.25:
            partition.tick(now_ms)
        else:
            partition.event(number % 40, f"c-{rng.randrange(4)}", now_ms)


@pytest.mark.parametrize("half", [False, True], ids=["deciding", "half applied"])
@pytest.mark.parametrize("seed", range(5))
def test_epochs_and_lives_cut_anywhere_give_the_same(seed: int, *, half: bool) -> None:
    whole, pieces = Partition(crashing(half=half)), Partition(crashing(half=half))
    ordered_history(random.Random(seed), whole)
    ordered_history(random.Random(seed), pieces)
    whole.run()
    whole.commit()
    log, rng = pieces.log, random.Random(seed)
    for end in (*sorted(rng.sample(range(1, len(log)), 15)), len(log)):
        pieces.log = log[:end]
        pieces.run()
        if (pieces.fold.next_offset or 0) > 0:
            pieces.commit()
        if rng.random() < 0.5:
            pieces.restart()
    assert pieces.fold.stop == whole.fold.stop
    assert pieces.ledger == whole.ledger
    assert pieces.store.tables == whole.store.tables
    assert any(isinstance(fact, OrderHonoured) for told in whole.told() for fact in told.facts)


def test_a_fold_that_does_not_undo_half_a_record_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UsagePartition, "_restore", lambda _: None)
    with pytest.raises(AssertionError):
        test_a_record_that_crashes_parks_and_what_precedes_it_counts(half=True)


def test_a_fold_that_forgets_where_it_was_parked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UsagePartition, "_stop_of_before", lambda _: None)
    with pytest.raises(AssertionError, match="by order only"):
        test_whoever_takes_a_parked_partition_over_stands_too()
