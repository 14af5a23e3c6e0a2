"""The log as the sink reads it: committed records of all partitions of its two topics, from places that it names itself."""

import logging
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from sinks.clickhouse.errors import SinkError, Unavailable, from_kafka
from sinks.clickhouse.log import say
from sinks.clickhouse.position import TopicPartition
from sinks.clickhouse.watch import answers, does_not_answer

__all__ = ["EndOf", "Read", "Source", "Span"]

_TIMEOUT_S: Final = 5.0
_RECORDS_PER_POLL: Final = 1_000
_POLL_S: Final = 0.05


class Span(NamedTuple):
    """Offsets of a partition that can be read: from `start` to before `end`."""

    start: int
    end: int


class Read(NamedTuple):
    """A committed record."""

    partition: TopicPartition
    offset: int
    value: bytes
    written_ms: int


class EndOf(NamedTuple):
    """The reader has all that is committed of the partition; the next record gets `offset` or a later one."""

    partition: TopicPartition
    offset: int


class Source:
    """A consumer without a group: where it reads is what ClickHouse has, and no other place can contradict that."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "meterlog-sink-clickhouse",  # librdkafka wants a name; the group is never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "error",  # a place that is gone must be said, never skipped
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 32 << 10,
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 2,  # what matters comes to error_cb; while a broker is away the rest is 20 lines a second
                "error_cb": _say_error,
            }
        )

    def spans(self, topics: tuple[str, ...]) -> dict[TopicPartition, Span]:
        """Every partition of the topics, with what it holds. Raises Unavailable, also for a topic that is not there."""
        try:
            return {
                partition: Span(*self._consumer.get_watermark_offsets(KafkaTopicPartition(*partition), _TIMEOUT_S))
                for topic in topics
                for partition in self._partitions(topic)
            }
        except KafkaException as exc:
            raise from_kafka(exc.args[0], f"asking for {' and '.join(topics)}") from exc

    def begin(self, places: dict[TopicPartition, int]) -> None:
        """Read each partition from its offset on."""
        self._consumer.assign([KafkaTopicPartition(*partition, offset) for partition, offset in places.items()])

    def poll(self) -> Iterator[Read | EndOf]:
        """What came within some 50 ms, in each partition's order. Raises PositionLost, Refused."""
        messages = self._consumer.consume(_RECORDS_PER_POLL, _POLL_S)
        if any(message.error() is None for message in messages[:1]):
            answers("kafka")
        for message in messages:
            partition = TopicPartition(message.topic(), message.partition())
            error = message.error()
            if error is None:
                yield Read(partition, message.offset(), message.value() or b"", message.timestamp()[1])
            elif error.code() == KafkaError._PARTITION_EOF:
                yield EndOf(partition, message.offset())
            else:
                _raise_unless_passing(from_kafka(error, str(partition)))

    def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The partitions' ends as last fetched, where they are known. Asks nobody."""
        marks = {
            partition: self._consumer.get_watermark_offsets(KafkaTopicPartition(*partition), cached=True)[1]
            for partition in partitions
        }
        return {partition: end for partition, end in marks.items() if end >= 0}

    def close(self) -> None:
        self._consumer.close()

    def _partitions(self, topic: str) -> list[TopicPartition]:
        found = self._consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
        if found.error is not None:
            message = f"topic {topic}: {found.error.str()}; make the topics with: meterlog topics create"
            raise Unavailable(message)
        return [TopicPartition(topic, number) for number in sorted(found.partitions)]


def _raise_unless_passing(error: SinkError) -> None:
    if not isinstance(error, Unavailable):
        raise error
    does_not_answer("kafka", str(error))
    say("sink.clickhouse.kafka_unavailable", logging.WARNING, error=str(error))  # the consumer itself tries again


def _say_error(error: KafkaError) -> None:
    """Say that nobody answers, once in a while, and leave out each try to reach somebody."""
    if error.code() in (KafkaError._TRANSPORT, KafkaError._RESOLVE):
        return
    does_not_answer("kafka", error.str())
    say("sink.clickhouse.kafka_unavailable", logging.WARNING, error=error.str())
