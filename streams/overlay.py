"""A partition's rows as its fold reads them: those of the epoch that is being committed, over the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streams.edges import Applied, Table
from streams.port import Row

__all__ = ["PartitionRows"]

_NO_ROWS: Mapping[bytes, Row] = {}


class PartitionRows:
    """The `Store` of one partition's fold.

    The fold goes on while an epoch is committed, and must read that epoch's rows, which no table has yet: they are held
    here from the moment the fold gives them away until the tables have them.
    """

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._held: Mapping[str, Mapping[bytes, Row]] = {}

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[Row]:
        held = self._held.get(table)
        if not held:
            return self._tables[table].get_many(keys)
        stored = self._tables[table].get_many([key for key in keys if key not in held])
        rows = iter(stored)
        return [held[key] if key in held else next(rows) for key in keys]

    def scan(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        changed = {key: row for key, row in self._held.get(table, _NO_ROWS).items() if start <= key < stop}
        # Each changed row hides at most one that is stored.
        stored = self._tables[table].scan(start, stop, limit + len(changed))
        if not changed:
            return stored
        rows = {key: row for key, row in stored if key not in changed}
        rows |= {key: row for key, row in changed.items() if row is not None}
        return sorted(rows.items())[:limit]

    def hold(self, rows: Mapping[str, Mapping[bytes, Row]]) -> None:
        """Let these rows stand before the tables'. One epoch at a time."""
        assert not self._held, "the rows of the epoch before are written before the next one is taken"
        self._held = rows

    def apply(self, table: str, rows: Mapping[bytes, Row], applied: Applied) -> None:
        """Write rows and how far they bring their table, in one atomic batch."""
        self._tables[table].apply(rows.items(), applied)

    def release(self) -> None:
        """The tables have the rows that were held."""
        self._held = {}
