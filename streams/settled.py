"""What a take-over must know before it believes the changelogs: every transaction has ended, and the tables hold what came of it.

A commit is acknowledged before its markers are written; until they are, readers of committed records do not see it. And there are
markers that never come: a partition that has no leader at that moment (its only replica's broker was fenced, for want of
processor time alone) is taken for deleted, and the transaction is called complete (Kafka 4.3.1, `getPartitionLeaderEndpoint`
and `addTxnMarkersToBrokerQueue`; seen in a run of `make faults`: 1,746 facts twice). Such a transaction hangs until the next
marker of the same producer id, which ends it whichever way that one says: committed with its repetition, every fact would be in
the ledger twice; aborted with the next that fails, local tables would tell of facts that the ledger lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import aclosing
from typing import Final

from aiokafka.structs import TopicPartition

from observe.streams import StreamsEvent
from streams.edges import LogRange, Reader, Table, Writer
from streams.errors import TransactionHangs
from streams.exit import say
from streams.options import TopicNames
from streams.port import Row

__all__ = ["contradicting", "settle"]

_POLL_S: Final = 0.02
_PATIENCE_S: Final = 2.0
"""Markers take milliseconds; a loaded machine has been seen to take 1.3 s."""
_END_S: Final = 15.0
"""A former owner's writer may itself hold a transaction open for 10 s; not longer, since ours has taken its id."""
_NOTHING: Final = (b"\xff\xffmeterlog aborted", b"")
"""A record that nobody is ever given. A compacted topic takes none without a key."""
_TAIL_OFFSETS: Final = 100


async def settle(reader: Reader, writers: Mapping[int, Writer], topics: TopicNames) -> None:
    """Return when no transaction of these partitions' writers is open any more; end those that hang.

    The writers are open, and nothing is in flight. What hangs everywhere is aborted, whatever had been said of it: nobody has
    seen it, and its records are folded again to the same effect. What has ended on some topics is ended alike on the others.
    Raises TransactionHangs.
    """
    outputs = {TopicPartition(topic, number): number for number in writers for topic in topics.outputs}
    if await _ends(reader, outputs, _PATIENCE_S):
        return
    hanging = await reader.unsettled(outputs)
    say(StreamsEvent.HUNG, partitions=sorted({f"{tp.topic}/{tp.partition}" for tp in hanging}))
    for number in sorted({outputs[tp] for tp in hanging}):
        if await _is_committed_elsewhere(reader, number, hanging, topics):
            await _commit(writers[number])
        else:
            await _abort(writers[number], topics)
    if not await _ends(reader, outputs, _END_S):
        message = (
            f"a transaction on {sorted(hanging)} does not end; abort it: kafka-transactions.sh find-hanging, abort"
        )
        raise TransactionHangs(message)


async def _ends(reader: Reader, outputs: Collection[TopicPartition], within_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while await reader.unsettled(outputs):
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


async def _is_committed_elsewhere(
    reader: Reader, number: int, hanging: Collection[TopicPartition], topics: TopicNames
) -> bool:
    """Whether the last transaction of a partition was committed on one of the topics that every epoch writes to."""
    told = [TopicPartition(topic, number) for topic in (topics.accounts_changelog, topics.ledger)]
    return any([await reader.ends_committed(tp) for tp in told if tp not in hanging])


async def _commit(writer: Writer) -> None:
    """A transaction that writes nothing: its markers, which are on every output, end what hangs there."""
    await writer.begin()
    await writer.commit()


async def _abort(writer: Writer, topics: TopicNames) -> None:
    """A transaction on every topic that one can have hung on; its markers end that one too."""
    await writer.begin()
    for topic in topics.outputs:
        await (await writer.send(topic, [_NOTHING])).acknowledged()
    await writer.send_group_offset(topics.source, 0)
    await writer.abort()


async def contradicting(
    reader: Reader, tables: Mapping[TopicPartition, Table], ranges: Mapping[TopicPartition, LogRange]
) -> set[TopicPartition]:
    """The tables that say otherwise than their changelog's newest records: they tell of a transaction that was aborted after all.

    A row that a table lacks may have been swept, and is no contradiction. `ranges` are the changelogs'.
    """
    told = await _newest(reader, {tp: ranges[tp] for tp in tables})
    return {tp for tp, table in tables.items() if _differs(table, told[tp])}


def _differs(table: Table, told: Mapping[bytes, Row]) -> bool:
    if not told:
        return bool(table.scan(b"", b"\xff\xff", 1))
    return any(row not in (None, told[key]) for key, row in zip(told, table.get_many(list(told)), strict=True))


async def _newest(reader: Reader, ranges: Mapping[TopicPartition, LogRange]) -> dict[TopicPartition, dict[bytes, Row]]:
    """The last rows of each changelog, more of them until there are any: what was aborted leaves offsets without records."""
    told: dict[TopicPartition, dict[bytes, Row]] = {}
    todo, count = dict(ranges), _TAIL_OFFSETS
    while todo:
        tails = {tp: LogRange(max(held.start, held.end - count), held.end) for tp, held in todo.items()}
        found = await _rows(reader, tails)
        told |= found
        todo = {tp: held for tp, held in todo.items() if not found[tp] and tails[tp].start > held.start}
        count *= 10
    return told


async def _rows(reader: Reader, parts: Mapping[TopicPartition, LogRange]) -> dict[TopicPartition, dict[bytes, Row]]:
    rows: dict[TopicPartition, dict[bytes, Row]] = {tp: {} for tp in parts}
    async with aclosing(reader.read(parts)) as pages:
        async for page in pages:
            for record in page.records:
                assert record.key is not None, "a changelog is compacted: the broker takes no record without a key"
                rows[page.tp][record.key] = record.value
    return rows
