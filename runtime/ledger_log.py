"""Reads the ledger as whole source records, from its start or from a moment on."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Final, NamedTuple

from billing.records import Genesis, Position
from runtime.logs import LogRecord, offset_at, range_of, read
from schemas.codec import decode_record
from schemas.ledger import LedgerReader, SourceRecord, part_number, position_in
from schemas.topics import LEDGER, USAGE_EVENTS

__all__ = [
    "LedgerRecord",
    "find_record",
    "incarnation_of",
    "last_value",
    "raw_records",
    "source_records",
    "source_records_since",
    "whole_records",
]

_SLACK_MS: Final = 60 * 60_000
"""Facts are appended after their record; brokers' clocks may differ."""


class LedgerRecord(NamedTuple):
    """A record as its ledger tells it, with the bytes in which it does."""

    told: SourceRecord
    values: tuple[bytes, ...]


def whole_records(ledger: Iterable[LogRecord]) -> Iterator[SourceRecord]:
    """The source records of a partition's ledger, from the first fact that begins one. Raises LedgerGap."""
    reader = LedgerReader()
    has_begun = False
    for record in ledger:
        assert record.value is not None, f"ledger offset {record.offset} has no value"
        # A piece in the middle of a large fact begins nothing.
        has_begun = has_begun or not part_number(record.value)
        if has_begun:
            yield from reader.feed([record.value])
    yield from reader.flush()


def raw_records(ledger: Iterable[LogRecord]) -> Iterator[LedgerRecord]:
    """As `whole_records`, each with the values that tell of it."""
    reader = LedgerReader()
    values: list[bytes] = []
    fact_at = 0
    for record in ledger:
        assert record.value is not None, f"ledger offset {record.offset} has no value"
        begins_fact = not part_number(record.value)
        if not values and not begins_fact:
            continue  # a piece in the middle of a large fact begins nothing
        if begins_fact:
            fact_at = len(values)
        values.append(record.value)
        for told in reader.feed([record.value]):
            # It is known to be whole by the fact behind it, all pieces of which have come by now.
            yield LedgerRecord(told, tuple(values[:fact_at]))
            values, fact_at = values[fact_at:], 0
        if not reader.is_within:
            values = []  # a repeat was dropped
    for told in reader.flush():
        yield LedgerRecord(told, tuple(values))


def source_records(
    bootstrap_servers: str, partition: int, start: int = 0, end: int | None = None
) -> Generator[SourceRecord]:
    """The source records of the ledger's offsets from `start` to before `end`."""
    with closing(read(bootstrap_servers, LEDGER, partition, start, end)) as records:
        yield from whole_records(records)


def source_records_since(
    bootstrap_servers: str, partition: int, since_ms: int, end: int | None = None
) -> Generator[SourceRecord]:
    """The source records whose facts were written at `since_ms` or later."""
    start = offset_at(bootstrap_servers, LEDGER, partition, since_ms)
    if start is not None:
        yield from source_records(bootstrap_servers, partition, start, end)


def incarnation_of(bootstrap_servers: str, partition: int) -> int:
    """Of the log as it is now: its genesis says so, or, where retention has taken that, the last of its facts."""
    with closing(read(bootstrap_servers, USAGE_EVENTS, partition)) as records:
        first = next(records, None)
    genesis = None if first is None else decode_record(first.value)
    if isinstance(genesis, Genesis):
        return genesis.incarnation
    value = last_value(bootstrap_servers, partition)
    return 1 if value is None else position_in(value).incarnation


def last_value(bootstrap_servers: str, partition: int) -> bytes | None:
    """The last committed record of the partition's ledger: behind it lie only markers, and what was aborted."""
    held = range_of(bootstrap_servers, LEDGER, partition)
    back = 64
    while True:
        start = max(held.end - back, held.start)
        value = None
        with closing(read(bootstrap_servers, LEDGER, partition, start, held.end)) as records:
            for record in records:
                value = record.value
        if value is not None or start == held.start:
            return value
        back *= 16


def find_record(bootstrap_servers: str, position: Position, append_ms: int) -> SourceRecord | None:
    """The record of that position, which was appended to the log at `append_ms`; None where the ledger has none."""
    since_ms = append_ms - _SLACK_MS
    for told in source_records_since(bootstrap_servers, position.partition, since_ms):
        if told.position == position:
            return told
    return None
