"""What happens after each assignment, in place of Faust's table recovery."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from aiokafka.structs import TopicPartition
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.types.tuples import TP
from mode import Service

from observe.streams import StreamsEvent
from streams.exit import ends_process, say, stop_process

if TYPE_CHECKING:
    from streams.app import FoldApp

__all__ = ["FoldRecovery", "FoldTables"]


class FoldRecovery(Recovery):
    """Takes assigned partitions over, in the one order that loses nothing.

    Faust resumes fetching, then seeks, then empties the queues: what was fetched between is dropped after the read
    position went past it (878-1,576 of 150,000 events in each of three runs with two workers). It also waits for a
    record at a changelog's last offset, which is a transaction's marker that no consumer is ever given.
    """

    app: FoldApp
    _taking: asyncio.Task[None] | None = None

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Overrides Recovery: keeps its bookkeeping of who owns which changelog, then starts the take-over."""
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        await self.abandon()
        await self.app.standbys.stop()
        if generation_id != self.app.consumer_generation_id:
            return  # as in Recovery: another assignment is on its way
        source = self.app.engine.options.topics.source
        partitions = frozenset(tp.partition for tp in assigned if tp.topic == source)
        take_over = self._take_over(partitions, generation_id, self.app.rebalancing_count)
        self._taking = asyncio.create_task(ends_process(self._to_the_end(take_over), "taking partitions over"))

    async def _to_the_end(self, take_over: Coroutine[Any, Any, None]) -> None:
        """Only `abandon` may cancel a take-over. Clients of Kafka have cancelled their callers: the worker would idle on."""
        try:
            await take_over
        except asyncio.CancelledError:
            if self._taking is asyncio.current_task():
                stop_process("a take-over was cancelled that nobody abandoned")
            raise

    async def abandon(self) -> None:
        """Stop a take-over under way. Afterwards none of its steps can still happen.

        To be awaited before the worker joins the group again: a writer opened later would fence the new owner.
        """
        taking, self._taking = self._taking, None
        if taking is not None:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take_over(self, partitions: frozenset[int], generation: int, rebalancing_count: int) -> None:
        """From assignment to the first fetch:

        1. the partitions' writers are opened, which fences their former owners; then the tables are brought up to
           the changelogs' ends, the folds opened, and their positions compared with log, ledger and group;
        2. wait until no fetch is under way, then seek;
        3. check that generation and rebalancing count are still those of this assignment;
        4. resume the flow;
        5. allow the partitions to be fetched;
        6. follow the changelogs of the partitions that this worker stands by for, when its own no longer wait.
        """
        app, consumer = self.app, self.app.consumer
        # 1.
        taken = await app.engine.take(partitions, consumer.thread.group_offsets)
        # 2.
        source = app.engine.options.topics.source
        offsets = {TopicPartition(source, number): each.start_offset for number, each in taken.items()}
        changelogs = [TopicPartition(*tp) for tp in consumer.assignment() if self._is_changelog_tp(tp)]
        await consumer.thread.reposition(offsets, changelogs)
        # 3.
        if app.rebalancing_count != rebalancing_count or app.consumer_generation_id != generation:
            return  # revoked meanwhile: the next assignment starts over
        # 4.
        app.flow_control.resume()
        consumer.resume_flow()
        app.engine.start(taken)
        self._tell_faust()
        say(StreamsEvent.OWNED, offsets={number: each.start_offset for number, each in taken.items()})
        # 5.
        consumer.allow(app.engine.hungry)
        # 6.
        app.standbys.follow({tp.partition for tp in app.assignor.assigned_standbys()})

    def _tell_faust(self) -> None:
        """What Faust's own `on_recovery_completed` tells the app, its tables and whoever waits for them."""
        self._set_recovery_ended()
        self.completed.set()
        self.tables.on_actives_ready()
        self.tables.on_standbys_ready()
        self.app.on_rebalance_end()

    @Service.task  # type: ignore[untyped-decorator]  # mode is not typed
    async def _restart_recovery(self) -> None:
        """Overrides Recovery: the take-over is started by `on_rebalance`."""

    @Service.task  # type: ignore[untyped-decorator]  # mode is not typed
    async def _slurp_changelogs(self) -> None:
        """Overrides Recovery: changelogs are read by the loader, never through Faust's queue."""


class FoldTables(TableManager):
    """Faust's table manager with our recovery."""

    _recovery: FoldRecovery | None

    @property
    def recovery(self) -> FoldRecovery:
        """Overrides TableManager: it makes a stock Recovery."""
        if self._recovery is None:
            self._recovery = FoldRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        """Overrides TableManager: it sleeps a second first, by which each restart would be longer."""
        await self._update_channels()
        await self.recovery.start()

    async def on_stop(self) -> None:
        """Overrides TableManager: the same, after a take-over under way has ended."""
        await self.recovery.abandon()
        await super().on_stop()
