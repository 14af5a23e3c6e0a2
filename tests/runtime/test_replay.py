"""A ledger folded again gives the same bytes; whatever was changed in it, or in the totals, is found where it lies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.builtin import BUILTIN_CATALOG
from billing.facts import EventCounted, EventDuplicate, Fact
from billing.metering.rules import SEEN_MS
from billing.orders.types import Resume
from billing.records import Genesis, Position, Tick
from billing.state import Seen, SeenKey
from runtime.ledger_log import raw_records, whole_records
from runtime.logs import LogRecord
from runtime.refold import SweptSeen
from runtime.replay import PartitionReplay, TotalsBook, replay_partition
from schemas.codec import encode
from schemas.ledger import PART_BYTES_MAX, SourceRecord, encode_facts
from schemas.totals import decode_total
from streams.usage import UsageFold
from tests.streams.memory_store import MemoryStore
from tests.streams.test_usage import DAY_MS, START_MS, OnLog, event, history, run
from tests.support.operator import public_key, signed

LOG = history(random.Random(7))
LEDGER, TOTALS, _ = run(LOG, [50, 51, 200])


def on_ledger(values: Iterable[bytes]) -> list[LogRecord]:
    return [LogRecord(n, None, value, 0) for n, value in enumerate(values)]


def replayed(values: Iterable[bytes] = LEDGER, totals: dict[bytes, bytes] = TOTALS) -> PartitionReplay:
    return replay_partition(BUILTIN_CATALOG, 0, raw_records(on_ledger(values)), TotalsBook.of(totals))


def rewritten(change: Callable[[SourceRecord], SourceRecord]) -> list[bytes]:
    """The ledger with other facts in it, written as a fold would write them."""
    told = map(change, whole_records(on_ledger(LEDGER)))
    return [data for r in told for data in encode_facts(r.position, r.log_ms, r.source, r.facts)]


def with_facts(told: SourceRecord, facts: list[Fact]) -> SourceRecord:
    return SourceRecord(told.position, told.log_ms, told.source, tuple(facts))


def test_a_sound_ledger_is_the_same_folded_again() -> None:
    found = replayed()
    assert found.difference is None
    assert (found.records, found.facts) == (len(LOG), len(LEDGER))
    assert found.totals == len(TOTALS), "every row's last value was compared at its own version"
    assert found.first is not None
    assert found.last is not None
    assert (found.first.offset, found.last.offset) == (LOG[0].offset, LOG[-1].offset)


def counted_twice(told: SourceRecord) -> SourceRecord:
    """The first repeat is counted again."""
    (fact,) = told.facts[-1:]
    if not isinstance(fact, EventDuplicate):
        return told
    first = next(f for r in whole_records(on_ledger(LEDGER)) for f in r.facts if isinstance(f, EventCounted))
    return with_facts(told, [msgspec.structs.replace(first, event_id=fact.event_id, account=fact.account)])


def a_nano_more(told: SourceRecord) -> SourceRecord:
    def more(fact: Fact) -> Fact:
        if not isinstance(fact, EventCounted):
            return fact
        entry = msgspec.structs.replace(fact.entries[0], quantity="1.000000001")
        return msgspec.structs.replace(fact, entries=(entry, *fact.entries[1:]))

    return with_facts(told, [more(fact) for fact in told.facts])


def another_log_time(told: SourceRecord) -> SourceRecord:
    return SourceRecord(told.position, told.log_ms + 1, told.source, told.facts)


def another_record(told: SourceRecord) -> SourceRecord:
    """What lay on the log was altered afterwards."""
    value = told.source.value
    altered = value.replace(b"id-", b"ID-") if value else value
    return SourceRecord(told.position, told.log_ms, msgspec.structs.replace(told.source, value=altered), told.facts)


@pytest.mark.parametrize("change", [counted_twice, a_nano_more, another_log_time, another_record])
def test_the_first_record_that_was_changed_is_named(change: Callable[[SourceRecord], SourceRecord]) -> None:
    told = list(whole_records(on_ledger(LEDGER)))
    first = next(r for r in told if change(r) != r)
    found = replayed(rewritten(change))
    assert found.difference is not None
    assert found.difference.where == f"usage-events 0/{first.position.offset}, incarnation 1"
    assert found.difference.expected != found.difference.found
    assert found.records == told.index(first), "what came before it was compared"
    assert json.dumps(found.difference._asdict()), "and it can be printed as JSON"


def let_through(*, by_an_order_on_the_log: bool) -> list[bytes]:
    """The ledger of a log whose record at 1 was let through by an order at 2, which may never have been committed."""
    key, value = event(1, "c", START_MS)
    now_ms = START_MS + 50 * DAY_MS
    order = OnLog(2, None, encode(signed(Resume(Position(1, 0, 1)))), now_ms)
    log = [OnLog(0, None, encode(Genesis("test", 1, 1, public_key())), START_MS), OnLog(1, key, value, now_ms), order]
    log.append(OnLog(3, None, encode(Tick(0)), now_ms))
    fold = UsageFold(BUILTIN_CATALOG).open(0, MemoryStore())
    fold.fold(log, now_ms)
    assert fold.hear(order)
    fold.fold([record for record in log[1:] if by_an_order_on_the_log or record is not order], now_ms)
    return [value for _, value in fold.take().ledger]


def test_an_order_that_nobody_can_have_heard_is_found() -> None:
    """Signed, and never on the log: its transaction was aborted."""
    assert replayed(let_through(by_an_order_on_the_log=True), {}).records == 4
    found = replayed(let_through(by_an_order_on_the_log=False), {}).difference
    assert found is not None
    assert found.where == "usage-events 0/3, incarnation 1"
    assert "no order lies at [2]" in str(found.problem)


def test_a_spelling_that_decodes_alike_is_a_difference_too() -> None:
    values = list(LEDGER)
    fields = msgspec.msgpack.decode(values[5])
    values[5] = msgspec.msgpack.encode([*fields[:-1], [*fields[-1], None]])
    found = replayed(values)
    assert found.difference is not None
    assert "bytes" in found.difference.found[-1]


def altered(key: bytes, **changes: object) -> dict[bytes, bytes]:
    total = msgspec.structs.replace(decode_total(TOTALS[key]), **changes)
    return TOTALS | {key: msgspec.msgpack.encode(total)}


def newest(prefix: bytes) -> bytes:
    """The row of the family that was changed last: still open."""
    return max((key for key in TOTALS if key.startswith(prefix)), key=lambda k: decode_total(TOTALS[k]).version_offset)


@pytest.mark.parametrize("prefix", [b"t", b"u"], ids=["an hour total", "a Stripe hour"])
@pytest.mark.parametrize(
    "totals",
    [
        pytest.param(lambda key: altered(key, quantity="77"), id="another quantity"),
        pytest.param(lambda key: altered(key, version_offset=LOG[1].offset), id="the version of another record"),
        pytest.param(lambda key: altered(key, version_offset=LOG[-1].offset - 1), id="a version that no record has"),
        pytest.param(lambda key: {k: v for k, v in TOTALS.items() if k != key}, id="a row that is missing"),
    ],
)
def test_a_total_that_is_not_what_the_ledger_gives_is_found(
    prefix: bytes, totals: Callable[[bytes], dict[bytes, bytes]]
) -> None:
    found = replayed(totals=totals(newest(prefix)))
    assert found.difference is not None
    assert found.difference.where.startswith("usage-totals")
    assert json.dumps(found.difference._asdict())


def test_a_total_that_has_moved_on_since_the_ledgers_end_was_found_is_left_out() -> None:
    later = altered(newest(b"t"), version_offset=LOG[-1].offset + 5, quantity="99")
    assert replayed(totals=later).difference is None


@given(st.data())
def test_records_come_with_the_bytes_that_tell_of_them(data: st.DataObject) -> None:
    """However many facts and pieces there are, and whatever is told twice."""
    large = OnLog(LOG[-1].offset + 1, b"k", b"x" * (2 * PART_BYTES_MAX), LOG[-1].timestamp)
    ledger, _, _ = run([*LOG[:20], large], [])
    again = data.draw(st.integers(min_value=0, max_value=len(ledger) - 1))
    starts = [
        n for n, value in enumerate(ledger) if msgspec.msgpack.decode(value)[5:7][0] == 0 and value[1:2] == b"\x01"
    ]
    start = max(n for n in starts if n <= again)
    plain = list(raw_records(on_ledger(ledger)))
    assert [value for _, values in plain for value in values] == ledger
    told_twice = [*ledger, *ledger[start:]]
    assert list(raw_records(on_ledger(told_twice))) == plain
    cut = list(raw_records(on_ledger(ledger[-2:])))
    assert cut == [], "a piece in the middle of a fact begins nothing"


def test_only_ids_that_may_still_be_asked_for_are_kept() -> None:
    seen = SweptSeen()
    for day in range(100):
        now_ms = START_MS + day * DAY_MS
        seen.put(SeenKey("a/b", f"e{day % 60}"), Seen(now_ms, day, b""))
        seen.sweep(now_ms)
        assert all(row.accepted_at_ms + SEEN_MS > now_ms for row in seen.rows.values())
        assert len(seen.rows) == min(day + 1, 35)
