"""The fold of `usage-events`: the pure rules of `billing`, fed with records and turned into an epoch's effects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from billing.behaviours import BEHAVIOURS, Behaviours
from billing.catalog.types import Catalog
from billing.errors import NoGenesis, RecordCrashed, Stands, UnknownBehaviour
from billing.facts import (
    CommandRefused,
    EventCounted,
    EventDuplicate,
    EventRejected,
    Fact,
    Reason,
    StripeHourClosed,
    TotalClosed,
)
from billing.fold import continues
from billing.orders.fold import Heard, lets_through, settles_time, stands_still
from billing.quantities import nano_of
from billing.records import Command, Genesis, Position, UsageEvent
from billing.records import Record as LogRecord
from billing.state import SeenKey, StripeHour, StripeHourKey, Total, TotalKey
from billing.step import rules_of, step
from observe.figures import FIGURES
from observe.metrics import WORKER_EVENTS
from schemas.codec import CUT_NOTE, DeadLetter, Header, decode_record, encode, is_command
from schemas.ledger import LedgerReader, Source, encode_facts
from schemas.rows import (
    POSITION_KEY,
    SEEN,
    STRIPE_HOURS,
    TOTALS,
    Parked,
    PositionRow,
    decode_position,
    encode_position,
    seen_expires_at_ms,
)
from schemas.totals import encode_stripe_hour, encode_total
from streams.port import Answer, Epoch, Expiry, LastRecord, PartitionFold, Record, Stop, StopKind, Store
from streams.positions import record_digest
from streams.rows import StoreState
from streams.standing import AHEAD_MS_MAX, stop_ahead, stop_before

__all__ = ["UsageFold", "UsagePartition"]

_COPIED_BYTES_MAX: Final = 1 << 20
"""Of a record in its dead letter, and of a key: what a topic takes, as it lies there. A producer that compresses can put
far larger records on the topic, since Kafka weighs them packed; the ledger alone takes those whole, in parts."""
_CUT_BYTES: Final = 64 * 1024
_HEADER_OVERHEAD_BYTES: Final = 9
"""Avro's: two lengths of at most four bytes, and which of null and bytes the value is."""


class UsageFold:
    """Makes the folds of partitions, all under one catalog."""

    expiry: Final = Expiry(
        table=SEEN.table,
        start=SEEN.prefix,
        stop=bytes([SEEN.prefix[0] + 1]),
        expires_at_ms=seen_expires_at_ms,
        position_key=POSITION_KEY,
        log_ms=lambda value: decode_position(value).log_ms,
    )
    """Event ids: the decision goes by log time, so that a row may go or stay."""

    def __init__(self, catalog: Catalog, behaviours: Behaviours = BEHAVIOURS) -> None:
        self._catalog = catalog
        self._behaviours = behaviours

    def open(self, partition: int, store: Store) -> PartitionFold:
        return UsagePartition(self._catalog, self._behaviours, partition, store)


class UsagePartition:
    """One partition's fold. Its state is its rows: dropped and built anew, it goes on as if nothing had been."""

    def __init__(self, catalog: Catalog, behaviours: Behaviours, partition: int, store: Store) -> None:
        (stored,) = store.get_many(TOTALS.table, [POSITION_KEY])
        position: PositionRow | None = None if stored is None else decode_position(stored)
        self._catalog = catalog
        self._behaviours = behaviours
        self._partition = partition
        self._state = StoreState(
            store, position.partition_row if position else None, position.log_ms if position else 0
        )
        self._last_offset = position.last_offset if position else -1
        self._last_append_ms = position.last_append_ms if position else 0
        self._last_digest = position.last_digest if position else b""
        self._last_record: Record | None = None
        """The record folded last, where this life of the fold has folded any."""
        self.next_offset: int | None = position.next_offset if position else None
        self._genesis_offset: int | None = None
        """Where the log begins that was made anew, until its genesis is folded."""
        self._parked = position.parked if position else None
        self._heard: Heard | None = None
        """The order that lets the next record through."""
        self._unhelpful: set[int] = set()
        """Offsets of orders that let the record through before which the fold stands, and it stood again."""
        self.stop: Stop | None = self._stop_of_before()
        self._epoch = Epoch([], {}, [], {}, self.next_offset or 0)
        self._outcomes: Counter[tuple[str, str]] = Counter()

    @property
    def last(self) -> LastRecord | None:
        """The record folded last, as the position row tells it."""
        digest = self._digest_of_last()
        return LastRecord(self._last_offset, digest) if digest else None

    @property
    def log_ms(self) -> int:
        """Log time; 0 before the first record."""
        return self._state.log_ms

    def begin_anew(self, first: Record) -> bool:
        """A log that begins with the genesis of the next incarnation; what the old one was parked at is gone with it."""
        genesis, row = decode_record(first.value), self._state.partition
        if row is None or not isinstance(genesis, Genesis) or not continues(row, genesis):
            return False
        if first.offset > self._last_offset:
            return False  # the old log goes on: what lay before went by retention, and anybody can append a genesis
        self._genesis_offset = self.next_offset = first.offset
        self.stop = self._parked = None
        return True

    def fold(self, records: Sequence[Record], now_ms: int) -> Sequence[Answer]:
        """Decide the records in their order, up to one before which the fold must stand.

        Raises CannotFold: NoGenesis where the partition is not a deployment's.
        """
        assert self.stop is None or self.stop.kind is StopKind.AHEAD, f"it stands: {self.stop}"
        self.stop = None
        decoded = [decode_record(record.value) for record in records]
        self._load(records, decoded)
        latest_ms = now_ms + AHEAD_MS_MAX
        for record, value in zip(records, decoded, strict=True):
            if record.timestamp > latest_ms and self._waits_for_clock(record):
                self.stop = stop_ahead(self._partition, record)
                break
            try:
                self._fold_one(record, value, self._epoch)
            except Stands as reason:
                self._stand(record, reason)
                break
        self._tell_outcomes()
        return ()

    def take(self) -> Epoch:
        """Encode what the open epoch changed, once a row; the next epoch begins empty."""
        epoch = self._epoch
        assert self.next_offset is not None, "an epoch is taken when records were folded"
        epoch.next_offset = self.next_offset
        self._publish_totals(epoch)
        epoch.rows = self._state.take()
        epoch.rows[TOTALS.table][POSITION_KEY] = self._position_row(epoch.next_offset)
        self._epoch = Epoch([], {}, [], {}, epoch.next_offset)
        return epoch

    def hear(self, record: Record) -> bool:
        """Whether a record further on is the operator's order that lets through the one that the fold stands before."""
        stop, partition_row = self.stop, self._state.partition
        if stop is None or partition_row is None or stop.kind is StopKind.BEHAVIOUR or record.offset in self._unhelpful:
            return False
        if record.value is None or not is_command(record.value):
            return False  # before anything is decoded: a partition may stand before millions of events
        command = decode_record(record.value)
        if not isinstance(command, Command):
            return False
        heard = Heard(command, record.key, record.value, record.offset)
        is_anew = stop.offset == self._genesis_offset
        position = Position(partition_row.incarnation + is_anew, self._partition, stop.offset)
        if not lets_through(self._state, heard, position):
            return False
        if stop.kind is StopKind.AHEAD:
            if settles_time(heard):
                self._park(Stop(stop.offset, StopKind.PARKED, stop.message))
            return False
        self._heard, self.stop = heard, None
        return True

    def is_due(self, now_ms: int) -> bool:
        """Whether a tick appended now would close anything. A fold that stands could not fold it."""
        if self.stop is not None:
            return False
        try:
            rules = rules_of(self._behaviours, self._state.partition)
        except UnknownBehaviour:
            return False
        return rules.is_due(self._state, now_ms)

    def _stop_of_before(self) -> Stop | None:
        """Where the partition stood when its position row was written, it stands: whoever takes it over goes no further."""
        if self._parked is not None:
            return Stop(self._parked.offset, StopKind.PARKED, self._parked.message)
        return None

    def _waits_for_clock(self, record: Record) -> bool:
        """A record that is ahead of the worker's clock waits, but where an order lets it through or has settled its time.

        Which order that is must not depend on a clock, and it waits no more once the partition is parked.
        """
        if self._heard is not None:
            return False
        partition_row = self._state.partition
        return partition_row is None or not stands_still(partition_row, record.offset)

    def _stand(self, record: Record, reason: Stands) -> None:
        """Come to stand before a record: what the epoch holds of it goes, what precedes it stays."""
        if isinstance(reason, RecordCrashed) and reason.half_applied:
            self._restore()
        if self._heard is not None:
            self._unhelpful.add(self._heard.offset)
        self._heard = None
        self.stop = stop_before(self._partition, record, reason)
        if self.stop.kind is StopKind.PARKED:
            self._park(self.stop)

    def _park(self, stop: Stop) -> None:
        """Stand whoever owns the partition, once this is in the position row."""
        self.stop = stop
        self._parked = Parked(stop.offset, stop.message)

    def _restore(self) -> None:
        """Bring the state back to the last whole record, by the open epoch's facts: they alone make the state.

        A journal of what each record overwrites would cost every event 1 µs; a record that crashes half way is rare.
        """
        state = self._state
        state.drop_epoch()
        reader = LedgerReader()
        for told in [*reader.feed([value for _, value in self._epoch.ledger]), *reader.flush()]:
            rules = rules_of(self._behaviours, state.partition)
            for fact in told.facts:
                rules.evolve(state, self._catalog, fact, told.position, told.log_ms)
            state.log_ms = told.log_ms

    def _load(self, records: Sequence[Record], decoded: Sequence[LogRecord]) -> None:
        """Read what the records will ask for in two calls: rows come at 2 µs a call, not a row."""
        accounts: dict[str, None] = {}
        ids = []
        for record, value in zip(records, decoded, strict=True):
            if isinstance(value, UsageEvent) and record.key is not None:
                account = record.key.decode("utf-8", "replace")
                accounts[account] = None
                ids.append(SeenKey(account, value.event_id))
        self._state.accounts.load(accounts)
        self._state.seen.load(ids)

    def _fold_one(self, record: Record, value: LogRecord, epoch: Epoch) -> None:
        """Decide one record: its facts change the state, and go to the ledger with the record as it was. Raises Stands."""
        position = Position(self._incarnation(record, value), self._partition, record.offset)
        facts = step(
            self._state,
            self._behaviours,
            self._catalog,
            value,
            record.key,
            record.timestamp,
            position,
            self._heard,
        )
        try:
            self._put_out(facts, record, position, epoch)
        except MemoryError:
            raise
        except Exception as exc:
            raise RecordCrashed(exc, half_applied=True) from exc
        self._last_offset, self._last_append_ms, self._last_record = record.offset, record.timestamp, record
        self.next_offset = record.offset + 1
        if self._heard is not None or self._parked is not None:
            self._heard = self._parked = None
            self._unhelpful.clear()
        self._genesis_offset = None

    def _put_out(self, facts: Sequence[Fact], record: Record, position: Position, epoch: Epoch) -> None:
        """What the record's facts send. Of one that crashes here only closed totals may stay, which say what the rows say."""
        source = Source(record.key, record.value, tuple(record.headers), record.timestamp, self._last_offset)
        key = record.key if len(record.key or b"") <= _COPIED_BYTES_MAX else None
        entries = [(key, data) for data in encode_facts(position, self._state.log_ms, source, facts)]
        letters: list[tuple[bytes, bytes]] = []
        for fact in facts:
            self._publish(fact, record, position, epoch.totals, letters)
        for fact in facts:
            self._count(fact)
        epoch.ledger += entries
        epoch.dead_letters += letters

    def _incarnation(self, record: Record, value: LogRecord) -> int:
        row = self._state.partition
        if isinstance(value, Genesis) and (row is None or record.offset == self._genesis_offset):
            return value.incarnation
        return 0 if row is None else row.incarnation

    def _publish(
        self,
        fact: Fact,
        record: Record,
        position: Position,
        totals: dict[bytes, bytes],
        letters: list[tuple[bytes, bytes]],
    ) -> None:
        """What some facts send beside the ledger: dead letters, and the last value of a row that closes."""
        match fact:
            case EventRejected() if fact.reason is not Reason.FAILED_CALL:
                letters.append(_dead_letter(fact.reason, fact.field, fact.message, record, position))
            case CommandRefused():
                letters.append(_dead_letter(fact.reason, None, fact.message, record, position))
            case TotalClosed():
                key, row = _closed_total(fact)
                totals[TOTALS.encode_key(key)] = encode_total(position.partition, key, row)
            case StripeHourClosed():
                hour_key, hour = _closed_stripe_hour(fact)
                data = encode_stripe_hour(position.partition, hour_key, hour)
                totals[STRIPE_HOURS.encode_key(hour_key)] = data
            case _:
                pass

    def _count(self, fact: Fact) -> None:
        match fact:
            case EventCounted():
                self._outcomes["counted", ""] += 1
            case EventDuplicate():
                self._outcomes["duplicate", ""] += 1
            case EventRejected():
                self._outcomes["rejected", fact.reason] += 1
            case _:
                pass

    def _tell_outcomes(self) -> None:
        for (outcome, reason), count in self._outcomes.items():
            FIGURES.add(WORKER_EVENTS, count, outcome, reason)
        self._outcomes.clear()

    def _publish_totals(self, epoch: Epoch) -> None:
        """Each row that the epoch changed and left open, once."""
        if self._state.partition is None:
            return
        partition = self._partition
        for key, row in self._state.totals.changed.items():
            if row is not None:
                epoch.totals[self._state.totals.encoded(key)] = encode_total(partition, key, row)
        for hour_key, hour in self._state.stripe_hours.changed.items():
            if hour is not None:
                data = encode_stripe_hour(partition, hour_key, hour)
                epoch.totals[self._state.stripe_hours.encoded(hour_key)] = data

    def _position_row(self, next_offset: int) -> bytes:
        partition_row = self._state.partition
        if partition_row is None:
            message = f"partition {self._partition} has no genesis; make its topics with: meterlog topics create"
            raise NoGenesis(message)
        digest = self._digest_of_last()
        return encode_position(
            next_offset,
            self._last_offset,
            self._last_append_ms,
            digest,
            self._state.log_ms,
            partition_row,
            self._parked,
        )

    def _digest_of_last(self) -> bytes:
        """Reckoned for one record of an epoch, not for each."""
        return self._last_digest if self._last_record is None else record_digest(self._last_record)


def _dead_letter(
    reason: Reason, field: str | None, message: str, record: Record, position: Position
) -> tuple[bytes, bytes]:
    key, value = record.key, record.value
    headers = tuple(Header(name, data) for name, data in record.headers)
    size_bytes = len(key or b"") + len(value or b"") + sum(map(_copied_bytes, headers))
    if size_bytes > _COPIED_BYTES_MAX:
        message = f"{message}; it is {size_bytes} bytes, and {CUT_NOTE}"
        key, value, headers = key and key[:_CUT_BYTES], value and value[:_CUT_BYTES], ()
    letter = DeadLetter(
        incarnation=position.incarnation,
        partition=position.partition,
        offset=position.offset,
        reason=reason,
        message=message,
        append_ms=record.timestamp,
        key=key,
        value=value,
        field=field,
        headers=headers,
    )
    return f"{position.incarnation}/{position.partition}/{position.offset}".encode(), encode(letter)


def _copied_bytes(header: Header) -> int:
    """What a header takes in a letter at most: a million empty ones are a few kB packed, and 3 MB there."""
    return len(header.name.encode()) + len(header.value or b"") + _HEADER_OVERHEAD_BYTES


def _closed_total(fact: TotalClosed) -> tuple[TotalKey, Total]:
    key = TotalKey(
        fact.booking_day, fact.account, fact.billing_start_s, fact.meter, fact.feature, fact.model, fact.hour
    )
    digest = int.from_bytes(fact.digest, "little")
    return key, Total(nano_of(fact.quantity), fact.event_count, digest, fact.version_offset)


def _closed_stripe_hour(fact: StripeHourClosed) -> tuple[StripeHourKey, StripeHour]:
    key = StripeHourKey(fact.hour, fact.account, fact.stripe_customer, fact.stripe_event_name)
    return key, StripeHour(nano_of(fact.quantity), fact.version_offset)
