"""A broker's log in memory: topics, offsets, transactions with their markers, retention and compaction.

What Kafka promises, and the odd things it does: markers and aborted records take offsets; the decision to commit comes
before the markers, and those reach each partition at a time of its own; nobody reads past the first open transaction.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Broker", "BrokerError", "Busy", "Entry", "Fenced", "Item", "OutOfRange", "PartitionLog", "Tp", "Txn"]

Tp = tuple[str, int]
"""Topic and partition."""
Item = tuple[bytes | None, bytes | None]
"""Key and value."""
Headers = tuple[tuple[str, bytes], ...]


class BrokerError(Exception):
    """What a client is told that the broker would not, or could not, do."""


class Fenced(BrokerError):
    """A newer owner of the transactional id came, or its transaction took too long."""


class Busy(BrokerError):
    """Markers of the id's last transaction are still being written; clients ask again."""


class OutOfRange(BrokerError):
    """The offset lies before the log's start or behind its end."""


class Outcome(Enum):
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(slots=True, eq=False)
class Txn:
    """One transaction."""

    number: int
    name: str
    """Its transactional id."""
    outcome: Outcome = Outcome.OPEN
    logs: dict[PartitionLog, None] = field(default_factory=dict)
    """Those that it wrote to and that have no marker of it yet."""
    group_offsets: dict[Tp, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Entry:
    """One offset's worth of a log: a record, or a transaction's marker."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    """Append time in milliseconds, by the broker's clock."""
    txn: Txn | None
    is_marker: bool = False
    met_ms: int | None = None
    """When compaction first met it, a tombstone, by the broker's clock."""
    note: object = None
    """What the load says that it is; the broker and the product do not look at it."""

    @property
    def counts(self) -> bool:
        """Whether a reader of committed records is given it."""
        return not self.is_marker and (self.txn is None or self.txn.outcome is Outcome.COMMITTED)


class PartitionLog:
    """One partition of a topic."""

    def __init__(self, tp: Tp) -> None:
        self.tp = tp
        self.entries: list[Entry] = []
        self.history: list[Entry] = []
        """Every entry there ever was, retention and compaction aside."""
        self.start = self.end = 0
        self.open: dict[Txn, int] = {}
        """Transactions without a marker here, and the first offset of each."""
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def stable_end(self) -> int:
        """Behind the last offset that a reader of committed records may pass."""
        return min(self.open.values(), default=self.end)

    @property
    def ends_committed(self) -> bool:
        """Whether the last record of all is one that was committed."""
        return next((entry.counts for entry in reversed(self.entries) if not entry.is_marker), False)

    def append(self, item: Item, timestamp: int, txn: Txn | None, headers: Headers = (), note: object = None) -> int:
        if txn is not None:
            self.join(txn)
        return self._put(Entry(self.end, *item, headers, timestamp, txn, note=note))

    def join(self, txn: Txn) -> None:
        """The transaction is on this partition, too."""
        if txn not in self.open:
            self.open[txn] = self.end
            txn.logs[self] = None

    def mark(self, txn: Txn, timestamp: int) -> None:
        """Write the marker of a transaction that is decided.

        It also ends what hangs here of the same id, whichever way that had been decided.
        """
        for hanging in [each for each in self.open if each.name == txn.name]:
            self.open.pop(hanging)
            for entry in self.history:
                if entry.txn is hanging:
                    entry.txn = txn
        txn.logs.pop(self)
        self._put(Entry(self.end, None, None, (), timestamp, txn, is_marker=True))

    def _put(self, entry: Entry) -> int:
        self.entries.append(entry)
        self.history.append(entry)
        self.end += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
        return entry.offset

    def read(self, start: int, count_max: int) -> tuple[list[Entry], int]:
        """Committed records from `start` on, and the offset to go on from. Raises OutOfRange."""
        if not self.start <= start <= self.end:
            message = f"{self.tp}: {start} is not within {self.start}..{self.end}"
            raise OutOfRange(message)
        stable_end = self.stable_end
        found: list[Entry] = []
        for index in range(self._index(start), len(self.entries)):
            entry = self.entries[index]
            if entry.offset >= stable_end:
                break
            if entry.counts:
                if len(found) == count_max:
                    return found, entry.offset
                found.append(entry)
        return found, max(start, stable_end)

    def changed(self) -> asyncio.Future[None]:
        """Done when something is appended, markers included."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def committed(self) -> list[Entry]:
        """Every record that counts and that is still there."""
        stable_end = self.stable_end
        return [entry for entry in self.entries if entry.offset < stable_end and entry.counts]

    def ever_committed(self) -> list[Entry]:
        """As `committed`, with what retention and compaction removed."""
        stable_end = self.stable_end
        return [entry for entry in self.history if entry.offset < stable_end and entry.counts]

    def cut_head(self, before: int) -> None:
        """Retention: the log begins at `before`."""
        before = min(before, self.stable_end)
        if before > self.start:
            del self.entries[: self._index(before)]
            self.start = before

    def compact(self, before: int, now_ms: int, tombstones_before_ms: int) -> None:
        """Of each key below offset `before` the last value is kept; so are tombstones, until they were first met long ago.

        As Kafka has it since 3.1 (KIP-534): a tombstone's time begins when it is first compacted, so that whoever reads
        the log from its head meets it, however old it is.
        """
        before = min(before, self.stable_end)
        cut = self._index(before)
        last = {entry.key: entry.offset for entry in self.entries[:cut] if entry.counts}
        self.entries[:cut] = [
            entry for entry in self.entries[:cut] if self._survives(entry, last, now_ms, tombstones_before_ms)
        ]

    @staticmethod
    def _survives(entry: Entry, last: dict[bytes | None, int], now_ms: int, tombstones_before_ms: int) -> bool:
        if not entry.counts or last[entry.key] != entry.offset:
            return False
        if entry.value is not None:
            return True
        if entry.met_ms is None:
            entry.met_ms = now_ms
        return entry.met_ms >= tombstones_before_ms

    def _index(self, offset: int) -> int:
        return bisect_left(self.entries, offset, key=lambda entry: entry.offset)


@dataclass(slots=True)
class _Id:
    """A transactional id."""

    epoch: int = 0
    txn: Txn | None = None
    hanging_offsets: dict[Tp, int] = field(default_factory=dict)
    """The group's, of transactions whose markers were lost."""


class Broker:
    """All topics, all transactional ids, the group's offsets. Requests take effect at once, or not at all."""

    def __init__(
        self,
        topics: Iterable[str],
        partition_count: int,
        now_ms: Callable[[], int],
        delay_s: Callable[[Txn, PartitionLog], float],
        transaction_timeout_s: float,
        loses_markers: Callable[[Txn], bool],
    ) -> None:
        """`delay_s` says how long a decided transaction's marker takes to reach a partition.

        `loses_markers`: whether all markers of a transaction are lost, for want of a leader to write them, and it is called
        complete all the same. It hangs until the next marker of its id.
        """
        self.logs = {
            (topic, number): PartitionLog((topic, number)) for topic in topics for number in range(partition_count)
        }
        self.group_offsets: dict[Tp, int] = {}
        self.outputs: dict[str, list[Tp]] = {}
        """Of each transactional id: where each of its transactions has a marker, whatever it writes."""
        self.fences = True
        """False is a planted fault: a former owner's writes are taken."""
        self._now_ms = now_ms
        self._delay_s = delay_s
        self._timeout_s = transaction_timeout_s
        self._loses_markers = loses_markers
        self._ids: dict[str, _Id] = {}
        self._txn_count = 0

    def append(self, tp: Tp, item: Item, headers: Headers = (), note: object = None) -> int:
        """A record outside any transaction; gives its offset."""
        return self.logs[tp].append(item, self._now_ms(), None, headers, note)

    def take_id(self, name: str) -> int:
        """A new owner of a transactional id: the former one is fenced, what it left open is aborted. Raises Busy."""
        held = self._ids.setdefault(name, _Id())
        if held.txn is not None and held.txn.outcome is Outcome.OPEN:
            held.epoch += 1
            self._end(held, Outcome.ABORTED)
        if held.txn is not None:
            raise Busy(name)
        held.epoch += 1
        return held.epoch

    def epoch_of(self, name: str) -> int:
        """Of the newest owner of a transactional id."""
        return self._ids[name].epoch

    def produce(self, name: str, epoch: int, tp: Tp, items: Sequence[Item], notes: Sequence[object] = ()) -> int:
        """Records within the id's transaction; gives the offset behind the last. Raises Fenced, Busy."""
        txn = self._txn_of(name, epoch)
        log = self.logs[tp]
        now_ms = self._now_ms()
        for index, item in enumerate(items):
            log.append(item, now_ms, txn, note=notes[index] if notes else None)
        return log.end

    def add_group_offset(self, name: str, epoch: int, tp: Tp, next_offset: int) -> None:
        """The group's offset, within the id's transaction. Raises Fenced, Busy."""
        self._txn_of(name, epoch).group_offsets[tp] = next_offset

    def end(self, name: str, epoch: int, *, commit: bool) -> None:
        """Decide the id's transaction; its markers follow. Raises Fenced, Busy."""
        held = self._held(name, epoch)
        if held.txn is not None:
            self._end(held, Outcome.COMMITTED if commit else Outcome.ABORTED)

    def _held(self, name: str, epoch: int) -> _Id:
        held = self._ids[name]
        if held.epoch != epoch and self.fences:
            message = f"{name}: epoch {epoch} was replaced by {held.epoch}"
            raise Fenced(message)
        if held.txn is not None and held.txn.outcome is not Outcome.OPEN:
            raise Busy(name)
        return held

    def _txn_of(self, name: str, epoch: int) -> Txn:
        held = self._held(name, epoch)
        if held.txn is None:
            self._txn_count += 1
            held.txn = Txn(self._txn_count, name)
            for tp in self.outputs.get(name, ()):
                self.logs[tp].join(held.txn)
            asyncio.get_running_loop().call_later(self._timeout_s, self._time_out, held, held.txn)
        return held.txn

    def _time_out(self, held: _Id, txn: Txn) -> None:
        if held.txn is txn and txn.outcome is Outcome.OPEN:
            held.epoch += 1
            self._end(held, Outcome.ABORTED)

    def _end(self, held: _Id, outcome: Outcome) -> None:
        txn = held.txn
        assert txn is not None, "there is a transaction to end"
        txn.outcome = outcome
        offsets = held.hanging_offsets | txn.group_offsets
        loses_markers = bool(txn.logs) and self._loses_markers(txn)
        held.hanging_offsets = offsets if loses_markers else {}
        if outcome is Outcome.COMMITTED and not loses_markers:
            self.group_offsets |= offsets
        if loses_markers:
            txn.logs.clear()
        loop = asyncio.get_running_loop()
        for log in txn.logs:
            loop.call_later(self._delay_s(txn, log), self._mark, held, txn, log)
        if not txn.logs:
            held.txn = None

    def _mark(self, held: _Id, txn: Txn, log: PartitionLog) -> None:
        log.mark(txn, self._now_ms())
        if not txn.logs:
            held.txn = None
