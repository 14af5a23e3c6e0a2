"""How far a reader of the log is behind, and which record it has not taken in."""

import contextlib
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

__all__ = ["Lag", "LagGauge", "LogUnreachable", "Place", "Unread"]

_TIMEOUT_S: Final = 5.0
_READ_WAIT_S: Final = 3.0
_NO_OFFSET: Final = 0  # a reader that never committed has everything before it

Place = tuple[str, int]
"""Topic and partition."""


class LogUnreachable(Exception):
    """Kafka does not answer, or refuses."""


class Unread(NamedTuple):
    """The first record of a partition that its reader has not taken in."""

    place: Place
    offset: int
    append_ms: int | None
    """By the broker's clock. None: it lies behind a transaction that is open, and nobody can read it yet."""


class Lag(NamedTuple):
    """Of all partitions that were asked for."""

    record_count: int
    """Offsets between the reader and the log's ends, transaction markers among them."""
    unread: tuple[Unread, ...]
    """At most one a partition; none where the reader has everything."""
    ends: Mapping[Place, int]
    """Each partition ends before this offset, uncommitted records included."""
    notes: Mapping[int, str]
    """By partition, what the group's worker left beside its offset: why it stands there."""


class _Look(NamedTuple):
    """What lies on a partition from an offset on, as it was once read: a log does not change."""

    from_offset: int
    record: Unread | None
    """The first record; None: there is none before `to_offset`."""
    to_offset: int

    def answers(self, offset: int, end: int) -> bool:
        """Whether it tells the first record at or behind `offset` of a partition that ends before `end`."""
        if self.record is None:
            return self.from_offset <= offset and end <= self.to_offset
        return self.record.append_ms is not None and self.from_offset <= offset <= self.record.offset < end


class LagGauge:
    """Measures lags. Calls come one at a time, from one thread.

    A partition that ends in transaction markers has offsets that no reader ever gets. So the records themselves are
    looked for: a lag counts only where there is one, or where an open transaction hides what there is. What was read once is
    not read again: a fold that stands does so before the same record, and on a busy machine a read can take seconds.
    """

    def __init__(self, bootstrap_servers: str, group: str) -> None:
        """`group`: the consumer group whose offsets are looked at. It is never joined, and nothing is committed."""
        settings = {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 0,
        }
        self._reader = Consumer(
            settings
            | {
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": 4_096,  # one record is looked at; a broker sends at least that
                "queued.min.messages": 1,
            }
        )
        # A reader of committed records is told that the partition ends where an open transaction begins.
        self._ends = Consumer(settings | {"isolation.level": "read_uncommitted"})
        self._looks: dict[Place, _Look] = {}

    def close(self) -> None:
        self._reader.close()
        self._ends.close()

    def of_group(self, topic: str, partitions: int) -> Lag:
        """How far the group is behind, by the offsets that it committed. Raises LogUnreachable."""
        asked = [TopicPartition(topic, number) for number in range(partitions)]
        try:
            committed = self._reader.committed(asked, timeout=_TIMEOUT_S)
        except KafkaException as exc:
            raise LogUnreachable(exc.args[0].str()) from exc
        lag = self.of_offsets({(topic, at.partition): max(at.offset, _NO_OFFSET) for at in committed})
        return lag._replace(notes={at.partition: at.metadata for at in committed if at.metadata})

    def of_offsets(self, next_offsets: Mapping[Place, int]) -> Lag:
        """How far a reader is behind that reads `next_offsets`, by topic and partition, next. Raises LogUnreachable."""
        ends = {place: self.end_of(place) for place in next_offsets}
        # One that ends before what was read was made anew, and nothing of it is read yet.
        reached = {place: offset if offset <= ends[place] else _NO_OFFSET for place, offset in next_offsets.items()}
        behind = {place: offset for place, offset in reached.items() if ends[place] > offset}
        unread = self._first_unread(behind, ends) if behind else ()
        return Lag(sum(ends[found.place] - behind[found.place] for found in unread), unread, ends, {})

    def end_of(self, place: Place) -> int:
        """Offset behind the last record, uncommitted ones included. Raises LogUnreachable."""
        # One partition a call, about 1 ms. The admin client asks for all at once, but its requests that time out have
        # ended the process with a failed assertion (librdkafka 2.16, a broker that was killed and came back).
        try:
            marks: tuple[int, int] = self._ends.get_watermark_offsets(TopicPartition(*place), timeout=_TIMEOUT_S)
        except KafkaException as exc:
            self._forget_leaders(place[0])
            raise LogUnreachable(exc.args[0].str()) from exc
        return marks[1]

    def _forget_leaders(self, topic: str) -> None:
        """Ask anew who leads: a reader that nothing is assigned to believes for minutes who led before a broker went away."""
        with contextlib.suppress(KafkaException):
            self._ends.list_topics(topic, timeout=_TIMEOUT_S)

    def _first_unread(self, behind: Mapping[Place, int], ends: Mapping[Place, int]) -> tuple[Unread, ...]:
        """The first record at or behind each offset; partitions without one are left out."""
        looks = self._looks
        new = {
            place: offset
            for place, offset in behind.items()
            if place not in looks or not looks[place].answers(offset, ends[place])
        }
        if new:
            self._look(new, ends)
        return tuple(record for place in behind if (record := looks[place].record) is not None)

    def _look(self, places: Mapping[Place, int], ends: Mapping[Place, int]) -> None:
        """Read the first record of each. What was read stays known when others take too long: LogUnreachable."""
        self._reader.assign([TopicPartition(*place, offset) for place, offset in places.items()])
        try:
            self._read_one_each(places, ends)
        finally:
            self._reader.unassign()

    def _read_one_each(self, places: Mapping[Place, int], ends: Mapping[Place, int]) -> None:
        awaited = set(places)
        deadline_s = time.monotonic() + _READ_WAIT_S
        while awaited:
            message = self._reader.poll(max(0.0, deadline_s - time.monotonic()))
            if message is None:
                raise LogUnreachable("the first uncounted records could not be read in time")
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise LogUnreachable(error.str())
            place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
            if place not in awaited:
                continue
            awaited.remove(place)
            record = None
            if error is None:
                record = Unread(place, offset, message.timestamp()[1])
            elif offset < ends[place]:
                record = Unread(place, offset, None)
            self._looks[place] = _Look(places[place], record, offset)
