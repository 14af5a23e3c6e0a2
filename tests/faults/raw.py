"""Records that only a careless or hostile client would write: header names that are no text, batches in every codec."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiokafka
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record import default_records

from tests.faults.load import TOPIC
from tests.faults.wire import Record

__all__ = ["RawName", "produce_raw"]


class RawName(str):
    """A header's name that goes out as the bytes it was made of."""

    _raw: bytes

    def __new__(cls, raw: bytes) -> RawName:
        made = super().__new__(cls, raw.decode(errors="replace"))
        made._raw = raw
        return made

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self._raw


def produce_raw(bootstrap_servers: str, records: Sequence[Record]) -> None:
    """Put each record where its key belongs, headers and all, in a batch of its own."""
    asyncio.run(_produce(bootstrap_servers, records))


async def _produce(bootstrap_servers: str, records: Sequence[Record]) -> None:
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap_servers) as producer:
        partitions = sorted(await producer.partitions_for(TOPIC))
        for record in records:
            batch = producer.create_batch()
            _use_python_builder(batch)
            headers = [(RawName(name), value) for name, value in record.headers]
            batch.append(timestamp=None, key=record.key, value=record.value, headers=headers)
            batch.close()
            partition = DefaultPartitioner()(record.key, partitions, partitions)
            await (await producer.send_batch(batch, TOPIC, partition=partition))


def _use_python_builder(batch: BatchBuilder) -> None:
    """The compiled one encodes names itself; the one in Python asks the name to."""
    made = default_records._DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, 0, batch_size=2 << 20)
    batch._builder = made
    batch._build = made.build
    batch._set_producer_state = made.set_producer_state
