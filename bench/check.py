"""Holds what was folded against what was sent, so that a fold which drops work cannot look fast."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from bench.load import Expected
from bench.shapes import SHAPES
from bench.stock_faust import OUT_TOPIC
from billing.facts import EventCounted, EventDuplicate
from billing.quantities import nano_of
from runtime.logs import read
from schemas.ledger import LedgerReader, SourceRecord
from schemas.topics import LEDGER, USAGE_TOTALS
from schemas.totals import HourTotal, StripeHourTotal, decode_total

__all__ = ["check_meterlog", "check_stock"]


@dataclass
class _Book:
    """What the topics say about one organisation's events."""

    counted: int = 0
    duplicates: int = 0
    others: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    ledger_nano: Counter[str] = field(default_factory=Counter)
    totals_nano: Counter[str] = field(default_factory=Counter)
    stripe_nano: Counter[str] = field(default_factory=Counter)


def check_meterlog(bootstrap_servers: str, partitions: int, expected: dict[str, Expected]) -> list[str]:
    """Every difference between the load and the ledger, the hour totals and the Stripe rows; by organisation.

    Raises LedgerGap where the ledger itself is not whole.
    """
    books: dict[str, _Book] = defaultdict(_Book)
    for partition in range(partitions):
        reader = LedgerReader()
        for record in read(bootstrap_servers, LEDGER, partition):
            for source in reader.feed([record.value or b""]):
                _add_source(books, source)
        for source in reader.flush():
            _add_source(books, source)
        _add_totals(books, bootstrap_servers, partition)
    return [line for org, sent in expected.items() for line in _differences(org, sent, books[org])]


def _add_source(books: dict[str, _Book], source: SourceRecord) -> None:
    key = source.source.key
    if key is None:
        return  # genesis and ticks
    book = books[key.decode().partition("/")[0]]
    for fact in source.facts:
        if isinstance(fact, EventCounted):
            book.counted += 1
            book.entries += len(fact.entries)
            for entry in fact.entries:
                book.ledger_nano[entry.meter] += nano_of(entry.quantity)
        elif isinstance(fact, EventDuplicate):
            book.duplicates += 1
        else:
            book.others[type(fact).__name__] += 1


def _add_totals(books: dict[str, _Book], bootstrap_servers: str, partition: int) -> None:
    """The last value of each row."""
    rows = {record.key: record.value for record in read(bootstrap_servers, USAGE_TOTALS, partition)}
    for value in rows.values():
        assert value is not None, "a row's last value is a fact"
        total = decode_total(value)
        book = books[total.account.partition("/")[0]]
        match total:
            case HourTotal():
                book.totals_nano[total.meter] += nano_of(total.quantity)
            case StripeHourTotal():
                book.stripe_nano[total.stripe_event_name] += nano_of(total.quantity)


def _differences(org: str, sent: Expected, book: _Book) -> list[str]:
    wanted = Counter({meter: nano_of(str(units)) for meter, units in sent.units.items()})
    to_stripe = Counter({meter: wanted[meter] for meter in SHAPES[org].stripe_meters})
    return [
        *_differ(f"{org}: events counted", sent.counted, book.counted),
        *_differ(f"{org}: duplicates", sent.duplicates, book.duplicates),
        *_differ(f"{org}: refused", 0, book.others["EventRejected"]),
        *_differ(f"{org}: meters matched", sent.counted * len(sent.units), book.entries),
        *_differ(f"{org}: nano-units in the ledger", wanted, book.ledger_nano),
        *_differ(f"{org}: nano-units in the hour totals", wanted, book.totals_nano),
        *_differ(f"{org}: nano-units for Stripe", to_stripe, book.stripe_nano),
    ]


def _differ(what: str, wanted: object, found: object) -> list[str]:
    return [] if wanted == found else [f"{what} should be {wanted}, are {found}"]


def check_stock(bootstrap_servers: str, partitions: int, sent: Expected) -> list[str]:
    """Differences between the load and the stock agent's outputs: one an event, duplicates said to be so."""
    found = Counter(
        json.loads(record.value or b"{}")["duplicate"]
        for partition in range(partitions)
        for record in read(bootstrap_servers, OUT_TOPIC, partition)
    )
    return [
        *_differ("stock: events counted", sent.counted, found[False]),
        *_differ("stock: duplicates", sent.duplicates, found[True]),
    ]
