"""Reads whole partitions in bulk, by a consumer without a group: changelogs into tables, a ledger for its first fact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
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
        anything = aiokafka.AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers, enable_auto_commit=False)
        try:
            await anything.start()
            # The stable ends first: a transaction that ends meanwhile is taken for an open one, and looked at again.
            stable = await self._consumer.end_offsets(wanted)
            ends = await anything.end_offsets(wanted)
        finally:
            await anything.stop()
        return {tp for tp in wanted if stable[tp] < ends[tp]}

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
