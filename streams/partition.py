"""One owned partition: fetched runs of records in, one epoch after another out, in the log's order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import NamedTuple

from streams.epoch import check_epoch
from streams.errors import RecordsLost
from streams.exit import ends_process
from streams.options import Options
from streams.port import Epoch, PartitionFold, Record

__all__ = ["Commit", "EpochDone", "OwnedPartition", "Run"]

Commit = Callable[[Epoch], Awaitable[None]]


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


class OwnedPartition:
    """Folds and commits one epoch at a time; what arrives meanwhile waits, and is folded together."""

    def __init__(
        self,
        number: int,
        fold: PartitionFold,
        start_offset: int,
        commit: Commit,
        turns: asyncio.Semaphore,
        options: Options,
        on_epoch: Callable[[EpochDone], None],
        on_room: Callable[[], None],
    ) -> None:
        """`turns` limits how many partitions fold and commit at once; `on_room` is called when a full one has room."""
        self.number = number
        self.fold = fold
        self.read_offset = start_offset
        """The first offset that was not yet fetched."""
        self._commit = commit
        self._turns = turns
        self._options = options
        self._on_epoch = on_epoch
        self._on_room = on_room
        self._waiting: deque[Sequence[Record]] = deque()
        self._waiting_count = self._in_flight_count = 0
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._next_epoch_at = 0.0
        self._closing = False
        self.is_full = False
        """More waits than should; no more is fetched until there is room."""
        self._task = asyncio.create_task(ends_process(self._work(), f"fold of partition {number}"))

    def offer(self, run: Run) -> None:
        """Take a fetched run. Raises RecordsLost when it does not begin where the last one ended.

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
            self.is_full = self._waiting_count >= self._options.records_waiting_max
            self._wake.set()
            if self._waiting_count >= self._options.records_per_epoch_max:
                self._hurry.set()

    @property
    def behind_count(self) -> int:
        """Records fetched and not yet committed."""
        return self._waiting_count + self._in_flight_count

    async def drain(self) -> None:
        """Let the epoch in flight end; what waits is dropped, and read again by whoever owns the partition next."""
        self._closing = True
        self._wake.set()
        self._hurry.set()
        await self._task

    async def _work(self) -> None:
        while await self._has_work():
            async with self._turns:
                if not self._closing:
                    await self._fold_one_epoch(self._take())

    async def _has_work(self) -> bool:
        """Wait for records, and until the next epoch may begin: soon after the last one only when it is full."""
        await self._wake.wait()
        if self._next_epoch_at > asyncio.get_running_loop().time():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_epoch_at):
                    await self._hurry.wait()
        return not self._closing

    def _take(self) -> Sequence[Record]:
        """The oldest records that wait, as many as an epoch may have; at least one run."""
        taken = [self._waiting.popleft()]
        count = len(taken[0])
        while self._waiting and count + len(self._waiting[0]) <= self._options.records_per_epoch_max:
            taken.append(self._waiting.popleft())
            count += len(taken[-1])
        self._waiting_count -= count
        if not self._waiting and not self._closing:
            self._wake.clear()
        if self._waiting_count < self._options.records_per_epoch_max and not self._closing:
            self._hurry.clear()
        if self.is_full and self._waiting_count < self._options.records_waiting_max // 2:
            self.is_full = False
            self._on_room()
        return taken[0] if len(taken) == 1 else list(chain.from_iterable(taken))

    async def _fold_one_epoch(self, records: Sequence[Record]) -> None:
        self._in_flight_count = len(records)
        self._next_epoch_at = asyncio.get_running_loop().time() + self._options.epoch_interval_s
        epoch = self.fold.fold(records)
        check_epoch(epoch, records, self.fold)
        began = time.perf_counter()
        async with asyncio.timeout(self._options.commit_timeout_s):
            await self._commit(epoch)
        self._in_flight_count = 0
        self._on_epoch(EpochDone(len(records), (time.perf_counter() - began) * 1_000))
