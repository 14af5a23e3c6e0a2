"""What the engine reaches for outside, in memory: writers, readers and tables of one simulated worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from aiokafka.structs import TopicPartition

from streams.edges import Applied, LogRange, Page
from streams.options import Options
from streams.port import TABLES, Row
from streams.tables import Swept
from tests.simulation.disk import Disk, DiskTable
from tests.simulation.log import Broker, Item
from tests.simulation.process import Process

__all__ = ["SimReader", "SimTable", "SimTables", "SimWriter"]

_PAGE_RECORDS = 7  # small, so that a load of a few dozen rows has several pages
_PART_RECORDS = 5
_POLL_S = 0.2


class SimSent:
    """Batches on their way to one partition of a topic, in order."""

    def __init__(self, task: asyncio.Future[int] | None) -> None:
        self._task = task

    async def acknowledged(self) -> int | None:
        return None if self._task is None else await self._task


class SimWriter:
    """The transactional producer of one partition."""

    def __init__(self, partition: int, options: Options, process: Process, broker: Broker) -> None:
        self.partition = partition
        self._id = f"{options.group}-{partition}"
        broker.outputs[self._id] = [(topic, partition) for topic in options.topics.outputs]
        self._process = process
        self._broker = broker
        self._epoch = -1

    async def open(self) -> None:
        self._epoch = await self._process.request("opening a writer", lambda: self._broker.take_id(self._id))

    @property
    def was_replaced(self) -> bool:
        return self._epoch >= 0 and self._broker.epoch_of(self._id) != self._epoch

    async def begin(self) -> None:
        self._process.at("beginning a transaction")

    async def send(self, topic: str, items: Iterable[Item]) -> SimSent:
        """Large batches go in parts, each a request of its own: a crash may leave the first half on the log."""
        whole = list(items)
        parts = [whole[start : start + _PART_RECORDS] for start in range(0, len(whole), _PART_RECORDS)]
        if not parts:
            return SimSent(None)
        if len(parts) == 1:
            return SimSent(self._produce(topic, parts[0]))
        return SimSent(asyncio.ensure_future(self._produce_all(topic, parts)))

    async def _produce_all(self, topic: str, parts: Sequence[Sequence[Item]]) -> int:
        next_offset = 0
        for part in parts:
            next_offset = await self._produce(topic, part)
        return next_offset

    def _produce(self, topic: str, items: Sequence[Item]) -> asyncio.Future[int]:
        broker, tp = self._broker, (topic, self.partition)
        return self._process.request(f"producing to {topic}", lambda: broker.produce(self._id, self._epoch, tp, items))

    async def send_group_offset(self, topic: str, next_offset: int, note: str = "") -> None:
        broker, tp = self._broker, (topic, self.partition)
        await self._process.request(
            "sending the group's offset", lambda: broker.add_group_offset(self._id, self._epoch, tp, next_offset)
        )

    async def commit(self) -> None:
        await self._process.request("committing", lambda: self._broker.end(self._id, self._epoch, commit=True))

    async def abort(self) -> None:
        await self._process.request("aborting", lambda: self._broker.end(self._id, self._epoch, commit=False))

    async def close(self) -> None:
        await asyncio.sleep(0)


class SimReader:
    """Reads committed records of whole partitions."""

    def __init__(self, process: Process, broker: Broker) -> None:
        self._process = process
        self._broker = broker

    async def __aenter__(self) -> Self:
        await self._process.request("connecting a reader", lambda: None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def ranges(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, LogRange]:
        wanted = list(tps)
        return await self._process.request(
            "asking where logs begin and end", lambda: {tp: self._range(tp) for tp in wanted}
        )

    async def unsettled(self, tps: Iterable[TopicPartition]) -> set[TopicPartition]:
        logs = {tp: self._broker.logs[tp.topic, tp.partition] for tp in tps}
        return await self._process.request(
            "asking for open transactions", lambda: {tp for tp, log in logs.items() if log.open}
        )

    async def ends_committed(self, tp: TopicPartition) -> bool:
        log = self._broker.logs[tp.topic, tp.partition]
        return await self._process.request("asking how the last transaction ended", lambda: log.ends_committed)

    def _range(self, tp: TopicPartition) -> LogRange:
        log = self._broker.logs[tp.topic, tp.partition]
        return LogRange(log.start, log.stable_end)

    async def read(self, parts: Mapping[TopicPartition, LogRange]) -> AsyncGenerator[Page]:
        todo = {tp: part for tp, part in parts.items() if part.start < part.end}
        positions = {tp: part.start for tp, part in todo.items()}
        while todo:
            for tp in list(todo):
                page = await self._page(tp, positions[tp])
                positions[tp] = page.next_offset
                if page.records:
                    yield page
                if page.next_offset >= todo[tp].end:
                    del todo[tp]

    async def follow(self, tp: TopicPartition, start: int) -> AsyncGenerator[Page]:
        """Every committed record from `start` on; a page without records when none came."""
        position = start
        while True:
            page = await self._page(tp, position)
            position = page.next_offset
            yield page
            if not page.records:
                await asyncio.sleep(_POLL_S)

    async def _page(self, tp: TopicPartition, start: int) -> Page:
        log = self._broker.logs[tp.topic, tp.partition]

        def effect() -> Page:
            records, next_offset = log.read(start, _PAGE_RECORDS)
            return Page(tp, records, next_offset)

        return await self._process.request(f"reading {tp.topic}", effect)


class SimTable:
    """One table of one partition, as long as its process lives."""

    def __init__(self, table: str, disk: DiskTable, process: Process) -> None:
        self._written = f"writing a batch to {table}"
        self._disk = disk
        self._process = process

    def get_many(self, keys: Sequence[bytes]) -> list[Row]:
        return self._disk.get_many(keys)

    def scan(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return self._disk.scan(start, stop, limit)

    @property
    def applied(self) -> Applied | None:
        return self._disk.applied

    def apply(self, rows: Iterable[tuple[bytes, Row]], applied: Applied) -> None:
        self._process.at(self._written)
        self._disk.apply(rows, applied)

    @property
    def swept(self) -> Swept | None:
        return self._disk.swept

    def sweep(self, keys: Iterable[bytes], swept: Swept) -> None:
        self._process.at("sweeping")
        self._disk.sweep(keys, swept)

    def wipe(self) -> None:
        self._process.at("wiping a table")
        self._disk.wipe()


class SimTables:
    """The open tables of a worker."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self._open: dict[tuple[str, int], SimTable] = {}

    def get(self, table: str, partition: int) -> SimTable:
        key = (table, partition)
        if key not in self._open:
            self._open[key] = SimTable(table, self._disk.get(table, partition), self._process)
        return self._open[key]

    def of_partition(self, partition: int) -> dict[str, SimTable]:
        """Both tables, by name."""
        return {table: self.get(table, partition) for table in TABLES}
