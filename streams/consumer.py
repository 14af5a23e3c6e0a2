"""Fetching: Faust's consumer for membership and rebalancing, and our own way for the records.

Records go from the consumer's thread straight to their partition, a whole fetched run at a time: Faust's way through
conductor, channel and agent costs 500 µs of CPU an event, and drops what its queues hold when a rebalance clears them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import aiokafka
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP

from streams.exit import ends_process, stop_process
from streams.header_names import read_leniently
from streams.partition import Run

if TYPE_CHECKING:
    from streams.app import FoldApp

__all__ = ["FoldConsumer", "FoldThread", "FoldTransport", "Grant"]

_POLL_S = 0.2  # how long a fetch waits for records, and so how long a seek may have to wait for the fetch
_FETCH_WAIT_MS = 500  # Faust has 1,500 written into its code; a fetch that waits delays a stop and a new partition
_RECORDS_PER_POLL = 500  # folded in one go: 25 ms, for which a commit waits at each of its steps
_GRANT_WAIT_S = 1.0  # between two looks at the group's errors while nothing may be fetched


class Grant(NamedTuple):
    """Leave to fetch. Withdrawn by taking it away: what was fetched under a former flow is dropped."""

    flow: int
    partitions: frozenset[TopicPartition]


class FoldThread(driver.AIOKafkaConsumerThread):
    """The consumer's thread, with a pump that fetches what the main loop grants."""

    app: FoldApp
    consumer: FoldConsumer

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        """Overrides AIOKafkaConsumerThread: it cannot be told the isolation level nor the fetch's waiting time."""
        read_leniently()
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Overrides AIOKafkaConsumerThread: starts the pump beside the consumer."""
        await super().on_start()
        self._records_max = min(_RECORDS_PER_POLL, self.app.engine.options.records_per_epoch_max)
        self._idle = asyncio.Event()
        self._idle.set()
        self._granted = asyncio.Event()
        self._pump_task = asyncio.create_task(self._pump_until_stopped())

    async def on_thread_stop(self) -> None:
        """Overrides AIOKafkaConsumerThread: the pump ends before the consumer under it does."""
        if pump := getattr(self, "_pump_task", None):
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        await super().on_thread_stop()

    def close(self) -> None:
        """Overrides AIOKafkaConsumerThread: it closes the consumer on another thread's loop; stopping closes it."""

    def wake(self) -> None:
        """Have the pump look at the grant. Called from the main loop."""
        self.thread_loop.call_soon_threadsafe(self._granted.set)

    async def reposition(self, offsets: Mapping[TopicPartition, int], paused: Collection[TopicPartition]) -> None:
        """Move to `offsets` once no fetch is under way, and never fetch `paused`. Called from the main loop.

        A fetch that began before the seek and ends after it would consume records from the new position that nobody
        is given. Changelogs of our own are paused: unread they would hold up every other fetch for 100 ms.
        """
        await self.call_thread(self._reposition, self.consumer.flow, offsets, paused)

    async def _reposition(
        self, flow: int, offsets: Mapping[TopicPartition, int], paused: Collection[TopicPartition]
    ) -> None:
        await self._idle.wait()
        if self.consumer.flow != flow:
            return  # the partitions were revoked while this waited; the next assignment seeks by itself
        consumer = self._ensure_consumer()
        if paused:
            consumer.pause(*paused)
        for tp, offset in offsets.items():
            consumer.seek(tp, offset)

    async def group_offsets(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        """What the group has committed. Called from the main loop."""
        consumer = self._ensure_consumer()
        return {tp: await self.call_thread(consumer.committed, tp) for tp in tps}

    def log_end(self, tp: TopicPartition) -> int | None:
        """The partition's end as of the last fetch; None before one. Safe from any thread."""
        assignment = self._assignment(self._ensure_consumer())
        state = assignment.state_value(tp) if assignment is not None else None
        return None if state is None else state.highwater

    @staticmethod
    def _assignment(consumer: aiokafka.AIOKafkaConsumer) -> Any:
        subscription = consumer._subscription.subscription
        return None if subscription is None else subscription.assignment

    async def _pump_until_stopped(self) -> None:
        try:
            await self._pump()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  records that cannot be fetched must not be passed over
            if not self.should_stop and not self.app.should_stop:
                stop_process("fetch", error)

    async def _pump(self) -> None:
        consumer = self._ensure_consumer()
        while not self.should_stop:
            consumer._coordinator.check_errors()  # Faust never asks: a worker thrown out of its group would idle for ever
            self._granted.clear()
            grant = self.consumer.grant
            if grant is None or not grant.partitions:
                await self._wait_for_grant()
                continue
            runs = await self._fetch(consumer, grant)
            if runs:
                await self._deliver(grant, runs)

    async def _wait_for_grant(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRANT_WAIT_S):
                await self._granted.wait()

    async def _fetch(self, consumer: aiokafka.AIOKafkaConsumer, grant: Grant) -> list[Run]:
        """One fetch. Each run says from which position to which it consumed, markers included."""
        self._idle.clear()
        try:
            if self.consumer.grant is not grant:
                return []
            assignment = self._assignment(consumer)
            starts = {tp: assignment.state_value(tp).position for tp in grant.partitions}
            records = await self._fetched_records(consumer, grant)
            if records is None or self._assignment(consumer) is not assignment:
                return []
            nexts = {tp: assignment.state_value(tp).position for tp in grant.partitions}
            return [
                Run(tp.partition, starts[tp], nexts[tp], records.get(tp, ()))
                for tp in grant.partitions
                if nexts[tp] != starts[tp]
            ]
        finally:
            self._idle.set()

    async def _fetched_records(self, consumer: aiokafka.AIOKafkaConsumer, grant: Grant) -> Any:
        """Records by partition. None: aiokafka overstayed a rebalance, met partitions that were not sought yet, and
        complained that they have no offset; that is no concern of a grant that was withdrawn.
        """
        try:
            with consumer._subscription.fetch_context():
                return await consumer._fetcher.fetched_records(grant.partitions, _POLL_S, self._records_max)
        except KafkaError:
            if self.consumer.is_current(grant):
                raise
            return None

    async def _deliver(self, grant: Grant, runs: list[Run]) -> None:
        """Hand the runs to the main loop and wait until it has them: fetching ahead of a busy loop starves it."""
        taken = asyncio.Event()

        def deliver() -> None:
            self.consumer.deliver(grant, runs)
            with contextlib.suppress(RuntimeError):  # the thread's loop is closed: nobody waits any more
                self.thread_loop.call_soon_threadsafe(taken.set)

        self.parent_loop.call_soon_threadsafe(deliver)
        await taken.wait()


class FoldConsumer(driver.Consumer):
    """Membership and rebalancing by Faust; what may be fetched is granted by the engine."""

    app: FoldApp
    _thread: FoldThread

    grant: Grant | None = None
    """What the pump may fetch now; replaced as a whole, since another thread reads it."""
    flow = 0
    """Number of times that fetching was withheld."""

    def _new_consumer_thread(self) -> FoldThread:
        """Overrides Consumer: our thread, with the pump."""
        return FoldThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def thread(self) -> FoldThread:
        return self._thread

    def allow(self, partitions: Collection[int]) -> None:
        """Let the pump fetch these partitions of the source from where they stand."""
        source = self.app.engine.options.topics.source
        grant = Grant(self.flow, frozenset(TopicPartition(source, number) for number in partitions))
        if grant != self.grant:
            self.grant = grant
            self._thread.wake()

    def withhold(self) -> None:
        """Nothing that is fetched from here on counts, until the next `allow`, which a seek must precede."""
        self.flow += 1
        self.grant = None

    def is_current(self, grant: Grant) -> bool:
        """Whether what was fetched under `grant` counts. Safe from any thread."""
        return self.grant is not None and self.flow == grant.flow

    def deliver(self, grant: Grant, runs: list[Run]) -> None:
        """Called on the main loop for each fetch."""
        try:
            if self.is_current(grant):
                self.app.engine.offer(runs)
                self.allow(self.app.engine.hungry)
        except BaseException as error:  # noqa: BLE001  a run that nobody takes is lost
            stop_process("delivery of fetched records", error)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Overrides Consumer: epochs in flight end before the worker joins the group again.

        Faust joins while handlers still write (`stream_wait_empty` only waits for acknowledged messages). An error
        here would be logged by aiokafka and passed over.
        """
        self.withhold()
        await ends_process(self.app.release(self.app.engine.options.session_timeout_s), "handing partitions over")
        await ends_process(super().on_partitions_revoked(revoked), "handing partitions over")

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Overrides Consumer: an error would be logged by aiokafka, and leave a worker that folds nothing."""
        await ends_process(super().on_partitions_assigned(assigned, generation_id), "assignment of partitions")

    async def verify_all_partitions_active(self) -> None:
        """Overrides Consumer: it looks for messages acknowledged by agents, of which there are none, and complains."""


class FoldProducer(driver.Producer):
    """The app's plain producer, for records appended to the source."""

    def _settings_extra(self) -> Mapping[str, Any]:
        """Overrides Producer: idempotent without Faust's own transactions, else a retry may append twice."""
        return {"acks": "all", "enable_idempotence": True}


class FoldTransport(driver.Transport):
    """Makes our consumer and producer."""

    Consumer = FoldConsumer
    Producer = FoldProducer
