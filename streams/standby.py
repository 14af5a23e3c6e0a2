"""Keeps the tables of partitions that another worker owns close to their changelogs' ends, to take them over at once.

A standby reads what is committed, and writes to the same files that an owner does, by the same rules as a load: each page
with the changelog position that it reaches. It is stopped before this worker joins its group again, so that nothing of
it can run beside an owner's load.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from observe.figures import FIGURES
from observe.metrics import WORKER_STANDBYS
from observe.streams import StreamsEvent
from streams.edges import Reader, Tables
from streams.exit import ends_process, say
from streams.loader import catch_up
from streams.options import Options

__all__ = ["RECORDS_PER_PAGE", "Standbys"]

RECORDS_PER_PAGE = 2_000  # 10 ms of the loop, on which owned partitions fold beside it
_INTERVAL_S = 0.5  # what a promoted standby lacks is what was committed meanwhile
_RETRY_S = 2.0


class Standbys:
    """The standbys of one worker."""

    def __init__(
        self, options: Options, tables: Tables, open_reader: Callable[[], AbstractAsyncContextManager[Reader]]
    ) -> None:
        self.partitions: frozenset[int] = frozenset()
        """Followed now."""
        self._options = options
        self._tables = tables
        self._open_reader = open_reader
        self._following: asyncio.Task[None] | None = None

    def follow(self, partitions: Collection[int]) -> None:
        """Follow these from here on; to be called when nothing is followed."""
        assert self._following is None, "standbys are stopped before others are followed"
        self.partitions = frozenset(partitions)
        FIGURES.set(WORKER_STANDBYS, len(self.partitions))
        if self.partitions:
            say(StreamsEvent.STANDS_BY, partitions=sorted(self.partitions))
            self._following = asyncio.create_task(ends_process(self._follow(), "following changelogs as a standby"))

    async def stop(self) -> None:
        """Follow nothing. Afterwards no table is touched any more; each is consistent with its own position."""
        following, self._following = self._following, None
        self.partitions = frozenset()
        FIGURES.set(WORKER_STANDBYS, 0)
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self) -> None:
        """Read until cancelled. A broker that is away is waited for: nothing was promised to anybody."""
        is_ready = False
        while True:
            try:
                async with self._open_reader() as reader:
                    while True:
                        read_count = await self._catch_up(reader)
                        if not is_ready:
                            say(
                                StreamsEvent.STANDBY_READY,
                                partitions=sorted(self.partitions),
                                changelog_records=read_count,
                            )
                        is_ready = True
                        await asyncio.sleep(_INTERVAL_S)
            except KafkaError as error:
                say(StreamsEvent.STANDBY_WAITS, logging.WARNING, reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RETRY_S)

    async def _catch_up(self, reader: Reader) -> int:
        tables = {
            TopicPartition(topic, number): self._tables.get(table, number)
            for number in self.partitions
            for table, topic in self._options.topics.changelogs.items()
        }
        return await catch_up(reader, tables, self._options.now_ms(), self._options.state_age_max_ms)
