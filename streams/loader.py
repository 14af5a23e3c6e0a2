"""Brings the tables of newly owned partitions up to their changelogs' ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiokafka.structs import TopicPartition

from observe.streams import StreamsEvent
from streams.edges import Applied, LogRange, Page, Reader, Table
from streams.errors import StateForeign
from streams.exit import say
from streams.port import Row
from streams.settled import contradicting

__all__ = ["load"]


async def load(reader: Reader, tables: Mapping[TopicPartition, Table], now_ms: int, state_age_max_ms: int) -> int:
    """Apply what the tables lack of their changelogs; gives the number of records read.

    Each table goes on from its own position: a worker killed between the write batches of two tables leaves one
    behind the other. Cancelled, it leaves tables that are behind, and consistent with their own position.
    Call it after the partitions' writers are open and their transactions have ended: before, a former owner may still append,
    and what was committed may not be seen yet. Tables that tell of an aborted transaction are loaded anew.
    """
    kept = {tp: table for tp, table in tables.items() if table.applied is not None}
    loaded, ranges = await _catch_up(reader, tables, now_ms, state_age_max_ms)
    wrong = {tp.partition for tp in await contradicting(reader, kept, ranges)}
    if wrong:
        say(StreamsEvent.CONTRADICTED, partitions=sorted(wrong))
        anew = {tp: table for tp, table in tables.items() if tp.partition in wrong}
        for table in anew.values():
            table.wipe()
        loaded += (await _catch_up(reader, anew, now_ms, state_age_max_ms))[0]
    return loaded


async def _catch_up(
    reader: Reader, tables: Mapping[TopicPartition, Table], now_ms: int, state_age_max_ms: int
) -> tuple[int, dict[TopicPartition, LogRange]]:
    """Gives the number of records read, and the changelogs' ranges."""
    missing = {}
    ranges = await reader.ranges(tables)
    for tp, log_range in ranges.items():
        start = _prepare(tp, tables[tp], log_range, now_ms, state_age_max_ms)
        missing[tp] = LogRange(start, log_range.end)
        if start >= log_range.end:
            tables[tp].apply((), Applied(log_range.end, now_ms))
    loaded = 0
    async for page in reader.read(missing):
        tables[page.tp].apply(rows_of(page), Applied(page.next_offset, now_ms))
        loaded += len(page.records)
        await asyncio.sleep(0)  # heartbeats run on another thread, but a stop must be heard here
    for tp, part in missing.items():
        tables[tp].apply((), Applied(part.end, now_ms))
    return loaded, ranges


def rows_of(page: Page) -> list[tuple[bytes, Row]]:
    """What the page leaves of each row, in key order: a row that many epochs wrote is written once."""
    last: dict[bytes, Row] = {}
    for record in page.records:
        assert record.key is not None, "a changelog is compacted: the broker takes no record without a key"
        last[record.key] = record.value
    return sorted(last.items())


def _prepare(tp: TopicPartition, table: Table, log_range: LogRange, now_ms: int, state_age_max_ms: int) -> int:
    """The changelog offset from which `table` must be read; wipes a table that may lack deletions.

    Raises StateForeign when it reflects more than the changelog has.
    """
    applied = table.applied
    if applied is None:
        return log_range.start
    if applied.next_offset > log_range.end:
        message = (
            f"{tp.topic}/{tp.partition}: the local table reflects {applied.next_offset} records, the changelog ends at "
            f"{log_range.end}: it belongs to another log; give this worker an empty data directory"
        )
        raise StateForeign(message)
    is_below_start = applied.next_offset < log_range.start
    is_too_old = now_ms - applied.as_of_ms > state_age_max_ms
    if is_below_start or is_too_old:
        say(StreamsEvent.WIPED, table=tp.topic, partition=tp.partition, below_start=is_below_start, too_old=is_too_old)
        table.wipe()
        return log_range.start
    return applied.next_offset
