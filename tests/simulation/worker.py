"""One simulated worker: the real engine, fold, ticker and take-over; membership and fetching in their simplest form."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import cast

from aiokafka.structs import TopicPartition

from streams.edges import Edges
from streams.engine import Engine
from streams.exit import ends_process
from streams.options import Options
from streams.partition import Run
from streams.port import Answer, Expiring, Fold
from streams.recovery import FoldRecovery
from streams.standby import Standbys
from streams.sweep import Sweeper
from streams.ticker import Ticker
from tests.simulation.disk import Disk
from tests.simulation.edges import SimReader, SimTables, SimWriter
from tests.simulation.log import Broker
from tests.simulation.process import Process, Surroundings

__all__ = ["SESSION_S", "TRANSACTION_S", "Worker"]

SESSION_S = 3.0
"""How long a silent member keeps its partitions, and how long a drain may take."""
TRANSACTION_S = 5.0
_COMMIT_S = 8.0
_FETCH_RECORDS = 6
_POLL_S = 2.0
_SWEEP_S = 0.7
_SWEPT_ROWS = 5


class Worker(Process):
    """A life of one worker: it ends with the process, and another life begins on the same disk."""

    def __init__(
        self, name: str, around: Surroundings, broker: Broker, disk: Disk, fold: Fold, now_ms: Callable[[], int]
    ) -> None:
        super().__init__(name, around)
        self.options = Options(
            "nowhere:1",
            Path("nowhere"),
            now_ms=now_ms,
            session_timeout_s=SESSION_S,
            commit_timeout_s=_COMMIT_S,
            records_per_epoch_max=8,
            records_open_max=20,
        )
        self._broker = broker
        self._fold = fold
        self._tables = SimTables(disk, self)
        self.engine = self._build_engine()
        self.standbys = Standbys(self.options, self._tables, lambda: SimReader(self, broker))
        self.assignor = self
        self._followed: frozenset[int] = frozenset()
        # What `FoldRecovery._take_over` asks of Faust's app.
        self.consumer = _Consumer(self)
        self.flow_control = _Nothing()
        self.rebalancing_count = 0
        self.consumer_generation_id = -1
        self.app = self
        self._taking: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._callback = asyncio.Lock()
        """The group's callbacks come one after the other."""
        self._writers: list[SimWriter] = []

    def _build_engine(self) -> Engine:
        options, broker = self.options, self._broker
        edges = Edges(
            open_writer=self._make_writer,
            open_reader=lambda: SimReader(self, broker),
            tables=self._tables,
        )
        gap = self._gap
        return Engine(options, self._fold, edges, gap, self._append, self._log_end, self._on_room, self._answer_all)

    def _make_writer(self, number: int) -> SimWriter:
        writer = SimWriter(number, self.options, self, self._broker)
        self._writers.append(writer)
        return writer

    @property
    def was_replaced(self) -> bool:
        """Whether another owner has taken a partition of it: what it sees of that one may not add up."""
        return any(writer.was_replaced for writer in self._writers)

    def _gap(self, name: str) -> None:
        self.at(f"gap: {name}")

    def _answer_all(self, partition: int, answers: Sequence[Answer]) -> None:
        self.check_alive()

    # Life

    def start(self) -> None:
        """Fetch what is granted, and tick."""
        ticker = Ticker(self.engine.partitions, self.engine.append, self.options.now_ms, self.engine.needs_tick)  # type: ignore[arg-type]
        self.spawn(ends_process(self.consumer.pump(), "fetch"))
        self.spawn(ends_process(ticker.run(), "work beside the fold"))
        self.spawn(ends_process(self._sweep(), "sweeping expired rows"))

    async def _sweep(self) -> None:
        """As `streams.app` does, in small steps, and without its long pauses."""
        assert isinstance(self._fold, Expiring), "event ids expire"
        while True:
            await asyncio.sleep(_SWEEP_S)
            for number in (*self.engine.partitions, *self.standbys.partitions):
                Sweeper(self._fold.expiry, self._tables.of_partition(number), _SWEPT_ROWS).step()

    async def stop(self) -> None:
        """SIGTERM: what is in flight ends, then the process."""
        self.consumer.withhold()
        await ends_process(self._release(None), "stop")
        await ends_process(self.engine.close(), "stop")

    async def leave(self) -> None:
        """A stop as its caller sees it: the process ends in time, stopped or not."""
        self._is_stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.options.stop_timeout_s):
                await self.stop()
        self.exit()

    # Membership, as Faust's callbacks have it

    async def revoked(self) -> None:
        """Own nothing any more, before the group is joined again."""
        async with self._callback:
            self.rebalancing_count += 1
            self.consumer.withhold()
            await ends_process(self._release(self.options.session_timeout_s), "handing partitions over")

    async def assigned(self, partitions: frozenset[int], generation: int) -> None:
        """Start to take partitions over; not, as in Faust, when the worker is about to stop."""
        async with self._callback:
            if self._is_stopping:
                return
            self.consumer_generation_id = generation
            await self._abandon()
            await self.standbys.stop()
            source = self.options.topics.source
            self._followed = frozenset(number for topic, number in self._broker.logs if topic == source) - partitions
            count = self.rebalancing_count
            take_over = FoldRecovery._take_over(cast(FoldRecovery, self), partitions, generation, count)
            self._taking = asyncio.create_task(ends_process(take_over, "taking partitions over"))

    def assigned_standbys(self) -> set[TopicPartition]:
        """Everyone stands by for everything that is another's."""
        return {TopicPartition(self.options.topics.source, number) for number in self._followed}

    @property
    def is_loading(self) -> bool:
        return self._taking is not None and not self._taking.done()

    async def _abandon(self) -> None:
        taking, self._taking = self._taking, None
        if taking is not None:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _release(self, timeout_s: float | None) -> None:
        await self._abandon()
        async with asyncio.timeout(timeout_s):
            await self.standbys.stop()
            await self.engine.drain()

    def _tell_faust(self) -> None:
        """There is no Faust."""

    def _is_changelog_tp(self, tp: object) -> bool:
        return False

    # What the engine is handed

    async def _append(self, partition: int, value: bytes) -> int:
        tp = self.options.topics.source, partition
        return await self.request("appending a tick", lambda: self._broker.append(tp, (None, value)))

    def _log_end(self, tp: TopicPartition) -> int | None:
        return self._broker.logs[tp.topic, tp.partition].stable_end

    def _on_room(self) -> None:
        if self.consumer.granted is not None:
            self.consumer.allow(self.engine.hungry)


class _Nothing:
    def resume(self) -> None:
        """Faust's flow control is not asked."""


class _Consumer:
    """Fetches what is granted, as `streams.consumer` does on its thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._positions: dict[int, int] = {}
        self.granted: frozenset[int] | None = None
        self.flow = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._wake = asyncio.Event()
        self.thread = self

    def allow(self, partitions: Collection[int]) -> None:
        self.granted = frozenset(partitions)
        self._wake.set()

    def withhold(self) -> None:
        self.flow += 1
        self.granted = None

    def resume_flow(self) -> None:
        """Faust's flow is not asked."""

    def assignment(self) -> tuple[()]:
        return ()

    async def reposition(self, offsets: Mapping[TopicPartition, int], paused: object) -> None:
        """Move to `offsets` once no fetch is under way."""
        flow = self.flow
        await self._idle.wait()
        if self.flow == flow:
            self._positions = {tp.partition: offset for tp, offset in offsets.items()}

    async def group_offsets(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        offsets = self._worker._broker.group_offsets
        wanted = list(tps)
        return await self._worker.request(
            "asking for the group's offsets", lambda: {tp: offsets.get((tp.topic, tp.partition)) for tp in wanted}
        )

    async def pump(self) -> None:
        while True:
            self._wake.clear()
            granted, flow = self.granted, self.flow
            if not granted:
                await self._wake.wait()
                continue
            self._idle.clear()
            try:
                runs = await self._fetch(sorted(granted))
            finally:
                self._idle.set()
            if self.flow == flow:
                self._worker.engine.offer(runs)

    async def _fetch(self, partitions: Collection[int]) -> list[Run]:
        worker = self._worker
        logs = {number: worker._broker.logs[worker.options.topics.source, number] for number in partitions}
        if all(self._positions[number] == log.stable_end for number, log in logs.items()):
            await asyncio.wait([log.changed() for log in logs.values()], timeout=_POLL_S, return_when=FIRST_COMPLETED)
        starts = {number: self._positions[number] for number in partitions}

        def effect() -> list[Run]:
            runs = []
            for number, start in starts.items():
                records, next_offset = logs[number].read(start, _FETCH_RECORDS)
                runs.append(Run(number, start, next_offset, records))
            return runs

        runs = [run for run in await worker.request("fetching", effect) if run.next_offset != run.start_offset]
        self._positions |= {run.partition: run.next_offset for run in runs}
        return runs
