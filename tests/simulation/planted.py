"""Faults planted into the product, or into the broker's promises: the simulator must find each."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from billing.facts import EventCounted
from billing.orders import fold as orders
from schemas.rows import POSITION_KEY
from streams import engine, loader, usage
from streams.edges import LogRange, Writer
from streams.epoch import Gap
from streams.options import TopicNames
from streams.overlay import PartitionRows
from streams.port import TABLES, Epoch, PartitionFold
from streams.positions import Witnesses
from streams.usage import UsageFold, UsagePartition
from tests.simulation.disk import DiskTable
from tests.simulation.log import Broker
from tests.streams.planted import send_all, write_rows

__all__ = ["FAULTS"]

Planting = Callable[[], AbstractContextManager[None]]


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While it lasts, `owner` has `value` under `name`."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


# The durability order


async def _rows_before_commit(
    epoch: Epoch, writer: Writer, rows: PartitionRows, topics: TopicNames, now_ms: Callable[[], int], gap: Gap
) -> None:
    await writer.begin()
    reached = await send_all(epoch, writer, topics)
    await writer.send_group_offset(topics.source, epoch.next_offset)
    write_rows(epoch, rows, reached, now_ms)
    await writer.commit()


async def _commit_not_awaited(
    epoch: Epoch, writer: Writer, rows: PartitionRows, topics: TopicNames, now_ms: Callable[[], int], gap: Gap
) -> None:
    await writer.begin()
    reached = await send_all(epoch, writer, topics)
    await writer.send_group_offset(topics.source, epoch.next_offset)
    committing = asyncio.create_task(writer.commit())
    write_rows(epoch, rows, reached, now_ms)
    await asyncio.sleep(0)
    del committing


async def _position_apart(
    epoch: Epoch, writer: Writer, rows: PartitionRows, topics: TopicNames, now_ms: Callable[[], int], gap: Gap
) -> None:
    """The position row in a transaction of its own, behind the one with the facts."""
    position = {POSITION_KEY: epoch.rows[TABLES[0]].pop(POSITION_KEY)}
    await writer.begin()
    reached = await send_all(epoch, writer, topics)
    await writer.commit()
    await writer.begin()
    topic = topics.changelogs[TABLES[0]]
    next_offset = await (await writer.send(topic, position.items())).acknowledged()
    assert next_offset is not None, "a row was sent"
    reached[TABLES[0]] = next_offset
    await writer.commit()
    epoch.rows[TABLES[0]] |= position
    write_rows(epoch, rows, reached, now_ms)


async def _offset_before_facts(
    epoch: Epoch, writer: Writer, rows: PartitionRows, topics: TopicNames, now_ms: Callable[[], int], gap: Gap
) -> None:
    """Rows and position are committed first, the facts behind them."""
    await writer.begin()
    reached = await send_all(Epoch([], {}, [], epoch.rows, epoch.next_offset), writer, topics)
    await writer.commit()
    await writer.begin()
    await send_all(
        Epoch(epoch.ledger, epoch.totals, epoch.dead_letters, {table: {} for table in TABLES}, 0), writer, topics
    )
    await writer.commit()
    write_rows(epoch, rows, reached, now_ms)


def _commit(broken: Callable[..., Any]) -> Planting:
    return lambda: _replaced(engine, "commit", broken)


def _rows_before_commit_believed() -> AbstractContextManager[None]:
    """Without the second: what a take-over reads again at a changelog's end heals the first."""

    async def nothing(*given: Any) -> set[Any]:
        return set()

    @contextmanager
    def both() -> Iterator[None]:
        with _replaced(engine, "commit", _rows_before_commit), _replaced(loader, "contradicting", nothing):
            yield

    return both()


# The overlay and the fold


def _overlay_dropped_early() -> AbstractContextManager[None]:
    """The rows of the epoch that is being committed are not seen by the fold meanwhile."""
    return _replaced(PartitionRows, "hold", lambda self, rows: None)


def _open_rows_not_kept() -> AbstractContextManager[None]:
    """A fold decides the records of each call as if those of the last one had left no ids: epochs show in decisions."""
    fold = UsagePartition.fold

    def forgetful(self: UsagePartition, records: Sequence[Any], now_ms: int) -> Any:
        self._state.seen.changed = {}
        return fold(self, records, now_ms)

    return _replaced(UsagePartition, "fold", forgetful)


def _fold_reads_a_clock() -> AbstractContextManager[None]:
    """The booking day is the worker's."""
    step = vars(usage)["step"]
    fold = UsagePartition.fold
    now: list[int] = [0]

    def timed(self: UsagePartition, records: Sequence[Any], now_ms: int) -> Any:
        now[0] = now_ms
        return fold(self, records, now_ms)

    def clocked(state: Any, behaviours: Any, catalog: Any, record: Any, key: Any, append_ms: int, *rest: Any) -> Any:
        return step(state, behaviours, catalog, record, key, max(append_ms, min(now[0], append_ms + 100)), *rest)

    @contextmanager
    def both() -> Iterator[None]:
        with _replaced(UsagePartition, "fold", timed), _replaced(usage, "step", clocked):
            yield

    return both()


def _answers_by_chance() -> AbstractContextManager[None]:
    """A fact has something in it that no log tells."""
    step = vars(usage)["step"]
    numbers = itertools.count()

    def counting(*given: Any) -> Any:
        return [
            EventCounted(
                *[*(getattr(fact, name) for name in fact.__struct_fields__[:-2]), f"{next(numbers)}", fact.entries]
            )
            if isinstance(fact, EventCounted)
            else fact
            for fact in step(*given)
        ]

    return _replaced(usage, "step", counting)


# The take-over


def _writer_after_the_load() -> AbstractContextManager[None]:
    """Tables are brought up to the changelogs' ends before the former owner is fenced."""
    take = engine.Engine.take

    async def late(self: engine.Engine, partitions: Any, group_offsets: Any) -> Any:
        writers, own = self._writers, self._writers.own

        async def nothing(partitions: Any) -> None:
            missing = [number for number in partitions if number not in writers._open]
            writers._open.update({number: writers._make(number) for number in missing})

        writers.own = nothing  # type: ignore[method-assign]
        try:
            taken = await take(self, partitions, group_offsets)
        finally:
            writers.own = own  # type: ignore[method-assign]
        for number in partitions:
            await writers._open[number].open()
        return taken

    @contextmanager
    def both() -> Iterator[None]:
        async def settled(*given: Any) -> None:
            pass

        with _replaced(engine.Engine, "take", late), _replaced(engine, "settle", settled):
            yield

    return both()


def _loader_stops_early() -> AbstractContextManager[None]:
    """The second half of what a table lacks is not read, and the table says that it was."""
    read_missing = vars(loader)["_read_missing"]

    async def early(reader: Any, *given: Any) -> Any:
        read = reader.read

        def shorter(parts: Mapping[Any, LogRange]) -> Any:
            return read({tp: LogRange(part.start, (part.start + part.end) // 2) for tp, part in parts.items()})

        reader.read = shorter
        try:
            return await read_missing(reader, *given)
        finally:
            del reader.read

    return _replaced(loader, "_read_missing", early)


def _group_offset_instead_of_the_row() -> AbstractContextManager[None]:
    """A fold goes on where the group's offset says, and at the log's start where there is none."""

    def by_the_group(partition: int, fold: PartitionFold, witnesses: Witnesses) -> int:
        return witnesses.source.start if witnesses.group_offset is None else witnesses.group_offset

    return _replaced(engine, "start_offset", by_the_group)


def _stale_tables_kept() -> AbstractContextManager[None]:
    """Tables that were away while tombstones went are brought up to date, and not loaded anew."""
    prepare = vars(loader)["_prepare"]

    def trusting(tp: Any, table: Any, log_range: LogRange, now_ms: int, state_age_max_ms: int) -> int:
        return int(prepare(tp, table, log_range, 0, state_age_max_ms))

    return _replaced(loader, "_prepare", trusting)


def _order_of_another_record() -> AbstractContextManager[None]:
    """An order lets any record through, whichever it names."""
    return _replaced(orders, "_names", lambda order, position: True)


def _unhelpful_orders_heard_again() -> AbstractContextManager[None]:
    """An order that did not help is heard again and again, and hides the next."""
    hear = UsagePartition.hear

    def forgetful(self: UsagePartition, record: Any) -> bool:
        self._unhelpful.clear()
        return hear(self, record)

    return _replaced(UsagePartition, "hear", forgetful)


# Disk and broker


def _sweep_too_early() -> AbstractContextManager[None]:
    """Ids are deleted a minute after they were seen."""
    expiry = UsageFold.expiry
    early = expiry._replace(expires_at_ms=lambda value: 0)
    return _replaced(UsageFold, "expiry", early)


def _torn_batches() -> AbstractContextManager[None]:
    """A table's position is written, and some of its rows are not."""
    write = DiskTable._write

    def torn(self: DiskTable, rows: Any, applied: Any, swept: Any) -> None:
        write(self, list(rows)[1:], applied, swept)

    return _replaced(DiskTable, "_write", torn)


def _no_fencing() -> AbstractContextManager[None]:
    """The broker takes the writes of an owner that was replaced."""
    held = vars(Broker)["_held"]

    def trusting(self: Broker, name: str, epoch: int) -> Any:
        return held(self, name, self._ids[name].epoch)

    return _replaced(Broker, "_held", trusting)


FAULTS: Final[dict[str, Planting]] = {
    "rows before commit, and aborted rows believed": _rows_before_commit_believed,
    "commit not awaited": _commit(_commit_not_awaited),
    "position in another transaction": _commit(_position_apart),
    "position before facts": _commit(_offset_before_facts),
    "overlay dropped early": _overlay_dropped_early,
    "decisions that show the epochs": _open_rows_not_kept,
    "a fold that reads a clock": _fold_reads_a_clock,
    "a fold that counts for itself": _answers_by_chance,
    "writer opened after the changelogs' ends were read": _writer_after_the_load,
    "a loader that stops early": _loader_stops_early,
    "group offset instead of the position row": _group_offset_instead_of_the_row,
    "stale tables kept": _stale_tables_kept,
    "order honoured at another position": _order_of_another_record,
    "an order that did not help hides the next": _unhelpful_orders_heard_again,
    "ids swept too early": _sweep_too_early,
    "batches that are not whole": _torn_batches,
    "a zombie's write accepted": _no_fencing,
}
