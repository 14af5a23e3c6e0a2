"""What the engine asks of a fold: records of one partition in, one epoch of effects out.

The engine moves bytes and keeps the durability order; it knows nothing about what the records mean. A fold
decides what they mean; it does no I/O of its own and keeps nothing that its rows do not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["TABLES", "Epoch", "Expiring", "Expiry", "Fold", "PartitionFold", "Record", "Row", "Store"]

TABLES = ("accounts", "seen")
"""The tables of a partition; the position row lies in the first."""

Row = bytes | None
"""A row's encoded value; None deletes the row."""


class Record(Protocol):
    """One record of the source topic: aiokafka's `ConsumerRecord` as it came, since wrapping it costs 1 µs an event."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None:
        """None is a tombstone, which anybody may send; it is a record like any other and causes a fact."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...
    @property
    def timestamp(self) -> int:
        """Append time in milliseconds since 1970 (the topic is LogAppendTime)."""


class Store(Protocol):
    """Read side of one partition's tables: the rows of every epoch that `fold` has returned.

    Whether their commit has ended makes no difference to a reader. The rows of the epoch that is still being
    folded are not in it: the fold keeps those itself until it returns them.
    """

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[Row]:
        """Give the rows of `keys` in their order, None where there is none. One call for many keys: each call costs 2 µs."""

    def scan(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Give up to `limit` rows with start <= key < stop, in key order."""


@dataclass(slots=True)
class Epoch:
    """What one run of records caused; committed as a whole or not at all."""

    ledger: list[tuple[bytes | None, bytes]]
    """Facts as (key, value), in order, for the ledger partition with the source's number."""

    totals: dict[bytes, bytes]
    """Latest total by row key, for the totals partition with the source's number."""

    dead_letters: list[tuple[bytes, bytes]]
    """What was refused as (key, value), for the dead letters' partition with the source's number."""

    rows: dict[str, dict[bytes, Row]]
    """Changed rows by table. The position row is among those of `accounts`, in every epoch."""

    next_offset: int
    """Offset of the first source record that is not in this epoch: what the position row in `rows` says, too."""


class PartitionFold(Protocol):
    """The fold of one owned partition; built on assignment after recovery, dropped on revocation."""

    @property
    def next_offset(self) -> int | None:
        """Offset of the next record to fold, from the position row; None where there is no position row.

        After `fold` it equals the returned epoch's, else the worker stops.
        """

    def fold(self, records: Sequence[Record]) -> Epoch:
        """Decide `records` (at least one; offsets ascending, none twice, all >= next_offset) and give what they caused.

        Offsets may have holes: transaction markers and aborted records take offsets of the source topic.
        Raising ends the process: nothing of the epoch is written, and the successor folds the same records.
        Blocks the event loop of the worker while it runs. Returning promises nothing about durability.
        """


class Fold(Protocol):
    """Makes partition folds."""

    def open(self, partition: int, store: Store) -> PartitionFold:
        """Build the fold of `partition` from its rows, which recovery has brought up to the changelogs' ends."""


class Expiry(NamedTuple):
    """Rows that the engine may delete from its disk, and from there alone, once no decision can see them any more."""

    table: str
    start: bytes
    stop: bytes
    """Rows with start <= key < stop expire; no other row of the table does."""
    expires_at_ms: Callable[[bytes], int]
    """A row's value -> the log time from which it makes no difference to any decision whether the row is there."""
    position_key: bytes
    log_ms: Callable[[bytes], int]
    """The position row's value -> the partition's log time up to there; it never goes back."""


@runtime_checkable
class Expiring(Protocol):
    """A fold of which some rows expire. One that has none has no `expiry`."""

    @property
    def expiry(self) -> Expiry: ...
