"""One partition's queue: order, size of epochs, back pressure, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from streams.edges import Page
from streams.epoch import check_epoch, check_folded
from streams.errors import EpochUnfit, RecordsLost
from streams.options import Options
from streams.overlay import PartitionRows
from streams.partition import EpochDone, OwnedPartition, Run, Surroundings
from streams.port import Answer, Epoch, LastRecord, Record, Row, Stop, StopKind

OPTIONS = Options("nowhere:1", Path("nowhere"), records_per_epoch_max=10, records_open_max=20, epoch_interval_s=0.0)


@dataclass(frozen=True)
class OnLog:
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = 0


class CountingFold:
    """Keeps the offsets of each epoch; answers each record; stands before the records that it is told to."""

    last: LastRecord | None = None

    def __init__(self) -> None:
        self.folded: list[int] = []
        self.epochs: list[list[int]] = []
        self.next_offset: int | None = None
        self.stop: Stop | None = None
        self.stops_at: dict[int, StopKind] = {}

    def fold(self, records: Sequence[Record], now_ms: int) -> Sequence[Answer]:
        assert self.stop is None or self.stop.kind is StopKind.AHEAD, "it stands"
        answers = []
        self.stop = None
        for record in records:
            kind = self.stops_at.get(record.offset)
            if kind is StopKind.PARKED or (kind is StopKind.AHEAD and record.timestamp > now_ms):
                self.stop = Stop(record.offset, kind, "say so")
                break
            self.folded.append(record.offset)
            self.next_offset = record.offset + 1
            answers.append(Answer(record.offset, b"", b""))
        return answers

    def take(self) -> Epoch:
        self.epochs.append(self.folded)
        self.folded = []
        return Epoch([], {}, [], {"accounts": {b"position": b""}}, self.next_offset or 0)

    def begin_anew(self, first: Record) -> bool:
        return False

    def hear(self, record: Record) -> bool:
        """An order names the record that it lets through."""
        if self.stop is None or record.value != b"%d" % self.stop.offset:
            return False
        del self.stops_at[self.stop.offset]
        self.stop = None
        return True


class Scene:
    """A partition whose commits wait until they are let through."""

    def __init__(self, options: Options) -> None:
        self.fold = CountingFold()
        self.let_through = asyncio.Event()
        self.committed: list[int] = []
        self.done: list[EpochDone] = []
        self.answered: list[int] = []
        self.room_count = 0
        self.behind: list[OnLog] = []
        """What lies on the log behind the record that the fold stands before."""
        around = Surroundings(
            commit=self.commit,
            turns=asyncio.Semaphore(1),
            follow=self.follow,
            on_answers=lambda answers: self.answered.extend(answer.offset for answer in answers),
            on_epoch=self.done.append,
            on_room=self._note_room,
        )
        self.partition = OwnedPartition(0, self.fold, PartitionRows({}), 0, around, options)

    async def commit(self, epoch: Epoch) -> None:
        await self.let_through.wait()
        self.committed.append(epoch.next_offset)

    @asynccontextmanager
    async def follow(self, start: int) -> AsyncIterator[AsyncIterator[Page]]:
        yield self._pages(start)

    async def _pages(self, start: int) -> AsyncIterator[Page]:
        while True:
            await asyncio.sleep(0)
            records = [record for record in self.behind if record.offset >= start]
            start = records[-1].offset + 1 if records else start
            yield Page(TopicPartition("source", 0), records, start)

    def _note_room(self) -> None:
        self.room_count += 1

    def offer(self, start: int, stop: int, timestamp: int = 0) -> None:
        self.partition.offer(Run(0, start, stop, [OnLog(offset, timestamp=timestamp) for offset in range(start, stop)]))

    async def settle(self, committed_count: int) -> None:
        await self.until(lambda: len(self.done) >= committed_count)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)


def play(scene: Callable[[Scene], Awaitable[None]], **changes: Any) -> None:
    async def run() -> None:
        await scene(Scene(replace(OPTIONS, **changes)))

    asyncio.run(run())


def test_the_fold_goes_on_and_answers_while_an_epoch_is_committed() -> None:
    async def scene(s: Scene) -> None:
        s.offer(0, 2)
        await s.until(lambda: s.fold.epochs == [[0, 1]])
        s.offer(2, 5)
        s.offer(5, 9)
        assert s.answered == [*range(9)], "answers wait for no commit"
        assert s.committed == []
        assert s.partition.behind_count == 9
        s.let_through.set()
        await s.settle(2)
        assert s.fold.epochs == [[0, 1], [2, 3, 4, 5, 6, 7, 8]], "what was folded during a commit is one epoch"
        assert s.committed == [2, 9]
        assert s.partition.behind_count == 0
        await s.partition.drain()

    play(scene)


def test_what_is_not_committed_is_as_old_as_its_first_record() -> None:
    async def scene(s: Scene) -> None:
        def told() -> tuple[int | None, int]:
            return s.partition.oldest_append_ms, s.partition.committed_offset

        assert told() == (None, 0)
        s.offer(0, 3, timestamp=10)
        await s.until(lambda: len(s.fold.epochs) == 1)
        s.offer(3, 6, timestamp=20)
        assert told() == (10, 0)
        s.let_through.set()
        await s.until(lambda: s.committed == [3, 6])
        await s.settle(2)
        assert told() == (None, 6)

    play(scene)


def test_why_a_fold_stands_is_noted_beside_the_offset() -> None:
    notes: list[str] = []

    async def scene(s: Scene) -> None:
        s.let_through.set()
        s.partition._around = s.partition._around._replace(commit=lambda epoch: _note(epoch, notes))
        s.fold.stops_at[2] = StopKind.PARKED
        s.offer(0, 4)
        await s.until(lambda: len(notes) == 1)
        s.behind = [OnLog(3, value=b"2")]
        await s.until(lambda: len(notes) == 2)

    play(scene)
    assert notes[0].startswith("stands at offset 2 (parked): ")
    assert notes[1] == ""


async def _note(epoch: Epoch, notes: list[str]) -> None:
    notes.append(epoch.note)


def test_the_next_epoch_is_taken_only_when_the_one_before_is_committed() -> None:
    async def scene(s: Scene) -> None:
        for start in (0, 2, 4):
            s.offer(start, start + 2)
            for _ in range(20):
                await asyncio.sleep(0)
        assert len(s.fold.epochs) == 1
        s.let_through.set()
        await s.settle(2)
        assert s.committed == [2, 6]
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
        assert s.committed == [2, 12, 14], "what was decided is committed before the partition is handed over"

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


def test_a_fold_far_ahead_of_its_commits_waits_and_says_when_it_has_room() -> None:
    async def scene(s: Scene) -> None:
        s.offer(0, 5)
        await s.until(lambda: len(s.fold.epochs) == 1)
        for start in range(5, 40, 5):
            s.offer(start, start + 5)
        assert s.fold.next_offset == 25, "20 records may be open beside those being committed"
        assert (s.partition.is_full, s.room_count) == (True, 0)
        s.let_through.set()
        await s.settle(3)
        assert (s.partition.is_full, s.room_count) == (False, 1)
        assert s.committed == [5, 25, 40]
        await s.partition.drain()

    play(scene)


def test_a_drain_commits_what_was_decided_and_drops_what_waits() -> None:
    async def scene(s: Scene) -> None:
        s.fold.stops_at = {4: StopKind.PARKED}
        s.offer(0, 2)
        await s.until(lambda: len(s.fold.epochs) == 1)
        s.offer(2, 9)
        draining = asyncio.create_task(s.partition.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        s.let_through.set()
        await draining
        assert s.committed == [2, 4]

    play(scene)


def test_a_parked_partition_commits_what_precedes_and_goes_on_by_an_order_behind_it() -> None:
    async def scene(s: Scene) -> None:
        s.fold.stops_at = {3: StopKind.PARKED}
        s.let_through.set()
        s.offer(0, 6)
        await s.settle(1)
        assert (s.committed, s.partition.is_full) == ([3], True)
        s.behind = [OnLog(7, value=b"2"), OnLog(8, value=b"another")]
        for _ in range(50):
            await asyncio.sleep(0)
        assert s.fold.stop is not None, "an order that names another record lets nothing through"
        s.behind.append(OnLog(9, value=b"3"))
        await s.settle(2)
        assert s.committed == [3, 6]
        assert (s.partition.is_full, s.room_count > 0) == (False, True)
        await s.partition.drain()

    play(scene)


def test_no_order_is_heard_before_the_position_row_says_that_the_partition_is_parked() -> None:
    async def scene(s: Scene) -> None:
        s.fold.stops_at = {3: StopKind.PARKED}
        s.behind = [OnLog(9, value=b"3")]
        s.offer(0, 6)
        for _ in range(50):
            await asyncio.sleep(0)
        assert s.fold.stop is not None, "a worker that was replaced gets no further than this"
        s.let_through.set()
        await s.settle(2)
        assert s.committed == [3, 6]
        await s.partition.drain()

    play(scene)


def test_a_partition_that_was_parked_before_it_was_taken_over_stands_at_once() -> None:
    async def scene(s: Scene) -> None:
        s.fold.stops_at, s.fold.stop = {0: StopKind.PARKED}, Stop(0, StopKind.PARKED, "say so")
        parked = OwnedPartition(0, s.fold, PartitionRows({}), 0, s.partition._around, OPTIONS)
        assert parked.is_full
        s.behind = [OnLog(5, value=b"0")]
        await s.until(lambda: not parked.is_full)
        assert s.room_count > 0, "it may be fetched"
        s.let_through.set()
        await parked.drain()
        await s.partition.drain()

    play(scene)


def test_a_record_ahead_of_the_clock_waits_for_the_clock() -> None:
    now_ms = [100]

    async def scene(s: Scene) -> None:
        s.fold.stops_at = {2: StopKind.AHEAD, 3: StopKind.AHEAD}
        s.let_through.set()
        s.offer(0, 4, timestamp=200)
        for _ in range(50):
            await asyncio.sleep(0)
        assert (s.fold.next_offset, s.committed, s.partition.is_full) == (2, [2], True)
        now_ms[0] = 200
        await s.settle(2)
        assert (s.committed, s.partition.is_full) == ([2, 4], False)
        await s.partition.drain()

    play(scene, now_ms=lambda: now_ms[0])


@pytest.mark.parametrize("rows", [{"accounts": {}, "seen": {b"x": b""}}, {}], ids=["no position row", "no rows at all"])
def test_an_epoch_without_a_position_is_refused(rows: dict[str, dict[bytes, Row]]) -> None:
    fold = CountingFold()
    fold.next_offset = 8
    with pytest.raises(EpochUnfit, match="lacks its position row"):
        check_epoch(Epoch([], {}, [], rows, 8), fold)


def test_an_epoch_that_ends_elsewhere_is_refused() -> None:
    fold = CountingFold()
    fold.next_offset = 8
    with pytest.raises(EpochUnfit, match="ends at 9"):
        check_epoch(Epoch([], {}, [], {"accounts": {b"p": b""}}, 9), fold)


@pytest.mark.parametrize(
    ("next_offset", "stop", "rest"),
    [
        pytest.param(8, None, [], id="all are folded"),
        pytest.param(7, Stop(7, StopKind.AHEAD, ""), [7], id="it stands before the last one"),
        pytest.param(5, Stop(6, StopKind.AHEAD, ""), [6, 7], id="it stands before the first one"),
    ],
)
def test_what_a_fold_left(next_offset: int, stop: Stop | None, rest: list[int]) -> None:
    fold = CountingFold()
    fold.next_offset, fold.stop = next_offset, stop
    assert [record.offset for record in check_folded([OnLog(6), OnLog(7)], fold)] == rest


@pytest.mark.parametrize(
    ("next_offset", "stop"),
    [(7, None), (8, Stop(7, StopKind.AHEAD, "")), (7, Stop(5, StopKind.AHEAD, ""))],
    ids=["a record was passed over", "its position is beyond where it stands", "it stands before a record of its past"],
)
def test_a_fold_whose_position_is_another_is_refused(next_offset: int, stop: Stop | None) -> None:
    fold = CountingFold()
    fold.next_offset, fold.stop = next_offset, stop
    with pytest.raises(EpochUnfit):
        check_folded([OnLog(6), OnLog(7)], fold)
