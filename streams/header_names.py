r"""Records whose header names are not UTF-8, read all the same.

aiokafka decodes header names strictly and raises in the middle of a fetch: whoever may write to the topic could stop a
partition for good with one record, since a worker that starts again fetches it again. Here such a fetch is read a second
time, from its bytes and by aiokafka's decoder in Python, which can be told to be lenient. What cannot be decoded in a name
becomes `\xff` in text, so that the ledger's copy tells it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

__all__ = ["KeptRecords", "LenientPartitionRecords", "read_leniently"]

_LENGTH_AT: Final = 8  # behind the base offset; the length counts what follows it
_LOG_OVERHEAD_BYTES: Final = 12
_StockPartitionRecords: Final = fetcher.PartitionRecords


def read_leniently() -> None:
    """Have every consumer of this process read so. The fetcher finds its classes by these names, and by nothing else."""
    fetcher.MemoryRecords = KeptRecords
    fetcher.PartitionRecords = LenientPartitionRecords


class KeptRecords:
    """aiokafka's MemoryRecords, with the fetched bytes at hand."""

    def __init__(self, data: bytes) -> None:
        stock = MemoryRecords(data)
        self.data = data
        self.has_next = stock.has_next
        self.next_batch = stock.next_batch
        self.size_in_bytes = stock.size_in_bytes


class LenientPartitionRecords(fetcher.PartitionRecords):
    """The records of one partition in one fetch; reads on leniently from the first that the stock decoder refuses."""

    next_fetch_offset: int

    def __init__(
        self, tp: TopicPartition, records: KeptRecords, aborted: Any, fetch_offset: int, *settings: Any
    ) -> None:
        super().__init__(tp, records, aborted, fetch_offset, *settings)
        self._fetched = (tp, records.data, aborted, settings)

    def _unpack_records(self) -> Iterator[Any]:
        """Overrides PartitionRecords: one name that is not UTF-8 does not end the iteration."""
        try:
            yield from super()._unpack_records()
        except UnicodeDecodeError:
            yield from self._unpack_leniently()

    def _unpack_leniently(self) -> Iterator[Any]:
        """The whole fetch again, without what was given out before.

        From its beginning, since what was aborted follows from the markers on the way.
        """
        tp, data, aborted, settings = self._fetched
        start = self.next_fetch_offset
        again = _StockPartitionRecords(tp, _LenientRecords(data), aborted, start, *settings)
        for record in again:
            if record.offset >= start:
                self.next_fetch_offset = again.next_fetch_offset
                yield record
        self.next_fetch_offset = again.next_fetch_offset


class _LenientRecords:
    """Batches one after the other, each read in Python; the last one may have been cut off by the fetch's size."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._start = 0

    def has_next(self) -> bool:
        return self._start + _LOG_OVERHEAD_BYTES <= len(self._data) and self._end <= len(self._data)

    def next_batch(self) -> _LenientBatch:
        batch = _LenientBatch(self._data[self._start : self._end])
        self._start = self._end
        return batch

    @property
    def _end(self) -> int:
        length_at = self._start + _LENGTH_AT
        length = int.from_bytes(self._data[length_at : self._start + _LOG_OVERHEAD_BYTES], "big")
        return self._start + _LOG_OVERHEAD_BYTES + length


class _LenientBatch(_DefaultRecordBatchPy):
    _buffer: Any

    def _maybe_uncompress(self) -> None:
        """Overrides DefaultRecordBatch: from here on the buffer holds records, and names are decoded from its slices."""
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _LenientBytes):
            self._buffer = _LenientBytes(self._buffer)


class _LenientBytes(bytes):
    """Bytes that decode whatever they hold, as do their slices."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _LenientBytes(found) if isinstance(found, bytes) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")
