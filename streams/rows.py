"""The fold's state over the engine's store: rows decoded once, changes kept until the epoch takes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from billing.state import (
    Account,
    PairsKey,
    PartitionRow,
    Seen,
    SeenKey,
    StripeHour,
    StripeHourKey,
    Total,
    TotalKey,
)
from schemas.rows import ACCOUNTS, PAIRS, SEEN, STRIPE_HOURS, TOTALS, RowCodec
from streams.port import Row, Store

__all__ = ["StoreFamily", "StoreState"]

K = TypeVar("K")
V = TypeVar("V")

_UNKNOWN: Any = object()  # not None, which says that there is no such row
_CACHED_ROWS_MAX = 100_000
"""Decoded rows kept of one family and partition: some 50 MB of accounts at worst. Past it the cache starts anew."""


class StoreFamily(Generic[K, V]):
    """Rows of one kind: this epoch's changes over a cache over the store."""

    def __init__(self, codec: RowCodec[K, V], store: Store) -> None:
        self._codec = codec
        self._store = store
        self._cache: dict[K, V | None] = {}
        self._encoded: dict[K, bytes] = {}
        """Keys as they lie in the table: a row is read once, and written and published in epoch after epoch."""
        self.changed: dict[K, V | None] = {}
        """What this epoch wrote; None: dropped."""

    def get(self, key: K, /) -> V | None:
        row = self.changed.get(key, _UNKNOWN)
        if row is _UNKNOWN:
            row = self._cache.get(key, _UNKNOWN)
        if row is _UNKNOWN:
            self.load([key])
            row = self._cache[key]
        return row

    def put(self, key: K, row: V, /) -> None:
        self.changed[key] = row

    def drop(self, key: K, /) -> None:
        self.changed[key] = None

    def below(self, bound: int, limit: int, /) -> list[tuple[K, V]]:
        """As `Family.below`. A row that this epoch dropped takes no place of the limit."""
        codec, changed = self._codec, self.changed
        stop = codec.bound(bound)
        dropped_count = sum(row is None for row in changed.values())
        stored = self._store.scan(codec.table, codec.prefix, stop, limit + dropped_count)
        found = {key: codec.decode_row(value) for key, value in ((codec.decode_key(k), v) for k, v in stored)}
        ordered = {codec.encode_key(key): (key, row) for key, row in found.items() if key not in changed}
        for key, row in changed.items():
            if row is not None and (encoded := codec.encode_key(key)) < stop:
                ordered[encoded] = (key, row)
        return [ordered[encoded] for encoded in sorted(ordered)[:limit]]

    def load(self, keys: Iterable[K]) -> None:
        """Read the rows that the cache lacks, in one call to the store."""
        missing = [key for key in keys if key not in self._cache]
        if not missing:
            return
        codec = self._codec
        values = self._store.get_many(codec.table, [self.encoded(key) for key in missing])
        for key, value in zip(missing, values, strict=True):
            self._cache[key] = None if value is None else codec.decode_row(value)

    def take(self) -> dict[bytes, Row]:
        """This epoch's changes, encoded; they belong to the store from here on."""
        encode_row, changed = self._codec.encode_row, self.changed
        rows = {self.encoded(key): None if row is None else encode_row(row) for key, row in changed.items()}
        self.changed = {}
        if len(self._cache) + len(changed) > _CACHED_ROWS_MAX:
            self.forget()
        self._cache.update(changed)
        return rows

    def encoded(self, key: K) -> bytes:
        """The key as it lies in the table."""
        found = self._encoded.get(key)
        if found is None:
            found = self._encoded[key] = self._codec.encode_key(key)
        return found

    def forget(self) -> None:
        """Drop the cache: for rows that are seldom asked for twice."""
        self._cache.clear()
        self._encoded.clear()


class StoreState:
    """`billing.state.State` over one partition's store."""

    def __init__(self, store: Store, partition: PartitionRow | None) -> None:
        self.partition = partition
        self.accounts: StoreFamily[str, Account] = StoreFamily(ACCOUNTS, store)
        self.seen: StoreFamily[SeenKey, Seen] = StoreFamily(SEEN, store)
        self.totals: StoreFamily[TotalKey, Total] = StoreFamily(TOTALS, store)
        self.pairs: StoreFamily[PairsKey, frozenset[tuple[str, str]]] = StoreFamily(PAIRS, store)
        self.stripe_hours: StoreFamily[StripeHourKey, StripeHour] = StoreFamily(STRIPE_HOURS, store)

    def take(self) -> dict[str, dict[bytes, Row]]:
        """All changes of the epoch by table, encoded. The cache of ids goes: a fresh id is all that most events have."""
        accounts: dict[bytes, Row] = {}
        for family in (self.accounts, self.totals, self.pairs, self.stripe_hours):
            accounts |= family.take()
        seen = self.seen.take()
        self.seen.forget()
        return {ACCOUNTS.table: accounts, SEEN.table: seen}
