"""The sink's process: reads the ledger and the totals, and keeps ClickHouse's tables equal to them."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from sinks.clickhouse.background import in_background, is_done
from sinks.clickhouse.batch import Batch
from sinks.clickhouse.clickhouse import ClickHouseStore
from sinks.clickhouse.errors import EXIT_CODE, Interrupted, MustStop, PositionLost
from sinks.clickhouse.follow import Follower, LedgerFollower, TotalsFollower
from sinks.clickhouse.log import say
from sinks.clickhouse.port import Store
from sinks.clickhouse.position import Position, TopicPartition
from sinks.clickhouse.retry import until_done
from sinks.clickhouse.settings import SinkSettings
from sinks.clickhouse.source import EndOf, Read, Source, Span
from sinks.clickhouse.watch import SinkWatch
from sinks.clickhouse.writer import BackgroundWriter, write_batch

__all__ = ["WriteBatch", "run", "run_over"]

WriteBatch = Callable[[Store, Batch, threading.Event], None]

_LOOK_S: Final = 0.1
_FINISH_S: Final = 2.0
"""For the batch that is being written, when asked to stop; after that the next start writes it again."""
_END_S_MAX: Final = 4.0
"""From being asked to stop to the end of the process, which supervisors expect within 5 s."""


def run(settings: SinkSettings, stop: threading.Event) -> int:
    """Run until `stop` is set: the exit code, 0 then, or EXIT_CODE when going on would make wrong tables.

    Servers that are away are waited for. What is not stored when it ends, however it ends, the next start stores.
    To be a process's main: it changes how the process collects garbage.
    """
    # A batch is some 100,000 objects without a cycle. With the default of 700 the collector walked them again and again:
    # 14 us an event for putting source records together instead of 4.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    return run_over(ClickHouseStore(settings), settings, stop)


def run_over(store: Store, settings: SinkSettings, stop: threading.Event, write: WriteBatch = write_batch) -> int:
    """As `run`, over a store of the caller's."""
    running = in_background(lambda: _run(store, settings, stop, write), name="sink")
    try:
        while not is_done(running, _LOOK_S) and not stop.is_set():
            pass
        # Whatever hangs (a server that takes a request and never answers) must not hold up the end.
        if not is_done(running, _END_S_MAX):
            say("sink.clickhouse.stopped", logging.WARNING, abandoned_rows=None)
    except Interrupted:
        say("sink.clickhouse.stopped", abandoned_rows=None)
    except MustStop as exc:
        say("sink.clickhouse.failed", logging.CRITICAL, kind=type(exc).__name__, error=str(exc))
        return EXIT_CODE
    return 0


def _run(store: Store, settings: SinkSettings, stop: threading.Event, write: WriteBatch) -> None:
    until_done(store.prepare, doing="prepare", event="sink.clickhouse.clickhouse_unavailable", stop=stop)
    stored = until_done(
        store.positions, doing="read positions", event="sink.clickhouse.clickhouse_unavailable", stop=stop
    )
    source = Source(settings.bootstrap_servers)
    try:
        topics = (settings.ledger_topic, settings.totals_topic)
        spans = until_done(
            lambda: source.spans(topics), doing="read topics", event="sink.clickhouse.kafka_unavailable", stop=stop
        )
        followers = _followers(settings, spans, stored)
        begins_at = {partition: follower.position().reached.next_offset for partition, follower in followers.items()}
        source.begin(begins_at)
        say(
            "sink.clickhouse.started",
            database=settings.database,
            begins_at={str(partition): offset for partition, offset in begins_at.items()},
        )
        writer = BackgroundWriter(lambda batch: write(store, batch, stop))
        _follow(source, followers, writer, settings, stop)
    finally:
        source.close()


def _followers(
    settings: SinkSettings, spans: dict[TopicPartition, Span], stored: dict[TopicPartition, Position]
) -> dict[TopicPartition, Follower]:
    """Each partition's follower at its place. Raises PositionLost."""
    followers: dict[TopicPartition, Follower] = {}
    for partition, span in spans.items():
        position = stored.get(partition)
        if position is not None and position.reached.next_offset > span.end:
            message = (
                f"{partition} ends at offset {span.end}, but was stored up to {position.reached.next_offset}: it was made"
                " anew or truncated; point the sink at an empty ClickHouse database, or bring the topic back"
            )
            raise PositionLost(message)
        if partition.topic == settings.ledger_topic:
            followers[partition] = LedgerFollower(partition, position, settings.rewind_ms)
        else:
            followers[partition] = TotalsFollower(partition, position, settings.rewind_ms, span.start)
            _say_expired(partition, position, span)
    return followers


def _say_expired(partition: TopicPartition, position: Position | None, span: Span) -> None:
    reached = position.reached.next_offset if position else 0
    if reached < span.start:
        say(
            "sink.clickhouse.totals_expired",
            logging.WARNING,
            partition=str(partition),
            stored_offset=reached,
            begins_at=span.start,
        )


def _follow(
    source: Source,
    followers: dict[TopicPartition, Follower],
    writer: BackgroundWriter,
    settings: SinkSettings,
    stop: threading.Event,
) -> None:
    """Read, and hand a batch over when it is due, until `stop` is set."""
    batch, handed_over_at = Batch(), 0.0
    handed_over: Mapping[TopicPartition, Position] = {}
    begun = {partition: follower.position() for partition, follower in followers.items()}
    watch = SinkWatch(settings.age_s_max)

    def show() -> None:
        if watch.is_time(time.monotonic()):
            watch.show({**begun, **writer.stored}, source.ends(followers), time.monotonic())

    while not stop.is_set():
        show()
        for item in source.poll():
            match item:
                case Read():
                    followers[item.partition].feed(item.offset, item.value, item.written_ms, batch)
                case EndOf():
                    followers[item.partition].end(item.offset, batch)
        is_full = _is_full(batch, settings)
        while is_full and not writer.is_free(_LOOK_S) and not stop.is_set():
            show()
        is_due = is_full or time.monotonic() - handed_over_at >= settings.interval_s
        if not is_due or not writer.is_free():
            continue
        batch.positions = {partition: follower.position() for partition, follower in followers.items()}
        if batch.positions != handed_over:
            writer.start(batch)
            batch, handed_over, handed_over_at = Batch(), batch.positions, time.monotonic()
    _finish(writer, batch)


def _is_full(batch: Batch, settings: SinkSettings) -> bool:
    return batch.row_count >= settings.batch_rows_max or batch.source_bytes >= settings.batch_bytes_max


def _finish(writer: BackgroundWriter, batch: Batch) -> None:
    """Give the batch that is being written a moment; what was only read is read again."""
    writer.is_free(_FINISH_S)
    say("sink.clickhouse.stopped", abandoned_rows=writer.unwritten_rows + batch.row_count)
