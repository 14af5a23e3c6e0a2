"""The audit finds what is lost, doubled, altered or told otherwise, and where."""

import json
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from billing.catalog.builtin import BUILTIN_CATALOG, LLM_CALL
from billing.facts import Entry, EventCounted, EventRejected, Fact, OrderHonoured, Reason
from billing.late.types import Approve, LateRequest, LateUsage, Reject
from billing.orders.types import Order, QuarantineAccount, QuarantineRecord, ReleaseAccount, Resume, Time
from billing.records import Genesis, Tick, UsageEvent
from runtime.audit import Audit, UsageKey, agree, audit_partition, compare
from runtime.auditing import print_audit
from runtime.logs import LogRecord, Range
from schemas.codec import encode
from schemas.intents import Window
from schemas.ledger import LedgerReader, SourceRecord, encode_facts
from streams.usage import UsageFold
from tests.streams.memory_store import MemoryStore
from tests.streams.test_standing import POISONED, Partition, at, crashing
from tests.streams.test_usage import DAY_MS, START_MS, OnLog
from tests.support.fold_log import FoldLog
from tests.support.operator import STRANGERS_KEY, signed

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
    fold.fold([OnLog(r.offset, r.key, r.value, r.append_ms) for r in records], NOW_MS)
    return [LogRecord(n, key, value, NOW_MS) for n, (key, value) in enumerate(fold.take().ledger)]


def audited(records: list[LogRecord], ledger: list[LogRecord], start: int = 0, end: int = 7) -> Audit:
    audit = Audit()
    audit_partition(audit, BUILTIN_CATALOG, 0, records, ledger, Range(start, end))
    return audit


def late_log() -> tuple[list[LogRecord], list[LogRecord]]:
    """Late usage: received, repeated, approved; another rejected; an approval of nothing. The log and its ledger."""
    folded = FoldLog(NOW_MS, partition_count=1)
    event = UsageEvent("late", (NOW_MS - 50 * 86_400_000) * 1_000, "cust", event_type=LLM_CALL, input_tokens=7)
    other = replace(event, event_id="other")
    asked: list[LateRequest] = [LateUsage(event), LateUsage(event), Approve("late"), LateUsage(other), Reject("other")]
    for request in (*asked, Approve("nothing")):
        folded.add_late("acme/cust", request, NOW_MS)
    records = [LogRecord(told.position.offset, told.source.key, told.source.value, NOW_MS) for told in folded.records]
    return records, [LogRecord(n, made.key, made.value, NOW_MS) for n, made in enumerate(folded.take().ledger)]


def test_approved_late_usage_is_counted_beside_the_equation() -> None:
    audit = audited(*late_log())
    (line,) = audit.partitions
    assert audit.holds
    assert (line.accepted, line.counted, line.approved) == (0, 0, 1)
    assert (line.commands, line.commands_applied, line.commands_repeated) == (6, 4, 1)
    assert dict(line.commands_refused) == {"stale": 1}
    assert audit.usage[UsageKey("acme/cust", "calls")].event_count == 1
    assert audit.stripe == {}, "Stripe takes no usage that old"
    assert audit.stripe_untold[UsageKey("acme/cust", "tokens")].quantity_nano == 7 * 10**9


def test_a_late_event_that_no_approval_counted_fails_the_audit() -> None:
    records, ledger = late_log()
    assert not audited(records[:3] + records[4:], ledger).holds


def test_the_equation_holds_and_ticks_and_genesis_are_no_events() -> None:
    audit = audited(log(), ledger_of(log()))
    (line,) = audit.partitions
    assert (line.accepted, line.counted, line.duplicate, dict(line.rejected)) == (4, 2, 1, {"unreadable": 1})
    assert audit.holds
    assert audit.usage[UsageKey("acme/cust", "calls")].event_count == 2
    assert audit.usage[UsageKey("acme/cust", "tokens")].quantity_nano == 3 * 10**9
    hour = NOW_MS // 3_600_000
    assert audit.stripe == {
        Window("acme/cust", "calls", hour): 2 * 10**9,
        Window("acme/cust", "tokens", hour): 3 * 10**9,
    }


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


def rewritten(
    records: list[LogRecord], offset: int, facts: Callable[[tuple[Fact, ...]], list[Fact]]
) -> list[LogRecord]:
    """The ledger with other facts for one record: what a broken fold would have written."""
    values = []
    for told in told_by(ledger_of(records)):
        now = facts(told.facts) if told.position.offset == offset else told.facts
        values += encode_facts(told.position, told.log_ms, told.source, now)
    return [LogRecord(n, KEY, value, NOW_MS) for n, value in enumerate(values)]


def counted(facts: tuple[Fact, ...]) -> EventCounted:
    return next(fact for fact in facts if isinstance(fact, EventCounted))


def first_counted() -> EventCounted:
    return counted(next(told.facts for told in told_by(ledger_of(log())) if told.position.offset == 2))


def told_by(ledger: list[LogRecord]) -> list[SourceRecord]:
    reader = LedgerReader()
    return [*reader.feed(record.value or b"" for record in ledger), *reader.flush()]


@pytest.mark.parametrize(
    ("offset", "facts"),
    [
        (4, lambda _: [first_counted()]),
        (3, lambda facts: [replace(counted(facts), entries=(Entry("calls", "999", "calls"),))]),
        (3, lambda _: [EventRejected(Reason.TOO_OLD, "occurred_at", "it is not", "acme/cust", "e-2", None)]),
        (3, lambda facts: [*facts, *facts]),
    ],
    ids=["a repeat counted again", "another quantity", "a good event refused", "two verdicts on one event"],
)
def test_a_fact_that_the_record_does_not_cause_fails_the_audit(
    offset: int, facts: Callable[[tuple[Fact, ...]], list[Fact]]
) -> None:
    audit = audited(log(), rewritten(log(), offset, facts))
    assert not audit.holds
    assert audit.partitions[0].decided_otherwise[0] == offset


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
    compare(audit, "clickhouse", {UsageKey("a/b", "calls"): 2}, found, lambda key: f"{key.account} {key.meter}")
    assert [difference.subject for difference in audit.differences] == [subject]
    assert not audit.holds


def test_a_book_without_zeros_agrees_with_one_that_has_them() -> None:
    """Stripe is not told of an hour of nothing; an audit that took that for a delay would wait for it in vain."""
    calls, images = UsageKey("a/b", "calls"), UsageKey("a/b", "images")
    assert agree({calls: 2, images: 0}, {calls: 2})
    assert not agree({calls: 2, images: 0}, {images: 0})


def test_commands_and_approvals_are_told_beside_the_equation(capsys: pytest.CaptureFixture[str]) -> None:
    audit = audited(*late_log())
    print_audit(audit, as_json=False)
    said = capsys.readouterr().out
    assert "commands 6 = decided 4 + repeated 1 + refused 1   (stale 1)" in said
    assert "late usage approved: 1" in said
    assert "not told to Stripe, which takes none that old: acme/cust tokens 7 (1 of them)" in said
    print_audit(audit, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["approved"], told["commands_refused"]) == (1, {"stale": 1})
    assert {row["meter"]: row["quantity"] for row in told["stripe_untold"]} == {"calls": "1", "tokens": "7"}


# Orders: the ledger says by which order a record went through, and the audit believes the operator's signature alone


def ordered_partition() -> Partition:
    """Each kind of order, each about a record that is let through by it, and one more at its own place."""
    partition = Partition(crashing())
    partition.event(0)
    partition.order(QuarantineRecord(at(partition.event(1, "poison"))))
    far = partition.event(2, append_ms=START_MS + 300 * DAY_MS)
    partition.order(Time(at(far), far + 2))
    bad = partition.event(3, "poison")
    partition.order(QuarantineAccount(POISONED, at(bad)), issued_at_ms=5)
    partition.event(4, "poison")
    partition.order(ReleaseAccount(POISONED), issued_at_ms=6)
    partition.order(ReleaseAccount(POISONED), issued_at_ms=6)
    partition.order(ReleaseAccount(POISONED), issued_at_ms=6, by=STRANGERS_KEY)
    later_ms = START_MS + 41 * DAY_MS
    partition.order(Resume(at(partition.tick(later_ms))), later_ms)
    partition.event(5, append_ms=later_ms)
    assert partition.run() is None
    partition.commit()
    return partition


def audited_partition(partition: Partition, ledger: list[bytes] | None = None) -> Audit:
    log = [LogRecord(r.offset, r.key, r.value, r.timestamp) for r in partition.log]
    values = partition.ledger if ledger is None else ledger
    return audited(log, [LogRecord(n, None, value, 0) for n, value in enumerate(values)], end=log[-1].offset + 1)


def test_the_audit_holds_over_orders() -> None:
    audit = audited_partition(ordered_partition())
    (line,) = audit.partitions
    assert audit.holds
    assert line.rejected["quarantined"] == 3
    assert (line.commands, line.commands_applied, line.commands_repeated) == (7, 1, 5)
    assert line.commands_refused == {"unsigned": 1}


def honoured_otherwise(partition: Partition, change: Callable[[OrderHonoured], list[Fact]]) -> list[bytes]:
    """The ledger, but the first order that let a record through is told otherwise."""
    values, has_changed = [], False
    for told in partition.told():
        first, *rest = told.facts
        facts = [first, *rest]
        if isinstance(first, OrderHonoured) and not has_changed:
            facts, has_changed = [*change(first), *rest], True
        values += encode_facts(told.position, told.log_ms, told.source, facts)
    return values


def forged(order: Order, **how: object) -> Callable[[OrderHonoured], list[Fact]]:
    return lambda fact: [replace(fact, order=encode(signed(order, **how)))]  # type: ignore[arg-type]


FORGED: dict[str, Callable[[OrderHonoured], list[Fact]]] = {
    "signed by a stranger": forged(QuarantineRecord(at(2)), by=STRANGERS_KEY),
    "of another deployment": forged(QuarantineRecord(at(2)), deployment_id="other"),
    "about another record": forged(QuarantineRecord(at(4))),
    "another order of the operator's": forged(Resume(at(2))),
    "one that lies elsewhere": lambda fact: [replace(fact, offset=fact.offset + 1)],
    "one that is not what lies there": forged(QuarantineRecord(at(2)), issued_at_ms=2),
    "no order at all": lambda fact: [replace(fact, order=b"garbage")],
    "none": lambda _: [],
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_ledger_whose_order_is_forged_fails_the_audit(forgery: str) -> None:
    partition = ordered_partition()
    audit = audited_partition(partition, honoured_otherwise(partition, FORGED[forgery]))
    assert not audit.holds
    assert audit.partitions[0].decided_otherwise


def test_a_record_that_went_through_by_nobodys_order_fails_the_audit() -> None:
    """Past a jump of 300 days, as a worker without that guard would."""
    partition = Partition()
    partition.event(1)
    far = partition.event(2, append_ms=START_MS + 300 * DAY_MS)
    partition.order(Resume(at(far)))
    partition.run()
    partition.commit()
    assert audited_partition(partition).holds
    bare = honoured_otherwise(partition, lambda _: [])
    assert audited_partition(partition, bare).partitions[0].decided_otherwise[0] == far
