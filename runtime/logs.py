"""Reads whole partitions of a topic, from a place to the end that was found at the start."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from runtime.errors import BrokerError

__all__ = ["LogRecord", "Range", "explained", "offset_at", "partitions_of", "range_of", "read"]

_TIMEOUT_S = 15.0
_POLL_S = 0.5
_RETRY_S = 0.05
_FETCH_WAIT_MS = 10
_SOON = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # the client's own, from metadata that were asked for too early
    KafkaError._UNKNOWN_PARTITION,
)

T = TypeVar("T")


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
    """How many partitions the topic has. Raises BrokerError where there is no such topic."""
    with _consumer(bootstrap_servers) as consumer:
        found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return len(found.partitions)


def range_of(bootstrap_servers: str, topic: str, partition: int) -> Range:
    """What the partition holds now, uncommitted records included."""
    with _consumer(bootstrap_servers) as consumer:
        asked = TopicPartition(topic, partition)
        return Range(*_patiently(lambda: consumer.get_watermark_offsets(asked, timeout=_TIMEOUT_S)))


def offset_at(bootstrap_servers: str, topic: str, partition: int, at_ms: int) -> int | None:
    """The offset of the first record that was appended at that time or later; None where there is none."""
    with _consumer(bootstrap_servers) as consumer:
        asked = TopicPartition(topic, partition, max(at_ms, 0))
        (found,) = _patiently(lambda: consumer.offsets_for_times([asked], timeout=_TIMEOUT_S))
        return None if found.offset < 0 else int(found.offset)


def read(
    bootstrap_servers: str, topic: str, partition: int, start: int = 0, end: int | None = None
) -> Generator[LogRecord]:
    """The committed records from `start` to before `end` (None: what is there when the reader catches up)."""
    with _consumer(bootstrap_servers) as consumer:
        consumer.assign([TopicPartition(topic, partition, start)])
        silent_since_s = time.monotonic()
        while True:
            # One at a time: `consume` of many would wait for its whole timeout at the end of the partition.
            message = consumer.poll(_POLL_S)
            if message is None:
                _check_silence(bootstrap_servers, topic, partition, silent_since_s)
                continue
            silent_since_s = time.monotonic()
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return
            if error is not None:
                raise KafkaException(error)
            if end is not None and message.offset() >= end:
                return
            yield LogRecord(message.offset(), message.key(), message.value(), message.timestamp()[1])


def _check_silence(bootstrap_servers: str, topic: str, partition: int, since_s: float) -> None:
    if time.monotonic() - since_s > _TIMEOUT_S:
        message = f"Kafka at {bootstrap_servers} gives nothing of {topic}/{partition} for {_TIMEOUT_S:.0f} s"
        raise BrokerError(message)


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again while the broker says that it will know soon: a new topic's leaders are not elected yet."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return ask()
        except KafkaException as exc:
            if exc.args[0].code() not in _SOON or time.monotonic() > deadline_s:
                raise
        time.sleep(_RETRY_S)


@contextmanager
def explained(bootstrap_servers: str) -> Iterator[None]:
    """What Kafka's client raises becomes a BrokerError that names the address."""
    try:
        yield
    except KafkaException as exc:
        message = f"Kafka at {bootstrap_servers}: {exc.args[0].str()}"
        raise BrokerError(message) from exc


@contextmanager
def _consumer(bootstrap_servers: str) -> Iterator[Consumer]:
    """A consumer that is closed at the end; what the broker refuses becomes a BrokerError."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "meterlog-reader",  # librdkafka wants one; nothing is ever committed under it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            # How long a broker that has no more holds a request, and so how late each partition's end is known.
            "fetch.wait.max.ms": _FETCH_WAIT_MS,
            "auto.offset.reset": "earliest",
            "log_level": 0,  # what matters comes as an error of a call
        }
    )
    try:
        with explained(bootstrap_servers):
            yield consumer
    finally:
        consumer.close()
