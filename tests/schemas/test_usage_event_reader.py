"""The quick reader of usage events beside the library: where it reads anything at all, both read the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billing.records import Unreadable, UsageEvent
from schemas.codec import decode, decode_record, encode, schema_files
from schemas.usage_event_reader import read_usage_event
from tests.schemas.samples import AVRO, golden
from tests.schemas.test_codec import HOSTILE, ODD, PREFIX, usage_events, zigzag

PLAIN = UsageEvent("e1", 1_772_323_200_000_000, "alice", event_type="llm.call", input_tokens=100, output_tokens=20)
LONG = UsageEvent(
    "e" * 200, 2**61, "c" * 64, meter="m" * 63, tags=("t" * 127, ""), properties={"p" * 128: "", "": "v" * 9_999}
)


def quick(data: bytes) -> UsageEvent | None:
    return read_usage_event(data, len(PREFIX))


def agree(data: bytes) -> None:
    """What the quick reader makes of the data, the library makes of it too."""
    if (event := quick(data)) is not None:
        assert event == decode(data)
    assert decode_record(data) == decode(data)


def test_fields_come_in_the_order_of_the_schema() -> None:
    """The quick reader, the payload's digest and the struct go by it."""
    newest = list(schema_files()["usage_event"].values())[-1]
    assert [field["name"] for field in json.loads(newest)["fields"]] == list(UsageEvent.__struct_fields__)


@pytest.mark.parametrize("event", [AVRO["usage_event"], PLAIN, LONG], ids=["full", "plain", "long"])
def test_what_encoders_write_is_read_without_the_library(event: UsageEvent) -> None:
    assert quick(encode(event)) == event


def test_golden_bytes_are_read_without_the_library() -> None:
    assert quick(golden("usage_event.1")) == AVRO["usage_event"]


@given(usage_events)
@example(LONG)
def test_both_read_what_was_written(event: UsageEvent) -> None:
    data = encode(event)
    assert quick(data) in (event, None)
    agree(data)


@given(usage_events.filter(lambda event: abs(event.occurred_at_us) < 2**61))
def test_numbers_of_nine_bytes_are_read_without_the_library(event: UsageEvent) -> None:
    small = UsageEvent(event.event_id, event.occurred_at_us, event.customer_id, tags=event.tags)
    assert quick(encode(small)) == small


@given(st.binary(max_size=80))
def test_both_read_random_bytes_alike(body: bytes) -> None:
    agree(PREFIX + body)


@given(usage_events, st.data())
def test_both_read_a_damaged_event_alike(event: UsageEvent, data: st.DataObject) -> None:
    record = bytearray(encode(event))
    for _ in range(data.draw(st.integers(min_value=1, max_value=3))):
        at = data.draw(st.integers(min_value=len(PREFIX), max_value=len(record) - 1))
        change = data.draw(st.sampled_from(["set", "insert", "remove", "cut"]))
        odd = data.draw(st.sampled_from([b"\x00", b"\x01", b"\x02", b"\x03", b"\x7f", b"\x80", b"\xff", zigzag(2**40)]))
        if change == "set":
            record[at : at + 1] = odd
        elif change == "insert":
            record[at:at] = odd
        elif len(record) > len(PREFIX) + 1:
            del record[at : at + 1 if change == "remove" else None]
        if len(record) <= len(PREFIX):
            break
    agree(bytes(record))


def test_both_read_every_cut_alike() -> None:
    data = encode(AVRO["usage_event"])
    for size in range(len(data) + 1):
        agree(data[:size])
        assert size == len(data) or isinstance(decode_record(data[:size]), Unreadable)


@pytest.mark.parametrize("body", [*HOSTILE.values(), *(body for body, _ in ODD.values())], ids=[*HOSTILE, *ODD])
def test_both_read_what_is_odd_alike(body: bytes) -> None:
    agree(PREFIX + body)


def test_what_follows_an_event_is_seen() -> None:
    assert quick(encode(PLAIN) + b"\x00") is None
    assert decode_record(encode(PLAIN) + b"\x00") == Unreadable("1 bytes follow the record")
