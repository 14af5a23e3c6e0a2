"""What one worker owns and folds: partitions come by `take` and `start`, and go by `drain`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import NamedTuple

from aiokafka.structs import TopicPartition

from observe.figures import FIGURES
from observe.metrics import WORKER_COMMIT_S, WORKER_EPOCHS, WORKER_RECORDS, WORKER_RECOVERY_S
from observe.streams import StreamsEvent
from streams.edges import Edges, LogRange, Page, Reader, Writer
from streams.epoch import Gap, commit
from streams.exit import say
from streams.loader import load
from streams.options import Options
from streams.overlay import PartitionRows
from streams.partition import EpochDone, OwnedPartition, Run, Surroundings
from streams.port import TABLES, Answer, Epoch, Fold, LastRecord, PartitionFold, Record, Stop
from streams.positions import Witnesses, record_digest, start_offset
from streams.producers import Writers
from streams.settled import settle

__all__ = ["Answers", "Engine", "GroupOffsets", "Place", "Snapshot", "Taken", "no_answers"]

Answers = Callable[[int, Sequence[Answer]], None]
"""Takes a partition's answers as they are decided. It must not wait, nor raise: they are best effort."""
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
    stops: Mapping[int, Stop]
    """The owned partitions whose folds stand before a record."""


class Place(NamedTuple):
    """Where an owned partition is."""

    next_offset: int
    """Everything before it is committed; that of the end where nothing is left to fold, markers or not."""
    end: int
    """Of the partition, as of the last fetch."""
    oldest_append_ms: int | None = None
    """Append time of the oldest record that was fetched and is not committed."""


def no_answers(partition: int, answers: Sequence[Answer]) -> None:
    """Nobody is there to be told."""


class Taken(NamedTuple):
    """A partition that is ours and loaded, but not yet folding."""

    fold: PartitionFold
    rows: PartitionRows
    start_offset: int
    is_untold: bool
    """The group's offset is not this one: it has expired, or the log was made anew."""


class Engine:
    """The folds of a worker's partitions, their writers and their tables."""

    def __init__(
        self,
        options: Options,
        fold: Fold,
        edges: Edges,
        gap: Gap,
        append: Callable[[int, bytes], Awaitable[int]],
        log_end: Callable[[TopicPartition], int | None],
        on_room: Callable[[], None],
        on_answers: Answers = no_answers,
    ) -> None:
        """`append` puts a record on the source; `on_room` is called when a full partition may be fetched again."""
        self.options = options
        self.partitions: dict[int, PartitionFold] = {}
        """The folds of the partitions owned now, for whoever ticks them; not to be written by others."""
        self.append = append
        self._owned: dict[int, OwnedPartition] = {}
        self._fold = fold
        self._edges = edges
        self._gap = gap
        self._log_end = log_end
        self._on_room = on_room
        self._on_answers = on_answers
        self._writers = Writers(edges.open_writer)
        self._turns = asyncio.Semaphore(options.transactions_at_once)
        self._committing_count = self._ahead_count = 0
        self._record_count = self._epoch_count = 0
        self._commit_ms_last = 0.0
        self._untold: set[int] = set()
        self.taking_since_s: float | None = None
        """When the take-over under way began, by the monotonic clock; None while there is none."""

    # Taking partitions over

    async def take(self, partitions: Collection[int], group_offsets: GroupOffsets) -> dict[int, Taken]:
        """Make partitions ours and bring their tables up to date; nothing is folded yet.

        The order matters: a writer opened after the changelogs' ends were read would let a former owner append rows
        that this worker never sees, and a transaction whose markers come later would hide some. Cancelled, it leaves
        writers open and tables behind; both are taken up by the next call. Raises Contradiction.
        """
        if self.taking_since_s is None:
            self.taking_since_s = time.monotonic()
        await self._writers.own(partitions)
        async with self._edges.open_reader() as reader:
            await settle(reader, self._writers.of(partitions), self.options.topics)
            tables = {
                TopicPartition(topic, number): self._edges.tables.get(table, number)
                for number in partitions
                for table, topic in self.options.topics.changelogs.items()
            }
            loaded_count = await load(reader, tables, self.options.now_ms(), self.options.state_age_max_ms)
            taken = {number: self._open(number) for number in partitions}
            folds = {number: fold for number, (fold, _) in taken.items()}
            witnesses = await self._witnesses(reader, folds, group_offsets)
        say(StreamsEvent.LOADED, partitions=sorted(partitions), changelog_records=loaded_count)
        return {number: self._taken(number, fold, rows, witnesses[number]) for number, (fold, rows) in taken.items()}

    def _taken(self, number: int, fold: PartitionFold, rows: PartitionRows, witnesses: Witnesses) -> Taken:
        start = start_offset(number, fold, witnesses)
        return Taken(fold, rows, start, is_untold=fold.next_offset is not None and witnesses.group_offset != start)

    def _open(self, number: int) -> tuple[PartitionFold, PartitionRows]:
        rows = PartitionRows({table: self._edges.tables.get(table, number) for table in TABLES})
        return self._fold.open(number, rows), rows

    async def _witnesses(
        self, reader: Reader, folds: Mapping[int, PartitionFold], group_offsets: GroupOffsets
    ) -> dict[int, Witnesses]:
        """What the log, the ledger and the group say about each partition."""
        topics = self.options.topics
        sources = {number: TopicPartition(topics.source, number) for number in folds}
        ledgers = {number: TopicPartition(topics.ledger, number) for number in folds}
        ranges = await reader.ranges([*sources.values(), *ledgers.values()])
        offsets = await group_offsets(list(sources.values()))
        found = {}
        for number, fold in folds.items():
            source = ranges[sources[number]]
            last = await _record_at(reader, sources[number], source, fold.last)
            found[number] = Witnesses(
                source=source,
                ledger_has_facts=await _first_record(reader, ledgers[number], ranges[ledgers[number]]) is not None,
                group_offset=offsets[sources[number]],
                last=last,
                is_anew=last != fold.last and await _is_anew(reader, sources[number], source, fold),
            )
        return found

    # Folding

    def start(self, taken: Mapping[int, Taken]) -> None:
        """Fold what was taken, as soon as records come."""
        self._untold = {number for number, each in taken.items() if each.is_untold}
        for number, (fold, rows, offset, _) in taken.items():
            self.partitions[number] = fold
            around = self._surroundings(number, rows)
            self._owned[number] = OwnedPartition(number, fold, rows, offset, around, self.options)
        if self.taking_since_s is not None:
            FIGURES.observe(WORKER_RECOVERY_S, time.monotonic() - self.taking_since_s)
            self.taking_since_s = None

    def _surroundings(self, number: int, rows: PartitionRows) -> Surroundings:
        return Surroundings(
            commit=partial(self._commit, writer=self._writers[number], rows=rows),
            turns=self._turns,
            follow=partial(self._follow, TopicPartition(self.options.topics.source, number)),
            on_answers=partial(self._on_answers, number),
            on_epoch=partial(self._note, number),
            on_room=self._on_room,
        )

    @asynccontextmanager
    async def _follow(self, tp: TopicPartition, start: int) -> AsyncIterator[AsyncIterator[Page]]:
        async with self._edges.open_reader() as reader, aclosing(reader.follow(tp, start)) as pages:
            yield pages

    async def _commit(self, epoch: Epoch, writer: Writer, rows: PartitionRows) -> None:
        self._committing_count += 1
        self._ahead_count = 0
        await commit(epoch, writer, rows, self.options.topics, self.options.now_ms, self._gap)
        self._committing_count -= 1
        self._on_room()

    def offer(self, runs: list[Run]) -> None:
        """Give each fetched run to its partition. Raises RecordsLost."""
        for run in runs:
            self._owned[run.partition].offer(run)
            self._ahead_count += len(run.records)

    @property
    def hungry(self) -> list[int]:
        """The owned partitions that may be given more."""
        is_far_ahead = self._committing_count > 0 and self._ahead_count >= self.options.records_ahead_max
        return [] if is_far_ahead else [number for number, owned in self._owned.items() if not owned.is_full]

    def needs_tick(self, number: int) -> bool:
        """Whether an owned partition of which everything is folded needs a record more, that a commit may follow.

        Offsets that hold no record lie behind the last one: transactions leave such. Once retention has taken them, nobody
        can tell them from records that were lost, and a position before them must move on while they are there. Or the
        group does not show where the partition is, so that it would look as if nothing of it were counted.
        """
        owned = self._owned.get(number)
        if owned is None or owned.behind_count or owned.fold.stop is not None:
            return False
        position = owned.fold.next_offset
        return position is not None and (position < owned.read_offset or number in self._untold)

    async def drain(self) -> None:
        """Let what was decided be committed, then own nothing.

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
        lag_count = sum(place.end - place.next_offset for place in self.places().values())
        partitions = tuple(sorted(self._owned))
        stops = {number: owned.fold.stop for number, owned in self._owned.items() if owned.fold.stop is not None}
        return Snapshot(self._record_count, self._epoch_count, self._commit_ms_last, partitions, lag_count, stops)

    def places(self) -> dict[int, Place]:
        """Where each owned partition is. Cheap; to be called on the worker's loop."""
        return {number: self._place_of(owned) for number, owned in self._owned.items()}

    def _place_of(self, owned: OwnedPartition) -> Place:
        end = self._log_end(TopicPartition(self.options.topics.source, owned.number))
        next_offset = owned.committed_offset if owned.behind_count else owned.read_offset
        return Place(next_offset, max(end or 0, owned.read_offset), owned.oldest_append_ms)

    def _note(self, number: int, done: EpochDone) -> None:
        self._untold.discard(number)
        FIGURES.add(WORKER_RECORDS, done.record_count, number)
        FIGURES.add(WORKER_EPOCHS, 1, number)
        FIGURES.observe(WORKER_COMMIT_S, done.commit_ms / 1_000)
        self._record_count += done.record_count
        self._epoch_count += 1
        self._commit_ms_last = done.commit_ms


async def _first_record(reader: Reader, tp: TopicPartition, held: LogRange) -> Record | None:
    """The first committed record, if any: a log of aborted transactions has offsets, and nothing to read."""
    async with aclosing(reader.read({tp: held})) as pages:
        async for page in pages:
            if page.records:
                return page.records[0]
    return None


async def _record_at(reader: Reader, tp: TopicPartition, held: LogRange, last: LastRecord | None) -> LastRecord | None:
    """What lies where the record folded last lay; None where no record does."""
    if last is None or not held.start <= last.offset < held.end:
        return None
    async with aclosing(reader.read({tp: LogRange(last.offset, last.offset + 1)})) as pages:
        async for page in pages:
            for record in page.records:
                if record.offset == last.offset:
                    return LastRecord(record.offset, record_digest(record))
    return None


async def _is_anew(reader: Reader, tp: TopicPartition, held: LogRange, fold: PartitionFold) -> bool:
    """Whether the log was made anew. Asked where the record folded last is not there: elsewhere it costs a fetch."""
    first = await _first_record(reader, tp, held)
    return first is not None and fold.begin_anew(first)
