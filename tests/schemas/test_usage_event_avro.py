"""The hand-written encoder makes the library's bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from billing.records import UsageEvent
from schemas.codec import decode, encode
from schemas.usage_event_avro import encode_usage_event

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
COUNT = st.none() | st.integers(-(2**63), 2**63 - 1)
EVENTS = st.builds(
    UsageEvent,
    event_id=TEXT,
    occurred_at_us=st.integers(-(2**63), 2**63 - 1),
    customer_id=TEXT,
    meter=st.none() | TEXT,
    event_type=st.none() | TEXT,
    quantity=TEXT,
    status=TEXT,
    feature=st.none() | TEXT,
    model=st.none() | TEXT,
    tags=st.lists(TEXT, max_size=5).map(tuple),
    properties=st.dictionaries(TEXT, TEXT, max_size=5),
    input_tokens=COUNT,
    output_tokens=COUNT,
    cached_tokens=COUNT,
    reasoning_tokens=COUNT,
)


@given(EVENTS)
def test_both_encoders_write_the_same_bytes(event: UsageEvent) -> None:
    assert encode_usage_event(event) == encode(event)


@given(EVENTS)
def test_what_is_encoded_is_read_back(event: UsageEvent) -> None:
    assert decode(encode_usage_event(event)) == event


def test_lengths_around_each_size_of_number_are_right() -> None:
    for size in (0, 1, 63, 64, 127, 128, 8_191, 8_192, 16_383, 16_384, 1_048_576):
        event = UsageEvent("x" * size, size, "c", input_tokens=-size)
        assert encode_usage_event(event) == encode(event)
