"""A usage log in memory, folded by the real rules as it grows, with what a worker would write for it.

    log = FoldLog(partition_count=2)
    log.add_event("acme", event, append_ms)          an event, on its customer's partition
    log.add(partition, key, value, append_ms)         any bytes, on any partition
    log.tick(append_ms)                               time passes on every partition
    epoch = log.take()                                what was caused since the last `take`, to be produced together

It shares the pure rules and the encoders with the worker, and none of its engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from billing.behaviours import BEHAVIOURS
from billing.catalog.builtin import BUILTIN_CATALOG
from billing.catalog.types import Catalog
from billing.facts import EventCounted, StripeHourClosed, TotalClosed
from billing.late.types import LateRequest
from billing.quantities import nano_of
from billing.records import Genesis, Position, Tick, UsageEvent
from billing.routing import partition_of
from billing.state import MemoryState, StripeHour, StripeHourKey, Total, TotalKey
from billing.step import step
from schemas.codec import decode_record, encode
from schemas.ledger import Source, SourceRecord, encode_facts
from schemas.rows import STRIPE_HOURS, TOTALS
from schemas.totals import encode_stripe_hour, encode_total
from tests.support.operator import public_key, signed_late

__all__ = ["Epoch", "FoldLog", "Produced"]


class Produced(NamedTuple):
    """A record as the worker produces it to a topic, on the source's partition."""

    partition: int
    key: bytes | None
    value: bytes


@dataclass
class Epoch:
    """What is committed together. Of each total only the newest value, as the worker has it."""

    ledger: list[Produced] = field(default_factory=list)
    totals: list[Produced] = field(default_factory=list)


class FoldLog:
    """One deployment's `usage-events`. Each partition begins with its genesis, at `start_ms`."""

    def __init__(
        self, start_ms: int, partition_count: int = 2, incarnation: int = 1, catalog: Catalog = BUILTIN_CATALOG
    ) -> None:
        genesis = encode(Genesis("deployment", incarnation, partition_count, public_key()))
        self.partition_count = partition_count
        self.records: list[SourceRecord] = []
        """Every record that was folded, with its facts, in the order in which they came."""
        self._partitions = [_Partition(number, incarnation, catalog) for number in range(partition_count)]
        for number in range(partition_count):
            self.add(number, None, genesis, start_ms)

    def home(self, org: str, customer_id: str) -> int:
        """The partition of a customer."""
        return partition_of(f"{org}/{customer_id}".encode(), self.partition_count)

    def add_event(self, org: str, event: UsageEvent, append_ms: int, partition: int | None = None) -> SourceRecord:
        """An event under its customer's key; `partition` misroutes it."""
        key = f"{org}/{event.customer_id}".encode()
        number = self.home(org, event.customer_id) if partition is None else partition
        return self.add(number, key, encode(event), append_ms)

    def add_late(self, account: str, request: LateRequest, append_ms: int) -> SourceRecord:
        """What the operator asks about late usage, on the account's partition."""
        key = account.encode()
        number = partition_of(key, self.partition_count)
        command = signed_late(request, account, "deployment", issued_at_ms=append_ms)
        return self.add(number, key, encode(command), append_ms)

    def add(self, partition: int, key: bytes | None, value: bytes | None, append_ms: int) -> SourceRecord:
        """A record of these bytes."""
        record = self._partitions[partition].add(key, value, append_ms)
        self.records.append(record)
        return record

    def tick(self, append_ms: int) -> list[SourceRecord]:
        """A tick on every partition."""
        value = encode(Tick(append_ms))
        return [self.add(number, None, value, append_ms) for number in range(self.partition_count)]

    def skip(self, partition: int, offsets: int = 1) -> None:
        """Leave offsets unused, as transaction markers and aborted records do."""
        self._partitions[partition].next_offset += offsets

    def take(self) -> Epoch:
        """What the records since the last call caused."""
        epoch = Epoch()
        for partition in self._partitions:
            partition.take(epoch)
        return epoch


class _Partition:
    def __init__(self, number: int, incarnation: int, catalog: Catalog) -> None:
        self.next_offset = 0
        self._number = number
        self._incarnation = incarnation
        self._catalog = catalog
        self._state = MemoryState()
        self._last_offset = -1
        self._ledger: list[Produced] = []
        self._totals: dict[bytes, bytes] = {}

    def add(self, key: bytes | None, value: bytes | None, append_ms: int) -> SourceRecord:
        position = Position(self._incarnation, self._number, self.next_offset)
        facts = step(self._state, BEHAVIOURS, self._catalog, decode_record(value), key, append_ms, position)
        for fact in facts:
            self._publish(fact)
        source = Source(key, value, (), append_ms, self._last_offset)
        for data in encode_facts(position, self._state.log_ms, source, facts):
            self._ledger.append(Produced(self._number, key, data))
        self._last_offset = self.next_offset
        self.next_offset += 1
        return SourceRecord(position, self._state.log_ms, source, tuple(facts))

    def take(self, epoch: Epoch) -> None:
        epoch.ledger += self._ledger
        epoch.totals += [Produced(self._number, key, value) for key, value in self._totals.items()]
        self._ledger, self._totals = [], {}

    def _publish(self, fact: object) -> None:
        """The totals that a fact changed or closed."""
        match fact:
            case EventCounted():
                self._publish_changed(fact)
            case TotalClosed():
                key = TotalKey(
                    fact.booking_day,
                    fact.account,
                    fact.billing_start_s,
                    fact.meter,
                    fact.feature,
                    fact.model,
                    fact.hour,
                )
                digest = int.from_bytes(fact.digest, "little")
                self._put(key, Total(nano_of(fact.quantity), fact.event_count, digest, fact.version_offset))
            case StripeHourClosed():
                hour_key = StripeHourKey(fact.hour, fact.account, fact.stripe_customer, fact.stripe_event_name)
                self._put_hour(hour_key, StripeHour(nano_of(fact.quantity), fact.version_offset))
            case _:
                pass

    def _publish_changed(self, fact: EventCounted) -> None:
        for entry in fact.entries:
            key = TotalKey(
                fact.booking_day, fact.account, fact.billing_start_s, entry.meter, fact.feature, fact.model, fact.hour
            )
            total = self._state.totals.get(key)
            assert total is not None, "a counted event has its total"
            self._put(key, total)
            if entry.stripe_event_name is not None:
                hour_key = StripeHourKey(fact.hour, fact.account, fact.stripe_customer, entry.stripe_event_name)
                hour = self._state.stripe_hours.get(hour_key)
                assert hour is not None, "what Stripe is told has a row"
                self._put_hour(hour_key, hour)

    def _put(self, key: TotalKey, total: Total) -> None:
        self._totals[TOTALS.encode_key(key)] = encode_total(self._number, key, total)

    def _put_hour(self, key: StripeHourKey, hour: StripeHour) -> None:
        value = encode_stripe_hour(self._number, key, hour)
        self._totals[STRIPE_HOURS.encode_key(key)] = value
