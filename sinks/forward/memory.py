"""The ports in lists: a log and a history of one process, for tests and models of the forwarder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice

from sinks.forward.port import Acknowledged, EndOf, Place, Record, Unavailable

__all__ = ["MemoryFold", "MemoryHistory", "MemoryLog", "MemoryTopics"]

Callback = Callable[[Collection[int]], None]


class MemoryTopics:
    """What outlives a forwarder: both topics, what the group has noted, and how far the fold is."""

    def __init__(self, partitions: int) -> None:
        self.history: dict[int, list[Record]] = {number: [] for number in range(partitions)}
        self.log: dict[int, list[Record | None]] = {number: [] for number in range(partitions)}
        """None: somebody else's record, a live event."""
        self.noted: dict[int, int] = {}
        self.folded: dict[int, int] = dict.fromkeys(range(partitions), 0)
        self.is_away = False
        """Whether Kafka does not answer."""

    def send_history(self, partition: int, value: bytes) -> None:
        lane = self.history[partition]
        lane.append(Record(partition, len(lane), b"key", value))

    def send_live(self, partition: int) -> None:
        self.log[partition].append(None)

    def fold(self, partition: int, count: int) -> None:
        """Commit up to `count` more records."""
        self.folded[partition] = min(self.folded[partition] + count, len(self.log[partition]))

    def unfolded_count(self, partition: int) -> int:
        """Records of the forwarder's that the fold has not committed."""
        return sum(record is not None for record in islice(self.log[partition], self.folded[partition], None))


class MemoryHistory:
    """One reader of the history; it is assigned every partition when it is opened."""

    def __init__(self, topics: MemoryTopics, records_per_poll: int = 50) -> None:
        self._topics = topics
        self._records_per_poll = records_per_poll
        self._next: dict[int, int] = {}
        self._paused: set[int] = set()
        self._refused: set[int] = set()
        self._on_revoked: Callback | None = None

    def open(self, on_assigned: Callback, on_revoked: Callback) -> None:
        self._on_revoked = on_revoked
        self._next = {number: self._topics.noted.get(number, 0) for number in self._topics.history}
        on_assigned(tuple(self._next))

    def reassign(self, on_assigned: Callback) -> None:
        """Give every partition away and take it back."""
        assert self._on_revoked is not None, "it is open"
        self._on_revoked(tuple(self._next))
        self.open(on_assigned, self._on_revoked)

    def poll(self, timeout_s: float) -> Sequence[Record | EndOf]:
        found: list[Record | EndOf] = []
        for number, offset in self._next.items():
            if number in self._paused:
                continue
            records = self._topics.history[number][offset : offset + self._records_per_poll]
            found += records
            self._next[number] = offset + len(records)
            if records and self._next[number] == len(self._topics.history[number]):
                found.append(EndOf(number, self._next[number]))
        return found

    def place(self, partition: int) -> Place:
        return Place(self._topics.noted.get(partition), 0)

    def pause(self, partition: int) -> None:
        self._paused.add(partition)

    def resume(self, partition: int) -> None:
        self._paused.discard(partition)

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        if self._topics.is_away and not wait:
            self._refused |= offsets.keys()
            return
        _ask(self._topics)
        self._topics.noted.update(offsets)

    def refused(self) -> Collection[int]:
        refused, self._refused = self._refused, set()
        return refused

    def close(self) -> None:
        assert self._on_revoked is not None, "it is open"
        self._on_revoked(tuple(self._next))


class MemoryLog:
    """Appends go into the log when `deliver` says so, and are acknowledged then."""

    def __init__(self, topics: MemoryTopics) -> None:
        self._topics = topics
        self._sent: list[Record] = []
        self._done: list[Acknowledged] = []

    def append(self, record: Record) -> None:
        self._sent.append(record)

    def deliver(self, count: int | None = None) -> None:
        """Let the first `count` of what was appended arrive; None: all."""
        arriving, self._sent = self._sent[:count], self._sent[len(self._sent) if count is None else count :]
        for record in arriving:
            log = self._topics.log[record.partition]
            self._done.append(Acknowledged(record.partition, record.offset, len(log)))
            log.append(record)

    def acknowledged(self) -> Sequence[Acknowledged]:
        done, self._done = self._done, []
        return done

    def flush(self, timeout_s: float) -> None:
        if not self._topics.is_away:
            self.deliver()


class MemoryFold:
    def __init__(self, topics: MemoryTopics) -> None:
        self._topics = topics

    def folded(self, partitions: Collection[int]) -> Mapping[int, int]:
        _ask(self._topics)
        return {number: self._topics.folded[number] for number in partitions}

    def ends(self, partitions: Collection[int]) -> Mapping[int, int]:
        _ask(self._topics)
        return {number: len(self._topics.log[number]) for number in partitions}


def _ask(topics: MemoryTopics) -> None:
    if topics.is_away:
        message = "Kafka is away"
        raise Unavailable(message)
