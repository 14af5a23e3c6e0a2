"""What the tables must hold, kept by a naive model: dictionaries, Decimals and sums, and none of the product's arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from billing.records import UsageEvent
from schemas.ledger import SourceRecord

__all__ = ["At", "Books", "Model", "Use", "UseKey"]

LLM_METERS: dict[str, Callable[[UsageEvent], Decimal | None]] = {
    "calls": lambda e: Decimal(e.quantity),
    "tokens": lambda e: _sum(e.input_tokens, e.output_tokens),
    "input_tokens": lambda e: _sum(e.input_tokens),
    "output_tokens": lambda e: _sum(e.output_tokens),
    "cached_tokens": lambda e: _sum(e.cached_tokens),
    "reasoning_tokens": lambda e: _sum(e.reasoning_tokens),
}


class At(NamedTuple):
    partition: int
    offset: int


class UseKey(NamedTuple):
    """A line of the view `usage`; times in seconds since the epoch."""

    org: str
    customer_id: str
    meter: str
    feature: str
    model: str
    hour_s: int
    billing_start_s: int


class Use(NamedTuple):
    quantity: Decimal
    event_count: int
    digest: int


class Books(NamedTuple):
    """The answers of all views; two of them are equal when the tables are."""

    events: dict[tuple[At, str], tuple[Any, ...]]
    """By place and meter: org, customer, id, microseconds, quantity, tags, properties, input tokens, log time."""
    rejected: dict[At, tuple[str, ...]]
    """Org, customer, reason and field."""
    duplicates: dict[At, tuple[str, str, str, int]]
    """Org, customer, id, and the offset at which it was met first."""
    usage: dict[UseKey, Use]


class Model:
    """Told of each record by whoever made it, with what must come of it."""

    def __init__(self) -> None:
        self.books = Books({}, {}, {}, {})
        self._first: dict[tuple[str, str, str], int] = {}

    def counted(self, org: str, event: UsageEvent, record: SourceRecord) -> None:
        at = At(record.position.partition, record.position.offset)
        self._first[org, event.customer_id, event.event_id] = at.offset
        for meter, quantity in self._quantities(event):
            self.books.events[at, meter] = (
                org,
                event.customer_id,
                event.event_id,
                event.occurred_at_us,
                quantity,
                event.tags,
                event.properties,
                event.input_tokens,
                record.log_ms,
            )
            self._use(org, event, meter, quantity)

    def duplicate(self, org: str, event: UsageEvent, record: SourceRecord) -> None:
        at = At(record.position.partition, record.position.offset)
        first = self._first[org, event.customer_id, event.event_id]
        self.books.duplicates[at] = (org, event.customer_id, event.event_id, first)

    def failed(self, org: str, event: UsageEvent, record: SourceRecord) -> None:
        """A failed call is rejected, and its id is known from here on."""
        self._first[org, event.customer_id, event.event_id] = record.position.offset
        self.rejected(record, org, event.customer_id, "failed_call", "status")

    def rejected(self, record: SourceRecord, org: str, customer_id: str, reason: str, field: str) -> None:
        at = At(record.position.partition, record.position.offset)
        self.books.rejected[at] = (org, customer_id, reason, field)

    def _quantities(self, event: UsageEvent) -> list[tuple[str, Decimal]]:
        if event.meter is not None:
            return [(event.meter, Decimal(event.quantity))]
        assert event.event_type == "llm.call", "the built-in catalog maps no other type"
        found = [(meter, quantity_of(event)) for meter, quantity_of in LLM_METERS.items()]
        return [(meter, quantity) for meter, quantity in found if quantity is not None]

    def _use(self, org: str, event: UsageEvent, meter: str, quantity: Decimal) -> None:
        occurred = datetime.fromtimestamp(event.occurred_at_us // 1_000_000, UTC)
        hour = occurred.replace(minute=0, second=0)
        month = hour.replace(day=1, hour=0)
        key = UseKey(
            org,
            event.customer_id,
            meter,
            event.feature or "",
            event.model or "",
            int(hour.timestamp()),
            int(month.timestamp()),
        )
        known = self.books.usage.get(key, Use(Decimal(0), 0, 0))
        digest = (known.digest + _digest(event, meter, quantity)) % 2**128
        self.books.usage[key] = Use(known.quantity + quantity, known.event_count + 1, digest)


def _sum(*counts: int | None) -> Decimal | None:
    told = [count for count in counts if count is not None]
    return Decimal(sum(told)) if told else None


def _digest(event: UsageEvent, meter: str, quantity: Decimal) -> int:
    """As the documents say it: each part behind its length in UTF-8."""
    shown = f"{quantity:f}"
    shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    parts = [event.event_id, meter, shown, str(event.occurred_at_us)]
    text = b"".join(str(len(part.encode())).encode() + b":" + part.encode() for part in parts)
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
