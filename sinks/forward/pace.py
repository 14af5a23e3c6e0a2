"""How many records may go. Pure: offsets and times in, numbers out.

A live event waits for what lies before it on its partition. So a *lane* counts the records of ours that the fold has not
committed yet, and keeps them at `window`: however fast or slow the fold is, a live event never has more than that before it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sinks.forward.port import Record

__all__ = ["BUFFERED_BYTES_MAX", "Lane", "Rate"]

BUFFERED_BYTES_MAX: Final = 8 << 20
"""Of a lane's records in memory: a record may have a megabyte."""


class Lane:
    """One partition: what was read of `usage-backfill`, what is under way, and what waits on `usage-events` for the fold."""

    def __init__(self, partition: int, window: int) -> None:
        assert window >= 1, f"a window of {window} lets nothing pass"
        self.partition = partition
        self.is_paused = False
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
        self._unfolded = deque([*range(max(folded, end - self._window), end), *sent_meanwhile])

    @property
    def is_begun(self) -> bool:
        return self._is_begun

    @property
    def room(self) -> int:
        """How many records may be appended now."""
        if not self._is_begun:
            return 0
        return max(0, self._window - len(self._unfolded) - len(self._sending))

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
        return len(self._read) >= 2 * self._window or self._read_bytes >= BUFFERED_BYTES_MAX

    @property
    def is_low(self) -> bool:
        """Whether reading should go on: apart from `is_full`, so that a pause is worth its price, a fetch that is thrown away."""
        return len(self._read) < self._window and self._read_bytes < BUFFERED_BYTES_MAX // 2

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

    def acknowledged(self, source_offset: int, offset: int) -> None:
        """The log has it at `offset`; it may have been appended by a former lane of this partition."""
        self._unfolded.append(offset)
        self._sending.discard(source_offset)
        while self._under_way and self._under_way[0] not in self._sending:
            self.noted = self._under_way.popleft() + 1
        self._note()

    def folded(self, next_offset: int) -> None:
        """The fold has committed everything before `next_offset`."""
        while self._unfolded and self._unfolded[0] < next_offset:
            self._unfolded.popleft()

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
