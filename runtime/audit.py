"""The audit: every accepted event is counted, a duplicate or rejected, and every copy of the totals agrees.

It reads `usage-events` and `ledger` side by side, record by record, and trusts neither the fold's tables nor its counters: it
decides every record again, from an empty state, and each fact in the ledger must be the one that the record causes.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from billing.catalog.types import Catalog
from billing.facts import (
    BehaviourSwitched,
    CommandRefused,
    EventCounted,
    EventDuplicate,
    EventRejected,
    LateApproved,
    LateReceived,
    LateRejected,
    LateRepeated,
    OrderApplied,
    OrderRepeated,
)
from billing.quantities import nano_of, plain
from billing.records import Command, Genesis, Tick
from runtime.ledger_log import whole_records
from runtime.logs import LogRecord, Range
from runtime.refold import Refold
from schemas.codec import decode_record
from schemas.intents import Window
from schemas.ledger import SourceRecord

__all__ = ["Audit", "Difference", "PartitionAudit", "Usage", "UsageKey", "agree", "audit_partition", "compare"]

_SHOWN_OFFSETS_MAX = 20

K = TypeVar("K")


class UsageKey(NamedTuple):
    """Whose usage of what: `account` is org/customer."""

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
    commands_applied: int = 0
    commands_repeated: int = 0
    commands_refused: Counter[str] = field(default_factory=Counter)
    """By reason."""
    approved: int = 0
    """Late events that a person approved: counted at the approval, a command, and so no part of `accepted`."""
    without_fact: list[int] = field(default_factory=list)
    """On the log, not in the ledger: accepted and not accounted for."""
    without_record: list[int] = field(default_factory=list)
    """In the ledger, not on the log."""
    altered: list[int] = field(default_factory=list)
    """The ledger's copy of the record is not the record."""
    decided_otherwise: list[int] = field(default_factory=list)
    """The record, decided again, causes other facts than the ledger has."""

    @property
    def holds(self) -> bool:
        return (
            self.accepted == self.counted + self.duplicate + self.rejected.total()
            and self.commands == self.commands_applied + self.commands_repeated + self.commands_refused.total()
            and not (self.without_fact or self.without_record or self.altered or self.decided_otherwise)
        )


@dataclass(slots=True)
class Audit:
    """The equation by partition, and what the ledger says was used."""

    partitions: list[PartitionAudit] = field(default_factory=list)
    usage: dict[UsageKey, Usage] = field(default_factory=dict)
    stripe: dict[Window, int] = field(default_factory=dict)
    stripe_untold: dict[UsageKey, Usage] = field(default_factory=dict)
    """Approved late usage, by account and Stripe's meter: Stripe takes none that old, so a person invoices it."""
    """What Stripe should have of each hour, in nano-units."""
    differences: list[Difference] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    """Books that this deployment does not keep, with the reason."""

    @property
    def holds(self) -> bool:
        return all(line.holds for line in self.partitions) and not self.differences

    def sum_of(self, name: str) -> int:
        """One column of the equation over all partitions: accepted, counted, duplicate."""
        return sum(int(getattr(line, name)) for line in self.partitions)

    @property
    def rejected(self) -> Counter[str]:
        return sum((line.rejected for line in self.partitions), Counter())

    @property
    def commands_refused(self) -> Counter[str]:
        return sum((line.commands_refused for line in self.partitions), Counter())


def audit_partition(
    audit: Audit,
    catalog: Catalog,
    partition: int,
    log: Iterable[LogRecord],
    ledger: Iterable[LogRecord],
    held: Range,
    incarnation: int = 1,
) -> None:
    """Add one partition: the records of its log in `held`, and its ledger up to the same place.

    `incarnation` is the log's. Records that retention has taken from it, and those of a log before it, stand in the ledger
    as they were, and are accepted by its word. The
    state that the records are decided against again is kept in memory: some 500 bytes for each event of the past 35 days.
    """
    line = PartitionAudit(partition)
    again = Refold(catalog)
    records = iter(log)
    record = next(records, None)
    for told in whole_records(ledger):
        offset = told.position.offset
        is_of_old_log = told.position.incarnation < incarnation
        if not is_of_old_log and offset >= held.end:
            break  # it came after the audit began
        while record is not None and not is_of_old_log and record.offset < offset:
            _count_record(line, record.value)
            line.without_fact.append(record.offset)
            record = next(records, None)
        if record is not None and not is_of_old_log and record.offset == offset:
            if (record.key, record.value, record.append_ms) != _as_logged(told):
                line.altered.append(offset)
            _count_record(line, record.value)
            record = next(records, None)
        elif is_of_old_log or offset < held.start:
            _count_record(line, told.source.value)
        else:
            line.without_record.append(offset)
        if again.fold(told).facts != told.facts:
            line.decided_otherwise.append(offset)
        _count_facts(audit, line, told)
    while record is not None:
        _count_record(line, record.value)
        line.without_fact.append(record.offset)
        record = next(records, None)
    audit.partitions.append(line)
    audit.differences += _offset_differences(line)


def agree(expected: dict[K, int], found: dict[K, int]) -> bool:
    """Whether two books say the same; one may leave out what the other has as nothing."""
    return all(expected.get(key, 0) == found.get(key, 0) for key in expected.keys() | found.keys())


def compare(audit: Audit, where: str, expected: dict[K, int], found: dict[K, int], name: Callable[[K], str]) -> None:
    """Note each key, under its name, on which another book differs from the ledger."""
    for key in sorted(expected.keys() | found.keys(), key=name):
        ours, theirs = expected.get(key, 0), found.get(key, 0)
        if ours != theirs:
            audit.differences.append(Difference(where, name(key), plain(ours), plain(theirs)))


def _as_logged(told: SourceRecord) -> tuple[bytes | None, bytes | None, int]:
    return told.source.key, told.source.value, told.source.append_ms


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
                _add_usage(audit, fact)
                if any(isinstance(beside, LateApproved) for beside in told.facts):
                    line.approved += 1
                else:
                    line.counted += 1
            case EventDuplicate():
                line.duplicate += 1
            case EventRejected():
                line.rejected[str(fact.reason)] += 1
            case LateApproved():
                line.commands_applied += 1
                _add_untold(audit, fact)
            case OrderApplied() | BehaviourSwitched() | LateReceived() | LateRejected():
                line.commands_applied += 1
            case OrderRepeated() | LateRepeated():
                line.commands_repeated += 1
            case CommandRefused():
                line.commands_refused[str(fact.reason)] += 1
            case _:
                pass


def _add_usage(audit: Audit, fact: EventCounted) -> None:
    for entry in fact.entries:
        nano = nano_of(entry.quantity)
        usage = audit.usage.setdefault(UsageKey(fact.account, entry.meter), Usage())
        usage.quantity_nano += nano
        usage.event_count += 1
        if entry.stripe_event_name is not None:
            window = Window(fact.stripe_customer, entry.stripe_event_name, fact.hour)
            audit.stripe[window] = audit.stripe.get(window, 0) + nano


def _add_untold(audit: Audit, fact: LateApproved) -> None:
    for entry in fact.untold:
        assert entry.stripe_event_name is not None, "what Stripe gets nothing of is not untold"
        key = UsageKey(fact.account, entry.stripe_event_name)
        usage = audit.stripe_untold.setdefault(key, Usage())
        usage.quantity_nano += nano_of(entry.quantity)
        usage.event_count += 1


def _offset_differences(line: PartitionAudit) -> Iterator[Difference]:
    for offsets, expected, found in (
        (line.without_fact, "a fact in the ledger", "none"),
        (line.without_record, "a record on the log", "none"),
        (line.altered, "the record as it is on the log", "another"),
        (line.decided_otherwise, "the facts that the record causes", "others"),
    ):
        for offset in offsets[:_SHOWN_OFFSETS_MAX]:
            yield Difference("ledger", f"usage-events {line.partition}/{offset}", expected, found)
        if len(offsets) > _SHOWN_OFFSETS_MAX:
            more = f"{len(offsets) - _SHOWN_OFFSETS_MAX} more"
            yield Difference("ledger", f"usage-events {line.partition}, {more}", expected, found)
