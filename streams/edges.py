"""What the engine reaches for outside: writers, readers of the log, and tables. Kafka and RocksDB in production.

`tests/simulation` hands in others, which live in memory and fail at every step.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from aiokafka.structs import TopicPartition

from streams.port import Record, Row

__all__ = ["Applied", "Edges", "LogRange", "Page", "Reader", "Sent", "Table", "Tables", "Writer"]


class LogRange(NamedTuple):
    """What a partition of a topic holds for readers of committed records."""

    start: int
    end: int


class Page(NamedTuple):
    """Records of one partition, in order, and where the reader stands after them."""

    tp: TopicPartition
    records: Sequence[Record]
    next_offset: int


class Reader(Protocol):
    """Reads committed records of whole partitions, without a group."""

    async def ranges(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, LogRange]:
        """First kept offset and last stable offset of each partition."""

    async def unsettled(self, tps: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Those of them on which a transaction is open: their last stable offset lies before their end."""

    async def ends_committed(self, tp: TopicPartition) -> bool:
        """Whether the last record of all is one that was committed. Asked where no transaction is open."""

    def read(self, parts: Mapping[TopicPartition, LogRange]) -> AsyncGenerator[Page]:
        """Every committed record from start to before end, partition by partition as they arrive.

        A page may reach past `end`. Progress is the reader's position, not the last record's offset: what lies at the end
        is a transaction's marker, which no reader is ever given.
        """

    def follow(self, tp: TopicPartition, start: int) -> AsyncGenerator[Page]:
        """Every committed record from `start` on, for as long as it is asked; a page without records when none came."""


class Sent(Protocol):
    """Records on their way to one partition of a topic."""

    async def acknowledged(self) -> int | None:
        """Wait for all; gives the offset behind the last record, None where nothing was sent."""


class Writer(Protocol):
    """The transactional producer of one partition; opening it fences whoever held its id before."""

    async def open(self) -> None:
        """Take the id: what a former owner left open is aborted, and nothing it sends counts any more."""

    async def begin(self) -> None: ...

    async def send(self, topic: str, items: Iterable[tuple[bytes | None, bytes | None]]) -> Sent:
        """Hand records to the broker, in order. Returning promises nothing: `acknowledged` does."""

    async def send_group_offset(self, topic: str, next_offset: int, note: str = "") -> None:
        """Commit the group's offset with the transaction; `note` lies beside it, for lag tools."""

    async def commit(self) -> None: ...

    async def abort(self) -> None: ...

    async def close(self) -> None: ...


class Applied(NamedTuple):
    """How far a local table reflects its changelog."""

    next_offset: int
    """The first changelog offset that it does not reflect."""
    as_of_ms: int
    """When it was known to be complete to there, by the worker's clock."""


class Table(Protocol):
    """One table of one partition."""

    @property
    def applied(self) -> Applied | None:
        """None: nothing was ever applied."""

    def get_many(self, keys: Sequence[bytes]) -> list[Row]: ...

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]: ...

    def apply(self, rows: Iterable[tuple[bytes, Row]], applied: Applied) -> None:
        """Write rows and how far they bring the table, in one atomic batch."""

    def wipe(self) -> None:
        """Forget every row; the changelog has them."""


class Tables(Protocol):
    """A worker's tables."""

    def get(self, table: str, partition: int) -> Table:
        """Open, or already opened."""


class Edges(NamedTuple):
    """All of it."""

    open_writer: Callable[[int], Writer]
    """The writer of a partition, made and not yet opened."""
    open_reader: Callable[[], AbstractAsyncContextManager[Reader]]
    tables: Tables
