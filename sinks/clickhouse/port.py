"""What the sink asks of a database: to take rows, and to give back the positions that lie beside them."""

from typing import Any, Protocol

import pyarrow as pa

from sinks.clickhouse.mapping import from_position_row
from sinks.clickhouse.position import Position, TopicPartition
from sinks.clickhouse.tables import POSITIONS, Table

__all__ = ["MemoryStore", "Store"]


class Store(Protocol):
    """A database whose tables replace a row by one of the same key."""

    def prepare(self) -> None:
        """Make the tables that are missing. Raises SchemaDiffers, Unavailable, Refused."""
        ...

    def positions(self) -> dict[TopicPartition, Position]:
        """The stored position of each partition that has one. Raises Unavailable, Refused."""
        ...

    def insert(self, table: Table, rows: pa.Table) -> None:
        """Add rows; when this returns they are on disk. Raises Unavailable, after which some may be stored, and Refused."""
        ...


class MemoryStore:
    """A store in a list: every insert, in order."""

    def __init__(self) -> None:
        self.inserted: list[tuple[Table, list[dict[str, Any]]]] = []

    def prepare(self) -> None:
        """A list needs no tables."""

    def positions(self) -> dict[TopicPartition, Position]:
        found: dict[TopicPartition, Position] = {}
        for table, rows in self.inserted:
            for row in rows if table is POSITIONS else ():
                partition, position = from_position_row(row.values())
                if partition not in found or found[partition].reached.next_offset <= position.reached.next_offset:
                    found[partition] = position
        return found

    def insert(self, table: Table, rows: pa.Table) -> None:
        self.inserted.append((table, rows.to_pylist()))
