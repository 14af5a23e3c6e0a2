"""One owned partition: fetched runs of records in, answers at once, and one epoch after another behind them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from observe.figures import FIGURES
from observe.metrics import WORKER_FOLD_S
from observe.streams import StreamsEvent
from streams.edges import Page
from streams.epoch import check_epoch, check_folded
from streams.errors import RecordsLost
from streams.exit import ends_process, say
from streams.options import Options
from streams.overlay import PartitionRows
from streams.port import Answer, Epoch, PartitionFold, Record, Stop, StopKind
from streams.standing import note_of

__all__ = ["EpochDone", "OwnedPartition", "Run", "Surroundings"]

_NOTE_CHARS_MAX = 1_000  # a broker takes 4,096 bytes beside an offset


class Run(NamedTuple):
    """What one fetch consumed of a partition: every offset from start to before next, read or skipped as a marker."""

    partition: int
    start_offset: int
    next_offset: int
    records: Sequence[Record]


class EpochDone(NamedTuple):
    """What is told of an epoch once it counts."""

    record_count: int
    commit_ms: float


class Surroundings(NamedTuple):
    """What a partition needs of the worker around it."""

    commit: Callable[[Epoch], Awaitable[None]]
    turns: asyncio.Semaphore
    """How many partitions commit at once."""
    follow: Callable[[int], contextlib.AbstractAsyncContextManager[AsyncIterator[Page]]]
    """The partition's committed records from an offset on, beside what is fetched."""
    on_answers: Callable[[Sequence[Answer]], None]
    on_epoch: Callable[[EpochDone], None]
    on_room: Callable[[], None]
    """Called when a partition that was full may be fetched again."""


class OwnedPartition:
    """Folds records as they come, and commits behind the fold: while one epoch is committed, the next one fills.

    Answers leave when their records are decided. They promise nothing about a commit, and need none: the records are
    durable, and whoever folds them again decides the same.
    """

    def __init__(
        self,
        number: int,
        fold: PartitionFold,
        rows: PartitionRows,
        start_offset: int,
        around: Surroundings,
        options: Options,
    ) -> None:
        self.number = number
        self.fold = fold
        self.read_offset = start_offset
        """The first offset that was not yet fetched."""
        self.committed_offset = start_offset
        """Everything before it is folded and committed."""
        self._rows = rows
        self._around = around
        self._options = options
        self._waiting: deque[Sequence[Record]] = deque()
        """Fetched and not folded: the open epoch is full, or the fold stands."""
        self._waiting_count = self._open_count = self._committing_count = 0
        self._open_first_ms = self._committing_first_ms = 0
        """Append times of the first records in the open epoch, and in the one that is committed."""
        self._is_open = asyncio.Event()
        """The open epoch has effects; also set by the end, which waits for nothing more."""
        self._hurry = asyncio.Event()
        self._parked_row = asyncio.Event()
        """The position row says that the fold is parked, if it is: whoever takes the partition over stands here, too."""
        self._parked_row.set()
        self._next_epoch_at = 0.0
        self._closing = False
        self._was_full = self.is_full
        self._standing: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(ends_process(self._commit_epochs(), f"epochs of partition {number}"))
        self._stand_if_stopped()

    def offer(self, run: Run) -> None:
        """Fold a fetched run. Raises RecordsLost when it does not begin where the last one ended.

        Whatever empties a queue or moves a position behind the engine's back shows here, before a record is folded
        out of its order; the stock consumer loses such runs silently.
        """
        if run.start_offset != self.read_offset:
            message = f"partition {self.number}: expected offset {self.read_offset}, got a run from {run.start_offset}"
            raise RecordsLost(message)
        self.read_offset = run.next_offset
        if run.records:
            self._waiting.append(run.records)
            self._waiting_count += len(run.records)
            self._fold_waiting()

    @property
    def is_full(self) -> bool:
        """What comes now would wait; no more is fetched until there is room."""
        return bool(self._waiting) or self.fold.stop is not None

    @property
    def behind_count(self) -> int:
        """Records fetched and not yet committed."""
        return self._waiting_count + self._open_count + self._committing_count

    @property
    def oldest_append_ms(self) -> int | None:
        """Append time of the oldest record that was fetched and is not committed; None where there is none."""
        if self._committing_count:
            return self._committing_first_ms
        if self._open_count:
            return self._open_first_ms
        return self._waiting[0][0].timestamp if self._waiting else None

    async def drain(self) -> None:
        """Commit what is decided; what waits is dropped, and read again by whoever owns the partition next."""
        self._closing = True
        if self._standing is not None:
            self._standing.cancel()
            await asyncio.gather(self._standing, return_exceptions=True)
        self._is_open.set()
        self._hurry.set()
        await self._task

    # Folding

    def _fold_waiting(self) -> None:
        """Fold what waits, while the open epoch has room and nothing stops the fold."""
        while self._waiting and self._may_fold:
            self._fold(self._waiting.popleft())
        self._stand_if_stopped()
        was_full, self._was_full = self._was_full, self.is_full
        if was_full and not self._was_full:
            self._around.on_room()

    @property
    def _may_fold(self) -> bool:
        return not self._closing and self.fold.stop is None and self._open_count < self._options.records_open_max

    def _fold(self, records: Sequence[Record]) -> None:
        stop_before = self.fold.stop
        began = time.perf_counter()
        answers = self.fold.fold(records, self._options.now_ms())
        FIGURES.observe(WORKER_FOLD_S, time.perf_counter() - began)
        rest = check_folded(records, self.fold)
        if rest:
            self._waiting.appendleft(rest)
        folded_count = len(records) - len(rest)
        self._waiting_count -= folded_count
        if folded_count and not self._open_count:
            self._open_first_ms = records[0].timestamp
        self._open_count += folded_count
        stop = self.fold.stop
        if folded_count:
            self._is_open.set()
        if stop != stop_before:
            self._note_parking()
        if self._open_count >= self._options.records_per_epoch_max:
            self._hurry.set()
        if answers:
            self._around.on_answers(answers)

    # Standing before a record

    def _note_parking(self) -> None:
        """A fold that came to be parked has something to commit, though no record was folded."""
        if self.fold.stop is not None and self.fold.stop.kind is StopKind.PARKED:
            self._parked_row.clear()
            self._is_open.set()

    def _stand_if_stopped(self) -> None:
        if self.fold.stop is not None and self._standing is None and not self._closing:
            self._standing = asyncio.create_task(ends_process(self._stand(), f"standing of partition {self.number}"))

    async def _stand(self) -> None:
        """Until the fold goes on. Other partitions do meanwhile."""
        while (stop := self.fold.stop) is not None:
            fields = {"partition": self.number, "offset": stop.offset, "kind": stop.kind, "message": stop.message}
            say(StreamsEvent.STANDS, logging.ERROR, **fields)
            await self._until_let_through(stop)
            say(StreamsEvent.GOES_ON, partition=self.number, offset=stop.offset, kind=stop.kind)
            self._fold_waiting()
        self._standing = None

    async def _until_let_through(self, stop: Stop) -> None:
        """An order behind the record lets it through; so does the clock, where that is all it waits for.

        No order is heard before the position row says that the partition is parked. Else a worker that was replaced would
        let the record through by the order, and its successor, for which the record is in order by now, without it: they
        would decide differently, and one of them has answered.
        """
        await self._parked_row.wait()
        async with self._around.follow(stop.offset + 1) as pages:
            async for page in pages:
                if any(self.fold.hear(record) or self.fold.stop != stop for record in page.records):
                    self._note_parking()
                    return
                if stop.kind is StopKind.AHEAD:
                    self._fold(self._waiting.popleft())
                if self.fold.stop != stop:
                    return

    # Committing

    async def _commit_epochs(self) -> None:
        while await self._has_epoch():
            async with self._around.turns:
                await self._commit_one()

    async def _has_epoch(self) -> bool:
        """Wait for effects, and for their epoch to close: soon after the last one began only when it is full."""
        await self._is_open.wait()
        if self._next_epoch_at > asyncio.get_running_loop().time():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_epoch_at):
                    await self._hurry.wait()
        return self._has_effects

    @property
    def _has_effects(self) -> bool:
        """False only at the end: what woke the committer was the wish to end."""
        return self._open_count > 0 or not self._closing

    async def _commit_one(self) -> None:
        """Commit the open epoch, which grew until its turn came; the next one fills meanwhile."""
        self._next_epoch_at = asyncio.get_running_loop().time() + self._options.epoch_interval_s
        tells_of_parking = not self._parked_row.is_set()
        epoch = self.fold.take()
        epoch.note = self._note()
        check_epoch(epoch, self.fold)
        self._rows.hold(epoch.rows)
        self._committing_count, self._open_count = self._open_count, 0
        self._committing_first_ms = self._open_first_ms
        if not self._closing:
            self._is_open.clear()
            self._hurry.clear()
        self._fold_waiting()
        began = time.perf_counter()
        async with asyncio.timeout(self._options.commit_timeout_s):
            await self._around.commit(epoch)
        self._rows.release()
        if tells_of_parking:
            self._parked_row.set()
        self.committed_offset = epoch.next_offset
        done = EpochDone(self._committing_count, (time.perf_counter() - began) * 1_000)
        self._committing_count = 0
        self._around.on_epoch(done)

    def _note(self) -> str:
        """Why the fold stands, for whoever looks at the group's offset: it outlives this worker."""
        stop = self.fold.stop
        return "" if stop is None else note_of(self.number, stop)[:_NOTE_CHARS_MAX]
