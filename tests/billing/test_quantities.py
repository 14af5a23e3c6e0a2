"""Quantities: what is taken, what is refused, and that one value has one spelling."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidField
from billing.quantities import NANO, nano_of, parse_quantity, plain

nanos = st.integers(min_value=0, max_value=10**27 - 1)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        pytest.param("0", 0, id="zero is a quantity"),
        pytest.param("1", NANO, id="a whole number"),
        pytest.param("0.5", NANO // 2, id="a fraction"),
        pytest.param("1.50", 3 * NANO // 2, id="trailing zeros say nothing"),
        pytest.param("007", 7 * NANO, id="leading zeros say nothing"),
        pytest.param("0.000000001", 1, id="nine decimals"),
        pytest.param("9" * 18, (10**18 - 1) * NANO, id="eighteen whole digits"),
        pytest.param("9" * 18 + "." + "9" * 9, 10**27 - 1, id="the largest there is"),
    ],
)
def test_a_plain_decimal_is_taken_exactly(text: str, nano: int) -> None:
    assert parse_quantity(text) == nano


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("-1", id="negative"),
        pytest.param("-0", id="negative zero"),
        pytest.param("+1", id="a plus sign"),
        pytest.param("NaN", id="not a number"),
        pytest.param("Infinity", id="infinity"),
        pytest.param("1e3", id="an exponent"),
        pytest.param(".5", id="no whole digit"),
        pytest.param("5.", id="no decimal after the point"),
        pytest.param("1,5", id="a comma"),
        pytest.param("1_000", id="an underscore"),
        pytest.param(" 1", id="a space before"),
        pytest.param("1\n", id="a line feed after"),
        pytest.param("0x10", id="hexadecimal"),
        pytest.param("\u0661", id="a digit of another script"),
        pytest.param("1.\u0661", id="a decimal of another script"),
        pytest.param("\u00b2", id="a superscript"),
        pytest.param("1" * 19, id="nineteen whole digits"),
        pytest.param("1" * 40, id="forty digits"),
        pytest.param("0.0000000001", id="ten decimals"),
        pytest.param("1" * 1_000_000, id="a million digits"),
    ],
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_quantity(text)
    assert refused.value.field == "quantity"
    assert len(refused.value.message) < 300, "what is quoted is cut"
    assert refused.value.message.isascii(), "messages are facts: no Unicode table decides how they read"


@given(nanos)
def test_plain_is_read_back_as_it_was(nano: int) -> None:
    assert parse_quantity(plain(nano)) == nano == nano_of(plain(nano))


@given(nanos)
def test_plain_is_the_exact_decimal_in_its_shortest_form(nano: int) -> None:
    text = plain(nano)
    assert Decimal(text) == Decimal(nano).scaleb(-9)
    assert "." not in text or not text.endswith(("0", "."))


@given(st.integers(min_value=0, max_value=10**38))
def test_a_sum_past_one_events_limit_is_read_back(nano: int) -> None:
    assert nano_of(plain(nano)) == nano


@given(st.text(max_size=40))
def test_text_is_a_quantity_or_refused(text: str) -> None:
    try:
        nano = parse_quantity(text)
    except InvalidField:
        return
    assert Decimal(text) == Decimal(plain(nano))
