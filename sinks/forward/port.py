"""What the forwarder needs of the outside: history to read, the log to append to, and how far the fold is.

`sinks.forward.kafka` has them over Kafka; `sinks.forward.memory` is the whole of it in lists.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Acknowledged", "EndOf", "FoldProgress", "History", "Log", "Place", "Record", "Unavailable"]

Headers = Sequence[tuple[str, bytes | None]]


class Unavailable(Exception):
    """Raised when the other side does not answer just now; nothing was done, and the caller asks again later."""


class Record(NamedTuple):
    """A committed record of `usage-backfill`, as it lies there."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size_bytes(self) -> int:
        return len(self.key or b"") + len(self.value or b"")


class EndOf(NamedTuple):
    """All that is committed of the partition was given; the next record gets `offset` or a later one."""

    partition: int
    offset: int


class Acknowledged(NamedTuple):
    """The log has the record, at `offset` of the partition of the same number."""

    partition: int
    source_offset: int
    offset: int


class Place(NamedTuple):
    """Where reading of a partition begins."""

    committed: int | None
    """Behind the last record whose append was acknowledged and noted; None: never noted."""
    start: int
    """The first offset that retention has left."""


class History(Protocol):
    """Reads `usage-backfill`. Partitions come and go; `on_revoked` runs before another process may read them."""

    def open(
        self, on_assigned: Callable[[Collection[int]], None], on_revoked: Callable[[Collection[int]], None]
    ) -> None:
        """Begin; the callbacks run within `poll` and `close`."""
        ...

    def poll(self, timeout_s: float) -> Sequence[Record | EndOf]:
        """What has come, in each partition's order; waits up to `timeout_s` for the first of it."""
        ...

    def place(self, partition: int) -> Place:
        """Raises Unavailable."""
        ...

    def pause(self, partition: int) -> None:
        """Give nothing more of it until `resume`; what was polled stays with the caller."""
        ...

    def resume(self, partition: int) -> None: ...

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        """Note where the next owner begins; without `wait` it is asked for, and `refused` tells what came to nothing.

        What is not noted is read, and forwarded, again. Raises Unavailable.
        """
        ...

    def refused(self) -> Collection[int]:
        """The partitions of commits that came to nothing since the last call: they are to be noted once more."""
        ...

    def close(self) -> None: ...


class Log(Protocol):
    """Appends to `usage-events`, each record to the partition of its own number, in order."""

    def append(self, record: Record) -> None:
        """Promises nothing: `acknowledged` does. What it has not acknowledged when the process ends may be on the log or not."""
        ...

    def acknowledged(self) -> Sequence[Acknowledged]:
        """What the log has taken since the last call, each partition in order. Raises Broken where it can take no more."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Wait up to that long for what is under way."""
        ...


class FoldProgress(Protocol):
    """How far the fold is on `usage-events`."""

    def folded(self, partitions: Collection[int]) -> Mapping[int, int]:
        """The offset behind the last record that each partition's fold has committed, 0 where none. Raises Unavailable."""
        ...

    def ends(self, partitions: Collection[int]) -> Mapping[int, int]:
        """The offset behind the last record. Raises Unavailable."""
        ...
