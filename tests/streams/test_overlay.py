"""What a fold reads while an epoch is committed: the tables as if they had its rows already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.edges import Applied
from streams.overlay import PartitionRows
from streams.port import Row

KEYS = st.binary(min_size=1, max_size=1)
ROWS = st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=1)))


class MemoryTable:
    """One table in a dictionary."""

    applied: Applied | None = None

    def __init__(self, rows: Mapping[bytes, Row]) -> None:
        self.rows = {key: row for key, row in rows.items() if row is not None}

    def get_many(self, keys: Sequence[bytes]) -> list[Row]:
        return [self.rows.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return sorted(item for item in self.rows.items() if start <= item[0] < stop)[:limit]

    def apply(self, rows: Iterable[tuple[bytes, Row]], applied: Applied) -> None:
        merged: dict[bytes, Row] = {**self.rows, **dict(rows)}
        self.rows = {key: row for key, row in merged.items() if row is not None}
        self.applied = applied

    def wipe(self) -> None:
        self.rows, self.applied = {}, None


@given(stored=ROWS, held=ROWS, keys=st.lists(KEYS), bounds=st.tuples(KEYS, KEYS), limit=st.integers(0, 5))
def test_held_rows_stand_before_those_of_the_table(
    stored: dict[bytes, Row], held: dict[bytes, Row], keys: list[bytes], bounds: tuple[bytes, bytes], limit: int
) -> None:
    """Held, written, and released: a reader sees the same throughout."""
    table, expected = MemoryTable(stored), MemoryTable(stored)
    expected.apply(held.items(), Applied(1, 0))
    rows = PartitionRows({"accounts": table})

    def seen() -> object:
        return rows.get_many("accounts", keys), rows.scan("accounts", *bounds, limit)

    wanted = expected.get_many(keys), expected.scan(*bounds, limit)
    rows.hold({"accounts": held})
    assert seen() == wanted
    rows.apply("accounts", held, Applied(1, 0))
    assert seen() == wanted
    rows.release()
    assert seen() == wanted


def test_one_epoch_is_held_at_a_time() -> None:
    rows = PartitionRows({"accounts": MemoryTable({})})
    rows.hold({"accounts": {b"k": b"v"}})
    with pytest.raises(AssertionError, match="before the next one is taken"):
        rows.hold({"accounts": {b"k": b"w"}})
