"""An independent reader of the log and the ledger, and the ledger's differences to the log and to the naive model.

MessagePack arrays are read by position, as any reader of the documents would: nothing of the product is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
from confluent_kafka import Consumer, TopicPartition

from tests.faults.naive import Model, Sum, Used
from tests.faults.wire import decode_event, is_event

__all__ = [
    "Differences",
    "Entry",
    "Ledger",
    "compare_ledger",
    "different",
    "ends_of",
    "is_folded",
    "ledger_differences",
    "read_ledger",
    "read_topic",
]

Differences = list[str]
"""In words, empty when all is exact."""

_TIMEOUT_S: Final = 30.0
_PAGE_MAX: Final = 1_000
_PAGE_WAIT_S: Final = 0.02
_SHOWN_MAX: Final = 5

# A ledger record is [1, version, incarnation, partition, offset, seq, fact_count, log_ms, source, fact], or a piece of
# a large one, [2, version, incarnation, partition, offset, seq, part, parts, bytes].
_WHOLE, _PIECE = 1, 2


class _Kind:
    """First element of a fact."""

    COUNTED = 1
    DUPLICATE = 2
    REJECTED = 3
    COMMAND_REFUSED = 11


class Entry(NamedTuple):
    """A record of a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    append_ms: int = 0
    """When the topic's clock says that it came."""


def read_topic(bootstrap_servers: str, topic: str) -> list[Entry]:
    """Every committed record, partition by partition in order, up to the end that is found."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "naive",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 10,  # how late the end of a partition is known
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, _TIMEOUT_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        return sorted(_read_to_ends(consumer, set(partitions)), key=lambda entry: entry[:2])
    finally:
        consumer.close()


def _read_to_ends(consumer: Consumer, left: set[int]) -> Iterator[Entry]:
    while left:
        yield from _read_page(consumer, left)


def _read_page(consumer: Consumer, left: set[int]) -> Iterator[Entry]:
    page = consumer.consume(_PAGE_MAX, _PAGE_WAIT_S) or consumer.consume(1, _TIMEOUT_S)
    assert page, "Kafka gives nothing more"
    for message in page:
        error = message.error()
        if error is None and message.partition() not in left:
            continue  # it came behind the end that was found, and what comes with it may not be read any more
        if error is None:
            yield Entry(message.partition(), message.offset(), message.key(), message.value(), message.timestamp()[1])
        else:
            assert error.name() == "_PARTITION_EOF", error
            left.discard(message.partition())


# The ledger


@dataclass
class Ledger:
    """What the ledger tells, added up."""

    sources: list[Entry] = field(default_factory=list)
    """The records that it has facts of, as it kept them, in its order."""
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    duplicate_count: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    commands_refused: int = 0
    usage: dict[Used, Sum] = field(default_factory=dict)
    problems: Differences = field(default_factory=list)


class _Told(NamedTuple):
    """One fact, by position."""

    kind: int
    version: int
    incarnation: int
    partition: int
    offset: int
    seq: int
    fact_count: int
    log_ms: int
    source: Any
    fact: list[Any]


def read_ledger(records: Iterable[Entry]) -> Ledger:
    ledger = Ledger()
    last: dict[int, _Told] = {}
    for told in _facts(records):
        if not _follows(told, last.get(told.partition)):
            ledger.problems.append(f"ledger {told.partition}: {told[4:7]} follows {last.get(told.partition, ())[4:7]}")
        if told.source is not None:
            key, value, _headers, append_ms, _previous = told.source
            ledger.sources.append(Entry(told.partition, told.offset, key, value, append_ms))
        last[told.partition] = told
        _add_fact(ledger, told.fact)
    ledger.problems += [
        f"ledger {told.partition}: ends within {told[4:7]}" for told in last.values() if not _is_last(told)
    ]
    return ledger


def _follows(told: _Told, before: _Told | None) -> bool:
    """Whether nothing is missing or twice between the two: the facts of a record are whole, and name the record before."""
    if told.source is None:
        return before is not None and told[4:6] == (before.offset, before.seq + 1)
    previous_offset = told.source[4]
    if before is None:
        return bool(told.seq == 0 and previous_offset == -1)
    return bool(told.seq == 0 and previous_offset == before.offset and _is_last(before))


def _is_last(told: _Told) -> bool:
    return told.seq == told.fact_count - 1


def _facts(records: Iterable[Entry]) -> Iterator[_Told]:
    """All facts in their order, large ones put together."""
    parts: list[bytes] = []
    for record in records:
        assert record.value is not None, "a ledger record has a value"
        values = msgspec.msgpack.decode(record.value)
        if values[0] == _PIECE:
            *_, part, part_count, data = values
            assert part == len(parts), (
                f"ledger {record.partition}/{record.offset}: part {part} follows {len(parts)} parts"
            )
            parts.append(data)
            if len(parts) < part_count:
                continue
            values = msgspec.msgpack.decode(b"".join(parts))
            parts = []
        told = _Told(*values[: len(_Told._fields)])
        assert told.kind == _WHOLE, "a fact is a fact"
        assert told.partition == record.partition, "a fact lies on its record's partition"
        yield told


def _add_fact(ledger: Ledger, fact: list[Any]) -> None:
    match fact[0]:
        case _Kind.COUNTED:
            account, event_id, entries = fact[1], fact[2], fact[11]
            ledger.counted[account, event_id] += 1
            for meter, quantity, _stripe_event_name in entries:
                used = Used(account, meter)
                known = ledger.usage.get(used, Sum(Decimal(0), 0))
                ledger.usage[used] = Sum(known.quantity + Decimal(quantity), known.events + 1)
        case _Kind.DUPLICATE:
            ledger.duplicate_count += 1
        case _Kind.REJECTED:
            ledger.rejected[fact[1]] += 1
        case _Kind.COMMAND_REFUSED:
            ledger.commands_refused += 1
        case _:
            pass


def ledger_differences(bootstrap_servers: str, model: Model) -> Differences:
    """The ledger against the log that it was folded from, and against what was sent."""
    log = read_topic(bootstrap_servers, "usage-events")
    return compare_ledger(log, read_ledger(read_topic(bootstrap_servers, "ledger")), model)


def compare_ledger(log: Sequence[Entry], ledger: Ledger, model: Model) -> Differences:
    """The same, of what was read."""
    events = [record for record in log if is_event(record.value)]
    copies = _copies(events, model)
    found = list(ledger.problems)
    if missing := model.events.keys() - copies.keys():
        found.append(f"log: {len(missing)} acknowledged events are not on it, such as {sorted(missing)[:2]}")
    found += different("ledger: facts of records", Counter(log), Counter(ledger.sources))
    found += different("ledger: counted", Counter(model.counted), ledger.counted)
    found += different("ledger: rejected", model.rejected, ledger.rejected)
    found += different("ledger: usage", model.usage, ledger.usage)
    # Whatever is sent again, by whom and however often, is a duplicate but for the first time.
    repeats = copies.total() - len(copies) - model.broken_copies
    accounted = ledger.counted.total() + ledger.duplicate_count + ledger.rejected.total()
    sums = {"duplicate": ledger.duplicate_count, "accounted for": accounted, "commands": ledger.commands_refused}
    expected = {"duplicate": repeats, "accounted for": len(events), "commands": model.commands}
    return found + different("ledger: sums", expected, sums)


def is_folded(bootstrap_servers: str) -> bool:
    """Whether the log's last record of each partition has its facts; one before it that lacks them never gets any."""
    log = read_topic(bootstrap_servers, "usage-events")
    ledger = read_ledger(read_topic(bootstrap_servers, "ledger"))
    return ends_of(log) == ends_of(ledger.sources)


def ends_of(records: Iterable[Entry]) -> dict[int, int]:
    """Each partition's last offset."""
    return {record.partition: record.offset for record in records}


def _copies(events: Iterable[Entry], model: Model) -> Counter[tuple[str, str]]:
    """How often each event that was sent is on the log."""
    ids = ((record.key, decode_event(record.value)) for record in events)
    named = (
        (key.decode(errors="replace"), event_id) for key, event_id in ids if key is not None and event_id is not None
    )
    return Counter(event for event in named if event in model.events)


def different(what: str, expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> Differences:
    """One line for a whole book, with the first few of its keys that differ."""
    keys = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    shown = [f"{str(key)[:120]}: {expected.get(key)} expected, {found.get(key)} found" for key in keys[:_SHOWN_MAX]]
    return [f"{what}: {len(keys)} differ: {'; '.join(shown)}"] if keys else []
