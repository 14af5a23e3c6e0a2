"""Faults planted into the engine: each breaks one promise of its order, and a test must notice each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiokafka.structs import TopicPartition

from streams import consumer, engine, loader, partition, recovery
from streams.edges import Applied, Writer
from streams.epoch import Gap
from streams.options import TopicNames
from streams.overlay import PartitionRows
from streams.partition import OwnedPartition, Run
from streams.port import TABLES, Epoch
from streams.producers import PartitionWriter


async def send_all(epoch: Epoch, writer: Writer, topics: TopicNames) -> dict[str, int]:
    """Send everything, await every acknowledgement; gives how far each table's changelog reaches."""
    await (await writer.send(topics.ledger, epoch.ledger)).acknowledged()
    await (await writer.send(topics.totals, epoch.totals.items())).acknowledged()
    await (await writer.send(topics.dead_letters, epoch.dead_letters)).acknowledged()
    reached = {}
    for table, topic in topics.changelogs.items():
        next_offset = await (await writer.send(topic, epoch.rows[table].items())).acknowledged()
        if next_offset is not None:
            reached[table] = next_offset
    return reached


def write_rows(epoch: Epoch, rows: PartitionRows, reached: Mapping[str, int], now_ms: Callable[[], int]) -> None:
    for table in TABLES:
        if table in reached:
            rows.apply(table, epoch.rows[table], Applied(reached[table], now_ms()))


async def _rows_before_commit(
    epoch: Epoch, writer: PartitionWriter, rows: PartitionRows, topics: TopicNames, now_ms: Callable[[], int], gap: Gap
) -> None:
    """The local rows are written before the transaction is committed."""
    await writer.begin()
    reached = await send_all(epoch, writer, topics)
    await writer.send_group_offset(topics.source, epoch.next_offset)
    write_rows(epoch, rows, reached, now_ms)
    gap("planted")
    await writer.commit()


async def _commit_not_awaited(
    epoch: Epoch, writer: PartitionWriter, rows: PartitionRows, topics: TopicNames, now_ms: Callable[[], int], gap: Gap
) -> None:
    """The transaction's end is asked for, and not waited for."""
    await writer.begin()
    reached = await send_all(epoch, writer, topics)
    await writer.send_group_offset(topics.source, epoch.next_offset)
    committing = asyncio.create_task(writer.commit())
    write_rows(epoch, rows, reached, now_ms)
    gap("planted")
    await committing


async def _offset_before_facts(
    epoch: Epoch, writer: PartitionWriter, rows: PartitionRows, topics: TopicNames, now_ms: Callable[[], int], gap: Gap
) -> None:
    """The group's offset is committed by itself, before the facts are even sent."""
    await writer.begin()
    await writer.send_group_offset(topics.source, epoch.next_offset)
    await writer.commit()
    gap("planted")
    await writer.begin()
    reached = await send_all(epoch, writer, topics)
    await writer.commit()
    write_rows(epoch, rows, reached, now_ms)


async def _position_apart(
    epoch: Epoch, writer: PartitionWriter, rows: PartitionRows, topics: TopicNames, now_ms: Callable[[], int], gap: Gap
) -> None:
    """Facts in one transaction; rows, position and offset in the next."""
    await writer.begin()
    await (await writer.send(topics.ledger, epoch.ledger)).acknowledged()
    await writer.commit()
    gap("planted")
    await writer.begin()
    reached = await send_all(Epoch([], epoch.totals, epoch.dead_letters, epoch.rows, epoch.next_offset), writer, topics)
    await writer.send_group_offset(topics.source, epoch.next_offset)
    await writer.commit()
    write_rows(epoch, rows, reached, now_ms)


def _plant_commit(broken: Callable[..., Any]) -> Callable[[], None]:
    def plant() -> None:
        vars(engine)["commit"] = broken

    return plant


def _fetch_before_seek() -> None:
    """Faust's own order after recovery: fetching is resumed, then the partitions are sought."""
    reposition = consumer.FoldThread.reposition

    async def take_over(
        self: recovery.FoldRecovery, partitions: frozenset[int], generation: int, rebalancing_count: int
    ) -> None:
        app = self.app
        taken = await app.engine.take(partitions, app.consumer.thread.group_offsets)
        fetched = asyncio.Event()
        take_runs = app.engine.offer

        def offer(runs: list[Run]) -> None:
            take_runs(runs)
            fetched.set()

        app.engine.offer = offer  # type: ignore[method-assign]
        app.flow_control.resume()
        app.consumer.resume_flow()
        app.engine.start(taken)
        app.consumer.allow(app.engine.hungry)
        await fetched.wait()
        source = app.engine.options.topics.source
        offsets = {TopicPartition(source, number): each.start_offset for number, each in taken.items()}
        await reposition(app.consumer.thread, offsets, ())
        self._tell_faust()

    recovery.FoldRecovery._take_over = take_over  # type: ignore[method-assign]


def _drop_a_fetched_run() -> None:
    """A queue is emptied after the read position went past what was in it, as Faust's flow control does on resume."""
    deliver = consumer.FoldConsumer.deliver
    dropped: list[Run] = []

    def drop_first(self: consumer.FoldConsumer, grant: consumer.Grant, runs: list[Run]) -> None:
        if not dropped:
            dropped.extend(runs)
            return
        deliver(self, grant, runs)

    consumer.FoldConsumer.deliver = drop_first  # type: ignore[method-assign]


def _drop_a_fetched_run_unguarded() -> None:
    """The same, and a partition that takes any run whatever its start."""
    _drop_a_fetched_run()
    offer = OwnedPartition.offer

    def offer_any(self: OwnedPartition, run: Run) -> None:
        self.read_offset = run.start_offset
        offer(self, run)

    partition.OwnedPartition.offer = offer_any  # type: ignore[method-assign]


def _tables_not_compared() -> None:
    """A take-over believes its tables, whatever their changelogs say: the second line of defence is down."""

    async def nothing(*_: object) -> set[object]:
        return set()

    vars(loader)["contradicting"] = nothing


def _unmarked(*names: str) -> Callable[[], None]:
    """Markers are lost on these topics: the coordinator is not told that the transactions are on them."""

    def plant() -> None:
        begin = PartitionWriter.begin

        async def begin_untold(self: PartitionWriter) -> None:
            await begin(self)
            manager = self._producer._txn_manager
            for tp in list(manager._pending_txn_partitions):
                if tp.topic.endswith(names):
                    manager._pending_txn_partitions.discard(tp)
                    manager._txn_partitions.add(tp)

        PartitionWriter.begin = begin_untold  # type: ignore[method-assign]

    return plant


FAULTS: Final[dict[str, Callable[[], None]]] = {
    "rows before commit": _plant_commit(_rows_before_commit),
    "commit not awaited": _plant_commit(_commit_not_awaited),
    "offset before facts": _plant_commit(_offset_before_facts),
    "position apart": _plant_commit(_position_apart),
    "tables not compared": _tables_not_compared,
    "no markers on the ledger": _unmarked("-ledger"),
    "no markers on the ids": _unmarked("-seen"),
    "no markers on the accounts": _unmarked("-accounts"),
    "fetch before seek": _fetch_before_seek,
    "dropped run": _drop_a_fetched_run,
    "dropped run, unguarded": _drop_a_fetched_run_unguarded,
}
