"""The fold's state over the engine's store: rows decoded once, changes kept until the epoch takes them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Sequence
from typing import Any, Generic, TypeVar

from billing.errors import StoreFailed
from billing.state import (
    NOBODY,
    Account,
    Late,
    LateKey,
    PairsKey,
    PartitionRow,
    Quarantine,
    Seen,
    SeenKey,
    StripeHour,
    StripeHourKey,
    Total,
    TotalKey,
)
from schemas.rows import ACCOUNTS, LATE, PAIRS, QUARANTINES, SEEN, STRIPE_HOURS, TOTALS, RowCodec
from streams.port import Row, Store

__all__ = ["StoreFamily", "StoreRegister", "StoreState"]

K = TypeVar("K")
V = TypeVar("V")

_UNKNOWN: Any = object()  # not None, which says that there is no such row
_CACHED_ROWS_MAX = 100_000
"""Decoded rows kept of one family and partition: some 50 MB of accounts at worst. Past it the cache starts anew."""
_REGISTERED_MAX = 1_000_000
_PASSED_OVER_AT_ONCE = 200
"""Rows read beyond what is asked for where some are passed over: a quarantined account has as many as it had labels."""


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

    def below(self, bound: int, limit: int, /, but: frozenset[str] = NOBODY) -> list[tuple[K, V]]:
        """As `Family.below`. A row that this epoch dropped takes no place of the limit."""
        codec, changed = self._codec, self.changed
        stop = codec.bound(bound)
        dropped_count = sum(row is None for row in changed.values())
        found = self._scan(stop, limit + dropped_count, but)
        ordered = {codec.encode_key(key): (key, row) for key, row in found.items() if key not in changed}
        for key, row in changed.items():
            if row is not None and not _is_of(key, but) and (encoded := codec.encode_key(key)) < stop:
                ordered[encoded] = (key, row)
        return [ordered[encoded] for encoded in sorted(ordered)[:limit]]

    def after(self, key: K | None, limit: int, /) -> list[tuple[K, V]]:
        """As `Ordered.after`."""
        codec, changed = self._codec, self.changed
        start = codec.prefix if key is None else codec.encode_key(key) + b"\0"
        dropped_count = sum(row is None for row in changed.values())
        stored = self._store.scan(codec.table, start, _behind(codec.prefix), limit + dropped_count)
        found = {encoded: (codec.decode_key(encoded), value) for encoded, value in stored}
        ordered = {e: (name, codec.decode_row(value)) for e, (name, value) in found.items() if name not in changed}
        for name, row in changed.items():
            if row is not None and (encoded := codec.encode_key(name)) >= start:
                ordered[encoded] = (name, row)
        return [ordered[encoded] for encoded in sorted(ordered)[:limit]]

    def _scan(self, stop: bytes, limit: int, but: frozenset[str]) -> dict[K, V]:
        """The first stored rows below `stop`, without those of the accounts in `but`, however many these have."""
        codec, start, found = self._codec, self._codec.prefix, dict[K, V]()
        chunk = limit + _PASSED_OVER_AT_ONCE if but else limit
        while True:
            stored = self._store.scan(codec.table, start, stop, chunk)
            keys: list[Any] = [codec.decode_key(encoded) for encoded, _ in stored]
            found |= {
                key: codec.decode_row(value)
                for key, (_, value) in zip(keys, stored, strict=True)
                if not _is_of(key, but)
            }
            if len(stored) < chunk or len(found) >= limit:
                return found
            start = stored[-1][0] + b"\0"
            if _is_of(keys[-1], but):
                start = codec.behind(*keys[-1][:2])

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


class StoreRegister(Generic[K, V]):
    """Rows of a kind of which there are few: all are read at the start, and never asked for again."""

    def __init__(self, codec: RowCodec[K, V], store: Store) -> None:
        self._codec = codec
        self._store = store
        self._rows: dict[K, V] = {}
        self._changed: dict[K, V] = {}
        self.get = self._rows.get  # the dictionary's own: it is asked for every event
        self.load()

    def put(self, key: K, row: V, /) -> None:
        self._rows[key] = self._changed[key] = row

    def items(self) -> ItemsView[K, V]:
        return self._rows.items()

    def load(self) -> None:
        """All rows as the store has them; what this epoch wrote is dropped."""
        codec = self._codec
        stored = self._store.scan(codec.table, codec.prefix, _behind(codec.prefix), _REGISTERED_MAX)
        self._rows.clear()
        self._rows.update((codec.decode_key(key), codec.decode_row(value)) for key, value in stored)
        self._changed = {}

    def take(self) -> dict[bytes, Row]:
        """As `StoreFamily.take`."""
        changed, self._changed = self._changed, {}
        return {self._codec.encode_key(key): self._codec.encode_row(row) for key, row in changed.items()}


class StoreState:
    """`billing.state.State` over one partition's store."""

    def __init__(self, store: Store, partition: PartitionRow | None, log_ms: int) -> None:
        reads = _Reads(store)
        self.partition = partition
        self.log_ms = log_ms
        self._taken = (partition, log_ms)
        self.quarantines: StoreRegister[str, Quarantine] = StoreRegister(QUARANTINES, reads)
        self.accounts: StoreFamily[str, Account] = StoreFamily(ACCOUNTS, reads)
        self.seen: StoreFamily[SeenKey, Seen] = StoreFamily(SEEN, reads)
        self.totals: StoreFamily[TotalKey, Total] = StoreFamily(TOTALS, reads)
        self.pairs: StoreFamily[PairsKey, frozenset[tuple[str, str]]] = StoreFamily(PAIRS, reads)
        self.late: StoreFamily[LateKey, Late] = StoreFamily(LATE, reads)
        self.stripe_hours: StoreFamily[StripeHourKey, StripeHour] = StoreFamily(STRIPE_HOURS, reads)

    def take(self) -> dict[str, dict[bytes, Row]]:
        """All changes of the epoch by table, encoded. The cache of ids goes: a fresh id is all that most events have."""
        accounts = self.quarantines.take()
        for family in (self.accounts, self.totals, self.pairs, self.late, self.stripe_hours):
            accounts |= family.take()
        seen = self.seen.take()
        self.seen.forget()
        self._taken = (self.partition, self.log_ms)
        return {ACCOUNTS.table: accounts, SEEN.table: seen}

    def drop_epoch(self) -> None:
        """Forget what was changed since the last `take`."""
        self.partition, self.log_ms = self._taken
        self.quarantines.load()
        for family in (self.accounts, self.totals, self.pairs, self.late, self.stripe_hours, self.seen):
            family.changed.clear()


class _Reads:
    """A store whose failures are told from a record's: a disk that does not answer parks nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[Row]:
        try:
            return self._store.get_many(table, keys)
        except Exception as exc:
            message = f"{table}: rows cannot be read: {exc}"
            raise StoreFailed(message) from exc

    def scan(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        try:
            return self._store.scan(table, start, stop, limit)
        except Exception as exc:
            message = f"{table}: rows cannot be read: {exc}"
            raise StoreFailed(message) from exc


def _is_of(key: Any, accounts: frozenset[str]) -> bool:
    """Whether the row is one of these accounts'."""
    return bool(accounts) and key[1] in accounts


def _behind(prefix: bytes) -> bytes:
    return bytes([prefix[0] + 1])
