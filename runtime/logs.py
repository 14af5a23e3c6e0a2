"""Reads whole partitions of a topic, from a place to the end that was found at the start."""

from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

__all__ = ["LogRecord", "Range", "partitions_of", "range_of", "read"]

_TIMEOUT_S = 15.0
_BATCH_RECORDS = 5_000


class LogRecord(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    append_ms: int


class Range(NamedTuple):
    """Offsets that a partition holds: `start` is the first kept, `end` the first not yet there."""

    start: int
    end: int


def partitions_of(bootstrap_servers: str, topic: str) -> int:
    """How many partitions the topic has. Raises KafkaException where there is no such topic."""
    consumer = _consumer(bootstrap_servers)
    try:
        found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return len(found.partitions)
    finally:
        consumer.close()


def range_of(bootstrap_servers: str, topic: str, partition: int) -> Range:
    """What the partition holds now, uncommitted records included."""
    consumer = _consumer(bootstrap_servers)
    try:
        return Range(*consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_TIMEOUT_S))
    finally:
        consumer.close()


def read(
    bootstrap_servers: str, topic: str, partition: int, start: int = 0, end: int | None = None
) -> Iterator[LogRecord]:
    """The committed records from `start` to before `end` (None: what is there when the reader catches up)."""
    consumer = _consumer(bootstrap_servers)
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        while True:
            for message in consumer.consume(_BATCH_RECORDS, _TIMEOUT_S):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return
                if error is not None:
                    raise KafkaException(error)
                if end is not None and message.offset() >= end:
                    return
                yield LogRecord(message.offset(), message.key(), message.value(), message.timestamp()[1])
    finally:
        consumer.close()


def _consumer(bootstrap_servers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "meterlog-reader",  # librdkafka wants one; nothing is ever committed under it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
