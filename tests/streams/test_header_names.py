"""Fetches with header names that are not UTF-8 are read to their end, as the stock reader reads any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record import default_records
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from streams.header_names import KeptRecords, LenientPartitionRecords
from tests.faults.raw import RawName

TP = TopicPartition("usage-events", 0)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
Headers = Sequence[tuple[bytes, bytes | None]]


def batch(base_offset: int, headers: Sequence[Headers], codec: int = 0, transaction_of: int = -1) -> bytes:
    """A batch with a record for each of `headers`, as the broker gives it out."""
    made = default_records._DefaultRecordBatchBuilderPy(
        2, codec, transaction_of >= 0, transaction_of, 0, 0, batch_size=1 << 20
    )
    for number, names in enumerate(headers):
        raw = [(RawName(name), value) for name, value in names]
        made.append(number, 1_000 + number, b"k%d" % number, b"v%d" % number, raw)
    return base_offset.to_bytes(8, "big") + bytes(made.build())[8:]


def read(
    data: bytes, fetch_offset: int = 0, aborted: Sequence[tuple[int, int]] = (), kind: Callable[..., Any] | None = None
) -> tuple[list[tuple[int, Any]], int]:
    """Offset and headers of each record, and the offset to fetch next."""
    records = (kind or KeptRecords)(data)
    reader = PartitionRecords if kind else LenientPartitionRecords
    found = reader(TP, records, aborted, fetch_offset, None, None, True, READ_COMMITTED)
    return [(record.offset, record.headers) for record in found], found.next_fetch_offset


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_name_that_is_not_utf8_ends_nothing(codec: int) -> None:
    headers: list[Headers] = [[], [(b"a", b"1")], [(b"n\xff", b"\xff"), (b"", None)], [], [(b"\xfe", None)]]
    data = batch(0, headers[:1]) + batch(1, headers[1:4], codec) + batch(4, headers[4:])
    expected = [(0, ()), (1, (("a", b"1"),)), (2, (("n\\xff", b"\xff"), ("", None))), (3, ()), (4, (("\\xfe", None),))]
    assert read(data) == (expected, 5)


def test_what_was_given_out_before_is_not_given_out_again() -> None:
    data = batch(10, [[], [], [(b"\xff", b"")], []])
    assert [offset for offset, _ in read(data, fetch_offset=11)[0]] == [11, 12, 13]


def test_a_batch_that_the_fetch_cut_off_is_left_for_the_next() -> None:
    data = batch(0, [[(b"\xff", b"")]]) + batch(1, [[], []])[:-1]
    assert [offset for offset, _ in read(data)[0]] == [0]
    assert read(data)[1] == 1


def test_aborted_records_stay_unread() -> None:
    data = batch(0, [[(b"\xff", b"")]], transaction_of=7) + batch(1, [[(b"\xff", b"")], []], transaction_of=8)
    offsets = [offset for offset, _ in read(data, aborted=[(7, 0)])[0]]
    assert offsets == [1, 2]


def test_good_names_are_read_as_the_stock_reader_reads_them() -> None:
    data = batch(0, [[("é".encode(), b"1")], []]) + batch(2, [[(b"n", None)]], codec=1)
    assert read(data) == read(data, kind=MemoryRecords)


def test_the_stock_reader_still_needs_this() -> None:
    with pytest.raises(UnicodeDecodeError):
        read(batch(0, [[(b"\xff", b"")]]), kind=MemoryRecords)
