"""Brings tables up to their changelogs' ends: an owner's before it folds, a standby's again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from aiokafka.structs import TopicPartition

from observe.streams import StreamsEvent
from streams.edges import Applied, LogRange, Page, Reader, Table
from streams.errors import StateForeign
from streams.exit import say
from streams.port import Row
from streams.settled import contradicting

__all__ = ["catch_up", "load"]

_AS_OF_INTERVAL_MS = 3_600_000


async def load(reader: Reader, tables: Mapping[TopicPartition, Table], now_ms: int, state_age_max_ms: int) -> int:
    """Apply what the tables lack of their changelogs; gives the number of records read.

    Each table goes on from its own position: a worker killed between the write batches of two tables leaves one
    behind the other. Cancelled, it leaves tables that are behind, and consistent with their own position.
    Call it after the partitions' writers are open and their transactions have ended: before, a former owner may still append,
    and what was committed may not be seen yet. Tables that tell of an aborted transaction are loaded anew. Raises
    StateForeign.
    """
    kept = {tp: table for tp, table in tables.items() if table.applied is not None}
    ranges = await reader.ranges(tables)
    for tp, held in ranges.items():
        _check_not_ahead(tp, tables[tp], held)
    loaded = await _read_missing(reader, tables, ranges, now_ms, state_age_max_ms)
    wrong = {tp.partition for tp in await contradicting(reader, kept, ranges)}
    if wrong:
        say(StreamsEvent.CONTRADICTED, partitions=sorted(wrong))
        anew = {tp: table for tp, table in tables.items() if tp.partition in wrong}
        for table in anew.values():
            table.wipe()
        loaded += await _read_missing(reader, anew, {tp: ranges[tp] for tp in anew}, now_ms, state_age_max_ms)
    return loaded


async def catch_up(reader: Reader, tables: Mapping[TopicPartition, Table], now_ms: int, state_age_max_ms: int) -> int:
    """As `load`, beside an owner who goes on: for standbys, which are behind again as soon as it returns.

    A table that is ahead of its changelog's end is left alone. One that was written by this worker as the owner may be,
    for the moment that its last transaction's marker takes; whether it is another log's, the next `load` says. Rows of its
    own that were aborted after all do not outlive it: the new owner folds the same records, and writes the same keys again.
    """
    ranges = await reader.ranges(tables)
    wanted = {tp: held for tp, held in ranges.items() if _may_lack(tables[tp].applied, held, now_ms)}
    return await _read_missing(reader, tables, wanted, now_ms, state_age_max_ms)


def _may_lack(applied: Applied | None, held: LogRange, now_ms: int) -> bool:
    """Whether a standby has anything to do; that it is still complete, it writes down once an hour."""
    if applied is None or applied.next_offset < held.end:
        return True
    return applied.next_offset == held.end and now_ms - applied.as_of_ms > _AS_OF_INTERVAL_MS


async def _read_missing(
    reader: Reader,
    tables: Mapping[TopicPartition, Table],
    ranges: Mapping[TopicPartition, LogRange],
    now_ms: int,
    state_age_max_ms: int,
) -> int:
    """Bring the tables up to the ends of `ranges`; gives the number of records read."""
    reached = {
        tp: LogRange(_prepare(tp, tables[tp], held, now_ms, state_age_max_ms), held.end) for tp, held in ranges.items()
    }
    loaded = 0
    async with aclosing(reader.read(reached)) as pages:
        async for page in pages:
            tables[page.tp].apply(rows_of(page), Applied(page.next_offset, now_ms))
            # What comes after a page that went past the end is not read: the table must not say less than it has.
            reached[page.tp] = LogRange(page.next_offset, max(page.next_offset, reached[page.tp].end))
            loaded += len(page.records)
            await asyncio.sleep(0)  # heartbeats run on another thread, but a stop must be heard here
    for tp, part in reached.items():
        tables[tp].apply((), Applied(part.end, now_ms))
    return loaded


def rows_of(page: Page) -> list[tuple[bytes, Row]]:
    """What the page leaves of each row, in key order: a row that many epochs wrote is written once."""
    last: dict[bytes, Row] = {}
    for record in page.records:
        assert record.key is not None, "a changelog is compacted: the broker takes no record without a key"
        last[record.key] = record.value
    return sorted(last.items())


def _check_not_ahead(tp: TopicPartition, table: Table, held: LogRange) -> None:
    """Raises StateForeign when the table reflects more than the changelog has."""
    applied = table.applied
    if applied is not None and applied.next_offset > held.end:
        message = (
            f"{tp.topic}/{tp.partition}: the local table reflects {applied.next_offset} records, the changelog ends at "
            f"{held.end}: it belongs to another log; give this worker an empty data directory"
        )
        raise StateForeign(message)


def _prepare(tp: TopicPartition, table: Table, held: LogRange, now_ms: int, state_age_max_ms: int) -> int:
    """The changelog offset from which `table` must be read; wipes a table that may lack deletions."""
    applied = table.applied
    if applied is None:
        return held.start
    is_below_start = applied.next_offset < held.start
    is_too_old = now_ms - applied.as_of_ms > state_age_max_ms
    if is_below_start or is_too_old:
        say(StreamsEvent.WIPED, table=tp.topic, partition=tp.partition, below_start=is_below_start, too_old=is_too_old)
        table.wipe()
        return held.start
    return applied.next_offset
