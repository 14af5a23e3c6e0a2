"""A machine's tables in memory: each batch is taken whole; a killed process loses none, a power failure the last ones."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from streams.edges import Applied
from streams.port import Row
from streams.tables import Swept

__all__ = ["Disk", "DiskTable"]

_UNDONE_MAX = 8
"""Batches that a power failure can take; older ones have reached the disk."""


class DiskTable:
    """One table of one partition; a `streams.edges.Table` that can be swept."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.applied: Applied | None = None
        self.swept: Swept | None = None
        self._undo: list[tuple[Applied | None, Swept | None, dict[bytes, Row]]] = []
        self._keys: list[bytes] | None = None

    def get_many(self, keys: Sequence[bytes]) -> list[Row]:
        return [self.rows.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        if self._keys is None:
            self._keys = sorted(self.rows)
        first, last = bisect_left(self._keys, start), bisect_left(self._keys, stop)
        return [(key, self.rows[key]) for key in self._keys[first : min(last, first + limit)]]

    def apply(self, rows: Iterable[tuple[bytes, Row]], applied: Applied) -> None:
        self._write(rows, applied, self.swept)

    def sweep(self, keys: Iterable[bytes], swept: Swept) -> None:
        self._write(((key, None) for key in keys), self.applied, swept)

    def _write(self, rows: Iterable[tuple[bytes, Row]], applied: Applied | None, swept: Swept | None) -> None:
        """One batch: all of it, or nothing."""
        before: dict[bytes, Row] = {}
        for key, value in rows:
            old = self._put(key, value)
            before.setdefault(key, old)
        self._undo.append((self.applied, self.swept, before))
        del self._undo[:-_UNDONE_MAX]
        self.applied, self.swept = applied, swept

    def wipe(self) -> None:
        self.rows.clear()
        self._undo.clear()
        self._keys = None
        self.applied = self.swept = None

    def lose(self, batch_count: int) -> None:
        """Power failure: the last batches never reached the disk, rows and position together."""
        for _ in range(min(batch_count, len(self._undo))):
            self.applied, self.swept, before = self._undo.pop()
            for key, value in before.items():
                self._put(key, value)

    def _put(self, key: bytes, value: Row) -> Row:
        """Write one row; gives what was there."""
        old = self.rows.get(key)
        if (old is None) != (value is None):
            self._keys = None
        if value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value
        return old


class Disk:
    """Every table of one machine, by table and partition."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, int], DiskTable] = {}

    def get(self, table: str, partition: int) -> DiskTable:
        return self.tables.setdefault((table, partition), DiskTable())

    def lose(self, batch_counts: Iterable[int]) -> None:
        """Each table loses a number of batches of its own."""
        for table, count in zip(self.tables.values(), batch_counts, strict=False):
            table.lose(count)

    def wipe(self) -> None:
        self.tables.clear()
