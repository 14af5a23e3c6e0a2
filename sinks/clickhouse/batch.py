"""What is written together: rows by table, and the position of each partition behind them."""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from sinks.clickhouse.mapping import CountedEvent, HourlyRow, Row, to_position_row
from sinks.clickhouse.position import Position, TopicPartition
from sinks.clickhouse.tables import EVENTS, HOURLY, POSITIONS, Table, events_to_arrow, to_arrow

__all__ = ["Batch"]


class Batch:
    """Rows on their way in. Written twice, or in part and then again, it leaves the same tables."""

    def __init__(self) -> None:
        self._events: list[CountedEvent] = []
        self._rows: dict[Table, list[Row]] = {}
        self._hourly: dict[Row, HourlyRow] = {}
        self.positions: Mapping[TopicPartition, Position] = {}
        """Behind the rows, and behind those of every batch before; set when no row is added any more."""
        self.row_count = 0
        self.source_bytes = 0
        """Size of the records that the rows were made of: what bounds the batch when rows are large."""

    def add(self, table: Table, row: Row) -> None:
        """A row as `mapping` gives it."""
        match row:
            case CountedEvent():
                self._events.append(row)
                self.row_count += len(row.entries)
            case HourlyRow():
                self.add_hourly(row)
            case _:
                self._rows.setdefault(table, []).append(row)
                self.row_count += 1

    def add_hourly(self, row: HourlyRow) -> None:
        """A total changes with every commit of the fold: only its newest version here is worth storing."""
        key = row.key()
        known = self._hourly.get(key)
        if known is None:
            self.row_count += 1
        if known is None or known.version <= row.version:
            self._hourly[key] = row

    def tables(self) -> Iterator[tuple[Table, pa.Table]]:
        """The rows of each table that has any."""
        if self._events:
            yield EVENTS, events_to_arrow([event.shared for event in self._events], [e.entries for e in self._events])
        for table, rows in self._rows.items():
            yield table, to_arrow(table, rows)
        if self._hourly:
            yield HOURLY, to_arrow(HOURLY, self._hourly.values())

    def position_rows(self) -> tuple[Table, pa.Table]:
        return POSITIONS, to_arrow(POSITIONS, [to_position_row(*item) for item in self.positions.items()])
