"""Records to rows: exact, and with what an analyst asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from billing.late.types import Approve, LateUsage
from billing.records import Command, UsageEvent
from schemas.codec import encode
from schemas.ledger import SourceRecord
from schemas.totals import HourTotal, version_number
from sinks.clickhouse.batch import Batch
from sinks.clickhouse.mapping import from_hour_total, from_position_row, from_source_record, to_position_row
from sinks.clickhouse.position import Place, Position, TopicPartition
from sinks.clickhouse.tables import DUPLICATES, EVENTS, HOURLY, REJECTED, Table, to_arrow
from tests.support.fold_log import FoldLog

NOW_MS = 1_769_886_000_000
NOW_US = NOW_MS * 1_000


def event(**fields: Any) -> UsageEvent:
    usual: dict[str, Any] = {"event_id": "e", "occurred_at_us": NOW_US, "customer_id": "c", "meter": "calls"}
    return UsageEvent(**(usual | fields))


def log() -> FoldLog:
    return FoldLog(NOW_MS, partition_count=1)


def rows(record: SourceRecord) -> list[tuple[Table, dict[str, Any]]]:
    """As the store gets them, through Arrow."""
    batch = Batch()
    for table, row in from_source_record(record):
        batch.add(table, row)
    found = [(table, row) for table, arrow in batch.tables() for row in arrow.to_pylist()]
    assert batch.row_count == len(found)
    return found


def test_a_counted_event_has_a_row_for_each_of_its_meters() -> None:
    sent = event(meter=None, event_type="llm.call", input_tokens=7, output_tokens=5, tags=("a",), properties={"k": "v"})
    found = rows(log().add_event("acme", sent, NOW_MS))
    assert [(table.name, row["meter"], row["quantity"]) for table, row in found] == [
        ("usage_events", "calls", 1),
        ("usage_events", "tokens", 12),
        ("usage_events", "input_tokens", 7),
        ("usage_events", "output_tokens", 5),
    ]
    for _, row in found:
        assert (row["event_type"], row["status"], row["tags"]) == ("llm.call", "succeeded", ["a"])
        assert (row["properties"], row["input_tokens"], row["cached_tokens"]) == ([("k", "v")], 7, None)
        assert row["occurred_at"] == datetime.fromtimestamp(NOW_MS / 1_000, UTC)


@pytest.mark.parametrize(
    "quantity", ["0", "0.000000001", "999999999999999999.999999999", "123456789012345678.000000001", "00.10"]
)
def test_a_quantity_keeps_every_digit(quantity: str) -> None:
    ((_, row),) = rows(log().add_event("acme", event(quantity=quantity), NOW_MS))
    assert row["quantity"] == Decimal(quantity)


def test_a_customer_id_may_hold_slashes() -> None:
    ((_, row),) = rows(log().add_event("acme", event(customer_id="a/b/c"), NOW_MS))
    assert (row["org"], row["customer_id"]) == ("acme", "a/b/c")


def test_an_event_past_the_cap_on_pairs_keeps_the_labels_it_was_sent_with() -> None:
    usage = log()
    for number in range(200):
        usage.add_event("acme", event(event_id=f"e-{number}", feature=f"f-{number}"), NOW_MS)
    (_, row), *_ = rows(usage.add_event("acme", event(feature="one too many", model="m"), NOW_MS))
    assert (row["feature"], row["model"]) == ("~other", "~other")
    assert (row["feature_sent"], row["model_sent"]) == ("one too many", "m")


def test_a_repeat_names_the_place_of_the_first() -> None:
    usage = log()
    first = usage.add_event("acme", event(), NOW_MS)
    ((table, row),) = rows(usage.add_event("acme", event(), NOW_MS + 5))
    assert table is DUPLICATES
    assert (row["first_offset"], row["offset"]) == (first.position.offset, first.position.offset + 1)


def test_a_failed_call_shows_the_tokens_that_it_cost() -> None:
    ((table, row),) = rows(log().add_event("acme", event(status="failed", input_tokens=900), NOW_MS))
    assert table is REJECTED
    assert (row["reason"], row["field"], row["input_tokens"], row["quantity"]) == ("failed_call", "status", 900, "1")


def test_events_in_one_batch_keep_their_own_values() -> None:
    usage, batch = log(), Batch()
    sent = [
        event(
            event_id=f"e-{n}",
            meter=None,
            event_type="llm.call",
            input_tokens=n or None,
            properties={"n": str(n)},
            tags=("t",) * n,
        )
        for n in range(5)
    ]
    for each in sent:
        for table, row in from_source_record(usage.add_event("acme", each, NOW_MS)):
            batch.add(table, row)
    ((table, arrow),) = batch.tables()
    assert table is EVENTS
    assert [(row["event_id"], row["meter"], row["properties"], len(row["tags"])) for row in arrow.to_pylist()] == [
        (f"e-{n}", meter, [("n", str(n))], n)
        for n in range(5)
        for meter in (("calls", "tokens", "input_tokens") if n else ("calls",))
    ]


@pytest.mark.parametrize("value", [None, b"", b"garbage"], ids=["no value", "empty", "garbage"])
def test_what_cannot_be_read_is_a_row_without_an_event(value: bytes | None) -> None:
    ((table, row),) = rows(log().add(0, b"\xff", value, NOW_MS))
    assert table is REJECTED
    assert (row["reason"], row["org"], row["event_id"], row["occurred_at"]) == ("unreadable", "", "", None)
    assert row["message"]


@pytest.mark.parametrize(
    ("occurred_at_us", "storable"),
    [
        (-(2**63), False),
        (2**63 - 1, False),
        (253_402_300_799_999_999, False),
        (-1, True),
        (10_413_791_999_999_999, True),
    ],
)
def test_a_time_that_no_column_can_hold_is_null(occurred_at_us: int, storable: bool) -> None:
    sent = event(occurred_at_us=occurred_at_us)
    ((_, row),) = from_source_record(log().add_event("acme", sent, NOW_MS))
    place = [column.name for column in REJECTED.columns].index("occurred_at")
    assert row[place] == (occurred_at_us if storable else None)


def test_an_approved_late_event_is_the_event_that_was_sent() -> None:
    """Its record is the approval; it is the late event that has labels, tags and tokens."""
    folded, day_ms = log(), 86_400_000
    sent = event(
        occurred_at_us=NOW_US - 50 * day_ms * 1_000, meter=None, event_type="llm.call", input_tokens=7, tags=("a",)
    )
    assert rows(folded.add_late("acme/c", LateUsage(sent), NOW_MS)) == []
    found = rows(folded.add_late("acme/c", Approve("e"), NOW_MS))
    assert [(table.name, row["meter"], row["quantity"]) for table, row in found] == [
        ("usage_events", "calls", 1),
        ("usage_events", "tokens", 7),
        ("usage_events", "input_tokens", 7),
    ]
    for _, row in found:
        assert (row["event_id"], row["event_type"], row["tags"]) == ("e", "llm.call", ["a"])
        assert row["occurred_at"] == datetime.fromtimestamp(NOW_MS / 1_000 - 50 * 86_400, UTC)
        assert row["stripe_event_name"] == "", "Stripe takes no usage that old"


def test_what_is_no_usage_event_has_no_row() -> None:
    usage = log()
    command = encode(Command("call_begin", "d", b"r", 1, b"", "key", b"s"))
    assert not rows(usage.records[0]), "the genesis"
    assert not rows(usage.add(0, b"acme/c", command, NOW_MS))
    assert not rows(usage.tick(NOW_MS)[0])


def test_a_closed_total_is_the_row_that_its_last_value_was() -> None:
    usage = log()
    usage.add_event("acme", event(quantity="2.5", feature="chat"), NOW_MS)
    (closed,) = usage.tick(NOW_MS + 86_400_000)
    ((table, row),) = from_source_record(closed)
    assert table is HOURLY
    fields = closed.facts[1]
    total = HourTotal(1, 1, 0, 1, "acme/c", *(getattr(fields, name) for name in (
        "billing_start_s", "meter", "feature", "model", "hour", "booking_day", "quantity", "event_count", "digest"
    )))  # fmt: skip
    assert row == from_hour_total(total)
    assert row[-1] == version_number(1, 1)


def test_positions_come_back_as_they_were() -> None:
    partition = TopicPartition("ledger", 3)
    position = Position(Place(100, 70, NOW_MS), Place(20, -1, 0))
    assert from_position_row(to_position_row(partition, position)) == (partition, position)


def test_a_digest_of_another_length_is_never_stored() -> None:
    row = (*from_hour_total(HourTotal(1, 1, 0, 1, "a/c", 0, "m", "", "", 0, 0, "1", 1, b"short")),)
    with pytest.raises(AssertionError, match="16 bytes"):
        to_arrow(HOURLY, [row])


def test_every_event_column_is_filled() -> None:
    ((_, row), *_) = rows(log().add_event("acme", event(), NOW_MS))
    assert list(row) == [column.name for column in EVENTS.columns]
