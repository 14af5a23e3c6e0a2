"""Transactional writers, one an owned partition: the broker lets only the newest of a partition's writers commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

import aiokafka
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.edges import Writer
from streams.options import Options

__all__ = ["PartitionWriter", "Sent", "Writers"]

_RETRY_BACKOFF_MS = 10  # aiokafka's 100 ms is waited on every epoch that meets a marker still being written
_BATCH_BYTES = 1_000_000  # a record batch; the broker's default limit is 1,048,588


class Sent:
    """Record batches on their way to one partition of a topic."""

    def __init__(self) -> None:
        self._batches: list[tuple[asyncio.Future[aiokafka.structs.RecordMetadata], int]] = []

    def add(self, future: asyncio.Future[aiokafka.structs.RecordMetadata], record_count: int) -> None:
        self._batches.append((future, record_count))

    async def acknowledged(self) -> int | None:
        """Wait for every batch; gives the offset behind the last record, None where nothing was sent."""
        next_offset = None
        for future, record_count in self._batches:
            next_offset = (await future).offset + record_count
        return next_offset


class PartitionWriter:
    """The transactional producer of one partition; opening it fences whoever held its id before."""

    def __init__(self, partition: int, options: Options) -> None:
        self.partition = partition
        self._options = options
        self._producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=options.bootstrap_servers,
            transactional_id=f"{options.group}-{partition}",
            transaction_timeout_ms=options.transaction_timeout_ms,
            acks="all",
            linger_ms=0,
            retry_backoff_ms=_RETRY_BACKOFF_MS,
            max_batch_size=_BATCH_BYTES,
        )

    async def open(self) -> None:
        """Take the id: what a former owner left open is aborted, and nothing it sends counts any more."""
        try:
            await self._producer.start()
        except BaseException:
            await self._producer.stop()
            raise

    async def begin(self) -> None:
        """Begin a transaction that is on every output of the partition, whatever it will write.

        Should the broker lose the markers of one (`settled.py`), the next marker of this id decides it, on each topic that
        has one: with the same topics in all of them it is decided everywhere alike. Else ids could be forgotten of events
        that were counted.
        """
        await self._producer.begin_transaction()
        for topic in self._options.topics.outputs:
            self._producer._txn_manager.maybe_add_partition_to_txn(TopicPartition(topic, self.partition))

    async def send(self, topic: str, items: Iterable[tuple[bytes | None, bytes | None]]) -> Sent:
        """Hand records to the broker, in order. Returning promises nothing: `acknowledged` does.

        Waits while an earlier batch for the same topic is not yet on its way, so one caller a topic at a time.
        """
        sent = Sent()
        producer, partition = self._producer, self.partition
        batch = producer.create_batch()
        append = batch.append
        for key, value in items:
            if append(key=key, value=value, timestamp=None) is None:
                batch.close()
                sent.add(await producer.send_batch(batch, topic, partition=partition), batch.record_count())
                batch = producer.create_batch()
                append = batch.append
                fitted = append(key=key, value=value, timestamp=None)
                assert fitted is not None, "an empty batch takes a record of any size"
        if batch.record_count():
            batch.close()
            sent.add(await producer.send_batch(batch, topic, partition=partition), batch.record_count())
        return sent

    async def send_group_offset(self, topic: str, next_offset: int, note: str = "") -> None:
        offsets = {TopicPartition(topic, self.partition): OffsetAndMetadata(next_offset, note)}
        await self._producer.send_offsets_to_transaction(offsets, self._options.group)

    async def commit(self) -> None:
        await self._producer.commit_transaction()

    async def abort(self) -> None:
        await self._producer.abort_transaction()

    async def close(self) -> None:
        await self._producer.stop()


class Writers:
    """The writers of the partitions that this worker owns."""

    def __init__(self, make: Callable[[int], Writer]) -> None:
        self._make = make
        self._open: dict[int, Writer] = {}

    def __getitem__(self, partition: int) -> Writer:
        return self._open[partition]

    def of(self, partitions: Collection[int]) -> dict[int, Writer]:
        """The open writers of these partitions."""
        return {number: self._open[number] for number in partitions}

    async def own(self, partitions: Collection[int]) -> None:
        """Open what is newly owned, close what is no longer.

        A writer that stays is not opened again: had somebody else owned its partition meanwhile, its next commit
        would be refused, which is what must happen.
        """
        gone = [self._open.pop(number) for number in list(self._open) if number not in partitions]
        await asyncio.gather(*(writer.close() for writer in gone))
        await asyncio.gather(*(self._open_one(number) for number in partitions if number not in self._open))

    async def _open_one(self, partition: int) -> None:
        writer = self._make(partition)
        await writer.open()
        self._open[partition] = writer
