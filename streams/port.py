"""What the engine asks of a fold: records of one partition in, answers at once, one epoch of effects after another out.

The engine moves bytes and keeps the durability order; it knows nothing about what the records mean. A fold
decides what they mean; it does no I/O of its own and keeps nothing that its rows do not hold, but for the open epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = [
    "TABLES",
    "Answer",
    "Epoch",
    "Expiring",
    "Expiry",
    "Fold",
    "LastRecord",
    "PartitionFold",
    "Record",
    "Row",
    "Stop",
    "StopKind",
    "Store",
]

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
    """Read side of one partition's tables: the rows of every epoch that was taken.

    Whether their commit has ended makes no difference to a reader. The rows of the open epoch are not in it: the fold
    keeps those itself until `take` gives them away.
    """

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[Row]:
        """Give the rows of `keys` in their order, None where there is none. One call for many keys: each call costs 2 µs."""

    def scan(self, table: str, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Give up to `limit` rows with start <= key < stop, in key order."""


class Answer(NamedTuple):
    """What whoever asked is told, the moment its record is decided.

    It waits for no commit: the record is durable, and whoever folds the log again decides it the same way.
    """

    offset: int
    """Of the record that asked."""
    request_id: bytes
    body: bytes
    """A function of the record's facts, and of nothing else."""


class StopKind(StrEnum):
    """Why a fold stands before a record."""

    AHEAD = "ahead"
    """It was appended at a time that this worker's clock has not reached: the clock may, or an order decides."""
    PARKED = "parked"
    """It cannot be decided as things are. Only an operator's order lets the fold go on, whoever owns the partition."""
    BEHAVIOUR = "behaviour"
    """It is to be decided by rules that this worker does not have: a newer one must take the partition."""


class Stop(NamedTuple):
    """A fold that stands before a record. What was decided before it is committed; other partitions go on."""

    offset: int
    """The record that is not folded: the fold's position."""
    kind: StopKind
    message: str
    """What happened, and the command that goes on."""


class LastRecord(NamedTuple):
    """The record folded last, as the position row tells it: read again at each take-over, it shows a log that is another."""

    offset: int
    digest: bytes
    """`streams.positions.record_digest`."""


@dataclass(slots=True)
class Epoch:
    """What a stretch of the log caused; committed as a whole or not at all."""

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

    note: str = ""
    """Left beside the group's offset: why the fold stands behind this epoch; empty where it does not. Set by the engine."""


class PartitionFold(Protocol):
    """The fold of one owned partition; built on assignment after recovery, dropped on revocation."""

    @property
    def next_offset(self) -> int | None:
        """Offset of the next record to fold; None where there is no position row and nothing was folded."""

    @property
    def last(self) -> LastRecord | None:
        """The record folded last, where the position row has one."""

    @property
    def stop(self) -> Stop | None:
        """Set while the fold stands before the record at `next_offset`."""

    def begin_anew(self, first: Record) -> bool:
        """Whether a log that begins with this record goes on where the one folded so far ended, its topic made anew.

        True: `next_offset` is that record's from here on, and where the fold stood in the old log is forgotten.
        """

    def fold(self, records: Sequence[Record], now_ms: int) -> Sequence[Answer]:
        """Decide `records` (offsets ascending, none twice, the first at or behind next_offset), up to one that stops it.

        Effects gather in the open epoch. Offsets may have holes: transaction markers and aborted records take offsets
        of the source topic. `now_ms` is the worker's clock, which may delay a decision and never changes one.
        Standing `ahead`, it may be called again with the records from the stop's offset on; standing otherwise, it must
        not be called until `hear` says so. Raising ends the process: nothing of the open epoch is written, and the
        successor folds the same records. Blocks the worker's loop while it runs. Returning promises nothing about
        durability.
        """

    def take(self) -> Epoch:
        """Close the open epoch and begin the next. Its rows belong to the store from here on.

        Called when records were folded since the last call, or when the fold came to stand.
        """

    def hear(self, record: Record) -> bool:
        """Look at a record behind the one that the fold stands before; True: it is an order that lets the fold go on."""


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
