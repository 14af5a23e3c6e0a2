"""What is written together: rows by table, and the position of each partition behind them."""

from collections.abc import Iterator

import pyarrow as pa

from sinks.clickhouse.mapping import HourlyRow, Row, to_position_row
from sinks.clickhouse.position import Position, TopicPartition
from sinks.clickhouse.tables import HOURLY, POSITIONS, Table, to_arrow

__all__ = ["Batch"]


class Batch:
    """Rows on their way in. Written twice, or in part and then again, it leaves the same tables."""

    def __init__(self) -> None:
        self._rows: dict[Table, list[Row]] = {}
        self._hourly: dict[Row, HourlyRow] = {}
        self.positions: dict[TopicPartition, Position] = {}
        self.row_count = 0
        self.source_bytes = 0
        """Size of the records that the rows were made of: what bounds the batch when rows are large."""

    def add(self, table: Table, row: Row) -> None:
        if isinstance(row, HourlyRow):
            self.add_hourly(row)
            return
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
        for table, rows in self._rows.items():
            yield table, to_arrow(table, rows)
        if self._hourly:
            yield HOURLY, to_arrow(HOURLY, self._hourly.values())

    def position_rows(self) -> tuple[Table, pa.Table]:
        return POSITIONS, to_arrow(POSITIONS, [to_position_row(*item) for item in self.positions.items()])

    def counts(self) -> dict[str, int]:
        """How many rows go to each table."""
        counts = {table.name: len(rows) for table, rows in self._rows.items()}
        return counts | {HOURLY.name: len(self._hourly)} if self._hourly else counts
