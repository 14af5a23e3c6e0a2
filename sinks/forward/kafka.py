"""The ports over Kafka: a member of the forwarder's group, an idempotent producer, and a look at the fold's group."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from observe.forwarder import ForwarderEvent
from sinks.forward.errors import Broken, Misconfigured
from sinks.forward.log import say
from sinks.forward.port import Acknowledged, EndOf, Place, Record, Unavailable
from sinks.forward.settings import ForwarderSettings

__all__ = ["KafkaFoldProgress", "KafkaHistory", "KafkaLog", "check_topics"]

_TIMEOUT_S: Final = 5.0
_LOOK_TIMEOUT_S: Final = 2.0
_RECORDS_PER_POLL: Final = 1_000
_CUT_BYTES: Final = 64 * 1024
"""What is forwarded of a record that the log does not take: an event's first part, which nobody can read as a whole one."""
_BATCH_BYTES: Final = 1_000_000
"""A record batch: the broker's limit is 1 MiB, for batches as they arrive, packed."""
_RECORD_BYTES_MAX: Final = 100 << 20
"""Of what the client takes: a producer that packs well can have put more than the log's limit on the topic."""
_AWAY: Final = (KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._ALL_BROKERS_DOWN)

Callback = Callable[[Collection[int]], None]


def check_topics(settings: ForwarderSettings) -> int:
    """How many partitions both topics have. Raises Unavailable, and Misconfigured for a topic that is missing or differs."""
    consumer = _consumer(settings, "meterlog-forwarder-check")
    try:
        counts = [_partition_count(consumer, topic) for topic in (settings.history_topic, settings.log_topic)]
    finally:
        consumer.close()
    if counts[0] != counts[1]:
        message = (
            f"{settings.history_topic} has {counts[0]} partitions and {settings.log_topic} has {counts[1]}:"
            f" delete {settings.history_topic} when nothing waits on it, and run meterlog topics create"
        )
        raise Misconfigured(message)
    return counts[0]


class KafkaHistory:
    """Reads `usage-backfill` as a member of a group: where several forwarders run, each has its partitions."""

    def __init__(self, settings: ForwarderSettings) -> None:
        self._topic = settings.history_topic
        self._refused: set[int] = set()
        self._consumer = _consumer(
            settings,
            settings.group,
            {
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": round(settings.session_timeout_s * 1_000),
                "heartbeat.interval.ms": 1_000,
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 16 << 10,
                "on_commit": self._on_commit,
            },
        )

    def open(self, on_assigned: Callback, on_revoked: Callback) -> None:
        self._consumer.subscribe(
            [self._topic],
            on_assign=lambda _, found: on_assigned([each.partition for each in found]),
            on_revoke=lambda _, found: on_revoked([each.partition for each in found]),
        )

    def poll(self, timeout_s: float) -> Sequence[Record | EndOf]:
        found: list[Record | EndOf] = []
        # One is waited for; `consume` of many alone would wait out its time for the last of them.
        first = self._consumer.poll(timeout_s)
        messages = [] if first is None else [first, *self._consumer.consume(_RECORDS_PER_POLL, 0)]
        for message in messages:
            error = message.error()
            if error is None:
                found.append(_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                found.append(EndOf(message.partition(), message.offset()))
            elif error.fatal():
                raise Broken(error.str())
            else:
                say(ForwarderEvent.KAFKA_UNAVAILABLE, logging.WARNING, error=error.str())
        return found

    def place(self, partition: int) -> Place:
        asked = TopicPartition(self._topic, partition)
        try:
            (found,) = self._consumer.committed([asked], _LOOK_TIMEOUT_S)
            start, _ = self._consumer.get_watermark_offsets(asked, _LOOK_TIMEOUT_S)
        except KafkaException as exc:
            raise Unavailable(exc.args[0].str()) from exc
        return Place(found.offset if found.offset >= 0 else None, start)

    def pause(self, partition: int) -> None:
        self._consumer.pause([TopicPartition(self._topic, partition)])

    def resume(self, partition: int) -> None:
        self._consumer.resume([TopicPartition(self._topic, partition)])

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=not wait)
        except KafkaException as exc:
            raise Unavailable(exc.args[0].str()) from exc

    def refused(self) -> Collection[int]:
        refused, self._refused = self._refused, set()
        return refused

    def close(self) -> None:
        self._consumer.close()

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        self._refused |= {place.partition for place in places if error is not None or place.error is not None}


class KafkaLog:
    """An idempotent producer. It tries for ever: what it was given is either acknowledged or, with the process, repeated."""

    def __init__(self, settings: ForwarderSettings) -> None:
        self._topic = settings.log_topic
        self._done: list[Acknowledged] = []
        self._failed: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "client.id": "meterlog-forwarder",
                "enable.idempotence": True,  # and acks=all with it
                "message.timeout.ms": 0,  # for ever
                "message.max.bytes": _RECORD_BYTES_MAX,
                "batch.size": _BATCH_BYTES,
                "queue.buffering.max.messages": 1_000_000,  # windows are what bounds it
                "linger.ms": 5,
                "compression.type": "lz4",
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 2,
                "error_cb": _say_error,
            }
        )

    def append(self, record: Record) -> None:
        self._produce(record, record.key, record.value, list(record.headers))

    def acknowledged(self) -> Sequence[Acknowledged]:
        self._producer.poll(0)
        if self._failed is not None:
            raise Broken(self._failed.str())
        done, self._done = self._done, []
        return done

    def flush(self, timeout_s: float) -> None:
        self._producer.flush(timeout_s)

    def _produce(
        self, record: Record, key: bytes | None, value: bytes | None, headers: list[Any], *, is_cut: bool = False
    ) -> None:
        try:
            self._producer.produce(
                self._topic,
                value,
                key,
                partition=record.partition,
                headers=headers,
                on_delivery=lambda error, message: self._delivered(record, error, message, is_cut=is_cut),
            )
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise Broken(exc.args[0].str()) from exc
            self._cut(record)

    def _delivered(self, record: Record, error: KafkaError | None, message: Message, *, is_cut: bool) -> None:
        if error is None:
            self._done.append(Acknowledged(record.partition, record.offset, message.offset()))
        elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE and not is_cut:
            self._cut(record)
        else:
            self._failed = error

    def _cut(self, record: Record) -> None:
        """Forward its first part, so that the fold lists it: one record must not stop the lane, nor vanish.

        One whose headers alone are too large stays the event that it is: headers decide nothing.
        """
        fields = {"partition": record.partition, "offset": record.offset, "size_bytes": record.size_bytes}
        say(ForwarderEvent.RECORD_CUT, logging.ERROR, **fields)
        value = (record.value or b"")[:_CUT_BYTES]
        self._produce(record, (record.key or b"")[:_CUT_BYTES], value, [], is_cut=True)


class KafkaFoldProgress:
    """Asks a consumer, which never joins the fold's group; the admin client's requests have ended processes before."""

    def __init__(self, settings: ForwarderSettings) -> None:
        self._topic = settings.log_topic
        # Uncommitted: else it would wait for the offsets of the transaction that is just being committed.
        self._consumer = _consumer(settings, settings.fold_group, {"isolation.level": "read_uncommitted"})

    def folded(self, partitions: Collection[int]) -> Mapping[int, int]:
        asked = [TopicPartition(self._topic, number) for number in partitions]
        try:
            found = self._consumer.committed(asked, _LOOK_TIMEOUT_S)
        except KafkaException as exc:
            raise Unavailable(exc.args[0].str()) from exc
        if failed := [each.error.str() for each in found if each.error is not None]:
            raise Unavailable(failed[0])
        return {each.partition: max(0, each.offset) for each in found}

    def ends(self, partitions: Collection[int]) -> Mapping[int, int]:
        try:
            return {number: self._end(number) for number in partitions}
        except KafkaException as exc:
            raise Unavailable(exc.args[0].str()) from exc

    def close(self) -> None:
        self._consumer.close()

    def _end(self, partition: int) -> int:
        _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), _LOOK_TIMEOUT_S)
        return int(end)


def _consumer(settings: ForwarderSettings, group: str, more: dict[str, object] | None = None) -> Any:
    return Consumer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 2,  # what matters comes to error_cb; while a broker is away the rest is 20 lines a second
            "error_cb": _say_error,
            **(more or {}),
        }
    )


def _partition_count(consumer: Any, topic: str) -> int:
    try:
        found = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
    except KafkaException as exc:
        raise Unavailable(exc.args[0].str()) from exc
    if found.error is None:
        return len(found.partitions)
    if found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise Unavailable(found.error.str())
    message = f"there is no topic {topic}; make it with: meterlog topics create"
    raise Misconfigured(message)


def _record(message: Message) -> Record:
    return Record(message.partition(), message.offset(), message.key(), message.value(), _headers(message))


def _headers(message: Message) -> Sequence[tuple[str, bytes | None]]:
    """None where a name is not UTF-8: this client cannot write it again, and headers decide nothing."""
    try:
        found: list[tuple[str, bytes | None]] = message.headers() or []
    except UnicodeDecodeError:
        return ()
    return found


def _say_error(error: KafkaError) -> None:
    """Say that nobody answers, once in a while, and leave out each try to reach somebody."""
    if error.code() not in _AWAY:
        say(ForwarderEvent.KAFKA_UNAVAILABLE, logging.WARNING, error=error.str())
