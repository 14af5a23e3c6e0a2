"""The sink's two topics: hour totals to read, and `stripe-intents`, which one instance at a time may write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced, UnknownTopicOrPartitionError

from schemas.intents import (
    Intent,
    Outcome,
    decode_intent_record,
    encode_intent_record,
    intent_key,
    intent_partition,
)
from schemas.rows import STRIPE_HOURS
from schemas.topics import STRIPE_INTENTS, USAGE_TOTALS
from schemas.totals import StripeHourTotal, decode_total
from sinks.stripe.errors import Misconfigured, Replaced

__all__ = ["SINK_GROUP", "TRANSACTIONAL_ID", "IntentLog", "TotalsReader", "intents_since", "read_intents"]

TRANSACTIONAL_ID: Final = "meterlog-sink-stripe"
"""One for the deployment: whoever opened it last is the sink, and the broker refuses everybody else."""
SINK_GROUP: Final = "meterlog-sink-stripe"
"""The group whose offsets show how far the sink has read, for lag tools. Never the sink's position."""
_TRANSACTION_MS: Final = 10_000
_FETCH_WAIT_MS: Final = 100
_POLL_MS: Final = 200
_RECORDS_MAX: Final = 5_000  # decoded in one go: some 15 ms, in which nothing else of the process runs
_INTENTS_KEPT_MS: Final = 40 * 86_400_000
"""How far back a start reads: the 35 days that Stripe takes an hour's usage for, and some."""
_INTENTS_TAIL_RECORDS: Final = 20_000
"""And at least so many of each partition: after a pause of 40 days the last round must still be found."""

Offsets = Mapping[TopicPartition, int]


class TotalsReader:
    """Reads `usage-totals`, all of it and then on. Only what Stripe is told is decoded."""

    def __init__(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions

    @classmethod
    async def open(cls, bootstrap_servers: str) -> TotalsReader:
        consumer, partitions = await _consumer(bootstrap_servers, USAGE_TOTALS)
        await consumer.seek_to_beginning(*partitions)
        return cls(consumer, partitions)

    async def read_to_end(self) -> AsyncIterator[list[StripeHourTotal]]:
        """What is committed when it is called. Sums over accounts would be too low before the end is reached."""
        ends = await self._consumer.end_offsets(self._partitions)
        while not await _reached(self._consumer, ends):
            yield await self.poll(_POLL_MS)

    async def poll(self, timeout_ms: int) -> list[StripeHourTotal]:
        """What has come since, waiting up to `timeout_ms` for the first of it."""
        batches = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=_RECORDS_MAX)
        totals = []
        for record in (record for batch in batches.values() for record in batch):
            # Most rows are not for Stripe; their key tells without decoding them. A tombstone has nothing to tell.
            if record.key is not None and record.key.startswith(STRIPE_HOURS.prefix) and record.value is not None:
                total = decode_total(record.value)
                assert isinstance(total, StripeHourTotal), f"{record.key!r} is the key of a Stripe row"
                totals.append(total)
        return totals

    async def positions(self) -> dict[TopicPartition, int]:
        return {partition: await self._consumer.position(partition) for partition in self._partitions}

    def ends(self) -> dict[TopicPartition, int]:
        """The partitions' ends as last fetched, where they are known."""
        marks = {partition: self._consumer.highwater(partition) for partition in self._partitions}
        return {partition: end for partition, end in marks.items() if end is not None}

    async def close(self) -> None:
        await self._consumer.stop()


class IntentLog:
    """Writes `stripe-intents`, in transactions under the one id of the sink."""

    def __init__(self, producer: Any, partition_count: int) -> None:
        self._producer = producer
        self._partition_count = partition_count

    @classmethod
    async def open(cls, bootstrap_servers: str) -> IntentLog:
        """From its return on no older instance can commit anything, and what one had begun is aborted."""
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap_servers,
            transactional_id=TRANSACTIONAL_ID,
            transaction_timeout_ms=_TRANSACTION_MS,
            retry_backoff_ms=10,  # the default of 100 ms is paid again by each transaction that meets its predecessor
            linger_ms=0,
        )
        await producer.start()
        try:
            return cls(producer, len(await producer.partitions_for(STRIPE_INTENTS)))
        except BaseException:
            await producer.stop()
            raise

    async def commit(self, records: Sequence[Intent | Outcome], read: Offsets) -> None:
        """Write all of `records`, and how far the totals were `read`, or nothing.

        Asks the broker even where there are no records: its return says that no other instance had taken over. Raises
        Replaced otherwise, and KafkaError; after either it is unknown whether the transaction took place.
        """
        try:
            await self._producer.begin_transaction()
            # Offsets first: added while records are in flight they cost aiokafka some 100 retries a transaction.
            await self._producer.send_offsets_to_transaction(dict(read), SINK_GROUP)
            sent = [await self._send(record) for record in records]
            for future in sent:
                await future
            await self._producer.commit_transaction()
        except (ProducerFenced, InvalidProducerEpoch) as exc:
            message = f"another instance of the Stripe sink has taken over ({type(exc).__name__})"
            raise Replaced(message) from exc

    async def close(self) -> None:
        await self._producer.stop()

    async def _send(self, record: Intent | Outcome) -> Any:
        return await self._producer.send(
            STRIPE_INTENTS,
            value=encode_intent_record(record),
            key=intent_key(record),
            partition=intent_partition(record, self._partition_count),
        )


async def read_intents(bootstrap_servers: str, since_ms: int | None = None) -> AsyncIterator[list[Intent | Outcome]]:
    """The committed records of `stripe-intents`, those of each window in their order, to the end as it is now.

    `since_ms`: leave out what is older, where that is not among a partition's last 20,000 records. None: everything kept.
    """
    consumer, partitions = await _consumer(bootstrap_servers, STRIPE_INTENTS)
    try:
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        if since_ms is not None:
            await _skip_old(consumer, partitions, ends, since_ms)
        while not await _reached(consumer, ends):
            batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)
            yield [decode_intent_record(record.value) for batch in batches.values() for record in batch]
    finally:
        await consumer.stop()


def intents_since(now_ms: int) -> int:
    """From when on a start must know the intents."""
    return now_ms - _INTENTS_KEPT_MS


async def _consumer(bootstrap_servers: str, topic: str) -> tuple[Any, list[TopicPartition]]:
    """A consumer of all the topic's partitions, and which those are."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=_FETCH_WAIT_MS,
    )
    try:
        await consumer.start()  # without a group it takes all of the topic's partitions
    except UnknownTopicOrPartitionError as exc:
        message = f"there is no topic {topic}; make the topics with: meterlog topics create"
        raise Misconfigured(message) from exc
    partitions = sorted(consumer.assignment())
    # Held by hand from here on: a subscription is given up, and begun anew, when a broker's metadata is incomplete.
    consumer.unsubscribe()
    consumer.assign(partitions)
    return consumer, partitions


async def _skip_old(consumer: Any, partitions: list[TopicPartition], ends: Offsets, since_ms: int) -> None:
    young = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
    starts = await consumer.beginning_offsets(partitions)
    for partition in partitions:
        first_young = ends[partition] if young[partition] is None else young[partition].offset
        consumer.seek(partition, max(starts[partition], min(first_young, ends[partition] - _INTENTS_TAIL_RECORDS)))


async def _reached(consumer: Any, ends: Offsets) -> bool:
    """Whether all is read. By position: the last offset of a partition is mostly a marker, never delivered as a record."""
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return False
    return True
