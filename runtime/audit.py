"""The audit: every accepted event is counted, a duplicate or rejected, and every copy of the totals agrees.

It reads `usage-events` and `ledger` side by side, record by record, and trusts neither the fold's tables nor its counters.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from billing.facts import CommandRefused, EventCounted, EventDuplicate, EventRejected
from billing.quantities import nano_of, plain
from billing.records import Command, Genesis, Tick
from runtime.logs import LogRecord, Range
from schemas.codec import decode_record
from schemas.ledger import LedgerReader, SourceRecord

__all__ = ["Audit", "Difference", "PartitionAudit", "Usage", "UsageKey", "audit_partition", "compare"]

_SHOWN_OFFSETS_MAX = 20


class UsageKey(NamedTuple):
    """Whose usage of what: `account` is org/customer (for Stripe: the Stripe customer)."""

    account: str
    meter: str


@dataclass(slots=True)
class Usage:
    quantity_nano: int = 0
    event_count: int = 0


class Difference(NamedTuple):
    """One place where two books disagree."""

    where: str
    subject: str
    expected: str
    found: str


@dataclass(slots=True)
class PartitionAudit:
    """One partition's line of the equation, with the offsets where the log and the ledger do not tell the same."""

    partition: int
    accepted: int = 0
    counted: int = 0
    duplicate: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    commands_refused: int = 0
    without_fact: list[int] = field(default_factory=list)
    """On the log, not in the ledger: accepted and not accounted for."""
    without_record: list[int] = field(default_factory=list)
    """In the ledger, not on the log."""
    altered: list[int] = field(default_factory=list)
    """The ledger's copy of the record is not the record."""

    @property
    def holds(self) -> bool:
        return (
            self.accepted == self.counted + self.duplicate + self.rejected.total()
            and self.commands == self.commands_refused
            and not (self.without_fact or self.without_record or self.altered)
        )


@dataclass(slots=True)
class Audit:
    """The equation by partition, and what the ledger says was used."""

    partitions: list[PartitionAudit] = field(default_factory=list)
    usage: dict[UsageKey, Usage] = field(default_factory=dict)
    stripe: dict[UsageKey, int] = field(default_factory=dict)
    """What Stripe should have, in nano-units, by Stripe customer and meter event name."""
    differences: list[Difference] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return all(line.holds for line in self.partitions) and not self.differences

    def sum_of(self, name: str) -> int:
        """One column of the equation over all partitions: accepted, counted, duplicate."""
        return sum(int(getattr(line, name)) for line in self.partitions)

    @property
    def rejected(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for line in self.partitions:
            total += line.rejected
        return total


def audit_partition(
    audit: Audit, partition: int, log: Iterable[LogRecord], ledger: Iterable[LogRecord], held: Range
) -> None:
    """Add one partition: the records of its log in `held`, and its ledger up to the same place.

    Records that retention has taken from the log stand in the ledger as they were, and are accepted by its word.
    """
    line = PartitionAudit(partition)
    records = iter(log)
    record = next(records, None)
    for told in _source_records(ledger):
        offset = told.position.offset
        if offset >= held.end:
            break  # it came after the audit began
        while record is not None and record.offset < offset:
            _count_record(line, record.value)
            line.without_fact.append(record.offset)
            record = next(records, None)
        if record is not None and record.offset == offset:
            if (record.key, record.value) != (told.source.key, told.source.value):
                line.altered.append(offset)
            _count_record(line, record.value)
            record = next(records, None)
        elif offset < held.start:
            _count_record(line, told.source.value)
        else:
            line.without_record.append(offset)
        _count_facts(audit, line, told)
    while record is not None:
        _count_record(line, record.value)
        line.without_fact.append(record.offset)
        record = next(records, None)
    audit.partitions.append(line)
    audit.differences += _offset_differences(line)


def compare(
    audit: Audit,
    where: str,
    expected: dict[UsageKey, int],
    found: dict[UsageKey, int],
    show: Callable[[int], str] = plain,
) -> None:
    """Note each customer and meter on which another book differs from the ledger."""
    for key in sorted(expected.keys() | found.keys()):
        ours, theirs = expected.get(key, 0), found.get(key, 0)
        if ours != theirs:
            audit.differences.append(Difference(where, f"{key.account} {key.meter}", show(ours), show(theirs)))


def _source_records(ledger: Iterable[LogRecord]) -> Iterator[SourceRecord]:
    reader = LedgerReader()
    for record in ledger:
        assert record.value is not None, f"ledger offset {record.offset} has no value"
        yield from reader.feed([record.value])
    yield from reader.flush()


def _count_record(line: PartitionAudit, value: bytes | None) -> None:
    match decode_record(value):
        case Tick() | Genesis():
            pass
        case Command():
            line.commands += 1
        case _:
            line.accepted += 1


def _count_facts(audit: Audit, line: PartitionAudit, told: SourceRecord) -> None:
    for fact in told.facts:
        match fact:
            case EventCounted():
                line.counted += 1
                _add_usage(audit, fact)
            case EventDuplicate():
                line.duplicate += 1
            case EventRejected():
                line.rejected[str(fact.reason)] += 1
            case CommandRefused():
                line.commands_refused += 1
            case _:
                pass


def _add_usage(audit: Audit, fact: EventCounted) -> None:
    for entry in fact.entries:
        nano = nano_of(entry.quantity)
        usage = audit.usage.setdefault(UsageKey(fact.account, entry.meter), Usage())
        usage.quantity_nano += nano
        usage.event_count += 1
        if entry.stripe_event_name is not None:
            key = UsageKey(fact.stripe_customer, entry.stripe_event_name)
            audit.stripe[key] = audit.stripe.get(key, 0) + nano


def _offset_differences(line: PartitionAudit) -> Iterator[Difference]:
    for offsets, expected, found in (
        (line.without_fact, "a fact in the ledger", "none"),
        (line.without_record, "a record on the log", "none"),
        (line.altered, "the record as it is on the log", "another"),
    ):
        for offset in offsets[:_SHOWN_OFFSETS_MAX]:
            yield Difference("ledger", f"usage-events {line.partition}/{offset}", expected, found)
        if len(offsets) > _SHOWN_OFFSETS_MAX:
            more = f"{len(offsets) - _SHOWN_OFFSETS_MAX} more"
            yield Difference("ledger", f"usage-events {line.partition}, {more}", expected, found)
