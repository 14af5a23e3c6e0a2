"""The audit finds what is lost, doubled, altered or told otherwise, and where."""

import pytest

from billing.catalog.builtin import BUILTIN_CATALOG, LLM_CALL
from billing.records import Genesis, Tick, UsageEvent
from runtime.audit import Audit, UsageKey, audit_partition, compare
from runtime.logs import LogRecord, Range
from schemas.codec import encode
from streams.usage import UsageFold
from tests.streams.memory_store import MemoryStore
from tests.streams.test_usage import OnLog

NOW_MS = 1_763_712_000_000
KEY = b"acme/cust"


def log() -> list[LogRecord]:
    """Two events, a repeat of the first, garbage, a tick: offsets with a hole, as a transaction leaves it."""
    first, second = (
        encode(UsageEvent(f"e-{n}", NOW_MS * 1_000, "cust", event_type=LLM_CALL, input_tokens=n)) for n in (1, 2)
    )
    values = [encode(Genesis("d", 1, 1, b"k" * 32)), first, second, first, b"garbage", encode(Tick(NOW_MS))]
    offsets = [0, 2, 3, 4, 5, 6]
    keys = [None, KEY, KEY, KEY, KEY, None]
    return [LogRecord(o, k, v, NOW_MS) for o, k, v in zip(offsets, keys, values, strict=True)]


def ledger_of(records: list[LogRecord]) -> list[LogRecord]:
    fold = UsageFold(BUILTIN_CATALOG).open(0, MemoryStore())
    epoch = fold.fold([OnLog(r.offset, r.key, r.value, r.append_ms) for r in records])
    return [LogRecord(n, key, value, NOW_MS) for n, (key, value) in enumerate(epoch.ledger)]


def audited(records: list[LogRecord], ledger: list[LogRecord], start: int = 0, end: int = 7) -> Audit:
    audit = Audit()
    audit_partition(audit, 0, records, ledger, Range(start, end))
    return audit


def test_the_equation_holds_and_ticks_and_genesis_are_no_events() -> None:
    audit = audited(log(), ledger_of(log()))
    (line,) = audit.partitions
    assert (line.accepted, line.counted, line.duplicate, dict(line.rejected)) == (4, 2, 1, {"unreadable": 1})
    assert audit.holds
    assert audit.usage[UsageKey("acme/cust", "calls")].event_count == 2
    assert audit.usage[UsageKey("acme/cust", "tokens")].quantity_nano == 3 * 10**9
    assert audit.stripe == {UsageKey("acme/cust", "calls"): 2 * 10**9, UsageKey("acme/cust", "tokens"): 3 * 10**9}


def test_an_event_that_was_never_folded_fails_the_audit() -> None:
    lost = log()
    audit = audited(lost, ledger_of(lost[:-2]))
    assert not audit.holds
    assert audit.partitions[0].without_fact == [5, 6]
    assert "usage-events 0/5" in audit.differences[0].subject


def test_a_fact_about_a_record_that_is_not_on_the_log_fails_the_audit() -> None:
    records = log()
    audit = audited([r for r in records if r.offset != 3], ledger_of(records))
    assert not audit.holds
    assert audit.partitions[0].without_record == [3]


def test_a_ledger_that_holds_another_record_than_the_log_fails_the_audit() -> None:
    records = log()
    altered = [
        r._replace(value=encode(UsageEvent("e-9", 1, "cust", meter="calls"))) if r.offset == 3 else r for r in records
    ]
    audit = audited(altered, ledger_of(records))
    assert not audit.holds
    assert audit.partitions[0].altered == [3]


def test_records_that_retention_took_are_accepted_by_the_ledgers_word() -> None:
    records = log()
    audit = audited([r for r in records if r.offset >= 4], ledger_of(records), start=4)
    assert audit.holds
    assert audit.partitions[0].accepted == 4


def test_what_came_after_the_audit_began_is_left_out() -> None:
    records = log()
    audit = audited([r for r in records if r.offset < 4], ledger_of(records), end=4)
    assert audit.holds
    assert (audit.partitions[0].accepted, audit.partitions[0].counted) == (2, 2)


@pytest.mark.parametrize(
    ("found", "subject"),
    [
        ({UsageKey("a/b", "calls"): 1}, "a/b calls"),
        ({}, "a/b calls"),
        ({UsageKey("a/b", "calls"): 2, UsageKey("a/c", "calls"): 5}, "a/c calls"),
    ],
    ids=["a book with less", "a book without the customer", "a book with a customer more"],
)
def test_a_book_that_differs_is_named(found: dict[UsageKey, int], subject: str) -> None:
    audit = Audit()
    compare(audit, "clickhouse", {UsageKey("a/b", "calls"): 2}, found)
    assert [difference.subject for difference in audit.differences] == [subject]
    assert not audit.holds
