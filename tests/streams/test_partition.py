"""One partition's queue: order, size of epochs, back pressure, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from streams.epoch import check_epoch
from streams.errors import EpochUnfit, RecordsLost
from streams.options import Options
from streams.partition import EpochDone, OwnedPartition, Run
from streams.port import Epoch, Record

OPTIONS = Options("nowhere:1", Path("nowhere"), records_per_epoch_max=10, records_waiting_max=30, epoch_interval_s=0.0)


@dataclass(frozen=True)
class OnLog:
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = 0


class CountingFold:
    """Keeps the offsets of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[list[int]] = []
        self.next_offset: int | None = None

    def fold(self, records: Sequence[Record]) -> Epoch:
        self.epochs.append([record.offset for record in records])
        self.next_offset = records[-1].offset + 1
        return Epoch([], {}, [], {"accounts": {b"position": b""}}, self.next_offset)


class Scene:
    """A partition whose commits wait until they are let through."""

    def __init__(self, options: Options) -> None:
        self.fold = CountingFold()
        self.let_through = asyncio.Event()
        self.committed: list[int] = []
        self.done: list[EpochDone] = []
        self.room_count = 0
        self.partition = OwnedPartition(
            0, self.fold, 0, self.commit, asyncio.Semaphore(1), options, self.done.append, self._note_room
        )

    async def commit(self, epoch: Epoch) -> None:
        await self.let_through.wait()
        self.committed.append(epoch.next_offset)

    def _note_room(self) -> None:
        self.room_count += 1

    def offer(self, start: int, stop: int) -> None:
        self.partition.offer(Run(0, start, stop, [OnLog(offset) for offset in range(start, stop)]))

    async def settle(self, committed_count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.done) < committed_count:
                await asyncio.sleep(0)


def play(scene: Callable[[Scene], Awaitable[None]], **changes: Any) -> None:
    async def run() -> None:
        await scene(Scene(replace(OPTIONS, **changes)))

    asyncio.run(run())


def test_what_arrives_during_a_commit_is_folded_together() -> None:
    async def scene(s: Scene) -> None:
        s.offer(0, 2)
        await asyncio.sleep(0)
        s.offer(2, 5)
        s.offer(5, 9)
        s.offer(9, 14)
        s.let_through.set()
        await s.settle(3)
        assert s.fold.epochs == [[0, 1], [2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13]], "at most 10 records an epoch"
        assert s.committed == [2, 9, 14]
        assert s.partition.behind_count == 0
        await s.partition.drain()

    play(scene)


def test_nothing_is_folded_before_the_epoch_ahead_is_committed() -> None:
    async def scene(s: Scene) -> None:
        s.offer(0, 2)
        s.offer(2, 4)
        s.offer(4, 20)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(s.fold.epochs) == 1
        assert s.committed == []
        assert s.partition.behind_count == 20
        s.let_through.set()
        await s.partition.drain()

    play(scene)


def test_soon_after_an_epoch_only_a_full_one_begins() -> None:
    async def scene(s: Scene) -> None:
        s.let_through.set()
        s.offer(0, 2)
        await s.settle(1)
        s.offer(2, 6)
        for _ in range(50):
            await asyncio.sleep(0)
        assert s.fold.epochs == [[0, 1]], "four records can wait for more"
        s.offer(6, 12)
        await s.settle(2)
        assert s.committed == [2, 12]
        s.offer(12, 14)
        await s.partition.drain()
        assert s.committed == [2, 12], "a drain waits for nothing that is not in flight"

    play(scene, epoch_interval_s=3_600.0)


def test_a_run_of_markers_alone_moves_the_position() -> None:
    async def scene(s: Scene) -> None:
        s.let_through.set()
        s.offer(0, 2)
        s.partition.offer(Run(0, 2, 5, ()))
        s.offer(5, 6)
        await s.settle(1)
        assert s.partition.read_offset == 6
        await s.partition.drain()

    play(scene)


@pytest.mark.parametrize("start", [0, 1, 3], ids=["twice", "overlapping", "a gap"])
def test_a_run_that_does_not_follow_is_refused(start: int) -> None:
    async def scene(s: Scene) -> None:
        s.offer(0, 2)
        with pytest.raises(RecordsLost, match=f"expected offset 2, got a run from {start}"):
            s.offer(start, 9)
        s.let_through.set()
        await s.partition.drain()

    play(scene)


def test_a_full_partition_says_when_it_has_room() -> None:
    async def scene(s: Scene) -> None:
        for start in range(0, 40, 5):
            s.offer(start, start + 5)
        full_before = s.partition.is_full
        s.let_through.set()
        await s.settle(4)
        assert (full_before, s.partition.is_full, s.room_count) == (True, False, 1)
        await s.partition.drain()

    play(scene)


def test_a_drain_ends_the_epoch_in_flight_and_drops_what_waits() -> None:
    async def scene(s: Scene) -> None:
        s.offer(0, 2)
        await asyncio.sleep(0)
        s.offer(2, 9)
        draining = asyncio.create_task(s.partition.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        s.let_through.set()
        await draining
        assert s.committed == [2]
        assert s.fold.epochs == [[0, 1]]

    play(scene)


@pytest.mark.parametrize(
    ("epoch", "position"),
    [
        (Epoch([], {}, [], {"accounts": {b"p": b""}}, 9), 9),
        (Epoch([], {}, [], {"accounts": {b"p": b""}}, 8), 7),
        (Epoch([], {}, [], {"accounts": {}, "seen": {b"x": b""}}, 8), 8),
        (Epoch([], {}, [], {}, 8), 8),
    ],
    ids=["ends elsewhere", "its position differs", "no position row", "no rows at all"],
)
def test_an_epoch_that_breaks_its_promises_is_refused(epoch: Epoch, position: int) -> None:
    fold = CountingFold()
    fold.next_offset = position
    with pytest.raises(EpochUnfit):
        check_epoch(epoch, [OnLog(6), OnLog(7)], fold)
