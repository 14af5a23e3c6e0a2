"""How an epoch becomes durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from streams.edges import Applied, Writer
from streams.errors import EpochUnfit
from streams.options import TopicNames
from streams.overlay import PartitionRows
from streams.port import TABLES, Epoch, PartitionFold, Record

__all__ = ["GAPS", "Gap", "check_epoch", "check_folded", "commit", "no_gap"]

Gap = Callable[[str], None]

GAPS: Final = (
    "taken",
    "begun",
    "sent",
    "acknowledged",
    "offset sent",
    "committed",
    "accounts written",
    "written",
)
"""Points between two effects of `commit`, in order; a process may die at any of them."""


def no_gap(name: str) -> None:
    """Nothing happens at a gap outside tests."""


async def commit(
    epoch: Epoch,
    writer: Writer,
    rows: PartitionRows,
    topics: TopicNames,
    now_ms: Callable[[], int],
    gap: Gap = no_gap,
) -> None:
    """Make one epoch durable: wholly, or not at all. The fold goes on meanwhile, and reads the epoch's rows from `rows`.

    1. One Kafka transaction by the partition's own producer:
       1a. facts to the ledger, totals, dead letters, and the changed rows of both tables to their changelogs, the
           position row among them;
       1b. every acknowledgement is awaited: one that never came would leave a hole under a committed position;
       1c. the group's offset, for lag tools (before 1b the broker refuses it while produces are pending);
       1d. the commit. The broker refuses it when another worker has taken the partition.
    2. One local write batch a table: its rows, and how far into its changelog they reach.
    3. Only now does the epoch count as folded.

    A crash before 1d ends leaves nothing that a reader of committed records sees, and the successor folds the same
    records the same way. Between 1d and 2, or between the tables of 2, the rows come back from the changelogs.
    Raises what aiokafka raises (ProducerFenced: another owner); the caller must end the process. Kill tests, one a
    gap: tests/streams/test_kill_points.py.
    """
    gap("taken")
    # 1.
    await writer.begin()
    gap("begun")
    # 1a.
    outputs = _outputs(epoch, topics)
    sent = await asyncio.gather(*(writer.send(topic, items) for topic, items in outputs.items()))
    gap("sent")
    # 1b.
    reached = {topic: await batches.acknowledged() for topic, batches in zip(outputs, sent, strict=True)}
    gap("acknowledged")
    # 1c.
    await writer.send_group_offset(topics.source, epoch.next_offset, epoch.note)
    gap("offset sent")
    # 1d.
    await writer.commit()
    gap("committed")
    # 2.
    for table in TABLES:
        next_offset = reached.get(topics.changelogs[table])
        if next_offset is not None:
            rows.apply(table, epoch.rows[table], Applied(next_offset, now_ms()))
        gap(f"{table} written" if table != TABLES[-1] else "written")
    # 3.


def _outputs(epoch: Epoch, topics: TopicNames) -> dict[str, Collection[tuple[bytes | None, bytes | None]]]:
    """What goes to each topic; nothing for a topic that gets no record."""
    outputs: dict[str, Collection[tuple[bytes | None, bytes | None]]] = {
        topics.ledger: epoch.ledger,
        topics.totals: epoch.totals.items(),
        topics.dead_letters: epoch.dead_letters,
    }
    outputs |= {topic: epoch.rows.get(table, {}).items() for table, topic in topics.changelogs.items()}
    return {topic: items for topic, items in outputs.items() if items}


def check_folded(records: Sequence[Record], fold: PartitionFold) -> Sequence[Record]:
    """The records that a fold left, from the one that it stands before. Raises EpochUnfit when its position is another."""
    stop = fold.stop
    folded = records if stop is None else [record for record in records if record.offset < stop.offset]
    rest = records[len(folded) :]
    if rest and (stop is None or rest[0].offset != stop.offset):
        message = f"the fold says that it stands before {stop}, which is none of its records"
        raise EpochUnfit(message)
    if folded and fold.next_offset != folded[-1].offset + 1:
        message = f"records end at {folded[-1].offset + 1}, the fold's position is {fold.next_offset}"
        raise EpochUnfit(message)
    return rest


def check_epoch(epoch: Epoch, fold: PartitionFold) -> None:
    """Hold the fold to its promises before anything is written. Raises EpochUnfit."""
    if epoch.next_offset != fold.next_offset:
        message = f"the epoch ends at {epoch.next_offset}, the fold's position is {fold.next_offset}"
        raise EpochUnfit(message)
    if not epoch.rows.get(TABLES[0]):
        message = f"the epoch up to {epoch.next_offset} changes no row of {TABLES[0]}: it lacks its position row"
        raise EpochUnfit(message)
