"""What producers send, as the one UsageEvent; each refusal names the field in the sender's spelling."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidField
from billing.metering.rules import check_fields
from billing.quantities import plain
from billing.records import Tick, UsageEvent
from schemas.codec import encode
from schemas.json_fields import Undecodable
from schemas.mapping import (
    CSV_COLUMNS,
    check_csv_columns,
    cloud_event_id,
    from_avro,
    from_cloud_event_json,
    from_csv_row,
    from_native_json,
)
from schemas.timestamps import parse_timestamp, timestamp
from schemas.wire import CloudData, NativeEvent

AT = "2026-11-21T13:20:00.123456Z"
AT_US = 1_795_267_200_123_456
NATIVE: dict[str, Any] = {"event_id": "e", "occurred_at": AT, "customer_id": "c", "meter": "calls"}
CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/s",
    "type": "llm.call",
    "time": AT,
    "subject": "c",
}


def native(**fields: Any) -> bytes:
    return json.dumps({**NATIVE, **fields}).encode()


def without(event: dict[str, Any], name: str) -> bytes:
    return json.dumps({key: value for key, value in event.items() if key != name}).encode()


def native_text(quantity: str) -> bytes:
    """A quantity as raw JSON text."""
    return json.dumps(NATIVE)[:-1].encode() + f', "quantity": {quantity}}}'.encode()


def refusal(raw: bytes) -> tuple[str, str]:
    with pytest.raises(InvalidField) as caught:
        check_fields(from_native_json(raw))
    return caught.value.field, caught.value.message


def test_a_native_event_keeps_every_field() -> None:
    raw = native(
        meter=None,
        event_type="llm.call",
        quantity="2.50",
        status="failed",
        feature="f",
        model="m",
        tags=["a", "b"],
        properties={"k": "v"},
        input_tokens=4,
        output_tokens=3,
        cached_tokens=2,
        reasoning_tokens=1,
    )
    assert from_native_json(raw) == UsageEvent(
        "e", AT_US, "c", None, "llm.call", "2.50", "failed", "f", "m", ("a", "b"), {"k": "v"}, 4, 3, 2, 1
    )


def test_what_is_not_given_has_the_defaults_of_the_schema() -> None:
    assert from_native_json(native()) == UsageEvent("e", AT_US, "c", "calls")


@pytest.mark.parametrize(
    ("raw", "field", "says"),
    [
        pytest.param(native(colour="red"), "colour", "not a field", id="an unknown field is named"),
        pytest.param(native(org="other"), "org", "API key", id="an event cannot name its organisation"),
        pytest.param(without(NATIVE, "event_id"), "event_id", "is missing", id="an event needs an id"),
        pytest.param(without(NATIVE, "occurred_at"), "occurred_at", "is missing", id="an event needs a time"),
        pytest.param(without(NATIVE, "customer_id"), "customer_id", "is missing", id="an event needs a customer"),
        pytest.param(without(NATIVE, "meter"), "meter", "exactly one", id="an event needs a meter or a type"),
        pytest.param(native(event_type="x"), "meter", "exactly one", id="meter and type exclude each other"),
        pytest.param(native(feature=7), "feature", "is an integer; a string or null", id="a wrong type names both"),
        pytest.param(native(event_id=None), "event_id", "is null; a string", id="null is no id"),
        pytest.param(
            native(input_tokens="7"), "input_tokens", "is a string; an integer or null", id="text is no count"
        ),
        pytest.param(native(input_tokens=7.5), "input_tokens", "with decimals", id="half a token is refused"),
        pytest.param(native(input_tokens=True), "input_tokens", "is a boolean", id="true is no count"),
        pytest.param(native(input_tokens=10**30), "input_tokens", "not between", id="a huge count is refused"),
        pytest.param(
            native().replace(b'"meter"', b'"input_tokens": ' + b"9" * 5_000 + b', "meter"'),
            "input_tokens",
            "out of range",
            id="a count of 5,000 digits is refused",
        ),
        pytest.param(native(input_tokens=-1), "input_tokens", "not between", id="a negative count is refused"),
        pytest.param(native(cached_tokens=2, input_tokens=1), "cached_tokens", "part of", id="a part exceeds no whole"),
        pytest.param(native(tags="a"), "tags", "is a string; an array", id="tags are a list"),
        pytest.param(native(tags=["a", 1]), "tags", "at index 1", id="the wrong tag is counted out"),
        pytest.param(native(properties={"a": 1}), "properties", "in one of its values", id="properties are strings"),
        pytest.param(native(properties=[]), "properties", "is an array; an object", id="properties are a map"),
        pytest.param(native(status="maybe"), "status", "neither", id="a status is one of two"),
        pytest.param(native(event_id=""), "event_id", "is empty", id="an empty id is refused"),
        pytest.param(native(event_id="x" * 10_240), "event_id", "10240 bytes", id="an id of 10 kB is refused"),
        pytest.param(native(customer_id="ü" * 200), "customer_id", "400 bytes", id="limits count bytes"),
        pytest.param(native(customer_id="a\0b"), "customer_id", "U+0000", id="control characters are refused"),
        pytest.param(native(occurred_at=1_795_000_000), "occurred_at", "RFC 3339", id="epoch numbers are refused"),
        pytest.param(native(occurred_at="1795000000"), "occurred_at", "RFC 3339", id="epoch text is refused"),
        pytest.param(native(occurred_at="2026-11-21T13:20:00"), "occurred_at", "no zone", id="a naive time is refused"),
        pytest.param(native(occurred_at="2026-11-21"), "occurred_at", "not a timestamp", id="a date is no time"),
        pytest.param(native(occurred_at="2026-02-30T00:00:00Z"), "occurred_at", "of any day", id="no 30 February"),
        pytest.param(native(occurred_at="2026-11-21T24:00:01Z"), "occurred_at", "of any day", id="no hour 24"),
        pytest.param(native(occurred_at="2026-W47-6T13:20:00Z"), "occurred_at", "timestamp", id="no week dates"),
        pytest.param(
            native(occurred_at="2026-11-21T13:20:00.1234567890Z"), "occurred_at", "timestamp", id="ten decimals refused"
        ),
        pytest.param(native(occurred_at="1969-12-31T23:59:59Z"), "occurred_at", "1970", id="before 1970 is refused"),
        pytest.param(native(quantity="-1"), "quantity", "is negative", id="a negative quantity is refused"),
        pytest.param(native(quantity=-1), "quantity", "is negative", id="a negative number is refused"),
        pytest.param(native(quantity="NaN"), "quantity", "'NaN'", id="NaN as text is refused"),
        pytest.param(native_text("NaN"), "quantity", "NaN", id="NaN as Python writes it is named"),
        pytest.param(native_text("Infinity"), "quantity", "Infinity", id="Infinity is named"),
        pytest.param(native_text("-Infinity"), "quantity", "-Infinity", id="-Infinity is named"),
        pytest.param(native_text("1e400"), "quantity", "'1e400'", id="1e400 is refused, and fast"),
        pytest.param(native_text("1e19"), "quantity", "not a plain", id="1e19 has too many digits"),
        pytest.param(native_text("9" * 40), "quantity", "not a plain", id="40 digits are refused"),
        pytest.param(native(quantity="9" * 40), "quantity", "not a plain", id="40 digits of text are refused"),
        pytest.param(native(quantity="0.1234567891"), "quantity", "9 decimals", id="ten decimals are refused"),
        pytest.param(native(quantity=None), "quantity", "is null", id="null is no quantity"),
        pytest.param(native(quantity=True), "quantity", "is a boolean", id="true is no quantity"),
        pytest.param(native(quantity=[1]), "quantity", "is an array", id="a list is no quantity"),
        pytest.param(native(quantity="1_000"), "quantity", "not a plain", id="underscores are refused"),
        pytest.param(native(quantity=" 1"), "quantity", "not a plain", id="blanks are refused"),
        pytest.param(native(quantity="٣"), "quantity", "not a plain", id="other alphabets' digits are refused"),
        pytest.param(b"[]", "event", "is an array; an object", id="a list is no event"),
        pytest.param(b"5", "event", "is an integer; an object", id="a number is no event"),
        pytest.param(native(feature="x").replace(b'"x"', b"NaN"), "feature", "NaN", id="NaN for a text is named"),
        pytest.param(
            native(feature="x").replace(b'"x"', b'"\\ud800"'), "feature", "surrogate", id="half a character is named"
        ),
    ],
)
def test_a_bad_native_event_is_refused(raw: bytes, field: str, says: str) -> None:
    found_field, message = refusal(raw)
    assert found_field == field
    assert says in message


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(native()[:40], "ends in the middle, at byte 40", id="half a document says where it ends"),
        pytest.param(b'{"event_id": x}', "byte 13", id="garbage says where"),
        pytest.param(b"", "at byte 0", id="nothing is no JSON"),
        pytest.param(b'{"event_id": "\xff"}', "not UTF-8 at byte 14", id="a wrong byte says where"),
        pytest.param(native_text("[" * 100_000), "nested too deeply", id="deep nesting is refused"),
    ],
)
def test_what_is_no_json_says_where(raw: bytes, says: str) -> None:
    with pytest.raises(Undecodable, match=says):
        from_native_json(raw)


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        pytest.param("1", "1", id="an integer"),
        pytest.param("0.1", "0.1", id="a decimal that no float has"),
        pytest.param("999999999999999999.999999999", "999999999999999999.999999999", id="all 27 digits"),
        pytest.param("1e-07", "0.0000001", id="a small number as Python writes it"),
        pytest.param("1E+16", "10000000000000000", id="a large number as others write it"),
        pytest.param("2.50e1", "25", id="an exponent with decimals"),
        pytest.param('"1\\u0032"', "12", id="an escaped string"),
        pytest.param("-0.0", "-0.0", id="minus zero stays what it is, and is refused later"),
    ],
)
def test_quantities_are_exact(text: str, quantity: str) -> None:
    assert from_native_json(native_text(text)).quantity == quantity


@given(st.decimals(min_value=0, max_value=10**18 - 1, places=9))
def test_any_quantity_survives_as_a_number_and_as_text(value: Decimal) -> None:
    as_number = check_fields(from_native_json(native_text(f"{value:f}")))
    as_text = check_fields(from_native_json(native(quantity=f"{value:f}")))
    assert Decimal(plain(as_number)) == Decimal(plain(as_text)) == value


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        pytest.param("2026-11-21T13:20:00Z", AT_US - 123_456, id="seconds"),
        pytest.param("2026-11-21t13:20:00z", AT_US - 123_456, id="small letters"),
        pytest.param("2026-11-21 13:20:00Z", AT_US - 123_456, id="a blank for the T"),
        pytest.param("2026-11-21T13:20:00.1Z", AT_US - 23_456, id="one decimal"),
        pytest.param("2026-11-21T13:20:00.123456999Z", AT_US, id="nanoseconds are cut, not rounded"),
        pytest.param("2026-11-21T14:20:00.123456+01:00", AT_US, id="an offset ahead"),
        pytest.param("2026-11-21T08:20:00.123456-05:00", AT_US, id="an offset behind"),
        pytest.param("2026-11-21T13:20:00.123456-00:00", AT_US, id="an unknown offset is UTC"),
        pytest.param("1970-01-01T00:00:00Z", 0, id="the epoch"),
        pytest.param("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999, id="the last microsecond"),
    ],
)
def test_timestamps_are_exact(text: str, at_us: int) -> None:
    assert parse_timestamp("occurred_at", text) == at_us


@pytest.mark.parametrize("zone", ["+01:60", "+01:99", "-00:75", "+24:00"])
def test_a_zone_that_no_clock_shows_is_refused(zone: str) -> None:
    with pytest.raises(InvalidField, match="occurred_at"):
        parse_timestamp("occurred_at", f"2026-11-21T13:20:00{zone}")


@given(st.integers(0, 253_402_300_799_999))
def test_a_written_timestamp_is_read_back(at_ms: int) -> None:
    assert parse_timestamp("t", timestamp(at_ms)) == at_ms * 1_000


def test_a_cloud_event_becomes_an_event() -> None:
    data = {"quantity": 2, "feature": "f", "input_tokens": 5, "tags": ["t"], "properties": {"k": "v"}}
    found = from_cloud_event_json(json.dumps({**CLOUD, "data": data, "traceparent": "00-1"}).encode())
    assert found == UsageEvent(
        "2:/s1", AT_US, "c", None, "llm.call", "2", "succeeded", "f", None, ("t",), {"k": "v"}, 5
    )


def test_a_cloud_event_without_data_counts_one() -> None:
    assert from_cloud_event_json(json.dumps(CLOUD).encode()) == UsageEvent("2:/s1", AT_US, "c", None, "llm.call")


def test_data_names_the_customer_before_the_subject_does() -> None:
    raw = json.dumps({**CLOUD, "data": {"customer_id": "other"}}).encode()
    assert from_cloud_event_json(raw).customer_id == "other"


def test_with_a_meter_the_type_is_not_kept() -> None:
    found = from_cloud_event_json(json.dumps({**CLOUD, "data": {"meter": "calls"}}).encode())
    assert (found.meter, found.event_type) == ("calls", None)
    check_fields(found)


@given(st.tuples(st.text(min_size=1), st.text()), st.tuples(st.text(min_size=1), st.text()))
def test_two_pairs_of_source_and_id_never_make_one_event_id(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (cloud_event_id(*one) == cloud_event_id(*other)) == (one == other)


@pytest.mark.parametrize(
    ("event", "field", "says"),
    [
        pytest.param({**CLOUD, "specversion": "0.3"}, "specversion", "0.3", id="another version is refused"),
        pytest.param({**CLOUD, "id": ""}, "id", "is empty", id="an empty id is refused"),
        pytest.param({**CLOUD, "source": ""}, "source", "is empty", id="an empty source is refused"),
        pytest.param({**CLOUD, "time": "2026-11-21T13:20:00"}, "time", "no zone", id="a naive time is refused"),
        pytest.param({**CLOUD, "time": 5}, "time", "RFC 3339", id="an epoch number is refused"),
        pytest.param({**CLOUD, "subject": None}, "subject", "data.customer_id", id="someone must be named"),
        pytest.param({**CLOUD, "data": [1]}, "data", "is an array", id="data is an object"),
        pytest.param({**CLOUD, "data": {"qantity": 1}}, "qantity", "not a field", id="unknown data is named"),
        pytest.param({**CLOUD, "data": {"quantity": -1}}, "quantity", "negative", id="data keeps the rules"),
        pytest.param({**CLOUD, "data": {"feature": 1}}, "feature", "is an integer", id="data keeps its types"),
        pytest.param({**CLOUD, "data": {"event_id": "x"}}, "event_id", "id and source", id="data has no event id"),
        pytest.param({**CLOUD, "data": {"org": "x"}}, "org", "API key", id="data cannot name the organisation"),
        pytest.param({**CLOUD, "quantity": 7}, "quantity", "beside data", id="a quantity beside data is not dropped"),
        pytest.param({**CLOUD, "event_id": "x"}, "event_id", "id and source", id="an event id is not dropped"),
        pytest.param({**CLOUD, "data_base64": "AA=="}, "data_base64", "JSON", id="bytes are refused"),
        pytest.param({**CLOUD, "datacontenttype": "text/xml"}, "datacontenttype", "text/xml", id="XML is refused"),
    ],
)
def test_a_bad_cloud_event_is_refused(event: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check_fields(from_cloud_event_json(json.dumps(event).encode()))
    assert caught.value.field == field
    assert says in caught.value.message


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "time"])
def test_a_cloud_event_needs_its_attributes(name: str) -> None:
    with pytest.raises(InvalidField, match=f"{name}: is missing"):
        from_cloud_event_json(without(CLOUD, name))


def test_avro_is_read_as_it_lies_on_the_log() -> None:
    event = UsageEvent("e", AT_US, "c", "calls", tags=("a",))
    assert from_avro(encode(event)) == event


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"\xc3\x01" + b"\x07" * 8 + b"x", "fingerprint 0707070707070707", id="an unknown fingerprint"),
        pytest.param(b"garbage", "C3 01", id="garbage"),
        pytest.param(encode(Tick(1)), "not a usage event", id="a record of another kind"),
        pytest.param(encode(UsageEvent("e", 1, "c"))[:-3], "does not fit", id="half a record"),
        pytest.param(encode(UsageEvent("e", 1, "c")) + b"x", "follow", id="more than a record"),
    ],
)
def test_what_is_no_avro_event_says_why(data: bytes, says: str) -> None:
    with pytest.raises(Undecodable, match=says):
        from_avro(data)


ROW = {"event_id": "e", "occurred_at": AT, "customer_id": "c", "meter": "calls"}


def test_a_csv_row_becomes_an_event() -> None:
    row = {**ROW, "quantity": "0.5", "tags": "a;b", "properties.region": "eu", "input_tokens": "7", "model": ""}
    assert from_csv_row(row) == UsageEvent(
        "e", AT_US, "c", "calls", quantity="0.5", tags=("a", "b"), properties={"region": "eu"}, input_tokens=7
    )


@pytest.mark.parametrize(
    ("row", "field"),
    [
        pytest.param({**ROW, "event_id": ""}, "event_id", id="an empty id is a missing one"),
        pytest.param({**ROW, "input_tokens": "7.0"}, "input_tokens", id="a count has digits only"),
        pytest.param({**ROW, "input_tokens": "9" * 19}, "input_tokens", id="a count has at most 18 digits"),
        pytest.param({**ROW, "occurred_at": "21.11.2026"}, "occurred_at", id="a local date is refused"),
        pytest.param({**ROW, "quantity": "1,5"}, "quantity", id="a decimal comma is refused"),
        pytest.param({**ROW, "tags": "a;;b"}, "tags", id="an empty tag is refused"),
    ],
)
def test_a_bad_csv_row_is_refused(row: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check_fields(from_csv_row(row))
    assert caught.value.field == field


def test_a_csv_header_names_only_known_columns() -> None:
    check_csv_columns((*CSV_COLUMNS, "properties.region"))
    with pytest.raises(InvalidField, match="colour"):
        check_csv_columns((*CSV_COLUMNS, "colour"))
    with pytest.raises(InvalidField, match="properties"):
        check_csv_columns((*CSV_COLUMNS, "properties"))
    with pytest.raises(InvalidField, match="customer_id"):
        check_csv_columns(("event_id", "occurred_at"))
    with pytest.raises(InvalidField, match="quantity: stands twice"):
        check_csv_columns((*CSV_COLUMNS, "quantity"))


def test_the_doors_have_the_fields_of_the_record() -> None:
    """A field that is added to the record must be added to each door."""
    record = ["occurred_at" if name == "occurred_at_us" else name for name in UsageEvent.__struct_fields__]
    assert list(NativeEvent.__struct_fields__) == record
    said_by_attributes = {"event_id", "occurred_at", "event_type"}
    assert list(CloudData.__struct_fields__) == [name for name in record if name not in said_by_attributes]
