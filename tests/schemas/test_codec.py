"""Avro: what is written once stays readable, and bytes that are no record are a reason, never an exception."""

from __future__ import annotations

import hashlib
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.records import Unreadable, UsageEvent
from schemas.codec import MARKER, decode, decode_record, encode, is_command, schema_files
from tests.schemas.samples import AVRO, golden

PINNED = {
    "api_key.1": "51bb2cc17db95292508c9ec56146ff7d636e12a11f4db993bf11513a71cbc8ac",
    "command.1": "ed68efcf2ba994a5d00f35615ab5d7c50e2ce578bac6f86db1623fabadd83250",
    "dead_letter.1": "731e545e02dca189a3445568359fcb95bc126f9097960daead3c71dc1193ca11",
    "genesis.1": "934447cc723993f8f92adfd2da04a73a3793ab71416ae02dd9b2a2a4c01d4ed1",
    "letter_replayed.1": "9c1073e46c6b6123e918804137f7666c74c8fa0e7ec2b3e50d67482e8bd52019",
    "tick.1": "a3bdf8893eae2ddd8747ab7d0962ad3471fceb4fd45c8fd7f3801bedd0e2a271",
    "usage_event.1": "66c8b4896462618ab76ee3ce9804bf8bba193858ecbb12381f0c79d167f0d1e3",
}
"""SHA-256 of each file in golden/. A line is added with a schema's new version, and never changed."""
VERSIONS = [(name, version) for name, versions in schema_files().items() for version in versions]
NEWEST = {name: max(versions) for name, versions in schema_files().items()}

names = pytest.mark.parametrize("name", AVRO)
samples = st.sampled_from(sorted(AVRO))


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_every_version_ever_written_stays_readable(name: str, version: int) -> None:
    data = golden(f"{name}.{version}")
    assert hashlib.sha256(data).hexdigest() == PINNED[f"{name}.{version}"], "golden bytes are never changed"
    assert decode(data) == AVRO[name]


def test_every_schema_has_golden_bytes_and_a_sample() -> None:
    assert {f"{name}.{version}" for name, version in VERSIONS} == set(PINNED)
    assert set(schema_files()) == set(AVRO)


@pytest.mark.parametrize("versions", schema_files().values(), ids=schema_files().keys())
def test_versions_are_numbered_from_one(versions: dict[int, str]) -> None:
    assert list(versions) == list(range(1, len(versions) + 1))


@names
def test_records_are_written_with_the_newest_version(name: str) -> None:
    assert encode(AVRO[name]) == golden(f"{name}.{NEWEST[name]}")


@names
def test_truncated_at_every_byte_it_is_unreadable(name: str) -> None:
    data = golden(f"{name}.{NEWEST[name]}")
    for size in range(10):
        assert isinstance(decode(data[:size]), Unreadable), f"{size} of {len(data)} bytes"
    for size in range(10, len(data)):
        assert decode(data[:size]) == Unreadable("the body does not fit its schema"), f"{size} of {len(data)} bytes"


@names
@given(st.binary(min_size=1, max_size=20))
def test_what_follows_a_record_makes_it_unreadable(name: str, more: bytes) -> None:
    assert decode(encode(AVRO[name]) + more) == Unreadable(f"{len(more)} bytes follow the record")


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        pytest.param(None, "no value", id="a tombstone"),
        pytest.param(b"", "does not begin with the marker", id="nothing"),
        pytest.param(b'{"event_id": "e1"}', "does not begin with the marker", id="JSON"),
        pytest.param(b"\x00\x00\x00\x00\x01", "does not begin with the marker", id="a schema registry's header"),
        pytest.param(MARKER, "ends after 2 bytes, within the schema's fingerprint", id="the marker alone"),
        pytest.param(MARKER + b"1234567", "ends after 9 bytes", id="half a fingerprint"),
        pytest.param(MARKER + b"12345678", "no schema has the fingerprint 3132333435363738", id="unknown"),
        pytest.param(
            MARKER + b"12345678" + b"x" * 99, "no schema has the fingerprint 3132333435363738", id="and a body"
        ),
    ],
)
def test_what_is_no_record_says_why(data: bytes | None, detail: str) -> None:
    found = decode(data)
    assert isinstance(found, Unreadable)
    assert detail in found.detail


@given(st.binary(max_size=200))
def test_random_bytes_are_unreadable(data: bytes) -> None:
    assert isinstance(decode(data), Unreadable)


@given(samples, st.binary(max_size=200))
def test_random_bytes_behind_a_known_fingerprint_raise_nothing(name: str, body: bytes) -> None:
    found = decode(encode(AVRO[name])[:10] + body)
    assert isinstance(found, (Unreadable, type(AVRO[name])))


@given(samples, st.data())
def test_a_record_with_bytes_changed_raises_nothing(name: str, data: st.DataObject) -> None:
    record = bytearray(encode(AVRO[name]))
    for _ in range(data.draw(st.integers(min_value=1, max_value=4))):
        record[data.draw(st.integers(min_value=10, max_value=len(record) - 1))] = data.draw(st.integers(0, 255))
    found = decode(bytes(record))
    assert isinstance(found, (Unreadable, type(AVRO[name])))


@given(samples, st.binary(max_size=60))
def test_the_reason_is_a_function_of_the_bytes(name: str, body: bytes) -> None:
    data = encode(AVRO[name])[:10] + body
    assert decode(data) == decode(data)
    assert decode(bytes(bytearray(data))) == decode(data)


text = st.text(max_size=30)
longs = st.integers(min_value=-(2**63), max_value=2**63 - 1)
usage_events = st.builds(
    UsageEvent,
    event_id=text,
    occurred_at_us=longs,
    customer_id=text,
    meter=st.none() | text,
    event_type=st.none() | text,
    quantity=text,
    status=text,
    feature=st.none() | text,
    model=st.none() | text,
    tags=st.lists(text, max_size=3).map(tuple),
    properties=st.dictionaries(text, text, max_size=3),
    input_tokens=st.none() | longs,
    output_tokens=st.none() | longs,
    cached_tokens=st.none() | longs,
    reasoning_tokens=st.none() | longs,
)


@given(usage_events)
def test_a_usage_event_is_read_as_it_was_written(event: UsageEvent) -> None:
    found = decode_record(encode(event))
    assert found == event
    assert isinstance(found, UsageEvent)
    assert isinstance(found.tags, tuple), "a record is a value: nothing in it can be changed by a reader"


@names
def test_a_command_is_told_by_its_first_bytes(name: str) -> None:
    assert is_command(encode(AVRO[name])) == (name == "command")
    assert not is_command(b"")


@pytest.mark.parametrize("name", ["api_key", "dead_letter"])
def test_what_belongs_on_other_topics_is_unreadable_among_usage(name: str) -> None:
    assert decode_record(encode(AVRO[name])) == Unreadable(f"a record of kind {name} does not belong on this topic")


def zigzag(number: int) -> bytes:
    """A long as Avro writes it."""
    rest = (number << 1 ^ number >> 63) & (1 << 64) - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


PREFIX = encode(AVRO["usage_event"])[:10]
HEAD = b"\x02e" + zigzag(5) + b"\x02c" + b"\x00\x00" + b"\x021" + b"\x14succeeded!" + b"\x00\x00"
"""Up to the tags: id e, time 5, customer c, no meter, no type, quantity 1, a status of ten bytes, no feature, no model."""
TAIL = b"\x00" * 4
HOSTILE = {
    "a string of 2^40 bytes": zigzag(2**40) + b"abc",
    "a string of 2^62 bytes": zigzag(2**62) + b"abc",
    "a string of -1 bytes": zigzag(-1) + b"abc",
    "a string of -2^63 bytes": zigzag(-(2**63)) + b"abc",
    "an array of 2^60": HEAD + zigzag(2**60),
    "an array of 2^60 with some": HEAD + zigzag(2**60) + b"\x00" * 1_000,
    "an array of -2^60 in a block of 8": HEAD + zigzag(-(2**60)) + zigzag(8) + b"\x00" * 8,
    "an array in a block of 2^60": HEAD + zigzag(-4) + zigzag(2**60) + b"\x00" * 2,
    "a map of 2^60": HEAD + b"\x00" + zigzag(2**60),
    "a map of 2^60 with some": HEAD + b"\x00" + zigzag(2**60) + b"\x00" * 1_000,
    "a map of -2^60 in a block of 8": HEAD + b"\x00" + zigzag(-(2**60)) + zigzag(8) + b"\x00" * 8,
    "a number without end": b"\xff" * 1_000_000,
    "a union's branch 2": b"\x02e" + zigzag(5) + b"\x02c" + zigzag(2),
    "a union's branch 2^60": b"\x02e" + zigzag(5) + b"\x02c" + zigzag(2**60),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_lengths_cost_neither_memory_nor_time(body: bytes) -> None:
    data = PREFIX + body
    tracemalloc.start()
    began_s = time.process_time()
    try:
        found = decode(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(found, Unreadable)
    assert peak_bytes < 256 * 1024 + 2 * len(data)
    assert time.process_time() - began_s < 2


@given(st.sampled_from([zigzag(n) for n in (2**62, 2**40, 2**31, -1, -(2**31), -(2**62), -(2**63))]), st.data())
def test_a_hostile_number_anywhere_costs_no_memory(number: bytes, data: st.DataObject) -> None:
    name = data.draw(samples)
    record = encode(AVRO[name])
    at = data.draw(st.integers(min_value=10, max_value=len(record)))
    tracemalloc.start()
    try:
        decode(record[:at] + number + record[at:])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 256 * 1024


def test_a_million_empty_tags_are_read_and_refused_by_the_rules() -> None:
    """What a record of a megabyte can hold at most; the limits are the rules', not the decoder's."""
    found = decode(PREFIX + HEAD + zigzag(1_000_000) + b"\x00" * 1_000_000 + b"\x00" * 2 + TAIL)
    assert isinstance(found, UsageEvent)
    assert len(found.tags) == 1_000_000


ODD: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a negative branch is counted from the end": (
        b"\x02e" + zigzag(5) + b"\x02c" + zigzag(-1) + b"\x02m" + HEAD[6:] + b"\x00\x00" + TAIL,
        {"meter": "m"},
    ),
    "a number's bits past the 64th are dropped": (
        b"\x02e" + b"\x8a" + b"\x80" * 9 + b"\x00" + HEAD[3:] + b"\x00\x00" + TAIL,
        {"occurred_at_us": 5},
    ),
    "a block's size is not compared with its items": (
        HEAD + zigzag(-1) + zigzag(2**40) + b"\x02t" + b"\x00\x00" + TAIL,
        {"tags": ("t",)},
    ),
    "of a name that comes twice, the last counts": (
        HEAD + b"\x00" + zigzag(2) + b"\x02p\x021" + b"\x02p\x022" + b"\x00" + TAIL,
        {"properties": {"p": "2"}},
    ),
}


@pytest.mark.parametrize(("body", "fields"), ODD.values(), ids=ODD.keys())
def test_what_is_odd_is_read_as_it_always_was(body: bytes, fields: dict[str, Any]) -> None:
    """Which bytes are readable decides what is counted: a decoder that reads these otherwise is a new behaviour version."""
    found = decode(PREFIX + body)
    assert isinstance(found, UsageEvent)
    assert {field: getattr(found, field) for field in fields} == fields
