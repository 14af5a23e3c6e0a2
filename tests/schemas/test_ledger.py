"""The ledger: facts are written as they always were, and a reader gets each record once, whole, or is stopped."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.facts import EventRejected, Fact, Reason, Ticked
from billing.records import Position
from schemas.ledger import (
    PART_BYTES_MAX,
    LedgerGap,
    LedgerReader,
    Source,
    SourceRecord,
    encode_facts,
    part_number,
    position_in,
)
from tests.schemas.samples import FACTS, golden

PINNED = {
    "snapshot_begun": "88d2946e65a6c1c33aea8d2682c22a4b0faf030e8845b8dd891080f8aa36e7a2",
    "account_snapshot": "23a9dd4b9df35e1af9795054ac194665a11b0afebad898c040db68c27e018239",
    "late_snapshot": "e4f91d2b0b7680a99b006d8b43c661d6b7d5f8a8522f3139d320608201949602",
    "snapshot_done": "1c50c4eb1f29ed69919de27b792eed85bb3dd3ed56614594ec076b6775819427",
    "late_received": "068973c9680efa94dc51d298df9a035cc35bb01d4773e8d8db822bca63001d01",
    "late_repeated": "4604298256f4f80e7ce776d38e1eb3c172a05de3fb9937cfb399e54473c76af6",
    "late_approved": "81074d2c3151084183b0a7e6cc7dbacf29e17fb413bc90b42fbb0adab3e16e9b",
    "late_rejected": "3f524811813afef971a8fae33b64bdfbaf5f5ed1c554a174c199e686e179a914",
    "behaviour_switched": "ef48cecdff4fa5bd449872a3182da2802815b4cad32082c327762bb235d2193a",
    "order_applied": "c19b5c566a333d627eea828ef0c94c4948eb25caab75ac726217d94f8a313089",
    "order_honoured": "e368b1084f8b631bb2583be7c1e4d919ed73eb3c30e59e439d97923548914242",
    "order_repeated": "0cd851ce42d9664c3b02308d9ce76c054fa55f1d74a9ff88790977a4daa05bdc",
    "account_opened": "9205fdc6d7fb1519e85587910034bf8b2022c90076b6e5ab6ba77724a0085dc8",
    "command_refused": "5f3dc67e74fa2e4c47c64b4f764de336ece27745d08f2271d1247f5431d9afed",
    "event_counted": "b1d830a7d7f45f0d1f7aba50494e546356c890418d9f8cd0b0ecdcbe565c5d8d",
    "event_duplicate": "409d86716631d4d9dbb4f8530f230e0c02503df76591751ebb197047d0d10168",
    "event_rejected": "c717729536a5938e48d9cc929321c1ef4a6f2ebd719395897cfa903796c40874",
    "genesis_applied": "891dddc0a9d695a3138cdd556deafbdb38551d3a0857760fa44d5471562fda6d",
    "genesis_refused": "59bc50312af3b4ca76d17bcce4342f8f3361cf96d3c8f97fef1b629e0f4392d7",
    "pairs_capped": "7063bbf779c66ed3947c6aa47aa0fdc6f48622371157dcf49568c1f3203dcf95",
    "stripe_hour_closed": "2a8c9da298662f18b347ad338cd32bb6484a23765e57c8497e261da35861255a",
    "ticked": "995a960173bcb53097ab95d3be377b4cadd0c68c184ad9ae64d67859ae038560",
    "total_closed": "721d478514a8ecc62d57c7216e133634f9dfdffb51942bfd9dfeef867fed0fcf",
}
"""SHA-256 of each file in golden/: a record of one fact, as behaviour version 1 writes it."""
POSITION = Position(7, 3, 2**40)
SOURCE = Source(b"acme/alice", b"\xc3\x01", (("traceparent", b"00-1"), ("empty", None)), 1_772_323_200_000, 2**40 - 1)
LARGE = "x" * (2 * PART_BYTES_MAX + 100)


def large(size: int) -> Fact:
    return EventRejected(Reason.UNREADABLE, None, "x" * size, None, None, None)


def records_of(*counts: int, start: int = 0) -> list[list[bytes]]:
    """A ledger whose source records cause so many facts each."""
    offsets = [start + n for n in range(len(counts))]
    return [
        encode_facts(
            Position(1, 0, offset),
            0,
            Source(None, None, (), 0, offset - 1),
            [Ticked(more=bool(seq % 2)) for seq in range(count)],
        )
        for offset, count in zip(offsets, counts, strict=True)
    ]


def flat(records: list[list[bytes]]) -> list[bytes]:
    return [value for record in records for value in record]


def read(values: list[bytes], *, after_offset: int | None = None) -> list[SourceRecord]:
    reader = LedgerReader(after_offset=after_offset)
    return [*reader.feed(values), *reader.flush()]


def offsets(records: list[SourceRecord]) -> list[int]:
    return [record.position.offset for record in records]


@pytest.mark.parametrize("name", FACTS)
def test_every_kind_of_fact_is_written_as_it_always_was(name: str) -> None:
    data = golden(f"fact.{name}")
    assert hashlib.sha256(data).hexdigest() == PINNED[name], "golden bytes are never changed"
    assert encode_facts(POSITION, 1_772_323_200_001, SOURCE, [FACTS[name]]) == [data]
    assert read([data]) == [SourceRecord(POSITION, 1_772_323_200_001, SOURCE, (FACTS[name],))]


def test_every_kind_of_fact_has_golden_bytes() -> None:
    kinds = set(get_args(Fact))
    assert {type(fact) for fact in FACTS.values()} == kinds
    assert set(PINNED) == set(FACTS)


def test_the_tags_of_facts_are_each_their_own() -> None:
    tags = {fact.__struct_config__.tag for fact in FACTS.values()}
    assert tags == set(range(1, len(FACTS) + 1)), "a tag is never used again for another fact"


def test_a_reader_of_today_reads_what_a_later_version_adds() -> None:
    (value,) = encode_facts(POSITION, 0, SOURCE, [FACTS["ticked"]])
    fields = msgspec.msgpack.decode(value)
    later = msgspec.msgpack.encode([*fields[:-1], [*fields[-1], "a later field"], "another"])
    assert read([later]) == read([value])


def test_the_first_fact_alone_carries_the_record() -> None:
    values = encode_facts(POSITION, 5, SOURCE, [FACTS["account_opened"], FACTS["event_counted"]])
    (record,) = read(values)
    assert record == SourceRecord(POSITION, 5, SOURCE, (FACTS["account_opened"], FACTS["event_counted"]))
    assert [b"traceparent" in value for value in values] == [True, False]


@given(st.lists(st.integers(min_value=1, max_value=4), max_size=8), st.data())
def test_records_come_out_whole_however_they_are_fed(counts: list[int], data: st.DataObject) -> None:
    values = flat(records_of(*counts))
    cuts = sorted(data.draw(st.lists(st.integers(min_value=0, max_value=len(values)), max_size=4)))
    reader = LedgerReader()
    found = [record for start, end in pairwise([0, *cuts, len(values)]) for record in reader.feed(values[start:end])]
    found += reader.flush()
    assert offsets(found) == list(range(len(counts)))
    assert [len(record.facts) for record in found] == counts


@given(st.lists(st.integers(min_value=1, max_value=3), min_size=1, max_size=6), st.data())
def test_what_is_read_again_is_dropped(counts: list[int], data: st.DataObject) -> None:
    records = records_of(*counts)
    back = data.draw(st.integers(min_value=0, max_value=len(records) - 1))
    reader = LedgerReader()
    found = [*reader.feed(flat(records)), *reader.flush()]
    found += [*reader.feed(flat(records[back:])), *reader.flush()]
    assert offsets(found) == list(range(len(counts)))


def test_a_reader_may_begin_behind_what_it_knows() -> None:
    records = records_of(1, 2, 1)
    assert offsets(read(flat(records), after_offset=0)) == [1, 2]
    assert offsets(read(flat(records)[2:], after_offset=1)) == [2], "in the middle of a record that it knows"


def test_a_reader_that_knows_nothing_begins_anywhere() -> None:
    assert offsets(read(flat(records_of(1, 1, start=500)))) == [500, 501]


@given(st.lists(st.integers(min_value=1, max_value=3), min_size=3, max_size=6), st.data())
def test_a_missing_fact_stops_the_reader(counts: list[int], data: st.DataObject) -> None:
    """Any of them: a record, a fact in the middle or at the end of one. Only behind the last record nobody can tell."""
    values = flat(records_of(*counts))
    missing = data.draw(st.integers(min_value=0, max_value=len(values) - 1 - counts[-1]))
    told = values[:missing] + values[missing + 1 :]
    with pytest.raises(LedgerGap):
        read(told, after_offset=-1)


def test_a_record_that_ends_early_stops_the_reader_at_the_end() -> None:
    with pytest.raises(LedgerGap, match="offset 0: 2 of its 3 facts came"):
        read(flat(records_of(3))[:2])


def test_a_gap_says_where() -> None:
    first, _, third = records_of(1, 1, 1)
    with pytest.raises(LedgerGap, match="partition 0, offset 2: it follows 1, but the last one read is 0"):
        read(first + third)


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        pytest.param(PART_BYTES_MAX // 2, 1, id="half a part"),
        pytest.param(PART_BYTES_MAX + 1, 2, id="a little more than one"),
        pytest.param(4 * PART_BYTES_MAX, 5, id="four and what surrounds it"),
    ],
)
def test_a_large_fact_is_split_and_put_together(size: int, parts: int) -> None:
    values = encode_facts(Position(1, 0, 0), 0, SOURCE, [large(size), Ticked(more=False)])
    assert len(values) == parts + 1
    assert all(len(value) <= PART_BYTES_MAX + 64 for value in values), "a part and its own header"
    (record,) = read(values)
    assert record.facts == (large(size), Ticked(more=False))


def test_a_fact_of_exactly_a_part_is_whole() -> None:
    around = len(encode_facts(Position(1, 0, 0), 0, SOURCE, [large(100_000)])[0]) - 100_000
    fits, splits = (
        encode_facts(Position(1, 0, 0), 0, SOURCE, [large(PART_BYTES_MAX - around + more)]) for more in (0, 1)
    )
    assert (len(fits), len(splits)) == (1, 2)
    assert len(fits[0]) == PART_BYTES_MAX


def test_a_record_of_a_megabyte_is_kept_as_it_was() -> None:
    source = Source(b"k" * 300, b"v" * (1 << 20), (("h", b"\x00" * 1_000),), 0, -1)
    values = encode_facts(Position(1, 0, 0), 0, source, [FACTS["event_rejected"]])
    assert len(values) == 5
    assert read(values)[0].source == source


def test_a_part_says_its_number() -> None:
    values = encode_facts(Position(1, 0, 0), 0, SOURCE, [large(2 * PART_BYTES_MAX), Ticked(more=False)])
    assert [part_number(value) for value in values] == [0, 1, 2, 0]


SPLIT = encode_facts(Position(1, 0, 0), 0, Source(None, None, (), 0, -1), [large(2 * PART_BYTES_MAX)])
OTHER = encode_facts(Position(1, 0, 1), 0, Source(None, None, (), 0, 0), [large(2 * PART_BYTES_MAX)])
(WHOLE,) = encode_facts(Position(1, 0, 1), 0, Source(None, None, (), 0, 0), [Ticked(more=False)])


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(SPLIT[1:], id="the first part is missing"),
        pytest.param([SPLIT[0], SPLIT[2]], id="a part in the middle is missing"),
        pytest.param(SPLIT[:2], id="the last part is missing at the end"),
        pytest.param([*SPLIT[:2], WHOLE], id="the last part is missing before a whole fact"),
        pytest.param([*SPLIT[:2], *OTHER], id="the last part is missing before another fact's parts"),
        pytest.param([SPLIT[0], OTHER[0], SPLIT[1], OTHER[1]], id="two facts' parts lie between each other"),
        pytest.param([SPLIT[0], OTHER[1], OTHER[2]], id="another fact's parts complete it"),
        pytest.param([SPLIT[0], SPLIT[2], SPLIT[1]], id="parts change places"),
        pytest.param([SPLIT[0], SPLIT[1], SPLIT[1], SPLIT[2]], id="a part comes twice"),
    ],
)
def test_parts_that_do_not_fit_stop_the_reader(values: list[bytes]) -> None:
    with pytest.raises(LedgerGap):
        read(values)


def test_parts_of_two_facts_one_after_the_other_are_read() -> None:
    assert offsets(read([*SPLIT, *OTHER])) == [0, 1]
    assert offsets(read([*SPLIT, *OTHER, *SPLIT, *OTHER])) == [0, 1], "and again they are dropped"


@given(st.binary(max_size=60) | st.sampled_from([b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x9a" * 500]))
def test_what_is_no_fact_is_an_error_that_names_it(value: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        read([value])


def told_at(incarnation: int, offset: int, previous_offset: int) -> list[bytes]:
    source = Source(None, None, (), 0, previous_offset)
    return encode_facts(Position(incarnation, 0, offset), 0, source, [Ticked(more=False)])


BEFORE = [told_at(1, 0, -1), told_at(1, 7, 0)]
ANEW = [told_at(2, 0, 7), told_at(2, 1, 0)]


@pytest.mark.parametrize("after_offset", [None, -1], ids=["whatever comes first", "from the start"])
def test_a_log_that_was_made_anew_follows_the_one_before(after_offset: int | None) -> None:
    found = read(flat([*BEFORE, *ANEW, *BEFORE, *ANEW]), after_offset=after_offset)
    assert [(r.position.incarnation, r.position.offset) for r in found] == [(1, 0), (1, 7), (2, 0), (2, 1)]


def test_a_reader_that_stopped_at_the_end_of_the_old_log_goes_on_with_the_new_one() -> None:
    assert offsets(read(flat(ANEW), after_offset=7)) == [0, 1]


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([BEFORE[0], ANEW[0]], id="the old log's last record is missing"),
        pytest.param([*BEFORE, ANEW[1]], id="the new log's first record is missing"),
        pytest.param([*BEFORE, told_at(3, 0, 7)], id="a whole log is missing"),
        pytest.param([*BEFORE, told_at(2, 8, 7)], id="a record of the new log in the place of the old one's next"),
        pytest.param([*BEFORE, told_at(1, 9, 8)], id="a record of the old log is missing"),
    ],
)
def test_what_is_missing_between_two_logs_stops_the_reader(records: list[list[bytes]]) -> None:
    with pytest.raises(LedgerGap):
        read(flat(records))


def test_the_position_in_a_fact_and_in_a_piece_of_one() -> None:
    values = encode_facts(POSITION, 0, SOURCE, [large(2 * PART_BYTES_MAX)])
    assert len(values) > 2
    assert {position_in(value) for value in values} == {POSITION}
