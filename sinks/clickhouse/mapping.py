"""What becomes which row: pure functions from the log's records to rows in the order of `tables`' columns."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from billing.facts import EventCounted, EventDuplicate, EventRejected, LateApproved, TotalClosed
from billing.periods import HOUR_S
from billing.quantities import nano_of
from billing.records import Position as SourcePosition
from billing.records import UsageEvent, from_ordinal
from schemas.codec import decode_record
from schemas.ledger import SourceRecord
from schemas.totals import HourTotal, version_number
from sinks.clickhouse.position import Place, Position, TopicPartition
from sinks.clickhouse.tables import DUPLICATES, EVENTS, HOURLY, REJECTED, Table

__all__ = [
    "CountedEvent",
    "HourlyRow",
    "Row",
    "from_hour_total",
    "from_position_row",
    "from_source_record",
    "to_position_row",
]

Row = tuple[Any, ...]

_NOTHING_SENT: Row = ("", "", "", "", (), {}, None, None, None, None)
_TIME_US_MIN, _TIME_US_MAX = -2_208_988_800_000_000, 10_413_791_999_999_999
"""1900-01-01 and the end of 2299: what DateTime64 can hold."""


class CountedEvent(NamedTuple):
    """The rows of one counted event: one for each entry, and what they share."""

    shared: Row
    entries: tuple[Row, ...]
    """Meter, quantity in nano-units, and Stripe's name of the meter (empty: Stripe gets nothing of it)."""


class HourlyRow(NamedTuple):
    """A row of `usage_hourly`. Of two with the same `key()` the one with the higher version is the total."""

    org: str
    customer_id: str
    billing_start_s: int
    meter: str
    feature: str
    model: str
    hour_s: int
    booking_day: int
    quantity_nano: int
    event_count: int
    digest: bytes
    version: int

    def key(self) -> Row:
        return self[:8]


def from_source_record(record: SourceRecord) -> Iterator[tuple[Table, Row]]:
    """The rows that a source record causes, each with its table. What is no usage event causes none but closed totals.

    A counted event gives a CountedEvent, a refused or repeated one a row, a closed total an HourlyRow.
    """
    for fact in record.facts:
        match fact:
            case EventCounted():
                yield EVENTS, _counted(fact, record)
            case EventDuplicate():
                org, customer_id = _split(fact.account)
                yield (
                    DUPLICATES,
                    (org, customer_id, record.log_ms, *_identity(record.position), fact.event_id, fact.first_offset),
                )
            case EventRejected():
                yield REJECTED, _rejected_row(fact, record)
            case TotalClosed():
                yield HOURLY, _closed_row(fact)
            case _:
                pass


def from_hour_total(total: HourTotal) -> HourlyRow:
    org, customer_id = _split(total.account)
    return HourlyRow(
        org,
        customer_id,
        total.billing_start_s,
        total.meter,
        total.feature,
        total.model,
        total.hour * HOUR_S,
        total.booking_day,
        nano_of(total.quantity),
        total.event_count,
        total.digest,
        version_number(total.incarnation, total.version_offset),
    )


def to_position_row(partition: TopicPartition, position: Position) -> Row:
    return (*partition, *position.reached, *position.rewind)


def from_position_row(row: Iterable[Any]) -> tuple[TopicPartition, Position]:
    topic, partition, *places = row
    return TopicPartition(topic, partition), Position(Place(*places[:3]), Place(*places[3:]))


def _counted(fact: EventCounted, record: SourceRecord) -> CountedEvent:
    event = _event_of(record)
    shared = (
        *_split(fact.account),
        fact.occurred_at_us,
        fact.event_id,
        *_identity(record.position),
        fact.feature,
        fact.model,
        fact.hour * HOUR_S,
        fact.billing_start_s,
        fact.booking_day,
        record.log_ms,
        fact.stripe_customer,
        fact.payload_digest,
        *_sent(event),
    )
    entries = [(entry.meter, nano_of(entry.quantity), entry.stripe_event_name or "") for entry in fact.entries]
    return CountedEvent(shared, tuple(entries))


def _event_of(record: SourceRecord) -> UsageEvent:
    """What was counted: the record itself, or the late event that it approves."""
    for fact in record.facts:
        if isinstance(fact, LateApproved):
            return fact.event
    event = decode_record(record.source.value)
    assert isinstance(event, UsageEvent), f"{record.position}: what was counted is no usage event"
    return event


def _rejected_row(fact: EventRejected, record: SourceRecord) -> Row:
    """The event as far as it can be read; its bytes lie on `dead-letters` and in the ledger."""
    event = decode_record(record.source.value)
    told = event if isinstance(event, UsageEvent) else None
    return (
        *_split(fact.account),
        record.log_ms,
        *_identity(record.position),
        str(fact.reason),
        fact.field or "",
        fact.message,
        fact.event_id or (told.event_id if told else ""),
        _storable_us(told.occurred_at_us) if told else None,
        (told.meter or "") if told else "",
        told.quantity if told else "",
        *(_sent(told) if told else _NOTHING_SENT),
    )


def _closed_row(fact: TotalClosed) -> HourlyRow:
    """The total's last value: the one it had on `usage-totals`, for whoever comes after those were deleted."""
    org, customer_id = _split(fact.account)
    return HourlyRow(
        org,
        customer_id,
        fact.billing_start_s,
        fact.meter,
        fact.feature,
        fact.model,
        fact.hour * HOUR_S,
        fact.booking_day,
        nano_of(fact.quantity),
        fact.event_count,
        fact.digest,
        version_number(*from_ordinal(fact.version_offset)),
    )


def _sent(event: UsageEvent) -> Row:
    return (
        event.event_type or "",
        event.status,
        event.feature or "",
        event.model or "",
        event.tags,
        event.properties,
        event.input_tokens,
        event.output_tokens,
        event.cached_tokens,
        event.reasoning_tokens,
    )


def _split(account: str | None) -> tuple[str, str]:
    """`org/customer` in two; the first `/` splits. Two empty texts where there is no account."""
    org, _, customer_id = (account or "").partition("/")
    return org, customer_id


def _identity(position: SourcePosition) -> tuple[int, int, int]:
    return position.incarnation, position.partition, position.offset


def _storable_us(time_us: int) -> int | None:
    return time_us if _TIME_US_MIN <= time_us <= _TIME_US_MAX else None
