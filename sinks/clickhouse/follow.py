"""One partition of a topic turned into rows: records in, rows and the place behind them out."""

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from schemas.ledger import LedgerGap, LedgerReader, SourceRecord, part_number
from schemas.totals import HourTotal, decode_total
from sinks.clickhouse.batch import Batch
from sinks.clickhouse.errors import LedgerBroken
from sinks.clickhouse.mapping import from_hour_total, from_source_record
from sinks.clickhouse.position import Place, Position, TopicPartition, Trail

__all__ = ["Follower", "LedgerFollower", "TotalsFollower"]

_BEFORE_ALL: Final = Place(0, -1, 0)
_UNREADABLE: Final = (LedgerGap, msgspec.MsgspecError)
"""What says that the log lacks something, or holds what this release cannot read."""


class Follower(Protocol):
    """Follows one partition. What it was fed lies either before its position, its rows in a batch, or behind."""

    def position(self) -> Position:
        """How far it is. At first, the place of the first record to feed."""
        ...

    def feed(self, offset: int, value: bytes, written_ms: int, batch: Batch) -> None:
        """The partition's next committed record. Raises LedgerBroken."""
        ...

    def end(self, offset: int, batch: Batch) -> None:
        """All that is committed before `offset` was fed."""
        ...


class LedgerFollower:
    """The ledger: whole source records, without a gap from its first one on."""

    def __init__(self, partition: TopicPartition, stored: Position | None, rewind_ms: int) -> None:
        start = stored.rewind if stored else _BEFORE_ALL
        self._partition = partition
        self._trail = Trail(start, rewind_ms)
        self._reader = LedgerReader(after_offset=start.source_offset)
        self._fact_offset = start.next_offset
        """Where the fact begins whose part was fed last: a fact in parts lies on several offsets."""

    def position(self) -> Position:
        return self._trail.position()

    def feed(self, offset: int, value: bytes, written_ms: int, batch: Batch) -> None:
        try:
            if not part_number(value):
                self._fact_offset = offset
            records = list(self._reader.feed((value,)))
        except _UNREADABLE as exc:
            raise _broken(self._partition, offset, exc) from exc
        if records:
            self._take(records, self._fact_offset, batch)
        batch.source_bytes += len(value)

    def end(self, offset: int, batch: Batch) -> None:
        """The record that was open is whole, since a record's facts are committed together."""
        try:
            records = list(self._reader.flush())
        except _UNREADABLE as exc:
            raise _broken(self._partition, offset, exc) from exc
        self._take(records, offset, batch)

    def _take(self, records: Iterable[SourceRecord], next_offset: int, batch: Batch) -> None:
        """A record is known to be whole by the fact behind it, at `next_offset`, which a start from there reads again."""
        _, source_offset, log_ms = self._trail.reached
        for record in records:
            for table, row in from_source_record(record):
                batch.add(table, row)
            source_offset, log_ms = record.position.offset, record.log_ms
        self._trail.pass_by(Place(next_offset, source_offset, log_ms))


class TotalsFollower:
    """`usage-totals`: each record stands for itself, and an older one changes nothing."""

    def __init__(self, partition: TopicPartition, stored: Position | None, rewind_ms: int, log_start: int) -> None:
        """`log_start`: retention has removed what lies before it."""
        start = stored.rewind if stored else _BEFORE_ALL
        self._partition = partition
        self._trail = Trail(start._replace(next_offset=max(start.next_offset, log_start)), rewind_ms)

    def position(self) -> Position:
        return self._trail.position()

    def feed(self, offset: int, value: bytes, written_ms: int, batch: Batch) -> None:
        try:
            total = decode_total(value)
        except _UNREADABLE as exc:
            raise _broken(self._partition, offset, exc) from exc
        if isinstance(total, HourTotal):
            batch.add_hourly(from_hour_total(total))
        batch.source_bytes += len(value)
        self._trail.pass_by(Place(offset + 1, -1, max(written_ms, self._trail.reached.log_ms)))

    def end(self, offset: int, batch: Batch) -> None:
        self._trail.pass_by(Place(offset, -1, self._trail.reached.log_ms))


def _broken(partition: TopicPartition, offset: int, exc: Exception) -> LedgerBroken:
    return LedgerBroken(f"{partition} at offset {offset}: {exc}")
