"""How far a reader of the log is behind, and since when."""

import time
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

__all__ = ["Lag", "LagGauge", "LogUnreachable"]

_TIMEOUT_S: Final = 5.0
_READ_WAIT_S: Final = 3.0
_NO_OFFSET: Final = 0  # a reader that never committed has everything before it


class LogUnreachable(Exception):
    """Kafka does not answer, or refuses."""


class Lag(NamedTuple):
    record_count: int
    """Offsets between the reader and the log's end, transaction markers among them."""
    oldest_ms: int | None
    """Append time of the first record that was not read; None when there is none."""


class LagGauge:
    """Measures lags. Calls come one at a time, from one thread.

    A partition that ends in transaction markers has offsets that no reader ever gets. So the records themselves are
    looked for: a lag counts only where there is one.
    """

    def __init__(self, bootstrap_servers: str, group: str) -> None:
        """`group`: the consumer group whose offsets are looked at. It is never joined, and nothing is committed."""
        self._reader = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": 4_096,  # one record is looked at; a broker sends at least that
                "queued.min.messages": 1,
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,
            }
        )

    def close(self) -> None:
        self._reader.close()

    def of_group(self, topic: str, partitions: int) -> Lag:
        """How far the group is behind, by the offsets that it committed. Raises LogUnreachable."""
        asked = [TopicPartition(topic, number) for number in range(partitions)]
        try:
            committed = self._reader.committed(asked, timeout=_TIMEOUT_S)
        except KafkaException as exc:
            raise LogUnreachable(exc.args[0].str()) from exc
        return self.of_offsets({(topic, at.partition): max(at.offset, _NO_OFFSET) for at in committed})

    def of_offsets(self, next_offsets: Mapping[tuple[str, int], int]) -> Lag:
        """How far a reader is behind that reads `next_offsets`, by topic and partition, next. Raises LogUnreachable."""
        places = [TopicPartition(topic, number, offset) for (topic, number), offset in next_offsets.items()]
        counts = {(at.topic, at.partition): self._end_of(at) - at.offset for at in places}
        behind = [at for at in places if counts[at.topic, at.partition] > 0]
        if not behind:
            return Lag(0, None)
        found = self._first_records(behind)
        return Lag(sum(counts[place] for place in found), min(found.values(), default=None))

    def _end_of(self, at: TopicPartition) -> int:
        # One partition a call, about 1 ms. The admin client asks for all at once, but its requests that time out have
        # ended the process with a failed assertion (librdkafka 2.16, a broker that was killed and came back).
        try:
            marks: tuple[int, int] = self._reader.get_watermark_offsets(at, timeout=_TIMEOUT_S)
        except KafkaException as exc:
            raise LogUnreachable(exc.args[0].str()) from exc
        return marks[1]

    def _first_records(self, places: list[TopicPartition]) -> dict[tuple[str, int], int]:
        """Append time of the first record at or behind each place; places without one are left out."""
        self._reader.assign(places)
        try:
            return dict(self._read_one_each({(at.topic, at.partition) for at in places}))
        finally:
            self._reader.unassign()

    def _read_one_each(self, awaited: set[tuple[str, int]]) -> Iterable[tuple[tuple[str, int], int]]:
        deadline_s = time.monotonic() + _READ_WAIT_S
        while awaited:
            message = self._reader.poll(max(0.0, deadline_s - time.monotonic()))
            if message is None:
                raise LogUnreachable("the first uncounted records could not be read in time")
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise LogUnreachable(error.str())
            place = (message.topic() or "", message.partition() or 0)
            if place in awaited:
                awaited.remove(place)
                if error is None:
                    yield place, message.timestamp()[1]
