"""The Faust app of a worker: Faust for membership, co-partitioned assignment and life cycle, the engine for records."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import faust
from aiokafka.structs import TopicPartition

from streams.assignor import LevelAssignor
from streams.consumer import FoldConsumer, FoldTransport
from streams.edges import Edges
from streams.engine import Engine
from streams.epoch import Gap, no_gap
from streams.exit import stop_process
from streams.log_reader import LogReader
from streams.options import Options
from streams.port import Expiring, Expiry, Fold
from streams.producers import PartitionWriter
from streams.recovery import FoldTables
from streams.standby import RECORDS_PER_PAGE, Standbys
from streams.sweep import Sweeper, sweep_until_cancelled
from streams.tables import RowTable, TableFiles

__all__ = ["FoldApp", "build_app"]

_HEARTBEAT_S_MAX = 1.0  # a member learns of a rebalance with its next heartbeat
_APPEND_TIMEOUT_S = 30.0


class FoldApp(faust.App):
    """A Faust app around an engine."""

    engine: Engine
    files: TableFiles
    standbys: Standbys
    consumer: FoldConsumer
    tables: FoldTables

    def _new_transport(self) -> FoldTransport:
        """Overrides App: our consumer."""
        return FoldTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> FoldTransport:
        """Overrides App: our producer."""
        return FoldTransport(self.conf.broker_producer, self)

    async def release(self, timeout_s: float | None) -> None:
        """Own and follow nothing any more: no take-over goes on, and every epoch in flight has ended.

        Raises TimeoutError when one takes longer.
        """
        await self.tables.recovery.abandon()
        async with asyncio.timeout(timeout_s):
            await self.standbys.stop()
            await self.engine.drain()

    async def _stop_consumer(self) -> None:
        """Overrides App: what is in flight ends before the group is left. The stop as a whole has a time limit."""
        if self._consumer is not None:
            self.consumer.withhold()
        await self.release(timeout_s=None)
        await self.engine.close()
        await super()._stop_consumer()

    def _on_rebalance_when_stopped(self) -> None:
        """Overrides App: it closes the consumer from another thread's loop; stopping the consumer closes it."""

    def _crash(self, reason: BaseException) -> None:
        """Overrides Service: Faust marks its services as crashed and waits for somebody to look."""
        if not self.should_stop:
            stop_process("a Faust service", reason)

    async def append(self, partition: int, value: bytes) -> int:
        """Put a record without a key on the source; gives its offset once the broker has it."""
        source = self.engine.options.topics.source
        metadata = await self.producer.send_and_wait(source, None, value, partition, None, None)
        offset: int = metadata.offset
        return offset

    def log_end(self, tp: TopicPartition) -> int | None:
        return self.consumer.thread.log_end(tp)

    async def sweep(self, fold: Fold) -> None:
        """Sweep the partitions owned or followed at the time until cancelled; nothing where no row of the fold's expires."""
        if isinstance(fold, Expiring):
            await sweep_until_cancelled(partial(self._sweepers, fold.expiry))

    def _sweepers(self, expiry: Expiry) -> Iterator[Sweeper]:
        for number in (*self.engine.partitions, *self.standbys.partitions):
            # Still: the files of a partition that went are closed, or another worker's.
            if number in self.engine.partitions or number in self.standbys.partitions:
                yield Sweeper(expiry, self.files.of_partition(number))

    def on_room(self) -> None:
        """A full partition may be fetched again."""
        if self.consumer.grant is not None:
            self.consumer.allow(self.engine.hungry)


def build_app(options: Options, fold: Fold, partitions: int, gap: Gap = no_gap) -> FoldApp:
    """A worker's app, not started. To be called on the loop that it will run on; `partitions` is the source's count."""
    app = FoldApp(options.group, **_faust_settings(options, partitions))
    files = TableFiles(options.data_dir / "tables", options.block_cache_bytes)
    edges = Edges(partial(PartitionWriter, options=options), partial(LogReader, options.bootstrap_servers), files)
    app.files = files
    app.standbys = Standbys(options, files, partial(LogReader, options.bootstrap_servers, RECORDS_PER_PAGE))
    app.engine = Engine(options, fold, edges, gap, app.append, app.log_end, app.on_room)
    for name, changelog in options.topics.changelogs.items():
        app.tables.add(RowTable(app, name, changelog, files, partitions))
    app.agent(app.topic(options.topics.source, key_type=bytes, value_type=bytes), name="usage-events")(_subscribe)
    return app


async def _subscribe(stream: Any) -> None:
    """The agent on the source: it makes the worker subscribe to it; the records go past it to the engine."""
    async for _ in stream:
        stop_process("a record that went through Faust's streams instead of the engine")


def _faust_settings(options: Options, partitions: int) -> dict[str, Any]:
    servers = options.bootstrap_servers.split(",")
    worker_name = options.instance_id or f"{socket.gethostname()}-{os.getpid()}"
    return {
        "broker": ";".join(f"kafka://{server.strip()}" for server in servers),
        "broker_session_timeout": options.session_timeout_s,
        "broker_heartbeat_interval": min(_HEARTBEAT_S_MAX, options.session_timeout_s / 6),
        "broker_rebalance_timeout": 2 * options.session_timeout_s,
        "consumer_group_instance_id": options.instance_id,
        # A static member that comes back is given its old assignment, which names the URL it had.
        "canonical_url": f"http://{worker_name}",
        # Each partition is sought to its position: an offset that is out of range must not be replaced by another.
        "consumer_auto_offset_reset": "none",
        "producer_request_timeout": _APPEND_TIMEOUT_S,
        "datadir": options.data_dir / "faust",
        "TableManager": FoldTables,
        "PartitionAssignor": LevelAssignor,
        "table_standby_replicas": options.standby_replicas,
        "topic_partitions": partitions,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "stream_wait_empty": False,
        "web_enabled": False,
        "worker_redirect_stdouts": False,
    }
