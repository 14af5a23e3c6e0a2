"""Where the sink is in each partition, and where a start begins again."""

from collections import deque
from typing import Final, NamedTuple

__all__ = ["Place", "Position", "TopicPartition", "Trail"]

_MARK_MS: Final = 60_000
"""Between two places that a start may go back to: a start reads at most this much more than it was told to."""


class TopicPartition(NamedTuple):
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Place(NamedTuple):
    """A place between two source records of a partition."""

    next_offset: int
    """Offset, on the topic itself, of the first record behind this place."""
    source_offset: int
    """Ledger: offset of the last record of `usage-events` before this place. -1: there is none, or another topic."""
    log_ms: int
    """Log time of what lies before; on `usage-totals` the time at which it was written. 0 before all."""


class Position(NamedTuple):
    """How far one partition is stored, and the earlier place at which the next start begins again."""

    reached: Place
    rewind: Place


class Trail:
    """The places that were passed in the last `rewind_ms` of log time, thinned out to one a minute.

    The place to go back to is one that was passed, never one that was looked up by time: it lies between two source
    records, and it is known which record came before, so that a gap behind it is found.
    """

    def __init__(self, start: Place, rewind_ms: int) -> None:
        self._rewind_ms = rewind_ms
        self._marks = deque([start])
        self.reached = start

    def pass_by(self, place: Place) -> None:
        """Everything before `place` was read."""
        assert place.next_offset >= self.reached.next_offset, f"{place} lies before {self.reached}"
        self.reached = place
        if place.log_ms - self._marks[-1].log_ms >= _MARK_MS:
            self._marks.append(place)
        while len(self._marks) > 1 and self._marks[1].log_ms <= place.log_ms - self._rewind_ms:
            self._marks.popleft()

    def position(self) -> Position:
        return Position(self.reached, self._marks[0])
