"""What one worker owns and folds: partitions come by `take` and `start`, and go by `drain`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple

from aiokafka.structs import TopicPartition

from observe.streams import StreamsEvent
from streams.epoch import Gap, commit
from streams.exit import say
from streams.loader import load
from streams.log_reader import LogReader
from streams.options import Options
from streams.partition import EpochDone, OwnedPartition, Run
from streams.port import TABLES, Fold, PartitionFold
from streams.positions import Witnesses, start_offset
from streams.producers import Writers
from streams.tables import PartitionRows, TableFiles

__all__ = ["Engine", "GroupOffsets", "Snapshot", "Taken"]

GroupOffsets = Callable[[Collection[TopicPartition]], Awaitable[Mapping[TopicPartition, int | None]]]


class Snapshot(NamedTuple):
    """Figures of a worker at one moment, counted since it started."""

    record_count: int
    epoch_count: int
    commit_ms_last: float
    """Of the last epoch: from its decisions to the end of its write batches."""
    partitions: tuple[int, ...]
    """Owned now."""
    lag_count: int
    """Offsets between what is committed and the ends of the owned partitions, as of the last fetches."""


class Taken(NamedTuple):
    """A partition that is ours and loaded, but not yet folding."""

    fold: PartitionFold
    rows: PartitionRows
    start_offset: int


class Engine:
    """The folds of a worker's partitions, their writers and their tables."""

    def __init__(
        self,
        options: Options,
        fold: Fold,
        gap: Gap,
        append: Callable[[int, bytes], Awaitable[int]],
        log_end: Callable[[TopicPartition], int | None],
        on_room: Callable[[], None],
    ) -> None:
        """`append` puts a record on the source; `on_room` is called when a full partition may be fetched again."""
        self.options = options
        self.files = TableFiles(options.data_dir / "tables", options.block_cache_bytes)
        self.partitions: dict[int, PartitionFold] = {}
        """The folds of the partitions owned now, for whoever ticks them; not to be written by others."""
        self.append = append
        self._owned: dict[int, OwnedPartition] = {}
        self._fold = fold
        self._gap = gap
        self._log_end = log_end
        self._on_room = on_room
        self._writers = Writers(options)
        self._turns = asyncio.Semaphore(options.transactions_at_once)
        self._record_count = self._epoch_count = 0
        self._commit_ms_last = 0.0

    # Taking partitions over

    async def take(self, partitions: Collection[int], group_offsets: GroupOffsets) -> dict[int, Taken]:
        """Make partitions ours and bring their tables up to date; nothing is folded yet.

        The order matters: a writer opened after the changelogs' ends were read would let a former owner append
        rows that this worker never sees. Cancelled, it leaves writers open and tables behind; both are taken up by
        the next call. Raises Contradiction.
        """
        await self._writers.own(partitions)
        async with LogReader(self.options.bootstrap_servers) as reader:
            tables = {
                TopicPartition(topic, number): self.files.get(table, number)
                for number in partitions
                for table, topic in self.options.topics.changelogs.items()
            }
            loaded_count = await load(reader, tables, self.options.now_ms(), self.options.state_age_max_ms)
            taken = {number: self._open(number) for number in partitions}
            witnesses = await self._witnesses(reader, taken, group_offsets)
        say(StreamsEvent.LOADED, partitions=sorted(partitions), changelog_records=loaded_count)
        return {
            number: Taken(fold, rows, start_offset(number, fold.next_offset, witnesses[number]))
            for number, (fold, rows) in taken.items()
        }

    def _open(self, number: int) -> tuple[PartitionFold, PartitionRows]:
        rows = PartitionRows({table: self.files.get(table, number) for table in TABLES})
        return self._fold.open(number, rows), rows

    async def _witnesses(
        self, reader: LogReader, partitions: Collection[int], group_offsets: GroupOffsets
    ) -> dict[int, Witnesses]:
        """What the log, the ledger and the group say about each partition."""
        topics = self.options.topics
        sources = {number: TopicPartition(topics.source, number) for number in partitions}
        ledgers = {number: TopicPartition(topics.ledger, number) for number in partitions}
        ranges = await reader.ranges([*sources.values(), *ledgers.values()])
        offsets = await group_offsets(list(sources.values()))
        return {
            number: Witnesses(
                source=ranges[sources[number]],
                ledger_has_facts=await reader.has_records(ledgers[number], ranges[ledgers[number]]),
                group_offset=offsets[sources[number]],
            )
            for number in partitions
        }

    # Folding

    def start(self, taken: Mapping[int, Taken]) -> None:
        """Fold what was taken, as soon as records come."""
        for number, (fold, rows, offset) in taken.items():
            commit_epoch = partial(
                commit,
                writer=self._writers[number],
                rows=rows,
                topics=self.options.topics,
                now_ms=self.options.now_ms,
                gap=self._gap,
            )
            self.partitions[number] = fold
            self._owned[number] = OwnedPartition(
                number, fold, offset, commit_epoch, self._turns, self.options, self._note, self._on_room
            )

    def offer(self, runs: list[Run]) -> None:
        """Give each fetched run to its partition. Raises RecordsLost."""
        for run in runs:
            self._owned[run.partition].offer(run)

    @property
    def hungry(self) -> list[int]:
        """The owned partitions that may be given more."""
        return [number for number, owned in self._owned.items() if not owned.is_full]

    def ends_in_markers(self, number: int) -> bool:
        """Whether all records of an owned partition are folded, and offsets that hold none lie behind the last one.

        Transactions leave such offsets. Once retention has taken them, nobody can tell them from records that were
        lost: a position before them must move on while they are there.
        """
        owned = self._owned.get(number)
        if owned is None or owned.behind_count:
            return False
        position = owned.fold.next_offset
        return position is not None and position < owned.read_offset

    async def drain(self) -> None:
        """Let the epochs in flight end, then own nothing.

        Writers stay open: who takes a partition over opens its own, and ours is refused from then on.
        """
        owned = list(self._owned.values())
        self._owned.clear()
        self.partitions.clear()
        await asyncio.gather(*(partition.drain() for partition in owned))

    async def close(self) -> None:
        """Close the writers, when nothing is owned any more."""
        await self._writers.own(())

    # Figures

    def snapshot(self) -> Snapshot:
        """Cheap; to be called on the worker's loop."""
        lag_count = sum(self._lag_of(owned) for owned in self._owned.values())
        partitions = tuple(sorted(self._owned))
        return Snapshot(self._record_count, self._epoch_count, self._commit_ms_last, partitions, lag_count)

    def _lag_of(self, owned: OwnedPartition) -> int:
        end = self._log_end(TopicPartition(self.options.topics.source, owned.number))
        unread_count = 0 if end is None else max(0, end - owned.read_offset)
        return unread_count + owned.behind_count

    def _note(self, done: EpochDone) -> None:
        self._record_count += done.record_count
        self._epoch_count += 1
        self._commit_ms_last = done.commit_ms
