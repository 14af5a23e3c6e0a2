"""How many records may go. Pure: offsets and times in, numbers out.

A live event waits for what lies before it on its partition. So a *lane* counts the records of ours that the fold has not
committed yet, and keeps them within a *window*: however fast or slow the fold is, a live event never has more than that before
it. The window shrinks while the fold takes long for what is in it: history spreads over many rows, and a thousand of its
events have been seen to take a busy machine 3 s.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sinks.forward.port import Record

__all__ = ["BUFFERED_BYTES_MAX", "Lane", "Rate", "Window"]

BUFFERED_BYTES_MAX: Final = 8 << 20
"""Of a lane's records in memory: a record may have a megabyte."""


_WINDOW_FIRST: Final = 100
_WINDOW_MIN: Final = 50
"""Less would save a live event some milliseconds, and cost the backfill an epoch each time."""


class Window:
    """How many records may be unfolded: as many as the fold takes within `wait_s_target`, `size_max` at most."""

    def __init__(self, size_max: int, wait_s_target: float) -> None:
        assert size_max >= 1, f"a window of {size_max} lets nothing pass"
        self.size_max = size_max
        self.size = min(_WINDOW_FIRST, size_max)
        self._wait_s_target = wait_s_target
        self._changed_s = 0.0

    def saw(self, acknowledged_s: float, folded_s: float) -> None:
        """A record that the log had at the one moment is found folded at the other.

        What was on its way before the last change says nothing of the window as it is now.
        """
        if acknowledged_s < self._changed_s:
            return
        self._changed_s = folded_s
        if folded_s - acknowledged_s > self._wait_s_target:
            self.size = max(min(_WINDOW_MIN, self.size_max), self.size // 2)
        else:
            self.size = min(self.size_max, self.size + self.size // 4 + 1)


class Lane:
    """One partition: what was read of `usage-backfill`, what is under way, and what waits on `usage-events` for the fold."""

    def __init__(self, partition: int, window: Window) -> None:
        self.partition = partition
        self.is_paused: bool | None = None
        """Whether nothing more of it is read. None: not known, since a former lane in this process may have paused it."""
        self._window = window
        self._is_begun = False
        self._read: deque[Record] = deque()
        self._read_bytes = 0
        self._read_to: int | None = None
        self._under_way: deque[int] = deque()
        """Source offsets that were appended, from the first that is not acknowledged yet."""
        self._sending: set[int] = set()
        """Those of them that are not acknowledged yet."""
        self._unfolded: deque[int] = deque()
        """Offsets on `usage-events` of acknowledged records that the fold has not committed, rising."""
        self._acknowledged_s: deque[float | None] = deque()
        """Since when the log has each of them; None: it may be an earlier owner's."""
        self.taken_count = 0
        """Records that were appended: while it stands still, the lane does."""
        self.noted: int | None = None
        """Behind the last source record before which all are acknowledged: what may be committed."""

    def begin(self, folded: int, end: int) -> None:
        """Learn where the fold and the log's end are. Before it, there is room for nothing.

        Which of the records between the two an earlier owner had forwarded is not known. They were at most a window, so the
        last window of them is taken for ours: the true ones lie no later, and are folded no later.
        """
        assert not self._is_begun, f"lane {self.partition} has begun"
        self._is_begun = True
        sent_meanwhile = [offset for offset in self._unfolded if offset >= end]
        self._unfolded = deque([*range(max(folded, end - self._window.size_max), end), *sent_meanwhile])
        self._acknowledged_s = deque([None] * len(self._unfolded))

    @property
    def is_begun(self) -> bool:
        return self._is_begun

    @property
    def room(self) -> int:
        """How many records may be appended now."""
        if not self._is_begun:
            return 0
        return max(0, self._window.size - len(self._unfolded) - len(self._sending))

    @property
    def waiting_count(self) -> int:
        """Read, and not yet appended."""
        return len(self._read)

    @property
    def is_sending(self) -> bool:
        """Whether appended records are not acknowledged yet."""
        return bool(self._sending)

    @property
    def is_watched(self) -> bool:
        """Whether the fold's progress would change anything."""
        return bool(self._read) and bool(self._unfolded)

    @property
    def is_full(self) -> bool:
        """Whether no more should be read for now: twice the window lies ready, or too many bytes."""
        return len(self._read) >= 2 * self._window.size_max or self._read_bytes >= BUFFERED_BYTES_MAX

    @property
    def is_low(self) -> bool:
        """Whether reading should go on: apart from `is_full`, so that a pause is worth its price, a fetch that is thrown away."""
        return len(self._read) < self._window.size_max and self._read_bytes < BUFFERED_BYTES_MAX // 2

    def read(self, record: Record) -> None:
        self._read.append(record)
        self._read_bytes += record.size_bytes

    def read_to(self, offset: int) -> None:
        """Everything before `offset` was read. Markers of transactions lie behind the last record and are none."""
        self._read_to = offset
        self._note()

    def take(self) -> Record:
        """The next record, to be appended now. Only when `room` and `waiting_count` say so."""
        record = self._read.popleft()
        self._read_bytes -= record.size_bytes
        self._under_way.append(record.offset)
        self._sending.add(record.offset)
        self.taken_count += 1
        return record

    def acknowledged(self, source_offset: int, offset: int, now_s: float) -> None:
        """The log has it at `offset`; it may have been appended by a former lane of this partition."""
        self._unfolded.append(offset)
        self._acknowledged_s.append(now_s)
        self._sending.discard(source_offset)
        while self._under_way and self._under_way[0] not in self._sending:
            self.noted = self._under_way.popleft() + 1
        self._note()

    def folded(self, next_offset: int, now_s: float) -> None:
        """The fold has committed everything before `next_offset`."""
        while self._unfolded and self._unfolded[0] < next_offset:
            self._unfolded.popleft()
            since_s = self._acknowledged_s.popleft()
            if since_s is not None:
                self._window.saw(since_s, now_s)

    def _note(self) -> None:
        if self._read_to is not None and not self._read and not self._under_way:
            self.noted = max(self.noted or 0, self._read_to)


class Rate:
    """At most so many records a second; what was not used in a second is not saved up."""

    def __init__(self, per_s: float | None, now_s: float) -> None:
        self._per_s = per_s
        self._allowed = 0.0
        self._at_s = now_s

    @property
    def is_limited(self) -> bool:
        return self._per_s is not None

    def allowed(self, now_s: float) -> int | None:
        """How many may go now; None: any number."""
        if self._per_s is None:
            return None
        self._allowed = min(self._allowed + (now_s - self._at_s) * self._per_s, max(self._per_s, 1.0))
        self._at_s = now_s
        return int(self._allowed)

    def used(self, count: int) -> None:
        if self._per_s is not None:
            self._allowed -= count
