"""Reads whole partitions in bulk, by a consumer without a group: changelogs into tables, a ledger for its first fact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import aiokafka
from aiokafka.structs import TopicPartition

from streams.edges import LogRange, Page
from streams.header_names import read_leniently

__all__ = ["LogReader"]

_RECORDS_PER_PAGE = 20_000
_FETCH_WAIT_MS = 100
_POLL_MS = 200
_TAIL_OFFSETS = 100


class LogReader:
    """An open reader of committed records. Use as an async context manager."""

    def __init__(self, bootstrap_servers: str, records_per_page: int = _RECORDS_PER_PAGE) -> None:
        read_leniently()
        self._bootstrap_servers = bootstrap_servers
        self._records_per_page = records_per_page
        self._consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=4 << 20,
            fetch_max_bytes=64 << 20,
        )

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()

    async def ranges(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, LogRange]:
        """First kept offset and last stable offset of each partition."""
        wanted = list(tps)
        starts, ends = await asyncio.gather(
            self._consumer.beginning_offsets(wanted), self._consumer.end_offsets(wanted)
        )
        return {tp: LogRange(starts[tp], ends[tp]) for tp in wanted}

    async def unsettled(self, tps: Iterable[TopicPartition]) -> set[TopicPartition]:
        """As `Reader.unsettled`."""
        wanted = list(tps)
        if not wanted:
            # A consumer that is stopped before its tasks had a turn cancels whoever stops it (aiokafka 0.14).
            return set()
        async with self._anything() as anything:
            # The stable ends first: a transaction that ends meanwhile is taken for an open one, and looked at again.
            stable = await self._consumer.end_offsets(wanted)
            ends = await anything.end_offsets(wanted)
        return {tp for tp in wanted if stable[tp] < ends[tp]}

    async def ends_committed(self, tp: TopicPartition) -> bool:
        """As `Reader.ends_committed`."""
        held = (await self.ranges([tp]))[tp]
        async with self._anything() as anything:
            last = await _last_offset(anything, tp, held)
        return last is not None and last == await _last_offset(self._consumer, tp, held)

    @asynccontextmanager
    async def _anything(self) -> AsyncIterator[aiokafka.AIOKafkaConsumer]:
        """A consumer that is given records whatever becomes of their transactions."""
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap_servers, enable_auto_commit=False, auto_offset_reset="none"
        )
        try:
            await consumer.start()
            yield consumer
        finally:
            await consumer.stop()

    async def read(self, parts: Mapping[TopicPartition, LogRange]) -> AsyncGenerator[Page]:
        """As `Reader.read`."""
        todo = {tp: part for tp, part in parts.items() if part.start < part.end}
        if not todo:
            return
        self._consumer.assign(list(todo))
        for tp, part in todo.items():
            self._consumer.seek(tp, part.start)
        while todo:
            pages = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=self._records_per_page)
            for tp in list(todo):
                position = await self._consumer.position(tp)
                if tp in pages:
                    yield Page(tp, pages[tp], position)
                if position >= todo[tp].end:
                    self._consumer.pause(tp)
                    del todo[tp]

    async def follow(self, tp: TopicPartition, start: int) -> AsyncGenerator[Page]:
        """As `Reader.follow`."""
        self._consumer.assign([tp])
        self._consumer.seek(tp, start)
        while True:
            pages = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=self._records_per_page)
            yield Page(tp, pages.get(tp, ()), await self._consumer.position(tp))


async def _last_offset(consumer: aiokafka.AIOKafkaConsumer, tp: TopicPartition, held: LogRange) -> int | None:
    """Of the last record that the consumer is given; markers at the end are passed over, however many there are."""
    consumer.assign([tp])
    count = _TAIL_OFFSETS
    while True:
        start = max(held.start, held.end - count)
        last = await _last_offset_from(consumer, tp, start, held.end)
        if last is not None or start == held.start:
            return last
        count *= 10


async def _last_offset_from(
    consumer: aiokafka.AIOKafkaConsumer, tp: TopicPartition, start: int, end: int
) -> int | None:
    last: int | None = None
    consumer.seek(tp, start)
    while await consumer.position(tp) < end:
        for record in (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, ()):
            last = record.offset
    return last
